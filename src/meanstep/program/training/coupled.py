"""The noise of a chunk of rows under a run's coupling, and the generator that the loss goes on with. Knows no networks."""

import operator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from meanstep.couplings import Coupling, OptimalTransport, drawn, independent
from meanstep.keys import key
from meanstep.program.console import UserError
from meanstep.program.data import Batch, order
from meanstep.program.reading import arrays
from meanstep.program.registry import INDEPENDENT, PAIRS, PARTNERS

FAR = 0.2
"""How far the mean and the deviation of a pair's noise may be from 0 and 1: samples start from standard normal noise."""
NOISE = "noise"
"""The array of an .npz that holds it."""


@dataclass(frozen=True)
class Coupled:
    """`coupling` reorders fresh noise; `partners` `[N, *E]`: the noise of each row of the data instead. Both None: as the loss draws it.

    `flips`: rows may be mirrored, and their noise is then mirrored with them.
    """

    seed: int
    coupling: Coupling | None = None
    partners: "np.ndarray[Any, Any] | None" = None
    flips: bool = False

    def __call__(self, b: Batch, stream: str = "train") -> tuple[Batch, Generator]:
        """The batch with its noise, if that is not the loss's own draw, and the generator of its stream where the loss takes over."""
        g = key(self.seed, stream, b.start)
        if b.noise is not None or (self.independent and b.mask is None):
            return b, g
        if self.partners is None:  # under a mask the loss sets a noise that it is given to 0 too, so that padding shows the network 0
            return b._replace(noise=drawn(self.coupling or independent, b.x, b.y, g)), g
        return b._replace(noise=self._partners(b).to(b.x)), g

    @property
    def independent(self) -> bool:
        """Whether the noise of a row is a draw of its own."""
        return self.coupling is None and self.partners is None

    def of_rows(self, b: Batch, index: Tensor, size: int, generator: Generator) -> Batch:
        """The rows `index` of the data with their noise, where that is not the loss's own draw: coupled `size` rows at a time."""
        if b.noise is not None or self.independent:
            return b
        if self.coupling is not None:
            drawing = self.coupling
            pieces = [b.map(operator.itemgetter(slice(at, at + size))) for at in range(0, len(b.x), size)]
            return b._replace(noise=torch.cat([drawn(drawing, piece.x, piece.y, generator) for piece in pieces]))
        assert self.partners is not None
        return b._replace(noise=torch.from_numpy(np.array(self.partners[index.numpy()])).to(b.x))

    def _partners(self, b: Batch) -> torch.Tensor:
        assert self.partners is not None
        n, count = len(self.partners), len(b.x)
        e = torch.from_numpy(np.array(self.partners[order.rows(n, self.seed, b.start, count).numpy()]))
        if not self.flips:
            return e
        coins = order.flips(n, self.seed, b.start, count)
        return torch.where(coins.reshape(-1, *(1,) * (e.ndim - 1)), e.flip(-1), e)


def coupled(name: str, seed: int, rows: int, shape: tuple[int, ...], labelled: bool, flips: bool) -> Coupled:
    """That of a name as `--method.coupling` takes it, for data of so many rows; `UserError` for pairs that do not fit them."""
    if name in (INDEPENDENT, PARTNERS):
        return Coupled(seed)
    if not name.startswith(PAIRS):
        return Coupled(seed, OptimalTransport(classes=labelled))
    return Coupled(seed, partners=_read(Path(name.removeprefix(PAIRS)).expanduser(), (rows, *shape)), flips=flips)


def _read(path: Path, shape: tuple[int, ...]) -> "np.ndarray[Any, Any]":
    flag = f"--method.coupling {PAIRS}{path}"
    if path.suffix not in (".npy", ".npz") or not path.is_file():
        raise UserError(f"{flag}: give an .npy, or an .npz with an array {NOISE}, that is there")
    held = {NOISE: arrays.mapped(path)} if path.suffix == ".npy" else arrays.archive(path)
    if NOISE not in held:
        raise UserError(f"{flag}: it has no array {NOISE}; it holds {', '.join(sorted(held)[:8]) or 'nothing'}")
    e = held[NOISE]
    if e.shape != shape or e.dtype.kind != "f":
        raise UserError(f"{flag}: the noise is {e.dtype} {e.shape}, and the data are rows of {shape}: give floats, one row for each")
    some = np.asarray(e[:: max(1, len(e) // 4096)], dtype=np.float64)
    if not np.isfinite(some).all():
        raise UserError(f"{flag}: the noise is not finite")
    if abs(some.mean()) > FAR or abs(some.std() - 1) > FAR:
        what = f"the noise has mean {some.mean():.2g} and deviation {some.std():.2g}, and samples start from 0 and 1"
        raise UserError(f"{flag}: {what}: for another source give --data.pair FILE --data.pair-as source")
    return e
