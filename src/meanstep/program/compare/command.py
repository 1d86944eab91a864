"""`meanstep compare`: what is asked for, and whether that can be; `runs` and `studies` compare, `page` and a table show it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from meanstep.program import flags
from meanstep.program.console import UserError, out, put_json, say, stage, takes_json
from meanstep.program.flags import Autoencoder, Device, Json, Network
from meanstep.program.pages.page import require
from meanstep.program.ranges import Ranged

if TYPE_CHECKING:
    from meanstep.program.compare.page import Pictures, Table
    from meanstep.program.compare.runs import Side
    from meanstep.program.pages.form import Answer

MOST = 8
"""Runs on one chart."""
DRAWN = ("count", "steps", "device", "network", "autoencoder")
"""Options of the samples side by side, which are drawn of runs."""


@dataclass(frozen=True)
class Compare(Ranged):
    """Compare runs, or two studies: curves on one chart, distances with intervals, samples of the same noise, what differs in settings.

    Distances are those of `meanstep evaluate` where all runs have the same table of them, else of the evaluations in training. What cannot
    be compared is not, and the page says why: runs of different data, distances of different features or counts. docs/comparing.md says
    more.

    Examples: meanstep compare runs/a runs/b; meanstep compare runs/a runs/a/checkpoints/000000012800 --steps 2; meanstep compare runs/toy
    runs/toy-again --out pages/toys
    """

    folders: tyro.conf.Positional[
        Annotated[tuple[Path, ...], tyro.conf.arg(name="folder", metavar="FOLDER FOLDER ...", help_behavior_hint="(required)")]
    ]
    """Folders of runs, or their checkpoints, or of two studies of one kind; of two studies ratios are the second's over the first's."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("comparison")
    """Where results go: the folder of report.html."""
    count: Annotated[int, tyro.conf.arg(metavar="N from 0 to 1024")] = 16
    """Samples: how many of each run are shown side by side; 0 shows none, and needs no PyTorch."""
    steps: Annotated[int, tyro.conf.arg(metavar="N from 1 to 100000")] = 1
    """Steps of the sampler: of the samples side by side."""
    device: Device = "auto"
    network: Network = None
    autoencoder: Autoencoder = None
    json: Json = None

    def run(self) -> int:
        """0 when the page is written. `UserError` for what cannot stand beside one another at all."""
        self._checked()
        from meanstep.program.reproduce.study import kind_of

        studies = [kind_of(folder.expanduser()) is not None for folder in self.folders]
        if any(studies) and not all(studies):
            names = [str(self.folders[studies.index(is_one)]) for is_one in (True, False)]
            raise UserError(f"{names[0]} is a study and {names[1]} is none: compare runs with runs, and studies with studies")
        return self._studies() if all(studies) else self._runs()

    def _checked(self) -> None:
        """`UserError` for what can be known to fail."""
        if not 2 <= len(self.folders) <= MOST:
            raise UserError(f"give two to {MOST} folders to compare, got {len(self.folders)}")
        require()
        flags.device(self.device)
        flags.factory(self.network)
        takes_json(self.json)
        target = flags.folder(self.out)
        if any((target / name).exists() for name in ("config.yaml", "sweep.json", "study.json")):
            raise UserError(f"--out: {self.out} holds a run or a study, whose page would be written over: choose another folder")

    def _studies(self) -> int:
        from meanstep.program.compare import page, studies

        if words := flags.spelled(self, DRAWN):
            raise UserError(f"{words[0]} {words[1]} is of the samples of runs, and these are studies, which have none drawn: leave it out")
        with stage("comparing"):
            found = studies.meeting(self.folders)
            path, said = page.build_studies(found, flags.folder(self.out))
        rows = [{"arm": p.name, "ratio": p.change.value, "interval": p.change.interval, "seeds": p.change.n} for p in found.pairs]
        record = {"studies": list(map(str, found.folders)), "arms": rows, "why": found.why, "differences": dict(found.settings)}
        return self._said(record, path, said, None)

    def _runs(self) -> int:
        from meanstep.program.compare import page, runs

        with stage("reading the runs"):
            found = runs.sides(self.folders)
            measured = runs.distances(found)
        path, said = page.build(found, measured, self._pictures(found), flags.folder(self.out))
        record = {"runs": [*runs.records(found, measured)], "measure": measured.measure, "about": measured.about, "why": measured.why}
        return self._said(record | {"differences": dict(runs.differences(found))}, path, said, page.table(found, measured))

    def _pictures(self, found: "list[Side]") -> "Pictures":
        from meanstep.program.compare.page import Pictures

        options = flags.spelled(self, DRAWN)
        if not self.count:
            return Pictures(options=options)
        with stage("drawing samples"):
            from meanstep.program.compare.samples import Sampling, drawn

            images, why = drawn(found, Sampling(self.count, self.steps, self.device, self.network, self.autoencoder))
        words = (
            f"Seeds 0 to {self.count - 1}, the same noise and the same labels for each run, in {self.steps} step{'s' * (self.steps > 1)}."
        )
        return Pictures(images, why, words, options)

    def _said(self, record: dict[str, Any], path: Path, said: "Answer", table: "Table | None") -> int:
        """The table, the answer and where the page is, or all of it as JSON."""
        if put_json(self.json, {"command": "compare", "answer": said.title, **record, "report": str(path)}):
            return 0
        if table is not None:
            from rich.box import SIMPLE_HEAD
            from rich.table import Table

            from meanstep.program.tables import fitted

            shown = Table(box=SIMPLE_HEAD, pad_edge=False)
            for head in table[0]:
                shown.add_column(head)
            for row in table[1]:
                shown.add_row(*row)
            out.print(fitted(shown, out))
        for line in said.spoken:
            say(line)
        say(f"report: {path}")
        return 0
