"""From the words after a command to its options, by tyro. A mistake is one line: the flag, what it takes, what was given.

tyro prints a box for a mistake. The box is kept from the terminal, and its flags, which it offers as an argparse parser, say in our words
what was wrong.
"""

import contextlib
import difflib
import io
import os
import re
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from inspect import getdoc
from typing import Any, TypeVar

import tyro

from meanstep.program.console import out
from meanstep.program.errors import UserError, cut, shown

T = TypeVar("T")
EVERYWHERE = "--quiet (of every command): no progress, no notices; the results that were asked for, and errors."
HANGING: dict[str, Any] = {"initial_indent": "  ", "subsequent_indent": "      ", "break_long_words": False, "break_on_hyphens": False}
NUMBERS = (
    (r"invalid literal for int\(\) with base 10: '(.*?)'", "a whole number"),
    (r"could not convert string to float: '(.*?)'", "a number"),
)


@dataclass(frozen=True)
class Flag:
    """`names`: its spellings, none for a word that has its place; `takes`: how many values, at least and at most (None: any number)."""

    names: tuple[str, ...]
    metavar: str
    help: str
    takes: tuple[int, int | None]
    choices: tuple[str, ...]

    @property
    def file(self) -> bool:
        """Whether its value may be a file or folder."""
        return any(word in self.metavar for word in ("FILE", "FOLDER", "PATH", "RUN", "CACHE", "SOURCE", "TARGET"))


def parsed(kind: type[T], name: str, args: Sequence[str], default: T | None = None) -> T:
    """The command of class `kind` with these words; `UserError` for a mistake. --help is printed, and exits."""
    _once(args)
    _slashed(args, kind, default)
    start: dict[str, Any] = {} if default is None else {"default": default}
    box = io.StringIO()
    if {"--help", "-h"}.intersection(args):
        out.print(_introduction(kind), highlight=False, markup=False, soft_wrap=True)
    try:
        with contextlib.redirect_stderr(box):
            made: T = tyro.cli(kind, prog=f"meanstep {name}", description="", args=list(args), **start)
    except SystemExit as end:
        if not end.code:
            raise
        told = _plain(box.getvalue())
        raise UserError(_mistake(flags(kind, default), list(args), told) or f"{told}; `meanstep {name} --help` explains it") from None
    return made


def _introduction(kind: type) -> str:
    """What a command does, with an example a line."""
    width, made = min(out.width, 80), []
    for paragraph in (getdoc(kind) or "").split("\n\n"):
        text = " ".join(paragraph.split())
        if text.startswith("Examples: "):
            lines = [textwrap.fill(f"$ {line}", width, **HANGING) for line in text.removeprefix("Examples: ").split("; ")]
            made.append("\n".join(lines))
        else:
            made.append(textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False))
    return "\n\n".join([*made, textwrap.fill(EVERYWHERE, width)]) + "\n"


def known(kind: type[T], args: Sequence[str]) -> T:
    """Those of the words that `kind` knows; the others are left to whoever knows them, with their mistakes."""
    words = [word for word in args if word not in ("--help", "-h")]
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            made, _ = tyro.cli(kind, args=words, return_unknown_args=True, add_help=False)
    except SystemExit:  # a flag without its value, which `parsed` complains of
        return kind()
    return made


def flags(kind: type[T], default: T | None = None) -> list[Flag]:
    """Every flag of a command."""
    start: dict[str, Any] = {} if default is None else {"default": default}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tyro means to drop this one day: then test_cli fails, and a walk over the fields replaces it
        parser: Any = tyro.extras.get_parser(kind, **start)
    return [_flag(action) for action in parser._actions if action.dest != "help"]


def _flag(action: Any) -> Flag:
    shown = action.metavar if isinstance(action.metavar, str) else " ".join(action.metavar or ())
    listed = re.fullmatch(r"\[?\{([^{}]*)\}.*", shown)
    choices = tuple(map(str, action.choices)) if action.choices else tuple(listed[1].split(",")) if listed else ()
    many = {"*": (0, None), "+": (1, None), "?": (0, 1), None: (1, 1)}
    takes = (action.nargs, action.nargs) if isinstance(action.nargs, int) else many[action.nargs]
    if not action.option_strings and isinstance(action.help, str) and "(required)" in action.help:
        takes = (1, takes[1])
    return Flag(tuple(action.option_strings), shown.strip("[]") if takes == (1, 1) else shown, str(action.help or ""), takes, choices)


