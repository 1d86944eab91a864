"""Trackers beside records.jsonl, each an extra of its own. Knows neither the loop nor networks."""

import importlib
from pathlib import Path
from typing import Any, Protocol

from meanstep.program.console import UserError
from meanstep.program.disk import folder as subfolder
from meanstep.program.disk import write

INSTALL = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}


class Logger(Protocol):
    """A tracker of one run."""

    def log(self, seen: int, values: dict[str, float]) -> None:
        """Numbers at a number of samples seen."""

    def close(self) -> None:
        """The run has ended or stopped."""


class _Tensorboard:
    def __init__(self, module: Any, folder: Path, config: dict[str, Any]) -> None:
        subfolder(folder / "tensorboard")
        self.writer = module.SummaryWriter(str(folder / "tensorboard"))

    def log(self, seen: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, seen)

    def close(self) -> None:
        self.writer.close()


class _Wandb:
    """W&B and trackio, which has the same calls; the run keeps its name when it goes on."""

    def __init__(self, module: Any, folder: Path, config: dict[str, Any]) -> None:
        self.module = module
        named = {"id": folder.name} if module.__name__ == "wandb" else {}
        module.init(project="meanstep", name=folder.name, config=config, resume="allow", **named)

    def log(self, seen: int, values: dict[str, float]) -> None:
        self.module.log({**values, "seen": seen})

    def close(self) -> None:
        self.module.finish()


class _Mlflow:
    def __init__(self, module: Any, folder: Path, config: dict[str, Any]) -> None:
        self.module, noted = module, folder / "mlflow.txt"
        module.set_experiment("meanstep")
        run = module.start_run(run_id=noted.read_text() if noted.exists() else None, run_name=folder.name)
        write(noted, run.info.run_id)

    def log(self, seen: int, values: dict[str, float]) -> None:
        self.module.log_metrics(values, step=seen)

    def close(self) -> None:
        self.module.end_run()


KINDS: dict[str, tuple[str, Any]] = {
    "tensorboard": ("torch.utils.tensorboard", _Tensorboard),
    "wandb": ("wandb", _Wandb),
    "mlflow": ("mlflow", _Mlflow),
    "trackio": ("trackio", _Wandb),
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
            raise UserError(f"--loggers {name} needs a package that is not here ({error}): pip install {INSTALL[name]}") from None
        found.append(kind(loaded, folder, config))
    return found
