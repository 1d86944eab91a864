"""What the contracts are checked on: every recipe with the proxies it needs, and small networks of every event shape."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import meanstep as ms
from meanstep import auxiliary, recipes, terms, times, velocities, weights
from meanstep.coefficients import linear
from meanstep.fields import DataPrediction, Scaled
from meanstep.rates import Backward, Central, Exact, Warmed
from meanstep.shapes import over, per_sample
from meanstep.terms import Recipe
from meanstep.velocities import Condition, Guided, LabelDropout, conditional, own

CLASSES = 3
DROPOUT = LabelDropout(CLASSES, share=0.3)
INSTANT = LabelDropout(CLASSES, share=0.3, rows="instant")


# Networks ----------------------------------------------------------------------------------------------------------------------------


def _times(t: Tensor, other: Tensor) -> Tensor:
    return torch.stack([t, other, (3 * t).sin(), (3 * other).cos()], -1)


class Conv(nn.Module):
    """A stranger's image network, called as `net(x, t, gap, label)`; it returns the velocity and an auxiliary one."""

    def __init__(self, head: bool, labels: bool) -> None:
        super().__init__()
        self.stem, self.times, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(4, 8), nn.GroupNorm(2, 8)
        self.middle, self.out = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 2 if head else 1, 3, padding=1)
        self.labels = nn.Embedding(CLASSES + 1, 8) if labels else None

    def forward(self, x: Tensor, t: Tensor, gap: Tensor, label: Tensor | None = None) -> Tensor:
        c = self.times(_times(t, gap))
        c = c if self.labels is None else c + self.labels(label)
        # as many public networks do; without the cast CPU autocast hits a defect of torch, see tests/contracts/test_rates.py
        h = nn.functional.silu(self.norm((self.stem(x) + c[..., None, None]).to(x)))
        return self.out(nn.functional.silu(self.middle(h)))


class Transformer(nn.Module):
    """Sequences `[B, L, 4]`: fused attention, then `nn.MultiheadAttention`, dropout in train mode; neither attention without `mixing`."""

    def __init__(self, head: bool, labels: bool, dropout: float = 0.1, mixing: bool = True) -> None:
        super().__init__()
        self.stem, self.times, self.drop = nn.Linear(4, 8), nn.Linear(4, 8), nn.Dropout(dropout)
        self.labels = nn.Embedding(CLASSES + 1, 8) if labels else None
        self.qkv = nn.Linear(8, 24) if mixing else None
        self.attention = nn.MultiheadAttention(8, 2, dropout=dropout, batch_first=True) if mixing else None
        self.norm, self.middle, self.out = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8 if head else 4)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        c = self.times(_times(t, r))
        c = c if self.labels is None else c + self.labels(label)
        h = self.drop(self.stem(z) + c[..., None, :])
        if self.qkv is not None and self.attention is not None:
            q, k, v = self.qkv(h).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
            h = h + nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)
            h = h + self.attention(h, h, h, need_weights=False)[0]
        return self.out(nn.functional.gelu(self.middle(self.norm(h))))


