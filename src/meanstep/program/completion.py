"""`meanstep completion`: a script that completes commands, their options and the words that these take; made of the parsers themselves."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import tyro

from meanstep.program.commands import COMMANDS
from meanstep.program.console import out
from meanstep.program.doctor.findings import CHECKS
from meanstep.program.export.targets import TARGETS
from meanstep.program.parsing import Flag, flags
from meanstep.program.registry import METHODS, METRICS, NETWORKS, PATHS, READ, SAMPLERS
from meanstep.program.reproduce.images.arms import GROUPS as ARM_GROUPS
from meanstep.program.reproduce.images.arms import SINGLES
from meanstep.program.reproduce.points.settings import ARMS, known_sets
from meanstep.program.runs import options
from meanstep.program.training.presets import PRESETS
from meanstep.program.verify.groups import GROUPS

FILES = "@files"
ALWAYS = ("--help", "--quiet")
BASH = """\
_meanstep() {
    local current=${COMP_WORDS[COMP_CWORD]} command flag distance found i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
            --quiet) ;;
            -*) flag=${COMP_WORDS[i]} distance=0 ;;
            *) if [[ -z $command || $command == reproduce || $command == help ]]; then
                   command="${command:+$command }${COMP_WORDS[i]}"
               fi
               distance=$((distance + 1)) ;;
        esac
    done
    found=$(_meanstep_words "${command#help }" "$flag" "$distance")
    [[ $current == -* ]] && found=$(_meanstep_words "${command#help }" - 0)
    if [[ $found == @files ]]; then
        compopt -o filenames 2>/dev/null
        COMPREPLY=($(compgen -f -- "$current"))
    else
        COMPREPLY=($(compgen -W "$found" -- "$current"))
    fi
}
complete -F _meanstep meanstep
"""
ZSH = """\
_meanstep() {
    local command flag found word
    local -i distance=0 i
    for ((i = 2; i < CURRENT; i++)); do
        word=${words[i]}
        case $word in
            --quiet) ;;
            -*) flag=$word distance=0 ;;
            *) if [[ -z $command || $command == reproduce || $command == help ]]; then
                   command="${command:+$command }$word"
               fi
               distance+=1 ;;
        esac
    done
    found=$(_meanstep_words "${command#help }" "$flag" "$distance")
    [[ $PREFIX == -* ]] && found=$(_meanstep_words "${command#help }" - 0)
    if [[ $found == @files ]]; then
        _files
    else
        compadd -- ${(f)found}
    fi
}
compdef _meanstep meanstep
"""


WORDS: dict[tuple[str, str], tuple[str, ...]] = {
    ("", "--device"): ("auto", "cpu", "cuda", "mps"),
    ("", "--checkpoint"): ("last", "best"),
    ("export", "--to"): tuple(TARGETS),
    ("", "--preset"): (*PRESETS, "list"),
    ("", "--method.recipe"): tuple(METHODS),
    ("", "--recipe"): READ,
    ("", "--method.path"): tuple(PATHS),
    ("", "--path"): tuple(PATHS),
    ("", "--sampler"): tuple(SAMPLERS),
    ("", "--metrics"): tuple(METRICS),
    ("", "--network.name"): tuple(NETWORKS),
    ("doctor", "--only"): CHECKS,
    ("verify", "--only"): tuple(GROUPS),
    ("reproduce toy", "--sets"): known_sets(),
    ("reproduce toy", "--arms"): ARMS,
    ("reproduce mixtures", "--arms"): ARMS,
    ("reproduce latents", "--arms"): (*ARM_GROUPS, *SINGLES),
}
"""What an option of a command takes that takes any text; of every command without one."""


@dataclass(frozen=True)
class Completion:
    """Print a script that lets a shell complete commands, options, and the words that these take.

    Examples: source <(meanstep completion bash); meanstep completion fish > ~/.config/fish/completions/meanstep.fish
    """

    shell: tyro.conf.Positional[Literal["bash", "zsh", "fish"]]
    """Which shell it is for."""

    def run(self) -> int:
        """0 when it is printed."""
        known = {name: [_worded(name, flag) for flag in flags(*options.offered(command.load()))] for name, command in COMMANDS.items()}
        out.file.write("\n".join(_fish(known)) + "\n" if self.shell == "fish" else "\n".join(_words(known)) + "\n" + self._rest())
        return 0

    def _rest(self) -> str:
        return BASH if self.shell == "bash" else f"(( $+functions[compdef] )) || {{ autoload -Uz compinit && compinit }}\n{ZSH}"


def _worded(command: str, flag: Flag) -> Flag:
    """The flag with the words that it takes, where its type is any text."""
    name = next(iter(flag.names), "")
    return replace(flag, choices=flag.choices or WORDS.get((command, name)) or WORDS.get(("", name), ()))


def _words(known: dict[str, list[Flag]]) -> Iterator[str]:
    """What may follow a command and a flag that is so many words away, for bash and zsh; `@files` for files and folders."""
    yield "# Made by `meanstep completion`."
    yield '_meanstep_words() {\n    case "$1" in'
    for group, words in _groups().items():
        yield f"        {shlex.quote(group)}) printf '%s\\n' {' '.join(words)} ;;"
    for name, there in known.items():
        yield f'        {shlex.quote(name)})\n            case "$2 $3" in'
        for flag in there:
            if flag.names and flag.takes[1] != 0 and (said := _values(flag)):
                pattern = "|".join(f"'{spelled} '{'*' if flag.takes[1] is None else 0}" for spelled in flag.names)
                yield f"            {pattern}) printf '%s\\n' {said} ;;"
        rest = [spelled for flag in there for spelled in flag.names]
        places = [word for flag in there if not flag.names for word in (_values(flag).split() or [FILES])]
        if places:
            yield f"            ' '*) printf '%s\\n' {' '.join(places)} ;;"
        yield f"            *) printf '%s\\n' {' '.join([*rest, *ALWAYS])} ;;\n            esac ;;"
    yield "    esac\n}"


def _groups() -> dict[str, list[str]]:
    """What follows a part of a command: nothing, or the first word of a group."""
    heads = dict.fromkeys(name.partition(" ")[0] for name in COMMANDS)
    groups = {head: [name.partition(" ")[2] for name in COMMANDS if name.startswith(f"{head} ")] for head in heads if head not in COMMANDS}
    return {"": [*heads, "help", *ALWAYS, "--version"], "help": list(heads), **groups}


def _values(flag: Flag) -> str:
    """Words that a flag takes, empty if they are not known."""
    return " ".join(map(shlex.quote, flag.choices)) or (FILES if flag.file else "")


def _fish(known: dict[str, list[Flag]]) -> Iterator[str]:
    yield "# Made by `meanstep completion`."
    yield "function __meanstep_is"
    yield "    set -l found (string match -v -- '-*' (commandline -opc))[2..-1]"
    yield "    test (count $argv) -eq 0; and test (count $found) -eq 0; and return 0"
    yield '    test (count $argv) -gt 0; and test (count $found) -ge (count $argv); and test "$found[1.."(count $argv)"]" = "$argv"'
    yield "end"
    heads = dict.fromkeys(name.partition(" ")[0] for name in COMMANDS)
    for head in heads:
        about = COMMANDS[head].about if head in COMMANDS else "Train what a paper's claims are about, and report."
        yield f"complete -c meanstep -f -n __meanstep_is -a {head} -d {_fished(about)}"
    for name in COMMANDS:
        head, _, rest = name.partition(" ")
        if rest:
            yield f"complete -c meanstep -f -n '__meanstep_is {head}' -a {rest} -d {_fished(COMMANDS[name].about)}"
    for name, there in known.items():
        for flag in there:
            files = "-F" if flag.file else "-f"
            words = f" -a {_fished(' '.join(flag.choices))}" if flag.choices else ""
            takes = " -r" if flag.takes[1] != 0 else ""
            for spelled in flag.names or ("",):
                long = f" -l {spelled.removeprefix('--')}" if spelled else ""
                about = f" -d {_fished(flag.help.partition('. ')[0][:80])}" if spelled else ""
                yield f"complete -c meanstep {files} -n '__meanstep_is {name}'{long}{takes if spelled else ''}{words}{about}"
        for spelled in ALWAYS:
            yield f"complete -c meanstep -f -n '__meanstep_is {name}' -l {spelled.removeprefix('--')}"


def _fished(text: str) -> str:
    return "'" + " ".join(text.split()).replace("\\", "\\\\").replace("'", "\\'") + "'"
