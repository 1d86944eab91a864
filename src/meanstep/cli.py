"""The command line: `meanstep COMMAND --help`. Every user's mistake ends in one line and exit code 2.

A command's module is imported when the command is run, and PyTorch when its options are in order: a mistake is told at once.
"""

import difflib
import io
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from meanstep import __version__
from meanstep.program.commands import COMMANDS
from meanstep.program.console import Interrupted, UserError, err, out, quiet
from meanstep.program.errors import printable, shown

DESCRIPTION = (
    "Train, diagnose and evaluate one-step generators of the MeanFlow family, with the variance of the training signal under control."
)


def main(args: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code: its own, 2 for a user's mistake, 130 for Ctrl-C, 141 for a reader that went away."""
    _opened()
    words, hushed = _hushed(list(sys.argv[1:] if args is None else args))
    try:
        with quiet(hushed):
            code = _run(words)
        sys.stdout.flush()
    except UserError as mistake:
        told = str(mistake)  # nobody is to blame for a signal
        code = _complain(told if isinstance(mistake, Interrupted) else blamed(told, words), mistake.code)
    except KeyboardInterrupt:
        code = _complain("stopped", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains when it flushes
        code = 141
    except OSError as error:
        said = printable(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        code = _complain(blamed(said, words), 2)
    raise SystemExit(code)


def _opened() -> None:
    """Streams that are closed lead nowhere, or the first file that is opened would get their number, and what is printed.

    Half characters, which names of files may have, are printed as escapes.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)  # the number itself, if nobody has it yet
            setattr(sys, name, open(nowhere, "r" if number == 0 else "w", encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _hushed(args: list[str]) -> tuple[list[str], bool]:
    """The words without --quiet, and whether it was among them; what follows -- is another command's."""
    end = args.index("--") if "--" in args else len(args)
    return [word for word in args[:end] if word != "--quiet"] + args[end:], "--quiet" in args[:end]


def _run(args: list[str]) -> int:
    if args in (["--version"], ["-V"]):
        out.print(f"meanstep {__version__}")
        return 0
    if args[:1] == ["help"]:
        args = [*args[1:], "--help"]
    given = next((args[:n] for n in (2, 1) if " ".join(args[:n]) in COMMANDS), [])
    if given:
        return _called(" ".join(given), args[len(given) :])
    group = args[0] if args and any(name.startswith(f"{args[0]} ") for name in COMMANDS) else ""
    rest = args[1:] if group else args
    if rest and rest[0] in ("--help", "-h"):
        out.print(_list(group), highlight=False, markup=False, soft_wrap=True)
        return 0
    raise UserError(_unknown(group, rest))


def _called(name: str, args: list[str]) -> int:
    code: int = chosen(name, args).run()
    return code


def chosen(name: str, args: Sequence[str]) -> Any:
    """The command of that name with these words, not run; `UserError` for words that it does not understand."""
    from meanstep.program.parsing import parsed

    kind = COMMANDS[name].load()
    return kind.parse(args) if hasattr(kind, "parse") else parsed(kind, name, args)


def _list(group: str) -> str:
    """The commands, or those of a group, with their descriptions."""
    names = [name for name in COMMANDS if not group or name.startswith(f"{group} ")]
    width = max(len(name) for name in names) + 4
    lines = [textwrap.fill(DESCRIPTION, out.width)] if not group else []
    lines += ["", f"usage: meanstep {group + ' ' if group else ''}COMMAND [OPTIONS]{'' if group else ' | --version'}", ""]
    for name in names:
        lines.append(textwrap.fill(COMMANDS[name].about, out.width, initial_indent=f"  {name}".ljust(width), subsequent_indent=" " * width))
    hint = f"`meanstep help {group + ' ' if group else ''}COMMAND`, or COMMAND --help, explains a command; every command takes --quiet."
    return "\n".join([*lines, "", textwrap.fill(hint, out.width)]).lstrip("\n")


def _unknown(group: str, args: list[str]) -> str:
    """What is wrong with a command line that names no command."""
    within = [name.removeprefix(f"{group} ") for name in COMMANDS if not group or name.startswith(f"{group} ")]
    listed = f"{', '.join(within)}; `meanstep {group + ' ' if group else ''}--help` explains them"
    if not args:
        return f"{f'{group}: ' if group else ''}give a command: {listed}"
    word = args[0]
    heads = {*within, *(name.partition(" ")[0] for name in within), *(name.rpartition(" ")[2] for name in within)}
    near = difflib.get_close_matches(" ".join(args[:2]), within, 1, 0.8) or difflib.get_close_matches(word, sorted(heads), 1)
    meant = [name for name in within if near and near[0] in (name, *name.split())]
    kind = "an option comes after its command" if word.startswith("-") else f"there is no command {f'{group} {word}'.strip()!r}"
    if meant:
        return f"{kind}; did you mean {' or '.join(f'`meanstep {group} {name}`'.replace('  ', ' ') for name in meant)}?"
    return f"{kind}; the commands are {listed}"


def blamed(message: str, words: Sequence[str]) -> str:
    """The message with the option before it whose value it quotes, if it names none of the options whose value it quotes."""
    found, flag = list[str](), ""
    for word in words:
        if re.match(r"--[A-Za-z]", word):
            flag, equals, value = word.partition("=")
            given = [value] if equals else []
        else:
            given = [word] if flag else []
        for value in given:
            told = printable(shown(value))
            head = printable(value.partition(":")[0].rstrip("/"))[:100]
            bare = re.escape(head) if len(head) > 1 and not re.fullmatch(r"[-+\d.e]{0,20}", head) else "(?!)"
            end = r"(?![\w-]|\.\w)" if len(head) < 100 else ""
            if told in message or re.search(rf"(?<![\w-]){bare}{end}", message):
                found.append(flag)
    return message if not found or any(name in message for name in found) else f"{found[0]}: {message}"


def _complain(message: str, code: int) -> int:
    err.print(f"meanstep: {printable(message)}", style="red", soft_wrap=True, markup=False)
    return code
