"""`meanstep report`."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated

import tyro

from meanstep.program.console import UserError, chat, put_json, stage, takes_json
from meanstep.program.flags import Json
from meanstep.program.pages.page import require


@dataclass(frozen=True)
class Report:
    """Write the report of a folder again, from its records: report.html, of a sweep or study summary.csv and the figures too.

    Examples: meanstep report runs/digits; meanstep report runs/toy
    """

    folder: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(name="folder", metavar="FOLDER")]]
    """The folder of a run of `meanstep train`, or of a sweep or study of `meanstep reproduce`."""

    json: Json = None

    def run(self) -> int:
        """0 when it is written. `UserError` if the folder holds neither."""
        from meanstep.program.reproduce.study import kind_of

        require()
        takes_json(self.json)
        folder = self.folder.expanduser()
        found = "reproduce" if kind_of(folder) else "runs" if (folder / "config.yaml").is_file() else ""
        if not found:
            words = "the folder that `meanstep train` (config.yaml) or `meanstep reproduce` (sweep.json, study.json) wrote"
            raise UserError(f"{self.folder} holds no run and no sweep: give {words}")
        with stage("writing the report"):
            page = import_module(f"meanstep.program.{found}.report.page").build(folder)
        if not put_json(self.json, {"command": "report", "report": str(page)}):
            chat.print(f"report: {page}", soft_wrap=True)
        return 0
