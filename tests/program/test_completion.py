"""What a shell completes, asked of the shells themselves where they are installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

from meanstep.program.commands import COMMANDS
from meanstep.program.completion import Completion
from meanstep.program.parsing import flags

CASES = [
    ("meanstep re", {"report", "reproduce"}),
    ("meanstep reproduce ", {"toy", "mixtures", "latents", "paper"}),
    ("meanstep train --pre", {"--preset", "--precision"}),
    ("meanstep train --parallel ", {"ddp", "fsdp"}),
    ("meanstep train --network.wi", {"--network.width"}),
    ("meanstep train --network.name d", {"dit"}),
    ("meanstep evaluate run --sampler h", {"heun"}),
    ("meanstep reproduce toy --scale ", {"smoke", "quick", "paper"}),
    ("meanstep sample run --steps 2 --che", {"--checkpoint"}),
    ("meanstep verify --only ra", {"rates"}),
    ("meanstep evaluate run --metrics frechet k", {"kid"}),
    ("meanstep completion ", {"bash", "zsh", "fish"}),
]
ASK = """source "$1"; COMP_WORDS=(${@:2}); [[ $0 == space ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _meanstep; printf '%s\\n' "${COMPREPLY[@]}" """


def made(shell: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The script for a shell."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    assert Completion(shell).run() == 0  # type: ignore[arg-type]
    path = folder / f"meanstep.{shell}"
    path.write_text(capsys.readouterr().out)
    return path


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_that_the_shell_reads(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    script = made(shell, tmp_path, capsys)
    subprocess.run([shell, "--no-execute" if shell == "fish" else "-n", str(script)], check=True)
    text = script.read_text()
    for name, command in COMMANDS.items():
        for flag in flags(command.load()):
            assert all(spelled.removeprefix("--") in text for spelled in flag.names), (name, flag.names)


@pytest.mark.parametrize(("line", "wanted"), CASES)
def test_bash_completes(line: str, wanted: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    script = made("bash", tmp_path, capsys)
    last = "space" if line.endswith(" ") else "word"
    done = subprocess.run(["bash", "-c", ASK, last, str(script), *line.split()], check=True, capture_output=True, text=True)
    assert set(done.stdout.split()) == wanted


def test_bash_completes_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    script = made("bash", tmp_path, capsys)
    for words in (["sample", str(tmp_path / "mean")], ["sample", "run", "--out", str(tmp_path / "mean")]):
        done = subprocess.run(["bash", "-c", ASK, "word", str(script), "meanstep", *words], check=True, capture_output=True, text=True)
        assert done.stdout.strip() == str(script)


@pytest.mark.parametrize(("line", "wanted"), [case for case in CASES if "evaluate" not in case[0]])  # fish completes one value an option
def test_fish_completes(line: str, wanted: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    script = made("fish", tmp_path, capsys)
    ask = f"source {script}; complete -C {line!r} | string split -f1 \\t"
    done = subprocess.run(["fish", "--no-config", "-c", ask], check=False, capture_output=True, text=True)  # split says 1 if it split none
    assert set(done.stdout.split()) >= wanted
