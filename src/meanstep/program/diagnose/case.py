"""What is to be measured, and with what."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from meanstep.keys import key
from meanstep.program.data.batch import Batch
from meanstep.program.diagnose.arrays import Dataset
from meanstep.program.diagnose.networks import Probed
from meanstep.program.diagnose.reading import Center, Reading


@dataclass(frozen=True)
class Case:
    """What is to be measured, and with what. `history`: what a run's records tell of its training, by name."""

    probed: Probed
    data: Dataset
    method: Reading
    center: Center
    dtype: torch.dtype
    device: torch.device
    seed: int = 0
    progress: float = 1.0
    chunk: int = 1024
    batch: int = 256
    history: Mapping[str, float] = field(default_factory=dict)

    @property
    def entries(self) -> int:
        """Numbers in one row."""
        return int(torch.tensor(self.data.event).prod())

    def drawn(self, n: int, *stream: str | int) -> Batch:
        """`n` rows of those that the center is made for, with replacement, and their noise where it is not the loss's own draw."""
        at: Tensor = self.center.rows[torch.randint(len(self.center.rows), (n,), generator=key(self.seed, *stream))]
        return self.data.paired(at, self.dtype, self.device, key(self.seed, *stream, "noise"))
