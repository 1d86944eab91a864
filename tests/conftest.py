"""What all tests share. Tests are many and small: one thread a process is faster than two, and steadier on a shared machine.

That goes for torch, NumPy and SciPy, and for the processes that tests start. torch is not imported here: of pytest's processes one runs no
tests.
"""

import gc
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

os.environ["OMP_NUM_THREADS"] = "1"

# Bytecode is kept, whatever the environment says: each process that a test starts would compile the package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regold", action="store_true", help="write the golden values of tests/golden instead of comparing with them")


MATHS = [Path(__file__).parent / name for name in ("laws", "contracts", "golden")]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is collected stays: the garbage collector neither looks for it while it grows nor visits it again, a quarter of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_unconfigure() -> None:
    """At the end all may go: bindings to C++ complain of what is left."""
    gc.unfreeze()


def pytest_itemcollected(item: pytest.Item) -> None:
    """The mathematics is tested with the oldest torch that is supported too: `make floor`."""
    if any(folder in item.path.parents for folder in MATHS):
        item.add_marker("floor")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Each worker begins with a half of its own and takes from the other's end when done: what a module's tests share is made once."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getoption("dist") == "load" else None
