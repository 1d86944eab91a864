"""The covariance of a training step's gradient and the signal beside it. Knows no rules."""

import operator
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from meanstep import probes
from meanstep.keys import key
from meanstep.loss import Loss
from meanstep.program.data.batch import Batch
from meanstep.program.diagnose.case import Case

SMALL, ROWS, SPLITS = 400_000, 512, 16
"""Up to SMALL parameters every row's gradient is taken, of ROWS rows; above, of SPLITS parts of one batch."""


@dataclass(frozen=True)
class Gradient:
    """`covariance`: Tr Cov of the mean gradient of `rows` rows; `square`: |that gradient|^2; `way`: how."""

    covariance: probes.Estimate
    square: float
    rows: int
    way: str

    @property
    def row(self) -> float:
        """Tr Cov of one row's gradient."""
        return float(self.covariance.value) * self.rows

    @property
    def signal(self) -> float:
        """|E gradient|^2 without bias: what the noise of these rows adds is taken off; it may come out negative."""
        return self.square - float(self.covariance.value)

    def noise_scale(self) -> tuple[float, float, float]:
        """The batch at which noise equals signal, Tr Cov / |E g|^2, and its 95 percent interval; infinite where no signal is seen."""
        low, high = (float(p) * self.rows for p in self.covariance.positive_interval())
        spread = 2 * (2 * float(self.covariance.value) * self.square) ** 0.5  # |g|^2 of a mean gradient has about this standard error
        ends = [x / s if s > 0 else float("inf") for x, s in ((self.row, self.signal), (low, self.square + spread))]
        return ends[0], ends[1], high / max(self.signal - spread, 0.0) if self.signal > spread else float("inf")


def gradient(loss: Loss, case: Case, seconds: float, cost: float) -> Gradient | None:
    """Measured in about a quarter of `seconds`, all probes of a row costing `cost`; None if that is too little, or the loss not finite."""
    affordable = int(0.5 * seconds / max(cost, 1e-9))  # a row costs about half of what all probes of one do
    for p in case.probed.field.parameters():
        p.requires_grad_(p.is_floating_point())
    overlap = sum(term.share for term in case.method.recipe) > 1 + 1e-9
    if case.probed.parameters <= SMALL and case.entries <= 4096 and not overlap and affordable >= 64:
        try:
            return _rows(loss, case, min(ROWS, affordable))
        except Exception:  # a network that torch.func cannot transform: the other way needs no transform
            pass
    least = round(max(1 / term.share for term in case.method.recipe))
    rows = max(least, min(8 * least, case.chunk // 2 or 1, affordable // SPLITS))
    splits = min(SPLITS, affordable // rows)
    try:
        return _parts(loss, case, rows, splits) if splits >= 4 else None
    except FloatingPointError:  # the loss names its rows; the rule about values that are not finite says it here
        return None


@contextmanager
def _batched() -> Iterator[None]:
    """Attention in plain operations, which torch.func can batch: fused kernels would run a row at a time and say so in the terminal."""
    with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop because we have not yet implemented the batching rule")
        yield


def _rows(loss: Loss, case: Case, n: int) -> Gradient:
    b = case.drawn(n, "gradient", "rows")
    g = key(case.seed, "gradient")
    draws = loss.draw(b.x, b.y, noise=b.noise, mask=b.mask, progress=case.progress, generator=g)
    with _batched():
        found = probes.of_terms(case.probed.field, draws, chunk=max(1, min(64, 40_000_000 // max(case.probed.parameters, 1))))
    square = _square(loss, case, b, 1)
    return Gradient(found, square, n, f"every one of {n} rows, eq. (40)")


def _parts(loss: Loss, case: Case, rows: int, splits: int) -> Gradient:
    b = case.drawn(rows * splits, "gradient", "rows")
    how: dict[str, Any] = {"noise": b.noise, "mask": b.mask, "progress": case.progress, "generator": key(case.seed, "gradient")}
    found = probes.of_step(loss, case.probed.field, b.x, b.y, splits=splits, **how)
    return Gradient(found, _square(loss, case, b, splits), rows * splits, f"{splits} parts of {rows} rows, eq. (52)")


def _square(loss: Loss, case: Case, b: Batch, splits: int) -> float:
    """|mean gradient|^2 over the same draws, a part at a time."""
    params = [p for p in case.probed.field.parameters() if p.requires_grad]
    whole, g = [torch.zeros_like(p) for p in params], key(case.seed, "gradient")
    rows = len(b.x) // splits
    for k in range(splits):
        p = b.map(operator.itemgetter(slice(k * rows, (k + 1) * rows)))
        out = loss(case.probed.field, p.x, p.y, noise=p.noise, mask=p.mask, progress=case.progress, generator=g).loss
        for held, new in zip(whole, torch.autograd.grad(out, params, allow_unused=True), strict=True):
            if new is not None:
                held += new / splits
    return float(sum(p.double().square().sum() for p in whole))
