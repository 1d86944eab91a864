"""The command line: `meanstep COMMAND --help`. Every user's mistake ends in one line and exit code 2."""

import os
import sys
from collections.abc import Sequence
from typing import Any

import tyro

from meanstep.program.console import UserError, err

DESCRIPTION = """Train, diagnose and evaluate one-step generators of the MeanFlow family, with the variance of the training signal
under control. `meanstep COMMAND --help` explains a command; `meanstep --version` prints the version."""


def main(args: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code: its own, 2 for a user's mistake, 130 for Ctrl-C, 141 for a reader that went away."""
    try:
        code = _run(list(sys.argv[1:] if args is None else args))
        sys.stdout.flush()
    except UserError as mistake:
        code = _complain(str(mistake), mistake.code)
    except KeyboardInterrupt:
        code = _complain("stopped", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains when it flushes
        code = 141
    except OSError as error:
        code = _complain(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 2)
    raise SystemExit(code)


def _run(args: list[str]) -> int:
    if args in (["--version"], ["-V"]):
        from meanstep import __version__

        print(f"meanstep {__version__}")
        return 0
    from meanstep.program.diagnose.command import Diagnose
    from meanstep.program.doctor.command import Doctor
    from meanstep.program.sweep.command import STUDIES, Report, Reproduce
    from meanstep.program.verify.command import Verify

    commands: dict[str, Any] = {"verify": Verify, "doctor": Doctor, "diagnose": Diagnose, "reproduce": Reproduce, "report": Report}
    prog, about = "meanstep", DESCRIPTION
    if args[:1] == ["reproduce"]:  # tyro would print a nested command's description twice
        prog, about, commands, args = "meanstep reproduce", Reproduce.__doc__ or "", dict(STUDIES), args[1:]
    chosen: Any = tyro.extras.subcommand_cli_from_dict(commands, prog=prog, description=about, args=args)
    code: int = chosen.run()
    return code


def _complain(message: str, code: int) -> int:
    err.print(f"meanstep: {message}", style="red", soft_wrap=True, markup=False)
    return code