class Conditioned(nn.Module):
    """Gives a network of labels the whole `Condition`: the guidance scale enters as a factor."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def _scaled(self, read: Any, z: Tensor, r: Tensor, t: Tensor, y: Condition) -> Tensor:
        return read(z, r, t, y.label) * over(1 + 0.1 * y.omega, z)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Condition) -> Tensor:
        return self._scaled(self.net, z, r, t, y)

    def head(self, z: Tensor, r: Tensor, t: Tensor, y: Condition) -> Tensor:
        return self._scaled(self.net.head, z, r, t, y)


def _adapted(net: nn.Module, order: tuple[str, ...], axis: int, head: bool) -> nn.Module:
    if not head:
        return ms.as_field(net, order)
    return ms.as_field(net, order, output=lambda out: out.chunk(2, axis)[0], head=lambda out: out.chunk(2, axis)[1])


def _network(kind: str, head: bool, labels: bool) -> nn.Module:
    g = torch.Generator().manual_seed(1)
    classes = CLASSES if labels else 0
    match kind:
        case "mlp":
            return ms.MLP(2, 16, 2, head=head, classes=classes, generator=g)
        case "ensemble":
            return ms.MLP(2, 16, 2, members=(3,), head=head, classes=classes, generator=g)
        case "conv":
            return _adapted(Conv(head, labels), ("z", "t", "gap", "y"), 1, head)
        case "transformer":
            return _adapted(Transformer(head, labels), ("z", "r", "t", "y"), -1, head)
        case "ragged":
            return _adapted(Transformer(head, labels, dropout=0.0, mixing=False), ("z", "r", "t", "y"), -1, head)
    raise ValueError(kind)


ROWS = 12
SHAPES = {"mlp": (ROWS, 2), "ensemble": (3, ROWS, 2), "conv": (ROWS, 1, 8, 8), "transformer": (ROWS, 6, 4), "ragged": (ROWS, 6, 4)}


# Recipes -----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Proxies:
    """What a recipe may be given from outside: a copy of the field with other weights, and reference data."""

    ema: nn.Module
    reference: Tensor


@dataclass(frozen=True)
class Case:
    """One row of the table. `wrap` makes the recipe's field of a network; `labels`: the network is told a label."""

    recipe: Callable[[Proxies], Recipe]
    wrap: Callable[[nn.Module], nn.Module] = lambda net: net
    head: bool = False
    labels: bool = False
    progress: float | None = None
    couplings: bool = False

    def field(self, kind: str, dtype: torch.dtype = torch.float64) -> nn.Module:
        """The field on the network `kind`, always with the same weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.wrap(_network(kind, self.head, self.labels)).to(dtype)

    def setting(self, kind: str, dtype: torch.dtype = torch.float64, rows: int = ROWS, **options: Any) -> "Setting":
        """Field, loss and batch, always the same."""
        g, shape = torch.Generator().manual_seed(2), tuple(rows if size == ROWS else size for size in SHAPES[kind])
        field, dims = self.field(kind, dtype), 2 if kind == "ensemble" else 1
        x = 0.5 * torch.randn(shape, generator=g).to(dtype) + 1
        other = copy.deepcopy(field).eval()
        for p in other.parameters():
            p.data.add_(0.05 * torch.randn(p.shape, generator=g).to(dtype))
        given: dict[str, Any] = {"progress": self.progress}
        if self.labels:
            given["y"] = torch.randint(CLASSES, shape[:dims], generator=g)
        if self.couplings:
            given["noise"] = torch.randn(shape, generator=g).to(dtype)
        if kind == "ragged":
            given["mask"] = torch.arange(shape[1]) < torch.randint(1, shape[1] + 1, (shape[0], 1), generator=g)
        recipe = self.recipe(Proxies(other, (0.5 * torch.randn(20, *shape[dims:], generator=g) + 1).to(dtype)))
        return Setting(field, ms.Loss(recipe, batch_dims=dims, **options).to(dtype), x, given)


@dataclass(frozen=True)
class Setting:
    """A field, a loss and a batch."""

    field: nn.Module
    loss: ms.Loss
    x: Tensor
    given: dict[str, Any]

    def __call__(self, seed: int = 0, **changed: Any) -> ms.Output:
        """The loss at a seed."""
        given = {"x": self.x, "generator": torch.Generator().manual_seed(seed), **self.given, **changed}
        return self.loss(self.field, **given)

    def gradients(self, seed: int = 0, **changed: Any) -> list[Tensor | None]:
        """The gradient of every parameter, the learned weight's included."""
        parameters = [*self.field.parameters(), *self.loss.parameters()]
        return list(torch.autograd.grad(self(seed, **changed).loss, parameters, allow_unused=True))


def _far(look: auxiliary.Look) -> Tensor:
    """An auxiliary loss of one's own, for every event shape, ensembles and masks."""
    b = look.bridge
    return per_sample((look.data - b.data).abs(), b.t, b.mask)


def _guided() -> dict[str, Any]:
    return {"velocity": Guided(conditional, DROPOUT, omega=1.2, kappa=0.4)}


