"""What is to be measured, and with what."""

from dataclasses import dataclass

import torch

from meanstep.program.diagnose.arrays import Dataset
from meanstep.program.diagnose.networks import Probed
from meanstep.program.diagnose.reading import Center, Reading


@dataclass(frozen=True)
class Case:
    """What is to be measured, and with what."""

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

    @property
    def entries(self) -> int:
        """Numbers in one row."""
        return int(torch.tensor(self.data.event).prod())
