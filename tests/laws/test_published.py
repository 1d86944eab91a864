"""Every recipe against the published loss written out by hand in `published.py`: equal gradients on equal draws, to rounding."""

import math
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import meanstep as ms
from meanstep import auxiliary, coefficients, fields, rates, recipes, terms, times, velocities, weights

from . import published

DIM, ROWS, CLASSES = 3, 32, 3
NULL = CLASSES
DROPOUT = velocities.LabelDropout(NULL, 0.3)  # more than the published 0.1, so that every case has such rows


class Small(nn.Module):
    """A network with every input that a paper asks for: z, r, t, and a label with a scale and an interval. Two outputs."""

    def __init__(self, name: str) -> None:
        super().__init__()
        g, sizes = ms.key(0, "net", name), (DIM + 2 + CLASSES + 1 + 3, 24, 24, 2 * DIM)
        self.layers = nn.ParameterList(torch.randn(a, b, generator=g, dtype=torch.float64) / a**0.5 for a, b in pairwise(sizes))

    def _run(self, z: Tensor, r: Tensor, t: Tensor, y: Any) -> Tensor:
        label, omega, low, high = y
        numbers = torch.stack([t, t - r, 1 - 1 / omega, low, high], -1)
        h = torch.cat([z, numbers, nn.functional.one_hot(label, CLASSES + 1).to(z)], -1)
        for k, layer in enumerate(self.layers):
            h = (h.tanh() if k else h) @ layer
        return h

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return self._run(z, r, t, y)[:, :DIM]

    @property
    def head(self) -> Callable[..., Tensor]:
        return lambda z, r, t, y=None: self._run(z, r, t, y)[:, DIM:]


def mlp(name: str, **options: Any) -> ms.MLP:
    """Weights larger than at the start of a training, so that no part of a loss is negligible."""
    net = ms.MLP(DIM, 16, 2, classes=CLASSES, generator=ms.key(0, "net", name), **options).double()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(2.5)
    return net


U, EMA = mlp("online", head=True), mlp("ema", head=True)
SMALL, SMALL_EMA = Small("online"), Small("ema")


class Draws:
    """What `Loss.draw` dealt to each term, as plain rows under the labels that the caller gave."""

    def __init__(self, draws: list[Any], labels: Tensor, progress: float | None) -> None:
        self.terms: list[published.Rows] = []
        start = 0
        for _, b in draws:
            start %= len(labels)
            stop = start + len(b.t)
            self.terms.append(published.Rows(b.z, b.v, b.r, b.t, labels[start:stop], b.aux))
            start = stop
        self.labels, self.progress = labels, progress
        common = getattr(draws[0][1], "common", None)
        self.uniform = None if common is None else float(common[..., 1])

    @property
    def batch(self) -> published.Rows:
        """The terms that fill the batch once, put together again."""
        sizes = torch.tensor([len(rows.t) for rows in self.terms]).cumsum(0).tolist()
        return published.Rows(*(torch.cat(part) for part in zip(*self.terms[: sizes.index(len(self.labels)) + 1], strict=True)))


Law = Callable[[Draws], Tensor]


def gradient(loss: Tensor, parameters: list[nn.Parameter]) -> Tensor:
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in zip(parameters, found, strict=True)])


