"""Trackers beside records.jsonl, each an extra of its own."""

import importlib
import os
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meanstep.program.console import UserError
from meanstep.program.disk import folder as subfolder
from meanstep.program.disk import write

PROJECT = "meanstep"
"""The project or experiment of runs, unless --project or the tracker's own variable names another."""


@dataclass(frozen=True)
class Place:
    """Where a tracker puts a run: `folder` is the run's own, `config` its settings; `project` empty: as the tracker's variable says."""

    folder: Path
    config: dict[str, Any]
    project: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Logger:
    """A tracker of one run: `log(seen, values)` takes numbers at a number of samples seen, `close()` ends it."""

    log: Callable[[int, dict[str, float]], Any]
    close: Callable[[], Any]


def _tensorboard(module: Any, at: Place) -> Logger:
    subfolder(at.folder / "tensorboard")
    writer = module.SummaryWriter(str(at.folder / "tensorboard"))
    return Logger(lambda seen, values: [writer.add_scalar(name, value, seen) for name, value in values.items()], writer.close)


def _wandb(module: Any, at: Place) -> Logger:
    """A run of its own, whatever other folders are called; without --project and --tags WANDB_PROJECT and WANDB_TAGS hold."""
    project, run = at.project or os.environ.get("WANDB_PROJECT") or PROJECT, _id(at.folder / "wandb.txt", at.folder)
    tags = {"tags": list(at.tags)} if at.tags else {}
    module.init(project=project, id=run, name=at.folder.name, config=at.config, resume="allow", **tags)
    return Logger(lambda seen, values: module.log({**values, "seen": seen}), module.finish)


def _trackio(module: Any, at: Place) -> Logger:
    """Calls like W&B's, but a run is told from others by its name."""
    project = at.project or os.environ.get("TRACKIO_PROJECT") or PROJECT
    module.init(project=project, name=_id(at.folder / "trackio.txt", at.folder), config=at.config, resume="allow")
    return Logger(lambda seen, values: module.log({**values, "seen": seen}), module.finish)


def _id(noted: Path, folder: Path) -> str:
    """The tracker's name for this run: drawn once, and kept in the folder so that the run goes on under it."""
    if not (noted.exists() and noted.read_text(encoding="utf-8").strip()):
        write(noted, f"{re.sub('[^A-Za-z0-9_-]', '-', folder.name)[:40]}-{uuid.uuid4().hex[:12]}")
    return noted.read_text(encoding="utf-8").strip()


def _mlflow(module: Any, at: Place) -> Logger:
    """Its experiment is --project, else MLFLOW_EXPERIMENT_NAME; its tags are names with values, `key=value`, or names alone."""
    noted = at.folder / "mlflow.txt"
    module.set_experiment(at.project or os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT)
    tags = {"tags": {name: value for name, _, value in (tag.partition("=") for tag in at.tags)}} if at.tags else {}
    run = module.start_run(run_id=noted.read_text() if noted.exists() else None, run_name=at.folder.name, **tags)
    write(noted, run.info.run_id)
    return Logger(lambda seen, values: module.log_metrics(values, step=seen), module.end_run)


KINDS: dict[str, tuple[str, Callable[[Any, Place], Logger]]] = {
    "tensorboard": ("torch.utils.tensorboard", _tensorboard),
    "wandb": ("wandb", _wandb),
    "mlflow": ("mlflow", _mlflow),
    "trackio": ("trackio", _trackio),
}


TAKES = {"project": ("wandb", "mlflow", "trackio"), "tags": ("wandb", "mlflow")}
"""Which trackers have projects and tags."""


def known(names: tuple[str, ...], project: str = "", tags: tuple[str, ...] = ()) -> None:
    """`UserError` for a tracker that there is not, and for a project or tags that none of them has."""
    for name in names:
        if name not in KINDS:
            raise UserError(f"--loggers: {', '.join(KINDS)}, got {name!r}")
    for what, value in (("project", project), ("tags", tags)):
        if value and not set(TAKES[what]) & set(names):
            remedy = f"give --loggers {' or '.join(TAKES[what])}"
            raise UserError(f"--{what}: none of the trackers has it ({', '.join(names) or 'none is asked for'}): {remedy}")


def opened(names: tuple[str, ...], at: Place) -> list[Logger]:
    """The trackers that were asked for; `UserError` for one that there is not, or that is not installed."""
    found: list[Logger] = []
    known(names)
    for name in names:
        module, kind = KINDS[name]
        try:
            loaded = importlib.import_module(module)
        except ImportError as error:
            raise UserError(f"--loggers {name} needs a package that is not here ({error}): pip install {name}") from None
        found.append(kind(loaded, at))
    return found
