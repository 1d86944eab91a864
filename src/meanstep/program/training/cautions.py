"""What is said once at the start of a run: data far from the scale of noise, unread labels, jumps that are not trained, rounding."""

import copy
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from meanstep.keys import key
from meanstep.program.data.cache import Cache
from meanstep.program.methods import LONG, RARE, falls, trained_jumps
from meanstep.program.runs import networks
from meanstep.program.runs.config import Config
from meanstep.program.runs.weighting import FALLING, FEW
from meanstep.program.training.state import State
from meanstep.program.wrapped import sharded, uncompiled
from meanstep.terms import Recipe
from meanstep.times import DRAWN, fewest_jumps

LARGE, SMALL = 5.0, 0.1
"""Root mean square above which, and standard deviation below which, data are far from noise, which has 1 in both."""
ROWS, PROBED, MOVED = 512, 8, 0.1
"""Rows whose scale is measured; rows on which labels are tried; the deviation of what moves the weights of the copy that is asked."""


def cautions(config: Config, cache: Cache, state: State) -> Iterator[str]:
    """A line for each; nothing of the run is changed, nor are torch's random numbers."""
    x, y = cache.rows(torch.linspace(0, len(cache) - 1, min(ROWS, len(cache))).round().long())
    yield from _scale(x, ": make the cache without --no-normalise" if cache.manifest.statistics == "none" else "")
    net, classes = state.owner.net, int(state.description["options"].get("classes") or 0)
    if classes > 1 and networks.foreign(state.description) and ignores(net, x[:PROBED], y[:PROBED] % classes, classes):
        yield (
            f"the network ignores its labels: another label changes nothing, also with other weights. Let it use y ({classes} labels), or "
            "train with --data.no-conditional"
        )
    yield from lossy(state.owner.loss.recipe, cache.shape)
    yield from rounded(state.owner.loss.recipe, config.run.precision)
    asked = config.method.largest_gap is not None or ":" in config.method.recipe
    if asked or math.prod(cache.shape) <= FEW:  # on more numbers a recipe's published times are left alone: they were tried on images
        yield from unseen(state.owner.loss.recipe, config.method.largest_gap)


def lossy(recipe: Recipe, shape: Sequence[int]) -> Iterator[str]:
    """That rows of few numbers may lose a mode by the weight."""
    if (n := math.prod(shape)) <= FEW and (p := falls(recipe, shape)) > FALLING:
        what = f"rows are {n} number{'s' * (n > 1)} and the weight falls like the squared error to the power {p:.2g}"
        yield f"{what}, which loses modes and tails: take the squared error, --method.options '{{power: 0}}', or a larger c"


def rounded(recipe: Recipe, precision: str) -> Iterator[str]:
    """That the recipe divides a difference of rounded outputs by its step."""
    if precision == "bf16" and any(getattr(getattr(term.objective, "rate", None), "divides", False) for term in recipe):
        what = "the recipe divides a difference of two passes by its step, and their rounding in bf16 with it"
        yield f"{what}: gradients of small steps are 5 to 40 percent off (studies/bf16), so take --precision float32"


def unseen(recipe: Recipe, largest: float | None) -> Iterator[str]:
    """That the times of a recipe hardly ever reach the gap of a one-step sample; `largest`: what they are capped at, if they are."""
    if (found := trained_jumps(recipe)) is None or found >= RARE:
        return
    told = f"{math.ceil(found * DRAWN) or 'none'} of {DRAWN:,} rows"  # a share of so few has no second digit
    remedy = (
        "draw longer gaps, such as uniform times"
        if largest is None
        else f"sample with --steps {fewest_jumps(largest)}, or leave --method.largest-gap out"
    )
    yield f"samples are one jump of gap 1, and {told} with r < t that training draws have a gap of {LONG:g} or more: {remedy}"


def _scale(x: Tensor, remedy: str) -> Iterator[str]:
    large, spread = float(x.square().mean().sqrt()), float(x.std(correction=0)) if x.numel() > 1 else 1.0
    if large > LARGE:
        what = f"the data that the network sees have a root mean square of {large:.3g}, and the noise has 1"
        yield f"{what}, so that nearly all times look like data{remedy}"
    elif spread < SMALL:
        what = f"the data that the network sees have a standard deviation of {spread:.2g}, and the noise has 1"
        yield f"{what}, so that their differences drown{remedy}"


def ignores(net: nn.Module, x: Tensor, y: Tensor, classes: int) -> bool:
    """Whether other labels give the very same output; `x` `[B, *E]`, `y` int64 `[B]` below `classes`.

    It is asked of a copy whose weights were moved, as a layer that starts at 0 hides what lies before it. False where it cannot be told.
    """
    if sharded(net.parameters()):  # a shard knows only its own part
        return False
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=_devices(net)):
            moved = uncompiled(copy.deepcopy(net)).eval()
            generator = key(0, "labels")
            for p in moved.parameters():
                p.add_(MOVED * torch.randn(p.shape, generator=generator).to(p))
            place = next(moved.parameters()).device
            z, labels = x.to(place, networks.dtype(net)), y.to(place)
            t = torch.linspace(0.3, 1.0, len(z)).to(z)
            return torch.equal(*(_output(moved, z, t, which) for which in (labels, (labels + 1) % classes)))
    except Exception:  # an odd network trains without this line
        return False


def _output(net: nn.Module, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
    torch.manual_seed(0)
    out: Tensor = net(z, t / 2, t, y)
    return out


def _devices(net: nn.Module) -> list[torch.device]:
    return [p.device for p in net.parameters() if p.device.type == "cuda"][:1]
