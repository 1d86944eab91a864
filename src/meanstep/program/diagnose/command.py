"""The command `meanstep diagnose`: what is asked for, and whether that can be. `session` does it."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from meanstep.program import flags
from meanstep.program.console import UserError, stage, takes_json
from meanstep.program.diagnose import target
from meanstep.program.disk import writable
from meanstep.program.errors import naming
from meanstep.program.flags import DIAGONAL, ORDER, POWER, TIMES, Device, Json, Network, Options, hinted
from meanstep.program.pages.page import require
from meanstep.program.ranges import Ranged, Seed, ranged
from meanstep.program.registry import PATHS, READ, check_path, find
from meanstep.program.runs.saved import CONFIG, held, located

UNITS = {"": 1, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}
CENTER_HELP = (
    "The estimate of the mean velocity E[v | z], from which noise is measured: the posterior over the data, the EMA copy, or the "
    "network's own u(z, t, t). Its error counts as noise; the report says how much that can matter."
)
CENTER_DEFAULT = "posterior for many rows of few numbers, else ema if there is one, else own"
OUT = "Where results go: a folder for report.html, which is made if it does not exist; a report that is there is replaced."
OUT_DEFAULT = "diagnose in the folder of TARGET, or here for a factory or a file; where that is there, diagnose-2 and so on"
GUIDANCE = (
    "Scale of classifier-free guidance at sampling time; what a network of --method.scales is told. The velocity to compare with has none."
)
DATA = f"Rows [N, ...]: {target.KINDS}; .npz and .safetensors may hold labels y."


@dataclass(frozen=True)
class Diagnose(Ranged):
    """Measure where the noise of a network's training signal is, and what to change: one page here, one HTML report that works offline.

    The target is a run of meanstep train, package.module:factory, found from the current folder, or a folder or file of weights with
    --network. Nothing is trained or changed. For a run, recipe, data and batch are those of its training.
    You may interrupt it at any moment: the report then covers the rows drawn so far. docs/diagnose.md explains the report.

    Examples: meanstep diagnose runs/digits; meanstep diagnose runs/digits --recipe coefficient --beta 0.5 --budget 5m; meanstep diagnose
    mynets:build --data train.npy --weights model.safetensors; meanstep diagnose weights/7 --network mynets:build --data latents.safetensors
    """

    target: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TARGET")]
    """A run's folder or one of its checkpoints, package.module:factory, or a folder with model.safetensors, or such a file."""
    data: Annotated[Path | None, hinted(DATA, "what the run was trained on", "FILE")] = None
    labels_file: Annotated[Path | None, hinted("Labels [N], or conditions [N, ...].", "those in --data", "FILE")] = None
    network: Network = None
    options: Annotated[Options, hinted("The factory's arguments, e.g. '{width: 64}'.", "none", "YAML")] = field(default_factory=dict)
    order: Annotated[str | None, hinted(ORDER, "read from the names of its arguments", "ROLE,...")] = None
    weights: Annotated[Path | None, hinted("Weights, .safetensors.", "the target's, or as the factory made them", "FILE")] = None
    average: Annotated[
        Path | None, hinted("Which average of the weights: a file of a second copy, the proxy.", "the run's proxy, or first", "FILE")
    ] = None
    center: Annotated[Literal["own", "ema", "posterior"] | None, hinted(CENTER_HELP, CENTER_DEFAULT, "{own,ema,posterior}")] = None
    recipe: Annotated[str | None, hinted(f"What trains it: {', '.join(READ)}.", "the run's, or meanflow", "NAME")] = None
    path: Annotated[str | None, hinted(f"Its path: {', '.join(PATHS)}, or package.module:name.", "the run's, or linear", "NAME")] = None
    guidance: Annotated[float | None, hinted(GUIDANCE, "the least that was trained", "FLOAT above 0")] = None
    times: Annotated[Literal["uniform", "logit-normal"] | None, hinted(TIMES, "the recipe's", "{uniform,logit-normal}")] = None
    diagonal_share: Annotated[float | None, hinted(DIAGONAL, "the recipe's", "SHARE from 0 to 1")] = None
    power: Annotated[float | None, hinted(POWER, "the recipe's", "P from 0 to 4")] = None
    beta: Annotated[float | None, hinted("The coefficient of --recipe coefficient.", "the recipe's, or 1", "BETA from 0 to 1")] = None
    progress: Annotated[
        float | None, hinted("The share of the training that is done, for recipes with a schedule.", "the run's, or 1", "SHARE from 0 to 1")
    ] = None
    batch: Annotated[
        int | None,
        hinted(
            "Rows at a time: of a training step, for the signal to noise of a batch's gradient.", "the run's, or 256", "N from 1 to 1048576"
        ),
    ] = None
    budget: Annotated[str, tyro.conf.arg(metavar="TIME")] = "60s"
    """Time for all measurements: 60, 60s, 2m."""
    tolerance: Annotated[float, ranged("FLOAT above 0 to 1")] = 0.03
    """Stop early, when the noise at beta = 0 (relatively) and the beta of least noise are known to this precision."""
    rows: Annotated[int | None, hinted("Draw at most so many rows.", "no limit", "N from 8")] = None
    chunk: Annotated[
        int | None, hinted("Rows of one pass of the network: bounds the memory.", "by the size of a row", "N from 1 to 1048576")
    ] = None
    device: Device = "auto"
    seed: Seed = 0
    """Seed of every draw: of rows, and of torch's global generator while the factory runs."""
    out: Annotated[Path | None, hinted(OUT, OUT_DEFAULT, "FOLDER")] = None
    json: Json = None

    def run(self) -> int:
        """0 when the report is written, 130 when it is of an interrupted probe. `UserError` if there is nothing to measure."""
        budget, folder = self._checked()
        with stage("importing PyTorch"):
            from meanstep.program.diagnose import session
        return session.diagnose(self, budget, folder)

    def _checked(self) -> tuple[float, Path]:
        """Seconds, and the folder of the report; `UserError` for what can be known to fail."""
        budget = self.told()
        require()
        takes_json(self.json)
        folder = self.place()
        self._files()
        return budget, folder

    def told(self) -> float:
        """Seconds; `UserError` for words that mean nothing."""
        budget = seconds(self.budget)
        flags.device(self.device)
        flags.factory(self.network)
        check_path(self.path or "linear", "--path")
        if self.recipe and ":" not in self.recipe:
            find(self.recipe, "--recipe")
        return budget

    def place(self) -> Path:
        """The folder of the report; `UserError` if it cannot be written there."""
        folder = flags.folder(self._folder() if self.out is None else self.out)
        if folder.is_dir():
            writable(folder / "report.html")
        return folder

    def _folder(self) -> Path:
        """The first free place for a report beside what it is of: in the run's folder, or that of the weights; of a factory, here."""
        path = Path(self.target).expanduser()
        home = located(path)[0] if target.is_run(self.target) else path if path.is_dir() else Path()
        names = ("diagnose", *(f"diagnose-{k}" for k in range(2, 10_000)))
        return next(home / name for name in names if not os.path.lexists(home / name))

    def _files(self) -> None:
        """`UserError` if a file is not there that will be read."""
        target.checked_weights(self.weights, "--weights")
        target.checked_weights(self.average, "--average")
        for path, flag in ((self.data, "--data"), (self.labels_file, "--labels-file")):
            if path is not None:
                with naming(flag):
                    target.rows(path, flag)
        if target.is_run(self.target):
            run, _ = located(Path(self.target).expanduser())
            if held(run) is None:
                raise UserError(f"{run} holds no {CONFIG}: {target.BUILDER}")
            return
        _, weights, average = target.files(self.target, self.network, self.weights, self.average)
        target.checked_weights(weights, "--weights")
        target.checked_weights(average, "--average")
        if self.data is None:
            raise UserError(f"give the rows that it is trained on, --data FILE: {target.KINDS}")


def seconds(text: str) -> float:
    """`60`, `60s`, `2m`, `1h` in seconds; `UserError` for what is no time."""
    found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([a-z]*)\s*", text.lower())
    if found is None or found.group(2) not in UNITS or not float(found.group(1)) > 0:
        raise UserError(f"--budget is a time such as 60, 60s or 2m, got {text!r}")
    return float(found.group(1)) * UNITS[found.group(2)]
