"""What a training step reads and no model changes: data, noise, times, network inputs, known velocities; drawn once for all models.

A block of steps is drawn from a key of its own, so the numbers do not depend on where a run was interrupted. Knows no models.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from meanstep import times as samplers
from meanstep.fields.flat import Shape
from meanstep.keys import key
from meanstep.paths import linear
from meanstep.program.reproduce.points import near
from meanstep.program.reproduce.points.protocols import TIMES, protocol
from meanstep.program.reproduce.points.settings import BLOCK, Settings, Spec
from meanstep.types import Bridge
from meanstep.velocities import Posterior


class Step(NamedTuple):
    """One step's inputs for `S` streams; rows are `n` moving, `B - n` on the diagonal, then `A` anchors. None where no model asks.

    Of several streams with other numbers of moving rows `n` is the largest: those between have a gap of 0.

    `velocity` `[S, B + A, D]`; `inputs` `[S, B + A, F]`; `boundary` `[S, n, F]`: the moving rows at `r = t`; `tangents` `[S, n, F - D]`;
    `gap` `[S, n, 1]`; `oracle`, `posterior` `[S, B, D]`; `beta` `[S, n, 1]`: the coefficient of the exact law; `signs`
    `[S, n, D]`: the probe of the trace weight; `t` `[S, B]`: for its deviation.
    """

    velocity: Tensor
    inputs: Tensor
    boundary: Tensor
    tangents: Tensor
    gap: Tensor
    oracle: Tensor | None
    posterior: Tensor | None
    beta: Tensor | None
    signs: Tensor | None
    t: Tensor | None

    def map(self, f: Callable[..., Tensor], *others: "Step") -> "Step":
        """`f` of every part that is there, and of the same part of other steps."""
        return Step(*(None if part[0] is None else f(*part) for part in zip(self, *others, strict=True)))  # type: ignore[arg-type]


ROOM = 32
"""Moving rows more than the mean for which there is room in a block: in one of 25,000 blocks of the authors' batches there are more."""
MOVING = ("boundary", "tangents", "gap", "beta", "signs")
"""Parts of a step that only its moving rows have."""


class Block(NamedTuple):
    """`BLOCK` steps stacked on the second axis; what they came from, `x`, `e` `[S, K, B, D]`, `r`, `t` `[S, K, B + A]`; the seeds.

    `moving`: of each step, how many rows have `r < t`.
    """

    x: Tensor
    e: Tensor
    r: Tensor
    t: Tensor
    steps: Step
    seeds: tuple[int, ...]
    moving: tuple[int, ...]

    def step(self, k: int) -> Step:
        """The `k`-th step."""
        step, n = self.steps.map(lambda part: part[:, k]), self.moving[k]
        if n == step.gap.shape[1]:
            return step
        cut = {name: part[:, :n] for name in MOVING if (part := getattr(step, name)) is not None}
        return step._replace(**cut)


@dataclass(frozen=True)
class Needs:
    """Which optional parts the models of a sweep ask for."""

    anchor: bool
    oracle: bool
    posterior: bool
    trace: bool = False

    @staticmethod
    def of(specs: list[Spec]) -> "Needs":
        """The union of what the specs need."""
        proxies = {spec.proxy for spec in specs}
        return Needs(any(s.anchor for s in specs), "oracle" in proxies, "posterior" in proxies, any(s.sigma for s in specs))


