"""The machine a command runs on: versions, processors, devices. Imports torch when it is asked about it, not before, and no other library:
the benchmarks run from a bare copy."""

import functools
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meanstep import __version__
from meanstep.program.errors import UserError

if TYPE_CHECKING:
    import torch


def environment(device: str = "cpu") -> dict[str, Any]:
    """Versions, machine and commit, as env.json of every folder holds them."""
    import torch

    return {
        "meanstep": __version__,
        "commit": _commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": cores(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "command": shlex.join(["meanstep", *sys.argv[1:]]),
    }


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


@functools.cache
def _commit() -> str:
    """The checkout's commit when it was first asked for, with a mark if it is not clean; empty if this file is not tracked in one."""
    here = Path(__file__).parent

    def git(*args: str) -> str:
        return subprocess.run(["git", "-C", str(here), *args], check=True, capture_output=True, text=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", __file__)
        return git("rev-parse", "--short=12", "HEAD") + (" and changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def available(name: str) -> "torch.device":
    """The device of `--device`, which is there, or `UserError`; auto is cuda where there is one, else cpu."""
    import torch

    name = resolved(name)
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except Exception:  # torch has many kinds: not compiled in, no driver, no such number
        raise UserError(f"--device: there is no device {name!r} here: use cpu{_others()}, or auto") from None
    return device


def resolved(name: str) -> str:
    """The name of a device, auto replaced by what it stands for here; `UserError` if it is spelled as none."""
    from meanstep.program import flags

    if flags.device(name) != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _others() -> str:
    import torch

    return f", cuda (0 to {torch.cuda.device_count() - 1})" if torch.cuda.is_available() else ""
