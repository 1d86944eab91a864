"""`meanstep reproduce quadratic`."""

from dataclasses import dataclass
from pathlib import Path

from meanstep.program.flags import Seeds


@dataclass(frozen=True)
class Descend:
    """Descend into parabolas.

    Examples: meanstep reproduce quadratic
    """

    seeds: Seeds = (1, 2)
    """Where the minima are."""
    steps: int = 4
    """How many."""
    out: Path | None = None
    """Where results go."""

    def run(self) -> int:
        """0 when the report is written."""
        from meanstep.program.reproduce.folder import chosen
        from meanstep.program.reproduce.session import conduct

        from .study import Quadratic

        study = Quadratic(self.seeds, steps=self.steps)
        conduct(study, chosen(self.out, Path("runs/quadratic"), study), ["cpu"])
        return 0
