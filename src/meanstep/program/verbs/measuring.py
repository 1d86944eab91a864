"""`meanstep.evaluate` and `meanstep.diagnose`: what the commands of these names measure, as objects."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from meanstep.program.console import UserError
from meanstep.program.diagnose.command import Diagnose
from meanstep.program.errors import shown
from meanstep.program.evaluation.command import Evaluate
from meanstep.program.pages.page import require
from meanstep.program.sampling.model import own
from meanstep.program.verbs.rows import parts
from meanstep.program.verbs.words import offered, options, spoken

if TYPE_CHECKING:
    from meanstep.program.diagnose.arrays import Dataset
    from meanstep.program.diagnose.findings import Findings
    from meanstep.program.evaluation.session import Evaluation
    from meanstep.program.verbs.run import Run

PYTHON = "meanstep.diagnose(...) in Python"
FIXED = ("target", "data", "labels_file", "out", "average")
"""Fields of the command that are arguments here, or come with the data."""


def evaluate(run: "str | os.PathLike[str] | Run", *, net: nn.Module | None = None, progress: bool = True, **wanted: Any) -> "Evaluation":
    """How far a run's samples are from data: a table over checkpoints, averages, samplers, steps and guidance.

    - `run`: a `Run`, its folder, or a checkpoint's. `net`: its network, if it was given as an object (of a `Run` its own).
    - `progress`: whether progress and notices are printed.
    - `wanted`: the options of `meanstep evaluate` with underscores, a value or several: `steps=(1, 2, 4)`, `count=2000`,
      `checkpoint="all"`, `average`, `sampler`, `guidance`, `extractor`, `metrics`, `reference`, `held_out`, `seed`, `chunk`, `device`.

    Rows that were computed before with the same settings are read from the run's evaluations.jsonl, where new ones go. Defaults are the
    command's. `UserError` for an option that there is not, and if there is nothing to evaluate or to compare with.
    """
    with spoken(progress, offered(Evaluate), {"folder": "run"}):
        asked = options(Evaluate, "evaluate", {"folder": Path(run)}, wanted)
        where, saved = asked._checked()
        from meanstep.program.evaluation.session import evaluated

        return evaluated(asked, where, saved, net or own(run))


def diagnose(
    target: "nn.Module | str | os.PathLike[str] | Run",
    data: Any = None,
    *,
    net: nn.Module | None = None,
    average: nn.Module | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
    **wanted: Any,
) -> "Findings":
    """Where the noise of a network's training signal is, and what to change; nothing is trained or changed.

    - `target`: a network called as (z, r, t, y), a `Run`, a run's folder, or what else `meanstep diagnose` takes.
    - `data`: the rows that it is trained on, `[N, ...]` as the network sees them: an array or tensor, a dict of rows `x`, a condition `y`
      or several by name, and a `mask`; or a file. Of a run by default its own, with conditions and noise as in its training.
    - `net`: the network of a run that was given it as an object. `average`: an averaged copy of the network, the proxy.
    - `out`: a folder for report.html; by default none is written. `progress`: whether progress is shown.
    - `wanted`: the options of `meanstep diagnose` with underscores: `budget` (seconds, or "2m"; a minute), `recipe`, `beta`, `path`,
      `center`, `times`, `batch`, `rows`, `tolerance`, `order`, `seed`, `device`, ...

    Ctrl-C ends it with what there is, `interrupted`. `UserError` for an option that there is not, and for what cannot be probed.
    """
    with spoken(progress, [*offered(Diagnose), "data", "average"]):
        from meanstep.program.diagnose import session
        from meanstep.program.diagnose import target as targets
        from meanstep.program.diagnose.findings import kept
        from meanstep.program.diagnose.page import build

        if "budget" in wanted:
            wanted = wanted | {"budget": str(wanted["budget"])}
        module = target if isinstance(target, nn.Module) else None
        name = "" if module is not None else os.fspath(target)  # type: ignore[arg-type]
        file = data if isinstance(data, str | os.PathLike) else None
        places = {"out": None if out is None else Path(out), "data": None if file is None else Path(file)}
        asked = options(Diagnose, "diagnose", {"target": name, **places}, wanted)
        budget, page = asked.told(), None
        folder = None if out is None else asked.place()
        if folder is not None:
            require()
        if data is None and not targets.is_run(name or os.devnull):
            raise UserError("data: give the rows that it is trained on, an array or tensor [N, ...], a dict of them, or a file")
        rows = dataset(data) if file is None and data is not None else None
        given = session.Objects(module if module is not None else net or own(target), average, rows)
        found = session.measured(asked, session._case(asked, given), budget, PYTHON)
        page = build(found, folder) if folder is not None else None
        return kept(found, page)


def dataset(data: Any) -> "Dataset":
    """Rows in memory as a diagnosis reads them; `UserError` for what is none."""
    from meanstep.program.diagnose import arrays

    found = parts(data)
    x, mask = found.pop("x"), found.pop("mask", None)
    beside = {"y" if name == "labels" else name: numbered(part, name) for name, part in found.items() if name != "classes"}
    y: Any = beside.get("y") if set(beside) == {"y"} else beside or None
    whole = arrays._whole(Path("data"), x, y)
    return whole if mask is None else replace(whole, mask=_masked(mask, x))


def numbered(part: np.ndarray, name: str) -> np.ndarray:
    """A condition in numbers: words are no input of a network."""
    if part.dtype.kind not in "biuf":
        raise UserError(f"data[{name!r}]: numbers, as the network is given them, got {part.dtype}")
    return part


def _masked(mask: np.ndarray, x: np.ndarray) -> np.ndarray:
    if mask.shape != x.shape[: mask.ndim]:
        raise UserError(f"data['mask']: true where entries count, over leading axes of the rows {x.shape}, got {shown(mask.shape)}")
    return mask.astype(bool)
