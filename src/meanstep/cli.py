"""The command line: `meanstep COMMAND --help`. Every user's mistake ends in one line and exit code 2."""

import sys
from collections.abc import Sequence

import tyro

from meanstep import __version__
from meanstep.program.console import UserError, err

DESCRIPTION = (
    """Train, diagnose and evaluate one-step generators of the MeanFlow family, with the variance of the training signal under control."""
)


def main(args: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code."""
    arguments = list(sys.argv[1:] if args is None else args)
    if arguments in (["--version"], ["-V"]):
        print(f"meanstep {__version__}")
        raise SystemExit(0)
    from meanstep.program.verify.command import Verify

    chosen: Verify = tyro.extras.subcommand_cli_from_dict({"verify": Verify}, prog="meanstep", description=DESCRIPTION, args=arguments)
    try:
        code = chosen.run()
    except UserError as mistake:
        err.print(f"meanstep: {mistake}", style="red", soft_wrap=True, markup=False)
        code = 2
    except KeyboardInterrupt:
        err.print("meanstep: stopped", style="red")
        code = 130
    raise SystemExit(code)
