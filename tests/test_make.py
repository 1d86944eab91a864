"""The README's two commands are targets of the Makefile, and `.ci/environment` installs once, repairs, and fails in one line."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CLEAN = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "PYTHON", "PIP_QUIET")}

# An interpreter that makes environments of itself, and whose pip writes down what it is asked for; the file refuse makes it fail, kill
# makes it kill who called.
FAKE = f"""#!/bin/sh
case "$*" in
    *_base_executable*) echo "$0" ;;
    *'version("torch")'*) cat "$(dirname "$0")/../torch" ;;
    "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; touch "$3/pyvenv.cfg"; echo venv >>log ;;
    "-m pip install "*)
        echo "$*" >>log
        [ ! -e refuse ] || exit 1
        [ ! -e kill ] || kill -9 $PPID
        case "$*" in *torch==*) echo "${{4#torch==}}+cpu" >"$(dirname "$0")/../torch" ;; esac
        ;;
    "-m pip "*) ;;
    *) exec "{sys.executable}" "$@" ;;
esac
"""
TORCH = "-m pip install torch==2.13.0"
REPORT, DEV = (f"-m pip install -c constraints.txt -e .[{extra}]" for extra in ("report", "dev"))


def block(heading: str) -> list[str]:
    """The lines of the first fenced block after a line of README.md."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"^{re.escape(heading)}$.*?^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found, f"README.md has no block of commands after {heading}"
    return found.group(1).splitlines()


@pytest.mark.parametrize(
    ("heading", "last"),
    [("## Look at it run", f'ls "{ROOT}/runs/demo/report.html"'), ("<!-- tests -->", '"elsewhere/bin/pytest" -n 2')],
)
def test_the_readme_asks_for_one_target_of_make(heading: str, last: str):
    if shutil.which("make") is None:
        pytest.skip("there is no make here")
    (line,) = block(heading)
    target = re.fullmatch(r"make ([a-z]+)", line)
    assert target, line
    asked = ["make", "-n", target[1], "VENV=elsewhere"]
    done = subprocess.run(asked, cwd=ROOT, env=CLEAN, capture_output=True, text=True, check=True)
    commands = done.stdout.splitlines()
    assert commands[0].startswith('sh .ci/environment "elsewhere" ') and commands[-1] == last


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What `.ci/environment` reads of a checkout, in a path with a space, and the interpreter above."""
    here = tmp_path / "a checkout"
    (here / ".ci").mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "environment", here / ".ci")
    (here / "pyproject.toml").write_text("one")
    (here / "constraints.txt").write_text("numpy==2.0\ntorch==2.13.0\n")
    (here / "python").write_text(FAKE)
    (here / "python").chmod(0o755)
    return here


def environment(checkout: Path, extra: str = "report", folder: str = ".venv", *torch: str, **variables: str) -> tuple[int, str, list[str]]:
    """Exit code, standard error, and what the interpreter was asked for meanwhile."""
    log = checkout / "log"
    log.write_text("")
    variables = {"PYTHON": str(checkout / "python"), **variables}
    asked = ["/bin/sh", str(checkout / ".ci" / "environment"), folder, extra, *torch]
    done = subprocess.run(asked, env=CLEAN | variables, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr, log.read_text().splitlines()


def test_an_environment_with_another_torch_is_its_own(checkout: Path):
    (checkout / "constraints.txt").write_text("numpy==2.0\nsetuptools==84.2.1\ntorch==2.13.0\ntriton==3.7\n")
    asked = ["venv", "-m pip install torch==2.11.0", "-m pip install -c .venv-floor/constraints.txt -e .[dev]"]
    assert environment(checkout, "dev", ".venv-floor", "2.11.0") == (0, "", asked)
    assert (checkout / ".venv-floor" / "constraints.txt").read_text() == "numpy==2.0\ntorch==2.11.0\n"
    assert environment(checkout, "dev", ".venv-floor", "2.11.0") == (0, "", [])
    assert environment(checkout, "dev", ".venv-floor", "2.12.0")[2][0] == "-m pip install torch==2.12.0"


def test_an_environment_is_made_once_and_shared_by_both_extras(checkout: Path):
    assert environment(checkout) == (0, "", ["venv", TORCH, REPORT])
    assert environment(checkout) == (0, "", [])
    assert environment(checkout, "dev") == (0, "", [DEV])
    assert environment(checkout, "dev") == environment(checkout, "report") == environment(checkout, "docs") == (0, "", [])
    (checkout / "pyproject.toml").write_text("two")
    assert environment(checkout) == (0, "", [REPORT])
    assert environment(checkout, "dev") == (0, "", [DEV])
    (checkout / "constraints.txt").write_text("torch==2.13.1\n")
    assert environment(checkout, "dev")[2] == [TORCH.replace("2.13.0", "2.13.1"), DEV]


def test_an_environment_that_is_not_whole_is_made_anew(checkout: Path):
    whole = ["venv", TORCH, REPORT]
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "pyvenv.cfg").touch()
    assert environment(checkout)[2] == whole, "no interpreter"
    (checkout / ".venv" / ".meanstep").unlink()
    (checkout / "kill").touch()
    assert environment(checkout)[0] != 0
    (checkout / "kill").unlink()
    assert environment(checkout)[2] == whole, "the install was killed"
    moved = checkout.rename(checkout.with_name("another checkout"))
    assert environment(moved)[2] == whole, "the checkout was moved, scripts name the old place"


def test_an_install_that_fails_is_tried_again_and_breaks_nothing(checkout: Path):
    (checkout / "refuse").touch()
    code, said, asked = environment(checkout)
    assert (code, asked) == (1, ["venv", TORCH]) and "pip could not install torch==2.13.0" in said and said.count("\n") == 1
    (checkout / "refuse").unlink()
    assert environment(checkout) == (0, "", [TORCH, REPORT])
    (checkout / "refuse").touch()
    assert environment(checkout, "dev")[0] == 1
    assert environment(checkout, "report") == (0, "", []), "what was there still serves"


def test_mistakes_are_one_line_with_a_remedy(checkout: Path):
    bare, old = checkout / "bare", checkout / "old"
    bare.write_text("#!/bin/sh\ncase $2 in *ensurepip*) exit 1 ;; esac\n")
    old.write_text("#!/bin/sh\nexit 1\n")
    (checkout / "mine").mkdir()
    (checkout / "mine" / "thesis.tex").touch()
    (checkout / "busy").mkdir()
    (checkout / "busy" / ".meanstep").write_text(f"unfinished {os.getpid()} {checkout}\n")
    tools = checkout / "tools"
    tools.mkdir()
    for tool in ("cat", "cksum", "dirname", "find", "grep", "head", "tr"):
        os.symlink(str(shutil.which(tool)), tools / tool)
    for path in (bare, old):
        path.chmod(0o755)
    mistakes: list[tuple[str, dict[str, str]]] = [
        ("apt install python3-venv", {"PYTHON": str(bare)}),
        ("is no Python of version 3.11 or newer", {"PYTHON": str(old)}),
        ("no Python of version 3.11 or newer on PATH", {"PYTHON": "", "PATH": str(tools)}),
        ("mine holds files and is no environment", {"folder": "mine"}),
        (f"process {os.getpid()} is at work in busy", {"folder": "busy"}),
    ]
    for said, variables in mistakes:
        code, error, asked = environment(checkout, **variables)
        assert code == 1 and said in error and error.count("\n") == 1 and asked == [], (said, error)
    assert (checkout / "mine" / "thesis.tex").exists()