CASES: dict[str, Case] = {
    "flow_matching": Case(lambda p: recipes.flow_matching()),
    "flow_matching/posterior": Case(lambda p: recipes.flow_matching(velocity=velocities.Posterior(p.reference))),
    "meanflow": Case(lambda p: recipes.meanflow()),
    "meanflow/cifar": Case(lambda p: recipes.meanflow(times.logit_normal_pair(), 0.25, weights.adaptive(0.75, 1e-3))),
    "meanflow/guided": Case(lambda p: recipes.meanflow(**_guided()), labels=True),
    "meanflow/instant": Case(lambda p: recipes.meanflow(velocity=Guided(conditional, INSTANT, 1.2, 0.4)), labels=True),
    "meanflow/warmed": Case(lambda p: recipes.meanflow(rate=Warmed(Exact(), linear(0.0, 1.0)), weight=weights.normed()), progress=0.4),
    "meanflow/beside": Case(lambda p: terms.beside(recipes.meanflow(), auxiliary.Auxiliary(_far, 0.5, before=0.7))),
    "meanflow/central": Case(lambda p: recipes.meanflow(rate=Central())),
    "meanflow/backward": Case(lambda p: recipes.meanflow(rate=Backward(0.1))),
    "meanflow/through": Case(lambda p: recipes.meanflow(rate=Exact(0.5))),
    "coefficient/0": Case(lambda p: recipes.coefficient(0.0)),
    "coefficient/1": Case(lambda p: recipes.coefficient(1.0, p.ema)),
    "coefficient/half": Case(lambda p: recipes.coefficient(0.5, p.ema, anchor=0.1, anchor_share=0.5, delta=(0, 1e-3))),
    "coefficient/own": Case(lambda p: recipes.coefficient(0.5, own)),
    "coefficient/map": Case(lambda p: recipes.coefficient(lambda b: b.t, p.ema)),
    "coefficient/both": Case(lambda p: recipes.coefficient(0.7, velocities.Posterior(p.reference), target_beta=0.7)),
    "trace": Case(lambda p: recipes.trace_weighted(proxy=p.ema)),
    "trace/exact": Case(lambda p: recipes.trace_weighted(exact=True, proxy=p.ema)),
    "trace/guided": Case(lambda p: recipes.trace_weighted("t2", proxy=p.ema, **_guided()), labels=True),
    "trace/anchored": Case(lambda p: recipes.coefficient(1.0, p.ema, weight=weights.trace("bridge", of=weights.adaptive()))),
    "trace/head": Case(lambda p: recipes.improved_meanflow(weight=weights.trace()), head=True),
    "posterior": Case(lambda p: recipes.posterior_meanflow(velocities.Posterior(p.reference))),
    "improved": Case(lambda p: recipes.improved_meanflow(), head=True),
    "improved/own": Case(lambda p: recipes.improved_meanflow(own)),
    "improved/guided": Case(lambda p: recipes.improved_meanflow(guidance=DROPOUT), Conditioned, head=True, labels=True),
    "alpha/0": Case(lambda p: recipes.alpha_flow(), progress=1.0),
    "alpha/half": Case(lambda p: recipes.alpha_flow(), progress=0.5),
    "alpha/1": Case(lambda p: recipes.alpha_flow(), progress=0.0),
    "alpha/clamped": Case(lambda p: recipes.alpha_flow(rescaled=True, clamp=4.0, **_guided()), labels=True, progress=0.55),
    "modular": Case(lambda p: recipes.modular_meanflow(), progress=0.05),
    "curriculum": Case(lambda p: recipes.curriculum_meanflow(), progress=0.3),
    "terminal": Case(lambda p: recipes.terminal_velocity(p.ema)),
    "terminal/own": Case(lambda p: recipes.terminal_velocity(own, through=0.0)),
    "terminal/guided": Case(
        lambda p: recipes.terminal_velocity(p.ema, guidance=DROPOUT), lambda net: Scaled(Conditioned(net)), labels=True
    ),
    "rectified": Case(lambda p: recipes.rectified_meanflow(), couplings=True),
    "decoupled": Case(lambda p: recipes.decoupled_meanflow()),
    "discrete": Case(lambda p: recipes.discrete_meanflow(), progress=0.5),
    "split": Case(lambda p: recipes.split_meanflow()),
    "split/teacher": Case(lambda p: recipes.split_meanflow(p.ema, by=p.ema)),
    "solution": Case(lambda p: recipes.solution_flow(), progress=0.5),
    "transition": Case(lambda p: recipes.transition(directional=False)),
    "transition/directional": Case(lambda p: recipes.transition()),
    "shortcut": Case(lambda p: recipes.shortcut(p.ema)),
    "pixel": Case(lambda p: recipes.pixel_meanflow(instants=times.logit_normal(0.8, 0.8)), DataPrediction, head=True),
    "pixel/instants": Case(lambda p: recipes.pixel_meanflow(), DataPrediction, head=True),
}