def _spelled(word: str) -> str:
    return word.partition("=")[0].replace("_", "-")


def _once(args: Sequence[str]) -> None:
    """`UserError` for a flag that is given twice: which one was meant?"""
    seen: set[str] = set()
    for word in args:
        if word.startswith("--") and len(word) > 2:
            if (name := _spelled(word)) in seen:
                raise UserError(f"{name} is given twice: leave one out")
            seen.add(name)


def _slashed(args: Sequence[str], kind: type[T], default: T | None) -> None:
    """`UserError` for a file with a slash at its end, which paths would drop in silence."""
    for before, word in zip(["", *args], args, strict=False):
        option, _, value = word.partition("=") if word.startswith("--") else (before, "", word)
        if value.endswith("/") and os.path.isfile(value.rstrip("/")):
            valued = {name for flag in flags(kind, default) if flag.takes[1] != 0 for name in flag.names}
            named = f"{_spelled(option)}: " if _spelled(option) in valued else ""
            raise UserError(f"{named}{value} is no folder: leave out the slash at its end")


def _plain(box: str) -> str:
    """The words of a box, but for its title and its pointer to --help."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip("│ ") for line in box.splitlines()]
    body = [line for line in lines if not line.startswith(("╭", "╰"))]
    end = next((i for i, line in enumerate(body) if set(line) == {"─"}), len(body))
    return " ".join(body[:end])


def _mistake(there: list[Flag], args: list[str], told: str) -> str:
    """What is wrong with the words; empty if it is none of the usual mistakes."""
    by_name = {name: flag for flag in there for name in flag.names}
    places = [flag for flag in there if not flag.names]
    least, most = sum(flag.takes[0] for flag in places), sum(flag.takes[1] or len(args) for flag in places)
    loose: list[str] = []
    at = 0
    while at < len(args):
        word, at = args[at], at + 1
        if not re.match(r"--?[A-Za-z]", word):
            loose.append(word)
            continue
        name = _spelled(word)
        if name not in by_name:
            return _unknown(name, list(by_name))
        flag, values = by_name[name], [word.partition("=")[2]] if "=" in word else []
        low, high = flag.takes
        while at < len(args) and not re.match(r"--?[A-Za-z]", args[at]) and (high is None or len(values) < high):
            values.append(args[at])
            at += 1
        if len(values) < low:
            return f"{name} takes {'a value' if low == 1 else f'{low} values'}: {flag.metavar}"
        if bad := next((value for value in values if flag.choices and value not in flag.choices), None):
            return f"{name}: one of {', '.join(word for word in flag.choices if word != 'None')}, got {shown(bad)}"
    if bad := next((w for flag, w in zip(places, loose, strict=False) if flag.choices and w not in flag.choices), None):
        return f"one of {', '.join(places[loose.index(bad)].choices)}, got {shown(bad)}"
    if len(loose) < least:
        return f"give {places[len(loose)].metavar}: {_about(places[len(loose)])}"
    if len(loose) > most:
        return f"there is no place for {shown(loose[int(most)])}: options have the form --name value"
    wanted = [flag for flag in there if flag.names and "(required)" in flag.help and not any(_spelled(word) in flag.names for word in args)]
    return f"give {wanted[0].names[0]} {wanted[0].metavar}: {_about(wanted[0])}" if wanted else _number(told)


def _about(flag: Flag) -> str:
    return flag.help.removesuffix("(required)").strip()


def _unknown(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, 1, 0.6)
    own = name.lstrip("-").rpartition(".")[2]
    last = [flag for flag in names if flag.lstrip("-").rpartition(".")[2] == own]  # the prefix is missing, or one too many
    meant = (last or near)[:1]
    return f"there is no option {name}; did you mean {meant[0]}?" if meant else f"there is no option {name}; there are {', '.join(names)}"


def _number(told: str) -> str:
    flag = re.search(r"Error parsing (\S+): ", told)
    found = [(what, match[1]) for pattern, what in NUMBERS if (match := re.search(pattern, told))]
    if not flag:
        return ""
    said = f"{found[-1][0]}, got {shown(found[-1][1])}" if found else cut(told[flag.end() :], 600)
    return said if said.startswith(flag[1]) else f"{flag[1]}: {said}"