def distance(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference over the largest entry."""
    assert theirs.abs().max() > 1e-6
    return float((ours - theirs).abs().max() / theirs.abs().max())


def library(
    recipe: ms.Recipe, net: nn.Module, scale: float = 1.0, progress: float | None = None, coupled: bool = False
) -> tuple[Tensor, Draws, ms.Loss]:
    """The gradient of the library's loss, the draws it was taken on, and the criterion."""
    g = ms.key(0, "data")
    x, y = scale * torch.randn(ROWS, DIM, generator=g, dtype=torch.float64), torch.randint(CLASSES, (ROWS,), generator=g)
    noise = x.flip(-1) + torch.randn(x.shape, generator=g, dtype=torch.float64) if coupled else None
    loss = ms.Loss(recipe).double()
    draws = Draws(loss.draw(x, y, noise=noise, progress=progress, generator=ms.key(0, "test")), y, progress)
    if noise is not None:  # the pairs that were given
        assert torch.allclose(draws.batch.x, x, atol=1e-12) and torch.allclose(draws.batch.e, noise, atol=1e-12)
    out = loss(net, x, y, noise=noise, progress=progress, generator=ms.key(0, "test")).loss
    return gradient(out, [*net.parameters(), *loss.parameters()]), draws, loss


CASES: dict[str, tuple[Callable[[], tuple[ms.Recipe, Law]], dict[str, Any]]] = {}


def case(name: str, **options: Any) -> Callable[..., Any]:
    """Registers a function that returns a recipe and its law; the options are the network's and the data's."""

    def register(make: Callable[[], tuple[ms.Recipe, Law]]) -> Callable[[], tuple[ms.Recipe, Law]]:
        assert name not in CASES
        CASES[name] = (make, {"net": U, **options})
        return make

    return register


# --- flow matching, MeanFlow and its guidance


@case("flow_matching")
def _() -> Any:
    return recipes.flow_matching(), lambda d: published.flow_matching(U, d.batch) / DIM  # a plain square is a mean here, a sum there


@case("meanflow-imagenet")
def _() -> Any:
    return recipes.meanflow(), lambda d: published.meanflow(U, d.batch, p=1.0, c=0.01)


@case("meanflow-cifar")
def _() -> Any:
    recipe = recipes.meanflow(times.logit_normal_pair(), 0.25, weights.adaptive(0.75, 1e-3))
    return recipe, lambda d: published.meanflow(U, d.batch, p=0.75, c=1e-3)


for _name, _omega, _kappa, _window in (
    ("b4", 1.0, 0.5, (0.0, 1.0)),
    ("ablation", 3.0, 0.0, (0.0, 1.0)),
    ("l2", 0.2, 0.92, (0.0, 0.8)),
    ("window", 1.5, 0.4, (0.3, 0.6)),
):

    @case(f"meanflow-guided-{_name}")
    def _(omega: float = _omega, kappa: float = _kappa, window: tuple[float, float] = _window) -> Any:
        velocity = velocities.Guided(velocities.conditional, DROPOUT, omega, kappa, window)

        def law(d: Draws) -> Tensor:
            rows = published.guided(U, d.batch, omega=omega, kappa=kappa, window=window, null=NULL, share=0.3)
            return published.meanflow(U, rows, p=1.0, c=0.01)

        return recipes.meanflow(velocity=velocity), law


INSTANT = velocities.LabelDropout(NULL, 0.3, rows="instant")


@case("meanflow-guided-first-rows")
def _() -> Any:
    """The published dropout: labels of r = t rows alone, as many as the share of all rows."""

    def law(d: Draws) -> Tensor:
        rows = published.guided(U, d.batch, omega=1.0, kappa=0.5, window=(0.0, 1.0), null=NULL, share=0.3, first=True)
        hidden = rows.y != d.labels
        assert hidden.any() and (d.batch.r == d.batch.t)[hidden].all()
        return published.meanflow(U, rows, p=1.0, c=0.01)

    return recipes.meanflow(velocity=velocities.Guided(velocities.conditional, INSTANT, 1.0, 0.5)), law


@case("meanflow-fastgen-dit")
def _() -> Any:
    return recipes.meanflow(weight=weights.adaptive(1.0, 1.0)), lambda d: published.fastgen(U, d.batch)


@case("meanflow-fastgen-cifar-v1")
def _() -> Any:
    recipe = recipes.meanflow(times.sorted_pair((-0.6, 1.6), (-4.0, 1.6)), 0.25, weights.adaptive(0.75, 1e-3))
    return recipe, lambda d: published.meanflow(U, d.batch, p=0.75, c=1e-3)


@case("meanflow-cifar-paper")
def _() -> Any:
    """The paper's table: sorted logit-normals of mean -2 and deviation 2."""
    recipe = recipes.meanflow(times.logit_normal(-2.0, 2.0), 0.25, weights.adaptive(0.75, 1e-3))
    return recipe, lambda d: published.meanflow(U, d.batch, p=0.75, c=1e-3)


@case("meanflow-fastgen-first-rows")
def _() -> Any:
    """FastGen's dropout, guided, with its weight."""

    def law(d: Draws) -> Tensor:
        rows = published.guided(U, d.batch, omega=1.0, kappa=0.5, window=(0.0, 1.0), null=NULL, share=0.3, first=True)
        return published.fastgen(U, rows)

    return recipes.meanflow(velocity=velocities.Guided(velocities.conditional, INSTANT, 1.0, 0.5), weight=weights.adaptive(1.0, 1.0)), law


@case("meanflow-fastgen-warm-up", progress=0.03)
def _() -> Any:
    rate = rates.Warmed(rates.Exact(), coefficients.linear(0.0, 1.0, until=0.1))
    return recipes.meanflow(weight=weights.adaptive(1.0, 1.0), rate=rate), lambda d: published.fastgen(U, d.batch, warm_up=0.3)


for _invariant in (False, True):

    @case(f"meanflow-fastgen-opt-grad-invariant={_invariant}")
    def _(invariant: bool = _invariant) -> Any:
        weight = weights.normed(1.0, 0.1, invariant)
        return recipes.meanflow(weight=weight), lambda d: published.fastgen_opt_grad(U, d.batch, invariant=invariant)


@case("meanflow-fastgen-teacher")
def _() -> Any:
    teacher, nobody = velocities.of(EMA), velocities.LabelDropout(NULL, 0.0)
    velocity = velocities.Guided(teacher, nobody, 2.0, 0.0, (0.2, 0.9), by=teacher)

    def law(d: Draws) -> Tensor:
        return published.fastgen(U, published.fastgen_teacher(EMA, d.batch, scale=2.0, window=(0.2, 0.9), null=NULL), c=0.01)

    return recipes.meanflow(velocity=velocity), law


@case("meanflow-sub-modes")
def _() -> Any:
    """SubFlow: the labels say class and sub-mode, and nothing else changes."""
    return recipes.meanflow(), lambda d: published.meanflow(U, d.batch._replace(y=d.labels[: len(d.batch.t)]), p=1.0, c=0.01)


# --- the coefficient family


def mixture(beta: Any, scale: float, target_beta: float = 0.0, plain: bool = False) -> Law:
    """Algorithm 1; its weight is unknown: MeanFlow's (ours), or none."""

    def law(d: Draws) -> Tensor:
        def row_loss(q: Tensor) -> Tensor:
            return q / DIM if plain else published.adaptive(q, 1.0, 0.01)

        value = beta(d) if callable(beta) else beta
        loss = row_loss(published.beta_mixture(U, EMA, d.batch, beta=value, target_beta=target_beta)).mean()
        assert len(d.terms) == (3 if scale else 2)
        if not scale:
            return loss
        near = d.terms[2]
        return loss + scale * row_loss(published.anchor(U, near)).mean()

    return law


for _beta, _anchor, _scale in ((0.0, None, 0.0), (0.3, None, 0.0), (1.0, None, 0.5), (0.0, 0.5, 0.5), (0.3, 0.1, 0.1), (1.0, 0.0, 0.0)):

    @case(f"coefficient-beta={_beta:g}-anchor={_anchor}")
    def _(beta: float = _beta, anchor: float | None = _anchor, scale: float = _scale) -> Any:
        return recipes.coefficient(beta, EMA if beta else None, anchor=anchor), mixture(beta, scale)


@case("coefficient-algorithm-1-unweighted")
def _() -> Any:
    return recipes.coefficient(1.0, EMA, weight=weights.constant), mixture(1.0, 0.5, plain=True)


@case("coefficient-latent-anchor")
def _() -> Any:
    return recipes.coefficient(1.0, EMA, anchor=0.1, delta=(0.0, 1e-3), anchor_share=0.5), mixture(1.0, 0.1)


@case("coefficient-guided")
def _() -> Any:
    """MeanFlow's guidance in target and tangent; the proxy is shown what the network is shown. The paper does not say."""

    def law(d: Draws) -> Tensor:
        rows = published.guided(U, d.batch, omega=1.0, kappa=0.5, window=(0.0, 1.0), null=NULL, share=0.3)
        return published.adaptive(published.beta_mixture(U, EMA, rows, beta=0.3), 1.0, 0.01).mean()

    return recipes.coefficient(0.3, EMA, velocity=velocities.Guided(velocities.conditional, DROPOUT, 1.0, 0.5)), law


@case("coefficient-beta-of-time")
def _() -> Any:
    return recipes.coefficient(lambda b: b.t - b.r, EMA), mixture(lambda d: (d.batch.t - d.batch.r)[:, None], 0.0)


@case("coefficient-beta-annealed", progress=0.25)
def _() -> Any:
    return recipes.coefficient(coefficients.linear(1.0, 0.0), EMA), mixture(0.75, 0.0)


@case("coefficient-proxy-in-both-roles")
def _() -> Any:
    return recipes.coefficient(0.3, EMA, target_beta=0.7), mixture(0.3, 0.0, 0.7)


@case("posterior_meanflow")
def _() -> Any:
    return recipes.posterior_meanflow(velocities.of(EMA)), mixture(1.0, 0.0, 1.0, plain=True)


@case("posterior_meanflow-instant")
def _() -> Any:
    def law(d: Draws) -> Tensor:
        b = d.batch
        return published.stable_velocity(U, b, EMA(b.z, b.t, b.t, b.y), weight=lambda q: published.adaptive(q, 1.0, 0.01))

    return recipes.posterior_meanflow(velocities.of(EMA), weight=weights.adaptive(), instant=True), law


@case("coefficient-proxy-in-both-roles-anchored")
def _() -> Any:
    return recipes.coefficient(0.3, EMA, target_beta=0.7, anchor=0.5), mixture(0.3, 0.5, 0.7)


@case("coefficient-proxy-as-target-only")
def _() -> Any:
    return recipes.coefficient(0.0, EMA, target_beta=1.0), mixture(0.0, 0.0, 1.0)


@case("coefficient-beta=1-own-is-imf-without-head")
def _() -> Any:
    return recipes.coefficient(1.0, velocities.own, anchor=0.0), lambda d: published.improved_meanflow_without_head(U, d.batch)


for _sigma, _exact in (("one", False), ("t2", False), ("bridge", True), ("scale", True), ("t", False)):

    @case(f"trace_weighted-{_sigma}-exact={_exact}")
    def _(sigma: str = _sigma, exact: bool = _exact) -> Any:
        def law(d: Draws) -> Tensor:
            t, signs = d.batch.t, None if exact else torch.where(d.batch.aux[:, 4:] < 0.5, -1.0, 1.0).double()
            scale = {"one": 1.0, "t": t, "t2": t**2, "bridge": (t * (1 - t)) ** 0.5, "scale": ((1 - t) ** 2 + t**2) ** -0.5}[sigma]
            w = published.trace_weight(U, d.batch, sigma=scale, signs=signs)
            return (w * published.beta_mixture(U, EMA, d.batch, beta=1.0)).mean()

        return recipes.trace_weighted(sigma, exact, EMA), law


@case("coefficient-trace-weighted")
def _() -> Any:
    def law(d: Draws) -> Tensor:
        signs = torch.where(d.batch.aux[:, 4:] < 0.5, -1.0, 1.0).double()
        q = published.beta_mixture(U, EMA, d.batch, beta=0.3)
        return (published.trace_weight(U, d.batch, sigma=1.0, signs=signs) * published.adaptive(q, 1.0, 0.01)).mean()

    return recipes.coefficient(0.3, EMA, weight=weights.trace(of=weights.adaptive())), law


# --- improved MeanFlow and pixel MeanFlow


def head_rows(d: Draws) -> published.Rows:
    """The batch; the head's term has the very same rows."""
    for ours, theirs in zip(d.terms[-1], d.batch, strict=True):
        assert torch.equal(ours, theirs)
    return d.batch


@case("improved_meanflow-head")
def _() -> Any:
    return recipes.improved_meanflow(), lambda d: published.improved_meanflow(U, U.head, head_rows(d))


@case("improved_meanflow-own-boundary")
def _() -> Any:
    return recipes.improved_meanflow(velocities.own), lambda d: published.improved_meanflow_without_head(U, d.batch)


@case("improved_meanflow-flexible-guidance", net=SMALL)
def _() -> Any:
    def law(d: Draws) -> Tensor:
        return published.improved_meanflow_guided(SMALL, SMALL.head, head_rows(d), null=NULL, share=0.3)

    return recipes.improved_meanflow(guidance=DROPOUT), law


@case("improved_meanflow-flexible-guidance-first-rows", net=SMALL)
def _() -> Any:
    def law(d: Draws) -> Tensor:
        return published.improved_meanflow_guided(SMALL, SMALL.head, head_rows(d), null=NULL, share=0.3, first=True)

    return recipes.improved_meanflow(guidance=INSTANT), law


@case("pixel_meanflow", net=fields.DataPrediction(U))
def _() -> Any:
    return recipes.pixel_meanflow(), lambda d: published.improved_meanflow(*published.pixel_fields(U, U.head, head_rows(d)))


@case("pixel_meanflow-below-the-floor", net=fields.DataPrediction(U))
def _() -> Any:
    recipe = recipes.pixel_meanflow(times=lambda shape, g: tuple(0.1 * s for s in times.uniform(shape, g)))
    return recipe, lambda d: published.improved_meanflow(*published.pixel_fields(U, U.head, head_rows(d)))


@case("pixel_meanflow-flexible-guidance", net=fields.DataPrediction(SMALL))
def _() -> Any:
    def law(d: Draws) -> Tensor:
        u, head, rows = published.pixel_fields(SMALL, SMALL.head, head_rows(d))
        return published.improved_meanflow_guided(u, head, rows, null=NULL, share=0.3)

    return recipes.pixel_meanflow(guidance=DROPOUT), law


@case("pixel_meanflow-flexible-guidance-first-rows", net=fields.DataPrediction(SMALL))
def _() -> Any:
    def law(d: Draws) -> Tensor:
        u, head, rows = published.pixel_fields(SMALL, SMALL.head, head_rows(d))
        return published.improved_meanflow_guided(u, head, rows, null=NULL, share=0.3, first=True)

    return recipes.pixel_meanflow(guidance=INSTANT), law


def bent(x: Tensor) -> Tensor:
    """A feature network."""
    return torch.stack([x.sin().sum(-1), (x**2).cos().sum(-1), x.prod(-1)], -1)


def lpips(x: Tensor, y: Tensor) -> Tensor:
    """Another distance."""
    return (x.exp() - y.exp()).abs().mean(-1)


@case("pixel_meanflow-perceptual", net=fields.DataPrediction(U))
def _() -> Any:
    """The published pair: 0.4 of one distance, 0.1 of another, below t = 0.8, each under the adaptive weight."""
    recipe = recipes.pixel_meanflow(times=times.mixed(times.logit_normal(0.8, 0.8), times.uniform, 0.1))
    parts = [auxiliary.perceptual(lpips), auxiliary.perceptual(auxiliary.distance_of(bent), 0.1)]

    def law(d: Draws) -> Tensor:
        u, head, rows = published.pixel_fields(U, U.head, head_rows(d))
        assert (d.batch.t < 0.8).any() and (d.batch.t > 0.8).any()
        distances = [(0.4, lpips), (0.1, lambda x, y: (bent(x) - bent(y)).square().sum(-1))]
        return published.improved_meanflow(u, head, rows) + published.perceptual(u, d.batch, distances)

    return terms.beside(recipe, *parts), law


# --- alpha-Flow


for _progress in (0.0, 0.4, 0.5, 0.7, 0.75, 1.0):

    @case(f"alpha_flow-progress={_progress:g}", progress=_progress)
    def _() -> Any:
        def law(d: Draws) -> Tensor:
            return published.alpha_flow(U, d.batch, alpha=published.alpha_schedule(d.progress, begin=0.0, end=1.0), c=1e-3)

        return recipes.alpha_flow(), law


for _alpha in (0.0, 0.02, 0.6, 1.0):

    @case(f"alpha_flow-rescaled-alpha={_alpha:g}")
    def _(alpha: float = _alpha) -> Any:
        return recipes.alpha_flow(alpha, rescaled=True), lambda d: published.alpha_flow(U, d.batch, alpha=alpha, c=1e-3, rescaled=True)

    @case(f"alpha_flow-clamped-alpha={_alpha:g}", scale=3.0)
    def _(alpha: float = _alpha) -> Any:
        return recipes.alpha_flow(alpha, clamp=0.5), lambda d: published.alpha_flow(U, d.batch, alpha=alpha, c=1e-3, clamp=0.5)


for _alpha in (0.0, 0.02, 0.6, 1.0):

    @case(f"alpha_flow-clamped-ties-alpha={_alpha:g}", scale=3.0)
    def _(alpha: float = _alpha) -> Any:
        """A sampler with r = t among the other rows: they are flow matching, unclamped, with weight 1."""
        recipe = recipes.alpha_flow(alpha, clamp=0.5, times=times.logit_normal_pair((-1.0, 1.6), (-1.0, 1.6)))
        return recipe, lambda d: published.alpha_flow(U, d.batch, alpha=alpha, c=1e-3, clamp=0.5)


for _alpha in (0.0, 0.3):

    @case(f"alpha_flow-guided-alpha={_alpha:g}")
    def _(alpha: float = _alpha) -> Any:
        recipe = recipes.alpha_flow(alpha, velocity=velocities.Guided(velocities.conditional, DROPOUT, 1.0, 0.5))

        def law(d: Draws) -> Tensor:
            rows = published.guided(U, d.batch, omega=1.0, kappa=0.5, window=(0.0, 1.0), null=NULL, share=0.3)
            return published.alpha_flow(U, rows, alpha=alpha, c=1e-3)

        return recipe, law


for _alpha in (0.0, 0.3):

    @case(f"alpha_flow-guided-as-published-alpha={_alpha:g}")
    def _(alpha: float = _alpha) -> Any:
        dropout = velocities.LabelDropout(NULL, 0.5, inside=(0.3, 0.8))
        velocity = velocities.Guided(velocities.conditional, dropout, 0.2, 0.92, (0.3, 0.8), dropped="guided")

        def law(d: Draws) -> Tensor:
            rows = published.alpha_guided(U, d.batch, omega=0.2, kappa=0.92, window=(0.3, 0.8), null=NULL, share=0.5)
            assert 0 < (rows.y == NULL).sum() < len(rows.y)
            return published.alpha_flow(U, rows, alpha=alpha, c=1e-3)

        return recipes.alpha_flow(alpha, velocity=velocity), law


for _progress in (0.4, 0.6, 0.7, 0.9):

    @case(f"alpha_flow-xl-progress={_progress:g}", progress=_progress)
    def _() -> Any:
        def law(d: Draws) -> Tensor:
            assert len(d.terms[1].t) == ROWS // 2
            return published.alpha_flow(U, d.batch, alpha=published.alpha_schedule(d.progress, begin=0.5, end=0.8333), c=1e-3, clamp=4.0)

        return recipes.alpha_flow(coefficients.sigmoid(0.5, 0.8333), clamp=4.0, diagonal_share=0.5), law


# --- Modular MeanFlow and the curriculum


def modular(lam: float, plain: bool = False) -> Law:
    """The paper's loss without a weight, or under the weight of the unofficial code."""

    def law(d: Draws) -> Tensor:
        q = published.modular_meanflow(U, d.batch, lam=lam) / DIM
        return (q if plain else published.adaptive(q, 0.5, 1e-3)).mean()

    return law


for _lam in (0.0, 0.4, 1.0):

    @case(f"modular_meanflow-lambda={_lam:g}")
    def _(lam: float = _lam) -> Any:
        return recipes.modular_meanflow(lam), modular(lam)

    @case(f"modular_meanflow-unweighted-lambda={_lam:g}")
    def _(lam: float = _lam) -> Any:
        return recipes.modular_meanflow(lam, weight=weights.constant), modular(lam, plain=True)


@case("modular_meanflow-warm-up", progress=0.03)
def _() -> Any:
    return recipes.modular_meanflow(), modular(0.3)  # ours: to 1 in the first tenth


def min_snr(t: Tensor) -> Tensor:
    """Ours: the source's A(t) is unknown."""
    snr = ((1 - t) / t) ** 2
    return snr.clamp(max=5.0) / (snr + 1)


def curriculum(emphasis: Callable[[Tensor], Tensor], power: float) -> Law:
    normaliser = 1 / (1 - times.mean_gap(recipes.IMAGENET))
    return lambda d: published.curriculum_meanflow(U, d.batch, progress=d.progress, normaliser=normaliser, emphasis=emphasis, power=power)


for _progress in (0.0, 0.3, 1.0):

    @case(f"curriculum_meanflow-progress={_progress:g}", progress=_progress)
    def _() -> Any:
        return recipes.curriculum_meanflow(), curriculum(min_snr, 1.0)


@case("curriculum_meanflow-other-instants", progress=0.3)
def _() -> Any:
    recipe = recipes.curriculum_meanflow(power=2.0, emphasis=lambda b: torch.ones_like(b.t), diagonal_times=times.instants(0.8, 0.5))
    return recipe, curriculum(torch.ones_like, 2.0)


# --- terminal velocity matching


def with_scale(net: Small) -> Callable[..., Tensor]:
    """The paper's network F(z, r, t, (label, a)), `a = 1 / w`."""
    return lambda z, r, t, y: net(z, r, t, (y[0], 1 / y[1], torch.zeros_like(t), torch.ones_like(t)))


@case("terminal_velocity")
def _() -> Any:
    return recipes.terminal_velocity(EMA), lambda d: published.terminal_velocity(U, EMA, *d.terms)


@case("terminal_velocity-own-arrival")
def _() -> Any:
    return recipes.terminal_velocity(velocities.own), lambda d: published.terminal_velocity(U, U, *d.terms)


@case("terminal_velocity-detached-jvp")
def _() -> Any:
    return recipes.terminal_velocity(EMA, through=0.0), lambda d: published.terminal_velocity(U, EMA, *d.terms, detach=True)


@case("terminal_velocity-guided", net=fields.Scaled(SMALL))
def _() -> Any:
    def law(d: Draws) -> Tensor:
        b, f = d.terms
        f_online, f_ema = with_scale(SMALL), with_scale(SMALL_EMA)
        return published.terminal_velocity_guided(f_online, f_ema, b, f, w=1.2 + 1.3 * b.aux[:, 1], null=NULL, share=0.3)

    return recipes.terminal_velocity(fields.Scaled(SMALL_EMA), DROPOUT, (1.2, 2.5)), law


# --- rectified, decoupled and split MeanFlow


@case("rectified_meanflow", coupled=True)
def _() -> Any:
    return recipes.rectified_meanflow(), lambda d: published.rectified_meanflow(U, d.batch, p=0.5, c=1e-2)


for _progress in (0.2, 0.6):

    @case(f"rectified_meanflow-guided-progress={_progress:g}", coupled=True, progress=_progress)
    def _() -> Any:
        def law(d: Draws) -> Tensor:
            rows = published.rectified_guided(U, d.batch, uniform=d.uniform, progress=d.progress, null=NULL, share=0.3)
            assert (d.batch.t < 80 / 81 + 1e-6).all()
            return published.rectified_meanflow(U, rows, p=0.5, c=1e-2)

        return recipes.rectified_meanflow(velocity=velocities.randomly_guided(DROPOUT)), law


def decoupled(recipe: ms.Recipe, guide: Callable[[published.Rows], published.Rows] = lambda rows: rows) -> tuple[ms.Recipe, Law]:
    """The log-scale's values are the recipe's own, `weight(0) = log c + lv`; the formula is not."""
    cauchy = recipe[0].weight
    assert isinstance(cauchy, nn.Module) and recipe[1].weight is cauchy
    g = ms.key(0, "log-scale")
    with torch.no_grad():
        for p in cauchy.parameters():
            p.normal_(0.0, 0.2, generator=g)

    def log_scale(r: Tensor, t: Tensor) -> Tensor:
        return cauchy(torch.zeros_like(t), ms.Bridge(t, t, r, t)) - math.log(0.01)

    return recipe, lambda d: published.decoupled_meanflow(U, log_scale, guide(d.terms[1]), guide(d.terms[0]))


@case("decoupled_meanflow")
def _() -> Any:
    return decoupled(recipes.decoupled_meanflow())


@case("alpha_flow-unguided-half", progress=0.4)
def _() -> Any:
    """B/2 without guidance: half the rows have r = t."""

    def law(d: Draws) -> Tensor:
        assert len(d.terms[1].t) == ROWS // 2
        return published.alpha_flow(U, d.batch, alpha=published.alpha_schedule(d.progress, begin=0.0, end=1.0), c=1e-3)

    return recipes.alpha_flow(diagonal_share=0.5), law


@case("decoupled_meanflow-two-noises")
def _() -> Any:
    recipe, law = decoupled(recipes.decoupled_meanflow(fresh=True))

    def apart(d: Draws) -> Tensor:
        still, moving = d.terms
        assert torch.allclose(still.x, moving.x, atol=1e-12) and (still.e - moving.e).abs().min() > 1e-6
        return law(d)

    return recipe, apart


@case("decoupled_meanflow-model-guidance")
def _() -> Any:
    velocity = velocities.Guided(velocities.conditional, DROPOUT, omega=1, kappa=0.6, window=(0, 0.7))

    def guide(rows: published.Rows) -> published.Rows:
        return published.model_guided(U, rows, omega=0.6, window=(0.0, 0.7), null=NULL, share=0.3)

    return decoupled(recipes.decoupled_meanflow(velocity), guide)


@case("split_meanflow")
def _() -> Any:
    return recipes.split_meanflow(), lambda d: published.split_meanflow(U, d.batch, by=U, still=d.batch.v) / DIM


@case("split_meanflow-teacher")
def _() -> Any:
    def law(d: Draws) -> Tensor:
        b = d.batch
        return published.split_meanflow(U, b, by=EMA, still=EMA(b.z, b.t, b.t, b.y)) / DIM

    return recipes.split_meanflow(EMA, by=EMA, diagonal_share=0.25), law


# --- without a Jacobian-vector product: SoFlow, transition models, shortcut models


for _progress in (0.0, 0.5, 1.0):

    @case(f"solution_flow-progress={_progress:g}", progress=_progress)
    def _() -> Any:
        return recipes.solution_flow(), lambda d: published.solution_flow(U, *d.terms, ratio=published.soflow_ratio(d.progress))


@case("solution_flow-cifar", progress=0.5)
def _() -> Any:
    recipe = recipes.solution_flow(
        coefficients.exponential(1.0, 0.0003125), 0.0, times.logit_normal_pair((-0.9, 1.6), (-4.0, 1.6)),
        weight=weights.adaptive(0.75, 1e-3, "mean"),
    )  # fmt: skip

    def law(d: Draws) -> Tensor:
        ratio = published.soflow_ratio(d.progress, first=1.0, last=0.0003125)
        return published.solution_flow(U, *d.terms, ratio=ratio, p=0.75, c=1e-3)

    return recipe, law


@case("solution_flow-guided", progress=0.5)
def _() -> Any:
    """The paper's mixed velocity is MeanFlow's guided one with a scale that fades above t = 0.8."""
    recipe = recipes.solution_flow(
        diagonal_share=0.5, times=times.uniform, instants=times.diagonal(times.uniform), velocity=velocities.faded(DROPOUT)
    )

    def law(d: Draws) -> Tensor:
        assert (d.batch.t > 0.8).any() and (d.batch.t < 0.8).any()
        rows = [published.soflow_mixed(U, part, m=0.25, w=3.0, null=NULL, share=0.3) for part in d.terms]
        return published.solution_flow(U, *rows, ratio=published.soflow_ratio(d.progress))

    return recipe, law


for _progress, _ratio in ((0.0, 1.0), (0.3, 0.25), (1.0, 1 / 128)):

    @case(f"discrete_meanflow-progress={_progress:g}", progress=_progress)
    def _(ratio: float = _ratio) -> Any:
        return recipes.discrete_meanflow(), lambda d: published.discrete_meanflow(U, d.batch, ratio=ratio)


@case("transition")
def _() -> Any:
    return recipes.transition(), lambda d: published.transition(U, d.batch, d.batch.v)


@case("transition-without-direction")
def _() -> Any:
    return recipes.transition(directional=False), lambda d: published.transition(U, d.batch, d.batch.v, directional=False)


@case("transition-guided-target")
def _() -> Any:
    target = velocities.Guided(velocities.conditional, DROPOUT, 1.0, 0.75, (0.3, 0.8), by=velocities.of(EMA), dropped="true")

    def law(d: Draws) -> Tensor:
        vg, y = published.transition_guided(EMA, d.batch, w=0.75, window=(0.3, 0.8), null=NULL, share=0.3)
        return published.transition(U, d.batch._replace(y=y), vg)

    return recipes.transition(target=target), law


def linear(inputs: int, outputs: int) -> nn.Linear:
    """Drawn from a generator of its own."""
    layer = nn.Linear(inputs, outputs).double()
    with torch.no_grad():
        for name, p in layer.named_parameters():
            p.copy_(torch.randn(p.shape, generator=ms.key(inputs, name), dtype=p.dtype) / inputs**0.5)
    return layer


class Layered(nn.Module):
    """A network with a layer that an alignment reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = linear(DIM + 2, 16), linear(16, DIM)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return self.last(self.first(torch.cat([z, t[:, None], (t - r)[:, None]], -1)).tanh())


LAYERED, PROJECTION = Layered(), linear(16, 3)


@case("transition-aligned", net=LAYERED)
def _() -> Any:
    """TiM with its alignment, on every row: the layer's output is asked for again here, at the rows' own times."""

    def law(d: Draws) -> Tensor:
        b = d.batch
        hidden = LAYERED.first(torch.cat([b.z, b.t[:, None], (b.t - b.r)[:, None]], -1))
        return published.transition(LAYERED, b, b.v) + published.alignment(PROJECTION(hidden), bent(b.x))

    return terms.beside(recipes.transition(), auxiliary.aligned(LAYERED.first, bent, PROJECTION)), law


for _clamp, _share in ((4.0, 1 / 8), (0.4, 1 / 4)):

    @case(f"shortcut-clamp={_clamp:g}", scale=3.0)
    def _(clamp: float = _clamp, share: float = _share) -> Any:
        recipe = recipes.shortcut(EMA, bootstrap_share=share, clamp=clamp)
        return recipe, lambda d: published.shortcut(U, EMA, *d.terms, clamp=clamp)


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_the_published_one(name: str) -> None:
    make, options = CASES[name]
    recipe, law = make()
    ours, draws, loss = library(recipe, **options)
    assert distance(ours, gradient(law(draws), [*options["net"].parameters(), *loss.parameters()])) < 1e-10


# --- what the table above takes for granted


def test_every_recipe_is_checked() -> None:
    functions = {
        name for name, f in vars(recipes).items() if callable(f) and getattr(f, "__module__", "").startswith(f"{recipes.__name__}.")
    }
    named = {name for name in functions if name.islower() and not name.startswith("_")}
    assert {name.split("-")[0] for name in CASES} == named


def test_write_outs_are_told_apart() -> None:
    """The comparison would notice the wrong method: gradients of different methods on the same draws are far apart."""
    d, p = library(recipes.meanflow(diagonal_share=0.25), U)[1], [*U.parameters()]
    rows = d.batch
    losses = {
        "meanflow": published.meanflow(U, rows, p=1.0, c=0.01),
        "cifar": published.meanflow(U, rows, p=0.75, c=1e-3),
        "beta=0.3": published.adaptive(published.beta_mixture(U, EMA, rows, beta=0.3), 1.0, 0.01).mean(),
        "own": published.improved_meanflow_without_head(U, rows),
        "mean": published.rectified_meanflow(U, rows, p=1.0, c=0.01),
        "alpha": published.alpha_flow(U, rows, alpha=0.3, c=1e-3),
        "modular": published.adaptive(published.modular_meanflow(U, rows, lam=1.0), 1.0, 0.01).mean(),
        "split": published.split_meanflow(U, rows, by=U, still=rows.v),
        "transition": published.transition(U, rows, rows.v),
    }
    found = {name: gradient(loss, p) for name, loss in losses.items()}
    for a in found:
        for b in found:
            assert a == b or distance(found[a], found[b]) > 1e-3, (a, b)


def test_lambda_changes_the_modular_gradient() -> None:
    """Unlike in both unofficial repositories, where the target that holds the modulated derivative is detached."""
    off, half, on = (library(recipes.modular_meanflow(lam, weight=weights.constant), U)[0] for lam in (0.0, 0.5, 1.0))
    assert distance(on, off) > 0.1
    assert distance(half, (on + off) / 2) < 1e-12


def test_anchor_is_close_to_the_diagonal() -> None:
    for delta in ((1e-4, 1e-2), (0.0, 1e-3)):
        rows = library(recipes.coefficient(1.0, EMA, delta=delta), U)[1].terms[2]
        gap = rows.t - rows.r
        assert (gap >= delta[0] - 1e-7).all() and (gap <= delta[1] + 1e-7).all() and gap.std() > 0.1 * (delta[1] - delta[0])


def test_curriculum_normaliser_is_the_known_number() -> None:
    assert abs(1 / (1 - times.mean_gap(recipes.IMAGENET)) - 1.3044) < 3e-3


def test_alpha_tends_to_zero_as_meanflow() -> None:
    """The rescaled alpha-Flow gradient goes to MeanFlow's at first order in alpha: slope 1 in the logarithms."""
    limit = library(recipes.meanflow(diagonal_share=0.25, weight=weights.adaptive(1.0, 1e-3, "mean")), U)[0]
    same = {"instants": times.diagonal(times.logit_normal())}  # MeanFlow's r = t rows
    assert distance(library(recipes.alpha_flow(0.0, **same), U)[0], limit) < 1e-12
    alphas = torch.tensor([1e-2, 1e-3, 1e-4, 1e-5], dtype=torch.float64)
    errors = torch.tensor([distance(library(recipes.alpha_flow(float(a), rescaled=True, **same), U)[0], limit) for a in alphas]).double()
    slopes = errors.log10().diff() / alphas.log10().diff()
    assert ((slopes - 1).abs() < 0.05).all(), slopes


@pytest.mark.parametrize("method", ["meanflow", "alpha_flow", "coefficient", "modular_meanflow"])
def test_ensemble_member_is_a_single_network(method: str) -> None:
    """Member k of an ensemble gets the gradient that a single network with its weights gets on its draws."""
    members, g = 3, ms.key(0, "ensemble")
    many, ema = (ms.MLP(DIM, 16, 2, members=(members,), generator=ms.key(1, name)).double() for name in ("online", "ema"))
    beta = torch.tensor([[0.0], [0.4], [1.0]], dtype=torch.float64)
    recipe = {
        "meanflow": recipes.meanflow(diagonal_share=0.5),
        "alpha_flow": recipes.alpha_flow(0.3),
        "coefficient": recipes.coefficient(beta, ema, anchor=0.5),
        "modular_meanflow": recipes.modular_meanflow(1.0),
    }[method]
    x, loss = torch.randn(members, ROWS, DIM, generator=g, dtype=torch.float64), ms.Loss(recipe, batch_dims=2)
    draws = loss.draw(x, generator=ms.key(0, "test"))
    ours = torch.autograd.grad(loss(many, x, generator=ms.key(0, "test")).loss, [*many.parameters()])

    def alone(net: nn.Module, k: int) -> ms.MLP:
        single = ms.MLP(DIM, 16, 2).double()
        single.load_state_dict({name: p[k] for name, p in net.state_dict().items()})
        return single

    for k in range(members):
        u, proxy = alone(many, k), alone(ema, k)
        d = Draws([(None, SimpleNamespace(z=b.z[k], v=b.v[k], r=b.r[k], t=b.t[k], aux=b.aux[k])) for _, b in draws], x[k, :, 0], None)
        rows = d.batch._replace(y=None)
        if method == "meanflow":
            law = published.meanflow(u, rows, p=1.0, c=0.01)
        elif method == "alpha_flow":
            law = published.alpha_flow(u, rows, alpha=0.3, c=1e-3)
        elif method == "modular_meanflow":
            law = published.adaptive(published.modular_meanflow(u, rows, lam=1.0) / DIM, 0.5, 1e-3).mean()
        else:
            mixed = published.beta_mixture(u, proxy, rows, beta=float(beta[k]))
            near = published.anchor(u, d.terms[2]._replace(y=None))
            law = published.adaptive(mixed, 1.0, 0.01).mean() + 0.5 * published.adaptive(near, 1.0, 0.01).mean()
        parameters = [*u.parameters()]
        assert distance(torch.cat([p[k].flatten() for p in ours]), gradient(law, parameters)) < 1e-10
