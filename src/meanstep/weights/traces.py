"""The trace weight: rows count less where the learned map expands."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from meanstep import boundary
from meanstep.shapes import event_size, filled, over, per_sample
from meanstep.types import Bridge, Weight
from meanstep.values import Value, called_as
from meanstep.weights.asking import Factored, draws, no_module, probes


def summed(error: Tensor, b: Bridge) -> Tensor:
    """The squared error summed over the entries that count."""
    return error * event_size(b.z, b.t, b.mask)


SIGMAS: dict[str, Callable[[Tensor], Tensor]] = {
    "one": torch.ones_like,
    "t": lambda t: t,
    "t2": torch.square,
    "bridge": lambda t: (t * (1 - t)).clamp(min=0).sqrt(),
    "scale": lambda t: ((1 - t).square() + t.square()).rsqrt(),
}
"""Published choices of the noise scale: 1, `t`, `t^2`, `sqrt(t (1 - t))` and `1 / sqrt((1 - t)^2 + t^2)`."""
MOST = 256
"""Entries of a row up to which its trace is taken exactly, a derivative for each."""


@dataclass(frozen=True, repr=False, eq=False)
class Trace(Value):
    """Lowers the weight of rows where the learned map expands: `w = 1 / (1 + sigma(t)^2 sg Tr(J J^T) / d)`, eq. (55); arXiv 2605.09235.

    `J = (t - r) d_z u - I` at the row, over the `d` entries that the mask leaves. `w` has no gradient and lies in [0, 1]. Where `r = t` it
    is `1 / (1 + sigma^2)` and needs no derivative.

    - `sigma`: a name of `SIGMAS` or a function of `t`.
    - `exact`: the trace from `d` derivatives (at most 256), else its estimate `|J e|^2` with one vector `e` of random signs, drawn from the
      uniforms of `Bridge.aux` after the fourth.
    - `of`: the weight that `w` multiplies.

    `ValueError` for an unknown name, and for an exact trace of more than 256 entries.
    """

    sigma: str | Callable[[Tensor], Tensor] = "one"
    exact: bool = False
    of: Weight = summed

    def __post_init__(self) -> None:
        no_module(self.of)
        boundary.weight("of", self.of)
        if not callable(self.sigma) and self.sigma not in SIGMAS:
            raise ValueError(f"sigma is one of {', '.join(SIGMAS)}, or a function of t, got {self.sigma!r}")

    def __repr__(self) -> str:
        default = {"sigma": "one", "exact": False, "of": summed}
        return called_as("trace", [], {name: part for name, part in self._parts().items() if part != default[name]})

    def draws(self, entries: int) -> int:
        """A uniform for each sign of a row of so many `entries`."""
        return draws(self.of, entries) + (0 if self.exact else entries)

    def probes(self, b: Bridge) -> Tensor | None:
        """The signs `[1, *B, *E]` or the unit vectors `[d, *B, *E]`, 0 where masked; None where `r` is `t` itself."""
        if probes(self.of, b) is not None:
            raise ValueError("a weight inside the trace weight cannot ask for derivatives of its own")
        if b.r is b.t:
            return None
        return torch.where(_kept(b), self._units(b) if self.exact else self._signs(b)[None], 0.0)

    def _units(self, b: Bridge) -> Tensor:
        event = b.z.shape[b.t.ndim :]
        if (entries := event.numel()) > MOST:
            what = f"an exact trace takes a derivative for each of the {entries:,} entries of a row"
            raise ValueError(f"{what}, which are at most {MOST}: leave exact out")
        one = torch.eye(entries, dtype=b.z.dtype, device=b.z.device).reshape(entries, *(1,) * b.t.ndim, *event)
        return one.expand(entries, *b.z.shape)

    def _signs(self, b: Bridge) -> Tensor:
        event = b.z.shape[b.t.ndim :]
        if (own := b.uniforms()[..., 4 : 4 + event.numel()]).shape[-1] < event.numel():
            what = f"the trace weight draws a sign for each of the {event.numel()} entries of a row"
            raise ValueError(f"{what}: draw the bridge with Loss.draw, or give it aux=torch.rand(*t.shape, {4 + event.numel()})")
        return torch.where(own.reshape(b.z.shape) < 0.5, -1.0, 1.0).to(b.z)

    def answered(self, b: Bridge, slopes: Tensor | None) -> Weight:
        """The plain weight of a bridge's rows, given `slopes`, the derivatives of `u` along their probes; None where `r` is `t`."""
        return Factored(self.of, Known(self.weights(b, slopes)))

    def weights(self, b: Bridge, slopes: Tensor | None) -> Tensor:
        """`w`, `[*B]`, of the derivatives `slopes` as of `answered`; nan where a derivative is not finite, which the loss refuses."""
        if (along := self.probes(b)) is None:
            ratio = torch.ones_like(b.t)
        elif slopes is None:
            raise ValueError("the trace weight needs the field's derivatives along its probes: the loss asks for them")
        else:
            change = over(b.gap, b.z) * torch.where(_kept(b), slopes.detach().to(b.z), 0.0) - along
            ratio = torch.stack([per_sample(p, b.t, b.mask) for p in change.square().unbind(0)]).sum(0)
            ratio = torch.where(change.isfinite().reshape(len(change), *b.t.shape, -1).all(-1).all(0), ratio, float("nan"))
        return (1 / (1 + self._scale(b.t).square() * ratio)).detach()

    def _scale(self, t: Tensor) -> Tensor:
        found = SIGMAS[self.sigma](t) if isinstance(self.sigma, str) else self.sigma(t)
        found = filled(found, t)
        if found.shape not in ((), t.shape):
            raise ValueError(f"sigma(t) has shape {tuple(found.shape)} for times of shape {tuple(t.shape)}")
        return found

    def __call__(self, error: Tensor, b: Bridge) -> Tensor:
        """`[*B]` error -> `[*B]` loss, where `r` is `t`; `ValueError` elsewhere, where the loss answers it first."""
        return self.answered(b, None)(error, b)


def _kept(b: Bridge) -> Tensor:
    """The entries that count."""
    return over(torch.ones_like(b.t, dtype=torch.bool) if b.mask is None else b.mask, b.z)


@dataclass(frozen=True, repr=False, eq=False)
class Known(Value):
    """A factor that is known row by row, `rows` `[*B]`."""

    rows: Tensor

    def __call__(self, b: Bridge) -> Tensor:
        """The factor."""
        return self.rows


def trace(sigma: str | Callable[[Tensor], Tensor] = "one", exact: bool = False, of: Weight = summed) -> Trace:
    """The trace weight, eq. (55), times the summed squared error, or times another weight's loss; arXiv 2605.09235.

    `sigma`, `exact`, `of`: as of `Trace`; "one", false and the sum, as published. `ValueError` and `TypeError` as there.
    """
    return Trace(sigma, exact, of)
