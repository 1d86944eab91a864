"""A run's folder as an object: what it holds, and what can be done with it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meanstep.program.console import UserError
from meanstep.program.runs import records, saved
from meanstep.program.runs.config import Config

if TYPE_CHECKING:
    from torch import Tensor, nn

    from meanstep.program.diagnose.findings import Findings
    from meanstep.program.evaluation.session import Evaluation
    from meanstep.program.sampling.model import Labels, Model


@dataclass(frozen=True)
class Run:
    """A folder of `meanstep.train` or `meanstep train`; it may stand wherever a path may.

    `net`: the network, if the run was given an object: opening the run copies it. `UserError` for a folder that holds no run.
    """

    folder: Path
    net: "nn.Module | None" = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder).expanduser())
        if saved.held(self.folder) is None:
            raise UserError(f"{self.folder} holds no run: it has no {saved.CONFIG}")

    def __fspath__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}: {self.config.method.recipe}, {self.seen:,} of {self.config.run.samples:,} samples)"

    @property
    def config(self) -> Config:
        """Everything that decides the run, as config.yaml has it."""
        found = saved.held(self.folder)
        assert found is not None
        return found

    @property
    def records(self) -> list[dict[str, Any]]:
        """What happened, in order: `kind` (start, train, evaluation, picture, checkpoint, stop, ...), `seen`, and what belongs to it."""
        return records.load(self.folder / "records.jsonl")

    @property
    def seen(self) -> int:
        """Samples that its last checkpoint had seen; 0 without one."""
        return max((int(path.name) for path in saved.numbered(self.folder)), default=0)

    @property
    def finished(self) -> bool:
        """Whether it has seen all its samples."""
        return self.seen >= self.config.run.samples

    @property
    def report(self) -> Path:
        """Where its page is, which works offline; written when a training ends, by `meanstep report` too."""
        return self.folder / "report.html"

    def load(self, **how: Any) -> "Model":
        """Its model: `meanstep.load` with its arguments."""
        from meanstep.program.sampling.model import load

        return load(self.folder, **{"net": self.net, **how})

    def sample(
        self,
        seeds: int | Sequence[int],
        steps: int | Sequence[float] = 1,
        labels: "Labels" = None,
        guidance: float = 1.0,
        batch: int = 64,
        **how: Any,
    ) -> "Tensor":
        """Samples of its last checkpoint, one for each seed (N: 0 to N - 1): `Model.sample`, whose arguments these are.

        `how`: those of `meanstep.load`. For many calls load the model once.
        """
        return self.load(**how).sample(seeds, steps, labels, guidance, batch)

    def evaluate(self, **options: Any) -> "Evaluation":
        """How far its samples are from data: `meanstep.evaluate` with its options."""
        from meanstep.program.verbs.measuring import evaluate

        return evaluate(self.folder, **{"net": self.net, **options})

    def diagnose(self, data: Any = None, **options: Any) -> "Findings":
        """Where the noise of its training signal is: `meanstep.diagnose` with its options."""
        from meanstep.program.verbs.measuring import diagnose

        return diagnose(self, data, **options)

    def export(self, to: str, out: str | Path | None = None, **options: Any) -> dict[str, Any]:
        """Files that run without this program: `meanstep.export` with its options."""
        from meanstep.program.export.session import export

        return export(self.folder, to=to, out=out, **{"net": self.net, **options})
