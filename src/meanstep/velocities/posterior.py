"""The velocity at the posterior mean of a reference batch, eq. (31)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from meanstep import boundary
from meanstep.precise import uncast
from meanstep.shapes import over
from meanstep.types import Bridge, Field
from meanstep.values import Value
from meanstep.velocities.conditioned import Condition
from meanstep.velocities.estimates import expect_marginal


@dataclass(frozen=True, repr=False, eq=False)
class Posterior(Value):
    """An estimate of the marginal velocity from a batch of data: the velocity at their posterior mean given `z_t`, eq. (31).

    Works on any path, for fresh Gaussian noise only. Its bias vanishes as N grows. Under a mask only the entries that count are compared.

    - `reference`: data `[N, *E]`, floating-point.
    - `labels`: integers `[N]`; a row is compared only with references of its label. Rows with a condition need them, or `marginal`.
    - `include_own`: count the row's own data point as a reference, so that the weights cannot vanish and the value tends to the conditional
      velocity as `t -> 0`. On by default.
    - `dtype`: of the comparison; float64 by default. float32 is two to three times faster; its weights are off by about
      `1e-7 |z|^2 / t^2`.
    - `basis`: orthonormal directions `[entries, K]`, such as principal components, in which rows are compared; this is biased, and takes
      no mask.
    - `marginal`: for rows with a condition, the average over conditions is meant.

    `TypeError` for a reference that is no tensor of floating-point numbers. `ValueError` if shapes do not fit, a condition is not a label,
    a label has no reference, or the noise was given (`noise=`): its distribution given the data is not the one that the weights assume.
    """

    reference: Tensor
    labels: Tensor | None = None
    include_own: bool = True
    dtype: torch.dtype = torch.float64
    basis: Tensor | None = None
    marginal: bool = False

    def __post_init__(self) -> None:
        boundary.kind("the reference", self.reference, Tensor, "a tensor of data [N, *E]")
        if not self.reference.is_floating_point():
            raise TypeError(f"the reference holds data as the loss gets it, floating-point numbers, got {self.reference.dtype}")
        if not len(self.reference):
            raise ValueError(f"a Posterior needs at least one reference, got shape {tuple(self.reference.shape)}")
        if self.labels is not None and not _are_labels(self.labels, self.reference.shape[:1]):
            what = f"{self.labels.dtype} {tuple(self.labels.shape)}" if isinstance(self.labels, Tensor) else f"{self.labels!r:.40}"
            raise ValueError(f"labels are integers, one for each of the {len(self.reference)} references, got {what}")

    @torch.no_grad()
    def __call__(self, field: Field, b: Bridge) -> Tensor:
        """The velocity `[*B, *E]`."""
        if not b.independent:
            raise ValueError(
                "a Posterior weighs data by the law of fresh Gaussian noise, and this draw's noise was handed in (noise=): "
                "use velocities.conditional, or pass independent=True if it is a standard normal draw that knows nothing of the data"
            )
        x = b.data
        if self.reference.shape[1:] != x.shape[b.t.ndim :]:
            raise ValueError(f"the reference holds rows of shape {tuple(self.reference.shape[1:])}, the batch {tuple(x.shape[b.t.ndim :])}")
        alike = self._alike(b)
        with uncast(b.z):
            t = b.t.clamp(min=1e-6).to(self.dtype)[..., None]
            a, s = b.path.scales(t)
            z, mine, keep = (p.reshape(*b.t.shape, -1).to(self.dtype) for p in (b.z, x, self._kept(b)))
            # log p(z | x_i) up to a term of the row, in one product: large numbers cancel at small t, hence float64 by default
            flat = self.reference.flatten(1).to(z)
            here, there, own = (self._seen(p) for p in (z, flat, mine))
            keep = keep if self.basis is None else torch.ones_like(here)
            left = torch.cat([here * keep * (a / s**2), keep * (-(a**2) / (2 * s * s))], -1)
            logits = left @ torch.cat([there, there.square()], -1).mT
            own = (left * torch.cat([own, own.square()], -1)).sum(-1, keepdim=True)
            if alike is not None:
                logits = logits.masked_fill(~alike, float("-inf"))
            mean = self._mean(logits, own, flat, mine)
        return b.v - ((mean - mine) / b.path.span(t)).reshape(b.z.shape).to(b.z)

    def _alike(self, b: Bridge) -> Tensor | None:
        """Which references have each row's label, `[*B, N]`; None where all count."""
        if self.labels is None:
            expect_marginal(b, self.marginal, "a Posterior without labels", "give it labels=, one for each reference")
            return None
        y = b.y.label if isinstance(b.y, Condition) else b.y
        if not isinstance(y, Tensor):
            raise ValueError("a Posterior with labels compares them with the rows' labels: call the loss with y=labels")
        if not _are_labels(y, b.t.shape):
            raise ValueError(
                f"a Posterior compares labels, integers of shape {tuple(b.t.shape)}, and this condition is {y.dtype} {tuple(y.shape)}: "
                "use another velocity, or a Posterior without labels and marginal=True if the average over conditions is meant"
            )
        alike = y[..., None].long() == self.labels.to(y.device).long()
        if not self.include_own and y.device.type == "cpu" and not torch.compiler.is_compiling() and not (there := alike.any(-1)).all():
            raise ValueError(f"no reference has the label {y[~there][0].item()}: give references of every label, or include_own=True")
        return alike

    def _seen(self, x: Tensor) -> Tensor:
        """What is compared of points `[*B, entries]`."""
        return x if self.basis is None else x @ self.basis.to(x)

    def _kept(self, b: Bridge) -> Tensor:
        if self.basis is not None and b.mask is not None:
            raise ValueError("a Posterior with a basis compares whole rows: it takes no mask")
        return torch.ones_like(b.z) if b.mask is None else over(b.mask, b.z).expand_as(b.z).to(b.z)

    def _mean(self, logits: Tensor, own: Tensor, flat: Tensor, mine: Tensor) -> Tensor:
        top = logits.amax(-1, keepdim=True)
        top = torch.maximum(top, own) if self.include_own else top
        floor = math.log(torch.finfo(logits.dtype).tiny) / 2  # 1e-19 in float32: an exp that underflows takes ten to thirty times as long
        weights, mass = logits.sub_(top).clamp_(min=floor).exp_(), (own - top).exp() if self.include_own else torch.zeros_like(own)
        laid = flat.mT.contiguous().mT if flat.shape[1] < 32 else flat  # a product with few columns is several times faster so
        sums = weights @ laid
        return (sums + mass * mine) / (weights.sum(-1, keepdim=True) + mass)


def _are_labels(y: Any, shape: Sequence[int]) -> bool:
    kinds = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool)
    return isinstance(y, Tensor) and y.dtype in kinds and tuple(y.shape) == tuple(shape)
