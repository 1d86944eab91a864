"""The protocols of arXiv 2605.09235's authors, toys and DiT, written out from their description, and nothing shared with meanstep.

Every function takes its random draws as arguments: uniforms on [0, 1), standard normals, whole numbers. So two programs that draw
differently can be compared to rounding. One convention: data x at t = 0, noise e at t = 1, z = (1-t) x + t e, r <= t, arrays `[B, D]`
and `[B]`. Source: the authors' public repository, toy code at commit e73b108, DiT at c41e1c3 (read, not copied).
"""

import math

import torch
from torch import Tensor
from torch.func import jvp

SINES = 16
WIDTH = 128
LAYERS = 3
LARGEST_GAP = 0.5
SAME = 0.25
EDGE = 1e-4
RATE = 1e-3
LOWEST = 0.01
DECAY = 0.999
PROJECTIONS = 500


# Data ---------------------------------------------------------------------------------------------------------------------------------


def checkerboard(along: Tensor, within: Tensor, coin: Tensor) -> Tensor:
    """Eight squares of side 2 on [-4, 4]^2; uniforms `along`, `within` `[B]`, `coin` 0 or 1 `[B]`."""
    x = 4 * along - 2
    y = within - 2 * coin + x.floor().remainder(2)
    return 2 * torch.stack([x, y], 1)


def eight_gaussians(which: Tensor, normal: Tensor) -> Tensor:
    """A ring of radius 3, standard deviation 0.25; `which` in 0..7 `[B]`, normals `[B, 2]`."""
    angle = which * (2 * math.pi / 8)
    return 3 * torch.stack([angle.cos(), angle.sin()], 1) + 0.25 * normal


def two_moons(upper: Tensor, lower: Tensor, normal: Tensor) -> Tensor:
    """Half circles of radius 1 that interleave, everything times 2; uniforms `[B // 2]` and `[B - B // 2]`, normals `[B, 2]`."""
    a, b = math.pi * upper, math.pi * lower
    first, second = torch.stack([a.cos(), a.sin()], 1), torch.stack([1 - b.cos(), 0.5 - b.sin()], 1)
    return 2 * (torch.cat([first, second]) + 0.08 * normal)


def swiss_roll(uniform: Tensor, normal: Tensor) -> Tensor:
    """One spiral over three half turns and a half; uniforms `[B]`, normals `[B, 2]`."""
    a = 1.5 * math.pi * (1 + 2 * uniform)
    return torch.stack([a * a.cos(), a * a.sin()], 1) / 8 + 0.08 * normal


