"""The types that everything else is made of. Knows no mathematics, no shapes of networks and no random numbers."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from meanstep.paths import Path, linear
from meanstep.values import record


class Field(Protocol):
    """An average velocity `u(z, r, t, y)`: `[*B, *E], [*B], [*B], any -> [*B, *E]`, eq. (4); `r == t` gives the instantaneous velocity."""

    def __call__(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None, /) -> Tensor:
        """Evaluate the field."""
        ...


class Bridge(NamedTuple):
    """One conditional draw a row: all that an objective may look at. The batch shape `*B` is `t.shape`.

    `z`: the noisy sample `[*B, *E]`, eq. (1); `v`: its conditional velocity, eq. (2); `r <= t`: times in [0, 1], `[*B]`; `y`: the
    condition (a tensor or a tuple or dict of tensors with leading `*B`); `mask`: `[*B]` or more leading axes of `z`, true where the
    entries count; `aux`: `[*B, 4]` independent uniforms, the only randomness an objective has, and after them those that its weight asks
    for; `progress`: the share of the training that is done, in [0, 1]; `path`: what `z` and `v` were drawn on; `independent`: whether the
    noise was a standard normal draw that knew nothing of the data, and not handed in; `common`: uniforms that all rows of a step share,
    `[*B[:-1], 1, 4]`; `still`: the share of the step's rows that were drawn with `r = t`.
    """

    z: Tensor
    v: Tensor
    r: Tensor
    t: Tensor
    y: Any = None
    mask: Tensor | None = None
    aux: Tensor | None = None
    progress: float | Tensor | None = None
    path: Path = linear
    independent: bool = True
    common: Tensor | None = None
    still: float | None = None

    def __repr__(self) -> str:
        return record(self)

    @property
    def gap(self) -> Tensor:
        """The time span `t - r`, `[*B]`."""
        return self.t - self.r

    @property
    def rows(self) -> dict[str, Any]:
        """What it holds of each row, by name, where it is there."""
        found = {name: getattr(self, name) for name in ("z", "v", "r", "t", "y", "mask", "aux")}
        return {name: part for name, part in found.items() if part is not None}

    @property
    def data(self) -> Tensor:
        """The row's own data point, `[*B, *E]`, by the path's inverse."""
        return self.path.data(self.z, self.v, self.t)

    @property
    def noise(self) -> Tensor:
        """The row's own noise, `[*B, *E]`, by the path's inverse."""
        return self.path.noise(self.z, self.v, self.t)

    def uniforms(self) -> Tensor:
        """The auxiliary uniforms `[*B, 4]` or more; `ValueError` if this bridge was drawn without them."""
        if self.aux is None:
            raise ValueError(
                "this objective draws per-row random numbers: give the bridge aux=torch.rand(*t.shape, 4) or draw it with Loss.draw"
            )
        return self.aux

    def shared(self) -> Tensor:
        """The uniforms that all rows of a step share, `[*B[:-1], 1, 4]`; `ValueError` if this bridge was drawn without them."""
        if self.common is None:
            raise ValueError("a scale of the whole step is drawn with the step: draw the bridge with Loss.draw, or give it common=")
        return self.common

    def elapsed(self) -> float | Tensor:
        """The share of the training done; `ValueError` if the loss was not told."""
        if self.progress is None:
            raise ValueError("this recipe follows a schedule: call the loss with progress=samples_seen / total_samples, in [0, 1]")
        return self.progress


class Regression(NamedTuple):
    """What every objective returns: `prediction` carries the gradient, `target` never does, both `[*B, *E]`.

    `average` is the field's own `u(z, r, t)` (detached) and `tangent` the direction of its derivative, where the objective has them.
    """

    prediction: Tensor
    target: Tensor
    average: Tensor | None = None
    tangent: Tensor | None = None

    def __repr__(self) -> str:
        return record(self)


class Query(NamedTuple):
    """The one evaluation of the field that carries an objective's gradient; the loss joins those of all terms into one forward pass.

    `along`: the directions `(dz, dr, dt)` of a derivative (None is 0), or None without one; `way`: how it is made, see `meanstep.tangents`;
    `value`: the answer, where it is known already; `head`: the field's head is asked, not the field; `probes`: further directions of `z`,
    `[K, *B, *E]`, along which a weight asks for the derivative of the field, without gradient.
    """

    z: Tensor
    r: Tensor
    t: Tensor
    y: Any = None
    along: tuple[Tensor | None, Tensor | None, Tensor | None] | None = None
    way: Any = None
    value: Tensor | None = None
    head: bool = False
    probes: Tensor | None = None

    def __repr__(self) -> str:
        return record(self)


Coefficient = float | Tensor | Callable[[Bridge], float | Tensor]
"""A number, a tensor over leading batch axes (one value an ensemble member), or a function of the bridge: of `(r, t)` or of progress."""
Times = Callable[[tuple[int, ...], torch.Generator | None], tuple[Tensor, Tensor]]
"""`(shape, generator) -> (r, t)` with `0 <= r <= t <= 1`."""
Velocity = Callable[[Field, Bridge], Tensor]
"""An estimate of the marginal velocity `E[v | z_t]`, eq. (3)."""
Rate = Callable[[Field, Bridge, Tensor], tuple[Tensor, Tensor]]
"""`(field, bridge, tangent) -> (u, change)`: `change` estimates `(t - r) D_t u` along the tangent, eq. (10), so `u + change` is `D_t X`."""
Answer = tuple[Tensor, Tensor | None]
"""`u` of a query, and its derivative if one was asked for."""
Objective = Callable[[Field, Bridge], Regression]
"""One with a method `query(field, bridge) -> (Query, finish)`, `finish(answer) -> Regression`, shares its forward pass with others."""
Weight = Callable[[Tensor, Bridge], Tensor]
"""`[*B]` mean squared error -> `[*B]` loss."""
