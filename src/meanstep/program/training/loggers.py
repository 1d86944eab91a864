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
"""The project or experiment of runs, unless the tracker's own variable names another."""


@dataclass(frozen=True)
class Logger:
    """A tracker of one run: `log(seen, values)` takes numbers at a number of samples seen, `close()` ends it."""

    log: Callable[[int, dict[str, float]], Any]
    close: Callable[[], Any]


def _tensorboard(module: Any, folder: Path, config: dict[str, Any]) -> Logger:
    subfolder(folder / "tensorboard")
    writer = module.SummaryWriter(str(folder / "tensorboard"))
    return Logger(lambda seen, values: [writer.add_scalar(name, value, seen) for name, value in values.items()], writer.close)


def _wandb(module: Any, folder: Path, config: dict[str, Any]) -> Logger:
    """A run of its own, whatever other folders are called; WANDB_PROJECT and WANDB_TAGS say where it belongs."""
    project, run = os.environ.get("WANDB_PROJECT") or PROJECT, _id(folder / "wandb.txt", folder)
    module.init(project=project, id=run, name=folder.name, config=config, resume="allow")
    return Logger(lambda seen, values: module.log({**values, "seen": seen}), module.finish)


def _trackio(module: Any, folder: Path, config: dict[str, Any]) -> Logger:
    """Calls like W&B's, but a run is told from others by its name."""
    module.init(
        project=os.environ.get("TRACKIO_PROJECT") or PROJECT, name=_id(folder / "trackio.txt", folder), config=config, resume="allow"
    )
    return Logger(lambda seen, values: module.log({**values, "seen": seen}), module.finish)


def _id(noted: Path, folder: Path) -> str:
    """The tracker's name for this run: drawn once, and kept in the folder so that the run goes on under it."""
    if not (noted.exists() and noted.read_text(encoding="utf-8").strip()):
        write(noted, f"{re.sub('[^A-Za-z0-9_-]', '-', folder.name)[:40]}-{uuid.uuid4().hex[:12]}")
    return noted.read_text(encoding="utf-8").strip()


def _mlflow(module: Any, folder: Path, config: dict[str, Any]) -> Logger:
    """Its experiment is MLFLOW_EXPERIMENT_NAME, if that is set."""
    noted = folder / "mlflow.txt"
    module.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT)
    run = module.start_run(run_id=noted.read_text() if noted.exists() else None, run_name=folder.name)
    write(noted, run.info.run_id)
    return Logger(lambda seen, values: module.log_metrics(values, step=seen), module.end_run)


KINDS: dict[str, tuple[str, Callable[[Any, Path, dict[str, Any]], Logger]]] = {
    "tensorboard": ("torch.utils.tensorboard", _tensorboard),
    "wandb": ("wandb", _wandb),
    "mlflow": ("mlflow", _mlflow),
    "trackio": ("trackio", _trackio),
}


def known(names: tuple[str, ...]) -> None:
    """`UserError` for a tracker that there is not."""
    for name in names:
        if name not in KINDS:
            raise UserError(f"--loggers: {', '.join(KINDS)}, got {name!r}")


def opened(names: tuple[str, ...], folder: Path, config: dict[str, Any]) -> list[Logger]:
    """The trackers that were asked for; `UserError` for one that there is not, or that is not installed."""
    found: list[Logger] = []
    known(names)
    for name in names:
        module, kind = KINDS[name]
        try:
            loaded = importlib.import_module(module)
        except ImportError as error:
            raise UserError(f"--loggers {name} needs a package that is not here ({error}): pip install {name}") from None
        found.append(kind(loaded, folder, config))
    return found