@dataclass(frozen=True)
class Stream:
    """The draws of one set and seed. `law`: what `sample`s; `beta`: the coefficient per (r, t) of the exact law, where a model asks.

    `sums`: `near.sums` compiled for blocks of their size, in which the posterior is then made. None where it is made as it is written:
    without a compiler, of more than `near.MOST` coordinates, in short jobs and on a GPU.
    Numbers are drawn on the processor, so that every `device` sees the same; what is computed from them is computed there.
    """

    law: Any
    name: str
    seed: int
    beta: Callable[[Bridge], Tensor] | None = None
    device: str = "cpu"
    sums: near.Sums | None = None

    def reference(self, n: int) -> Tensor:
        """The posterior's `n` reference points, the same all training long, `[n, D]`."""
        points: Tensor = self.law.sample(n, key(self.seed, "reference", self.name))
        return points

    def block(self, index: int, shape: Shape, settings: Settings, needs: Needs, of: str = "train", dtype: Any = None) -> Block:
        """The steps `index * BLOCK` to `(index + 1) * BLOCK - 1`, with one stream; `of`: other draws for another purpose.

        What is drawn in float32 may be computed in another precision, `dtype`.
        """
        batch = settings.batch
        *drawn, counts = protocol(settings).pairs(self.law, settings, key(self.seed, of, self.name, index))
        x, e, r, t = drawn if dtype is None else (p.to(dtype) for p in drawn)
        counts = [batch] * BLOCK if settings.ensemble and len(set(counts)) > 1 else counts  # one shape for all streams, and for a graph
        n = _room(max(counts), settings)
        known = _rowwise(self.law.velocity, linear(x, e, t)[0], t) if needs.oracle else None
        near_r, near_t = r[:, :0], t[:, :0]
        if needs.anchor:  # its times come from a key of their own: other models' draws do not depend on whether there is one
            pairs = samplers.anchor(TIMES[settings.times], *settings.delta)
            near_r, near_t = pairs((BLOCK, batch), key(self.seed, "anchor", self.name, index))
        x, e, r, t, near_r, near_t = (p.to(self.device) for p in (x, e, r, t, near_r, near_t))
        z, v = linear(x, e, t)
        near_z = linear(x, e, near_t)[0] if needs.anchor else z[:, :0]
        signs = torch.empty(0)
        if needs.trace:
            coins = torch.randint(2, (BLOCK, batch, x.shape[-1]), generator=key(self.seed, of, "signs", self.name, index))
            signs = (2 * coins[:, :n] - 1).to(z)
        moving, rs, ts = Bridge(z[:, :n], v[:, :n], r[:, :n], t[:, :n]), torch.cat([r, near_r], 1), torch.cat([t, near_t], 1)
        steps = Step(
            torch.cat([v, v], 1) if needs.anchor else v,
            shape.inputs(torch.cat([z, near_z], 1), rs, ts),
            shape.inputs(moving.z, moving.t, moving.t),
            shape.input_tangents(moving.t, moving.gap),
            moving.gap[..., None],
            None if known is None else known.to(self.device),
            self._posterior(x, e, Bridge(z, v, r, t), settings.reference) if needs.posterior else None,
            self.beta(moving)[..., None] if self.beta else None,
            signs if needs.trace else None,
            t if needs.trace else None,
        )
        return Block(x[None], e[None], rs[None], ts[None], steps.map(lambda part: part[None]), (self.seed,), tuple(counts))

    def _posterior(self, x: Tensor, e: Tensor, b: Bridge, n: int) -> Tensor:
        if self.sums is not None:
            return near.velocity(x.flatten(0, 1), e.flatten(0, 1), b.t.flatten(), self.reference(n), self.sums).view(x.shape)
        proxy = Posterior(self.reference(n).to(self.device), dtype=b.z.dtype)
        parts = [proxy(None, Bridge(*q)) for q in zip(*b[:4], strict=True)]  # type: ignore[arg-type]
        return torch.stack(parts)


def _room(n: int, settings: Settings) -> int:
    """Of how many rows a block keeps what only moving ones have: more than it needs where their number varies, the same in most blocks."""
    room = min(settings.batch, settings.moving + ROOM)
    return n if protocol(settings).counted else room if n <= room else settings.batch


def _rowwise(velocity: Callable[[Tensor, Tensor], Tensor], z: Tensor, t: Tensor, rows: int = 1024) -> Tensor:
    """A velocity of many rows, a few at a time: exact ones compare each row with every component."""
    parts = zip(z.flatten(0, 1).split(rows), t.flatten().split(rows), strict=True)
    return torch.cat([velocity(*part) for part in parts]).view(z.shape)


def stack(blocks: list[Block]) -> Block:
    """The blocks of several streams as one."""
    if len(blocks) == 1:
        return blocks[0]

    def join(*parts: Tensor) -> Tensor:
        return torch.cat(parts)

    x, e, r, t = (torch.cat(part) for part in zip(*(block[:4] for block in blocks), strict=True))
    first, *others = (block.steps for block in blocks)
    moving = tuple(max(counts) for counts in zip(*(block.moving for block in blocks), strict=True))
    return Block(x, e, r, t, first.map(join, *others), tuple(seed for block in blocks for seed in block.seeds), moving)
