"""The ranks that a test forks end with it."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from .forked import running

SCRIPT = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from forked import forked
os.environ |= forked(2)
with open(os.environ["RANK"], "w") as name:
    name.write(f"{os.getpid()}\\n")
if os.environ["RANK"] == "1" and sys.argv[2] == "fails":
    while not (os.path.exists("0") and os.path.getsize("0")):
        time.sleep(0.01)
    sys.exit(3)
time.sleep(0 if sys.argv[2] == "passes" else 600)
"""


def process(what: str, folder: Path) -> subprocess.Popen[str]:
    """The process that forks, in the folder that its ranks write their numbers to."""
    words = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), what]
    return subprocess.Popen(words, cwd=folder, stderr=subprocess.PIPE, text=True)


def gone(folder: Path) -> bool:
    """Whether no rank runs any more, after at most ten seconds."""
    until = time.monotonic() + 10
    while alive := [p for p in ("0", "1") if running((folder / p).read_text().strip())]:
        if time.monotonic() > until:
            break
        time.sleep(0.05)
    return not alive


def test_ranks_that_pass_end_with_no_code(tmp_path: Path):
    with process("passes", tmp_path) as started:
        assert started.wait(30) == 0


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds the ranks in /proc")
def test_a_rank_that_fails_ends_the_other(tmp_path: Path):
    with process("fails", tmp_path) as started:
        said = started.communicate(timeout=30)[1]
    assert started.returncode == 1 and "a rank ended with 3" in said and gone(tmp_path)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds the ranks in /proc")
def test_ranks_end_with_the_process_that_forked_them(tmp_path: Path):
    with process("waits", tmp_path) as started:
        until = time.monotonic() + 30
        while not all((tmp_path / p).exists() and (tmp_path / p).read_text().endswith("\n") for p in ("0", "1")):
            assert time.monotonic() < until
            time.sleep(0.02)
        started.kill()
    assert gone(tmp_path)
