"""Trackers beside records.jsonl, each an extra of its own."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meanstep.program.console import UserError
from meanstep.program.disk import folder as subfolder
from meanstep.program.disk import write


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
    """W&B and trackio, which has the same calls; the run keeps its name when it goes on."""
    named = {"id": folder.name} if module.__name__ == "wandb" else {}
    module.init(project="meanstep", name=folder.name, config=config, resume="allow", **named)
    return Logger(lambda seen, values: module.log({**values, "seen": seen}), module.finish)


def _mlflow(module: Any, folder: Path, config: dict[str, Any]) -> Logger:
    noted = folder / "mlflow.txt"
    module.set_experiment("meanstep")
    run = module.start_run(run_id=noted.read_text() if noted.exists() else None, run_name=folder.name)
    write(noted, run.info.run_id)
    return Logger(lambda seen, values: module.log_metrics(values, step=seen), module.end_run)


KINDS: dict[str, tuple[str, Callable[[Any, Path, dict[str, Any]], Logger]]] = {
    "tensorboard": ("torch.utils.tensorboard", _tensorboard),
    "wandb": ("wandb", _wandb),
    "mlflow": ("mlflow", _mlflow),
    "trackio": ("trackio", _wandb),
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
