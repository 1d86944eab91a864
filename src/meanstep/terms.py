"""What a recipe is made of, what a program must know of it, and what a field learns by it. Knows no recipe in particular."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from torch import Generator, Tensor

from meanstep import boundary
from meanstep.auxiliary import Auxiliary
from meanstep.catalogue import marked
from meanstep.objectives import Matching
from meanstep.types import Bridge, Objective, Times, Weight
from meanstep.values import Value
from meanstep.velocities import as_is, auxiliary
from meanstep.weights import constant

Given = Callable[[Bridge], Bridge]
Inside = Callable[[Tensor, Tensor, Bridge], Tensor]
"""`(u, target of u, bridge) -> [*B]`, both `[*B, *E]`."""


@dataclass(frozen=True, repr=False, eq=False)
class Term(Value):
    """One part of a recipe: an objective for a fixed `share` of the batch's rows.

    Terms take rows one after the other and start again at the first row when the batch is full.

    - `objective`: `(field, bridge) -> Regression`, see `objectives`.
    - `times`: the sampler of `(r, t)`; None keeps the times that the rows have from earlier terms.
    - `weight`: from a row's mean squared error to its loss, see `weights`; the error itself by default.
    - `share`: of the batch's rows, in (0, 1]; 1.
    - `scale`: the term adds `scale` times the mean of its weighted rows to the loss; with None each row counts like any other of the batch.
    - `prepare`: a function that completes a bridge before the objective uses it.
    - `inside`: what is added to a row's error before the weight sees it, such as `auxiliary.Directional()`.
    - `fresh`: noise of its own, where the noise is drawn; by default terms share each row's.
    - `beside`: auxiliary losses of the same pass, added to a row's weighted loss.

    `ValueError` for a share or a scale out of its range, `TypeError` for a part that is no function of its kind.
    """

    objective: Objective
    times: Times | None
    weight: Weight = constant
    share: float = 1.0
    scale: float | None = None
    prepare: Given = as_is
    inside: Inside | None = None
    beside: tuple[Auxiliary, ...] = ()
    fresh: bool = False

    def __post_init__(self) -> None:
        boundary.function("objective", self.objective, "an objective (field, bridge) -> Regression, such as objectives.Matching()", 2)
        if self.times is not None:
            boundary.sampler("times", self.times)
        boundary.weight("weight", self.weight)
        boundary.number("a term's share of the rows", self.share, 0, 1, above=True)
        if self.scale is not None:
            boundary.number("a term's scale", self.scale)
        boundary.prepare("prepare", self.prepare)
        if self.inside is not None:
            boundary.function("inside", self.inside, "a function (u, target, bridge), such as auxiliary.Directional()", 3)


Recipe = tuple[Term, ...]


def beside(recipe: Recipe, *auxiliaries: Auxiliary) -> Recipe:
    """The recipe with auxiliary losses on every term but a head's: `terms.beside(recipes.meanflow(), auxiliary.perceptual(lpips))`."""
    if not all(isinstance(part, Auxiliary) for part in auxiliaries):
        raise TypeError(f"an auxiliary loss is an auxiliary.Auxiliary, such as auxiliary.perceptual(distance), got {auxiliaries!r:.80}")
    heads = [getattr(term.objective, "read", None) is auxiliary for term in recipe]
    return tuple(t if head else replace(t, beside=(*t.beside, *auxiliaries)) for t, head in zip(recipe, heads, strict=True))


F = TypeVar("F", bound=Callable[..., Recipe])
AVERAGE, INSTANTANEOUS = "average", "instantaneous"


def method(
    *,
    slot: str = "",
    proxies: tuple[str, ...] = (),
    field: bool = False,
    idle: tuple[str, ...] = (),
    needs: tuple[str, ...] = (),
    coefficient: float | str | None = None,
    learns: str = AVERAGE,
    unread: str = "",
) -> Callable[[F], F]:
    """Enter a function from options to a recipe into the table of methods, under its name, with what the program must know of it.

    - `slot`: the argument for a proxy. `proxies`: which it may be, the default first: "ema" (an EMA copy), "head", "posterior", "own",
      "conditional". `field`: the slot takes the field itself, not its velocity.
    - `idle`: options; if all of them are 0, no proxy is needed.
    - `needs`: among "progress", "data prediction", "couplings", "learned weight".
    - `coefficient`: the share of the proxy in the tangent: a number, or the option that holds it; None without one.
    - `learns`: the velocity that its field knows after training, "average" or "instantaneous", and so which samplers may use it.
    - `unread`: why `meanstep diagnose` cannot read it.

    A function of your own needs this only if one of the defaults is wrong for it.
    """
    return marked(slot=slot, proxies=proxies, field=field, idle=idle, needs=needs, coefficient=coefficient, learns=learns, unread=unread)


def moving(term: Term) -> bool:
    """Whether a term has rows with `r < t` that it asks for the average velocity; anchors, which match a velocity near `t`, have none."""
    if term.times is None or isinstance(term.objective, Matching):
        return False
    r, t = term.times((256,), Generator().manual_seed(0))
    return bool((r < t).any())


def still(recipe: Recipe) -> float:
    """The share of a step's rows that are drawn with `r = t`."""
    pairs = [(term.share, term.times((2,), Generator().manual_seed(0))) for term in recipe if term.times is not None]
    return min(1.0, sum(share for share, (r, t) in pairs if r is t))


def learns(recipe: Recipe) -> str:
    """What a field trained by this recipe knows: the `average` velocity, or the `instantaneous` one only, where no row has `r < t`."""
    return AVERAGE if any(moving(term) for term in recipe) else INSTANTANEOUS
