"""`meanstep report`."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from meanstep.program.console import UserError, out
from meanstep.program.pages.page import require


@dataclass(frozen=True)
class Report:
    """Write the report of a folder again, from its records: report.html, of a sweep or study summary.csv and the figures too.

    Examples: meanstep report runs/digits; meanstep report runs/toy
    """

    folder: tyro.conf.Positional[Path]
    """The folder of a run of `meanstep train`, or of a sweep or study of `meanstep reproduce`."""

    def run(self) -> int:
        """0 when it is written. `UserError` if the folder holds neither."""
        require()
        folder = self.folder.expanduser()
        if (folder / "sweep.json").is_file():
            from meanstep.program.sweep.report.page import build
        elif (folder / "study.json").is_file():
            from meanstep.program.latents.report.page import build
        elif (folder / "config.yaml").is_file():
            from meanstep.program.runs.report.page import build
        else:
            words = "the folder that `meanstep train` (config.yaml) or `meanstep reproduce` (sweep.json, study.json) wrote"
            raise UserError(f"{self.folder} holds no run and no sweep: give {words}")
        out.print(f"report: {build(folder)}", soft_wrap=True)
        return 0
