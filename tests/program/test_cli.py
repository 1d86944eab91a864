"""The command line itself: the list of commands, the nearest name, what is loaded for it, and what a pipe is given."""

import inspect
import os
import subprocess
import sys
from importlib import import_module

import pytest
from rich.table import Table

from meanstep import cli
from meanstep.program.console import Interrupted, out

FIRST = ", ".join(list(cli.COMMANDS)[:2])


def ran(*args: str) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main(args)
    return int(stop.value.code or 0)


def test_the_list_of_commands_names_all_and_loads_no_torch():
    code = "import sys; from meanstep import cli\ntry: cli.main(['--help'])\n"
    code += "except SystemExit as end: print(end.code, 'torch' in sys.modules, 'tyro' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=os.environ | {"COLUMNS": "80"})
    assert done.stdout.endswith("0 False False\n") and max(map(len, done.stdout.splitlines())) <= 80
    for name, command in cli.COMMANDS.items():
        assert name in done.stdout and command.about.split(": ")[0] in " ".join(done.stdout.split())


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_is_there(name: str, capsys: pytest.CaptureFixture[str]):
    command = cli.COMMANDS[name]
    found = getattr(import_module(command.module), command.name)
    assert callable(found.run) and inspect.getdoc(found) and command.about.endswith(".")
    assert ran(*name.split(), "--help") == 0
    assert f"usage: meanstep {name} " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], f"give a command: {FIRST}"),
        (["diagnos"], "there is no command 'diagnos'; did you mean `meanstep diagnose`?"),
        (["toy"], "did you mean `meanstep reproduce toy`?"),
        (["reproduce"], "reproduce: give a command: toy, mixtures"),
        (["reproduce", "toyy", "--scale", "smoke"], "there is no command 'reproduce toyy'; did you mean `meanstep reproduce toy`?"),
        (["quux"], f"the commands are {FIRST}"),
        (["--data", "x"], "an option comes after its command"),
    ],
)
def test_an_unknown_command_is_one_line(args: list[str], words: str, capsys: pytest.CaptureFixture[str]):
    assert ran(*args) == 2
    text = capsys.readouterr().err
    assert words in text and text.count("\n") == 1


def test_the_list_of_a_group(capsys: pytest.CaptureFixture[str]):
    assert ran("reproduce", "--help") == 0
    text = capsys.readouterr().out
    assert "reproduce toy" in text and "reproduce mixtures" in text and "doctor" not in text


def test_a_pipe_is_given_no_trailing_spaces(capsys: pytest.CaptureFixture[str]):
    table = Table("a", "b")
    table.add_row("1", "a longer cell")
    table.add_row("2", "short")
    out.print(table)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 4 and all(line == line.rstrip() for line in lines)


def test_an_option_is_blamed_for_its_own_value_and_not_for_a_longer_name():
    words = ["dots.tar", "--out", "dots"]
    assert cli.blamed("dots.tar, frame_0: 8 images under one key", words) == "dots.tar, frame_0: 8 images under one key"
    for message in ("/home/dots is not empty", "dots/config.yaml is damaged", "cannot write into dots: full"):
        assert cli.blamed(message, words) == f"--out: {message}"


def test_no_option_is_blamed_for_a_signal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def stopped(words: object) -> int:
        raise Interrupted("stopped, nothing is lost: the same command goes on in /home/runs/toy")

    monkeypatch.setattr(cli, "_run", stopped)
    with pytest.raises(SystemExit) as found:
        cli.main(["report", "--out", "toy"])
    assert found.value.code == 130 and "meanstep: stopped, nothing is lost" in capsys.readouterr().err
