"""Who asked for a run: a command, or a program in Python with a network of its own and a function that hears how it goes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn


@dataclass
class Moment:
    """What a callback is told: `kind` is "train" (a record of the steps since the last one) or "evaluation".

    `seen` of `samples` samples are done. `metrics`: of "train" the loss, the gradient's norm and what else docs/conventions.md names, of
    "evaluation" the distances by steps, `distance/1`. `folder`: the run's. `stop()` ends the run here, saved.
    """

    kind: str
    seen: int
    samples: int
    metrics: Mapping[str, float]
    folder: Path
    stopping: bool = field(default=False, repr=False)

    @property
    def progress(self) -> float:
        """The share of the training that is done, at most 1."""
        return min(1.0, self.seen / self.samples)

    def stop(self) -> None:
        """Save the run and end it after this step; the same call goes on from here."""
        self.stopping = True


Callback = Callable[[Moment], object]


@dataclass(frozen=True)
class Caller:
    """`net`: the network, if the configuration only names it; `signals`: whether SIGINT and its like are heard and stop the run."""

    net: nn.Module | None = None
    callback: Callback | None = None
    signals: bool = True


COMMAND = Caller()