def two_spirals(uniform: Tensor, normal: Tensor) -> Tensor:
    """Two spirals of 540 degrees, the first half of the rows on one; uniforms `[B]`, normals `[B, 2]`."""
    a = uniform.sqrt() * (3 * math.pi)
    sign = torch.where(torch.arange(len(a)) < len(a) // 2, 1.0, -1.0).to(a)
    return sign[:, None] * torch.stack([a * a.cos(), a * a.sin()], 1) / 5 + 0.08 * normal


def pinwheel(arm: Tensor, normal: Tensor) -> Tensor:
    """Five bent arms; `arm` in 0..4 `[B]`, normals `[B, 2]` (along, across)."""
    along, across = 1 + 0.3 * normal[:, 0], 0.1 * normal[:, 1]
    angle = arm * (2 * math.pi / 5) + 0.25 * along.exp()
    c, s = angle.cos(), angle.sin()
    return 1.5 * torch.stack([c * along - s * across, s * along + c * across], 1)


def dense_mixture(centres: Tensor, which: Tensor, normal: Tensor) -> Tensor:
    """64 centres on a sphere of radius 1.5, standard deviation 0.5; normals `centres [64, D]`, `which` `[B]`, normals `[B, D]`."""
    on_sphere = 1.5 * centres / centres.square().sum(1, keepdim=True).sqrt()
    return on_sphere[which.long()] + 0.5 * normal


# Times, network, loss -----------------------------------------------------------------------------------------------------------------


def times(first: Tensor, second: Tensor, mask: Tensor, largest_gap: float = LARGEST_GAP) -> tuple[Tensor, Tensor]:
    """`r, t`: two uniforms within [1e-4, 1 - 1e-4], sorted, the gap capped, then r = t where the third uniform is below 0.25."""
    a, b = (EDGE + u * (1 - 2 * EDGE) for u in (first, second))
    t, r = torch.maximum(a, b), torch.minimum(a, b)
    r = torch.maximum(r, t - largest_gap)
    return torch.where(mask < SAME, t, r), t


def embedded(t: Tensor) -> Tensor:
    """16 sines, then 16 cosines, of `t 10000^(-k/16)`: `[B] -> [B, 32]`."""
    k = torch.arange(SINES, dtype=t.dtype)
    angle = t[:, None] * torch.exp(-math.log(10_000.0) * k / SINES)
    return torch.cat([angle.sin(), angle.cos()], 1)


def features(z: Tensor, r: Tensor, t: Tensor) -> Tensor:
    """What the first layer sees, `[B, D + 64]`: the published network is handed its two times in the other order, always."""
    return torch.cat([z, embedded(r), embedded(r) - embedded(t)], 1)


def initial(uniforms: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Weights `[in, out]` and zero biases from uniforms on [-1, 1): Glorot's bound, the last layer's variance times 1e-10."""
    layers = []
    for k, u in enumerate(uniforms):
        scale = 1e-10 if k == len(uniforms) - 1 else 1.0
        bound = math.sqrt(3 * scale / ((u.shape[0] + u.shape[1]) / 2))
        layers.append((bound * u, torch.zeros(u.shape[1], dtype=u.dtype)))
    return layers


def network(layers: list[tuple[Tensor, Tensor]], z: Tensor, r: Tensor, t: Tensor) -> Tensor:
    """The average velocity `[B, D]`."""
    h = features(z, r, t)
    for w, b in layers[:-1]:
        h = h @ w + b
        h = h * torch.sigmoid(h)
    return h @ layers[-1][0] + layers[-1][1]


def errors(layers, average, x: Tensor, e: Tensor, r: Tensor, t: Tensor, beta: float) -> Tensor:
    """Squared error of every row, SUMMED over the entries, `[B]`; `average`: the EMA weights, which only the tangent reads."""
    z, v = (1 - t)[:, None] * x + t[:, None] * e, e - x
    proxy = network(average, z, t, t).detach()
    tangent = (1 - beta) * v + beta * proxy
    u, du = jvp(lambda *a: network(layers, *a), (z, r, t), (tangent, torch.zeros_like(r), torch.ones_like(t)))
    return (u + (t - r)[:, None] * du.detach() - v).square().sum(1)


def trace_weight(layers, z: Tensor, r: Tensor, t: Tensor, sigma: Tensor, signs: Tensor | None = None) -> Tensor:
    """`1 / (1 + sigma^2 Tr(J J^T) / D)`, `J = (t-r) d_z u - 1`, `[B]`: by one probe of signs `[B, D]`, or exactly."""
    d = z.shape[1]

    def deviation(direction: Tensor) -> Tensor:
        still = torch.zeros_like(t)
        change = jvp(lambda *a: network(layers, *a), (z, r, t), (direction, still, still))[1]
        return (t - r)[:, None] * change - direction

    if signs is not None:
        trace = deviation(signs).square().sum(1)
    else:
        trace = sum(deviation(torch.eye(d, dtype=z.dtype)[k].expand_as(z).contiguous()).square().sum(1) for k in range(d))
    return (1 / (1 + sigma.square() * trace / d)).detach()


def loss(layers, average, x: Tensor, e: Tensor, r: Tensor, t: Tensor, beta: float, weight: Tensor | None = None) -> Tensor:
    """Mean over the rows, each times its weight."""
    q = errors(layers, average, x, e, r, t, beta)
    return (q if weight is None else q * weight).mean()


# Optimiser, average, samples, distances ------------------------------------------------------------------------------------------------


def rate(step: int, steps: int) -> float:
    """The learning rate of the update number `step` (the first is 0): a cosine from 1e-3 to a hundredth of it."""
    fallen = 0.5 * (1 + math.cos(math.pi * min(step, steps) / steps))
    return RATE * ((1 - LOWEST) * fallen + LOWEST)


def averaged(average, layers):
    """The exponential moving average after an update, decay 0.999; it begins as a copy of the first weights."""
    return [tuple(a + (1 - DECAY) * (p - a) for a, p in zip(old, new, strict=True)) for old, new in zip(average, layers, strict=True)]


def sampled(average, e: Tensor) -> Tensor:
    """One jump from noise, by the averaged weights: `e - u(e, 0, 1)`."""
    return e - network(average, e, torch.zeros(len(e), dtype=e.dtype), torch.ones(len(e), dtype=e.dtype))


def sliced_wasserstein(x: Tensor, y: Tensor, normals: Tensor) -> float:
    """SW1 along the directions of normals `[500, D]`: the mean over directions and ranks of the distance of sorted projections."""
    directions = normals / normals.square().sum(1, keepdim=True).sqrt()
    a, b = ((p @ directions.T).sort(0).values for p in (x, y))
    return (a - b).abs().mean().item()


def gradient_variance(gradients: Tensor) -> float:
    """Tr Cov of the gradient of a batch, from the flat gradients `[K, P]` of K batches at the same weights."""
    return ((gradients - gradients.mean(0)).square().sum() / (len(gradients) - 1)).item()


# The DiT ------------------------------------------------------------------------------------------------------------------------------

OMEGA, KAPPA = 1.0, 0.5


def guided(u, z: Tensor, v: Tensor, t: Tensor, y: Tensor, null: int) -> Tensor:
    """`omega v + kappa u(z, t, t | y) + (1 - omega - kappa) u(z, t, t | none)` by one set of weights, no gradient."""
    with torch.no_grad():
        return OMEGA * v + KAPPA * u(z, t, t, y) + (1 - OMEGA - KAPPA) * u(z, t, t, torch.full_like(y, null))


def dit_loss(
    u, average, x: Tensor, e: Tensor, r: Tensor, t: Tensor, y: Tensor, dropped: Tensor, null: int, beta: float,
    power: float, anchor: float, delta: Tensor, in_text: bool = False,
) -> Tensor:  # fmt: skip
    """The DiT's loss on images `[B, C, H, W]`; `u`, `average`: `(z, r, t, y)`; `dropped` rows lose their label and their guidance.

    As their code has it the two guided velocities, each with the draw's own `v` in it, are mixed in tangent and target. `in_text`: the EMA
    copy's velocity `u(z, t, t | y)` itself is mixed in, into the tangent only. The anchor is on every row, without adaptive weight.
    """

    def over(a: Tensor) -> Tensor:
        return a.view(-1, 1, 1, 1)

    z, v = (1 - over(t)) * x + over(t) * e, e - x
    shown = torch.where(dropped, null, y)
    if in_text:
        target = torch.where(over(dropped), v, guided(u, z, v, t, y, null))
        tangent = (1 - beta) * target + beta * average(z, t, t, shown).detach()
    else:
        mixed = (1 - beta) * guided(u, z, v, t, y, null) + beta * guided(average, z, v, t, y, null)
        target = tangent = torch.where(over(dropped), v, mixed)
    found, change = jvp(lambda *a: u(*a, shown), (z, r, t), (tangent, torch.zeros_like(r), torch.ones_like(t)))
    q = (found - (target - over(t - r) * change).detach()).square().sum((1, 2, 3))
    loss = (q / (q + 0.01).pow(power).detach()).mean() if power else q.mean()
    if anchor:
        near = u(z, (t - delta).clamp(min=0), t, shown)
        loss = loss + anchor * (near - v).square().sum((1, 2, 3)).mean()
    return loss
