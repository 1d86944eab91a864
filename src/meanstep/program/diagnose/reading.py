"""The recipe whose regression and weight are read, and the center that stands for the marginal velocity. Knows no files."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from meanstep.fields import DataPrediction
from meanstep.keys import key
from meanstep.objectives import Eulerian
from meanstep.paths import Path, linear
from meanstep.program import methods
from meanstep.program.console import UserError
from meanstep.program.diagnose.arrays import Dataset
from meanstep.program.diagnose.networks import Probed
from meanstep.program.registry import EMA, HEAD, POSTERIOR, PREDICTION, Method, find
from meanstep.terms import Recipe, moving
from meanstep.types import Velocity
from meanstep.velocities import Posterior, of, own

LOW, ENOUGH, MOST = 16, 512, 20_000
"""The posterior is the default center up to LOW entries a row and from ENOUGH rows on. Beyond MOST rows it is taken over so many, or
half of them, and rows are drawn from the others."""


@dataclass(frozen=True)
class Reading:
    """`recipe`: what is read; `line`: what a user writes to get it; `beta`: the share of the proxy in its tangent, None if it has none.

    `restored`: whether what its loss learns is as a run had learned it, and not as it starts; `path`: what it is trained on.
    """

    name: str
    recipe: Recipe
    line: str
    beta: float | None
    restored: bool = False
    path: Path = linear

    @property
    def still(self) -> bool:
        """Whether all its rows have r = t: nothing of it has a derivative, a Jacobian or a coefficient."""
        return not any(moving(term) for term in self.recipe)

    @property
    def learns(self) -> bool:
        """Whether it trains its weight, whose state is not at hand."""
        return not self.restored and any(isinstance(term.weight, torch.nn.Module) for term in self.recipe)

    @property
    def diagonal(self) -> float:
        """The share of the rows that the recipe puts at r = t, of all that its terms take."""
        still = sum(term.share for term in self.recipe if not moving(term))
        return still / sum(term.share for term in self.recipe)


TAKES = ("times", "power", "diagonal_share", "beta")
"""Options of the command that change a recipe, where it has them."""


def method(name: str, probed: Probed, changed: Mapping[str, Any], path: Path = linear) -> Reading:
    """The recipe at its published setting but for what the user `changed`."""
    entry = known(name)
    given = ({entry.coefficient: 1.0} if isinstance(entry.coefficient, str) else {}) | dict(changed)
    if entry.proxies and (word := _proxy(entry.proxies, probed)) != entry.proxies[0]:
        given["proxy"] = word
    try:
        recipe = methods.build(name, probed.field, probed.ema, **(given | _floor(entry, probed.field)))
    except UserError as error:
        raise UserError(f"--recipe: {error}") from error
    beta = given.get(entry.coefficient) if isinstance(entry.coefficient, str) else None
    return Reading(name, recipe, line(name, given), share(entry, recipe, beta), path=path)


def changes(name: str, **asked: Any) -> dict[str, Any]:
    """Those of the options of `TAKES` that were given; `UserError` for one that the recipe does not have."""
    given, takes = {option: value for option, value in asked.items() if value is not None}, find(name, "--recipe").options
    for option in given:
        if option not in takes:
            kept = ", ".join(f"--{o.replace('_', '-')}" for o in TAKES if o in takes) or "none of these"
            raise UserError(f"--{option.replace('_', '-')}: the recipe {name} has no such setting; it takes {kept}")
    return given


def known(name: str) -> Method:
    """What is known of a recipe; `UserError` for one that is not read."""
    entry = find(name, "--recipe")
    if entry.unread:
        raise UserError(f"--recipe {name}: {entry.unread}")
    return entry


def line(name: str, options: Mapping[str, Any]) -> str:
    """A recipe and its options in words."""
    return f"{name}({', '.join(f'{o}={v:g}' if isinstance(v, int | float) else f'{o}={v}' for o, v in options.items())})"


def _proxy(proxies: tuple[str, ...], probed: Probed) -> str:
    """The first that is there: what the recipe would take, else the network itself."""
    there = {EMA: probed.ema is not None, HEAD: callable(getattr(probed.field, "head", None)), POSTERIOR: False}
    return next(word for word in proxies if there.get(word, True))


def _floor(entry: Method, field: Any) -> dict[str, Any]:
    """The floor of a network that predicts data, for a recipe that wants one; `UserError` for a network that does not."""
    if PREDICTION not in entry.needs:
        return {}
    for net in (field, getattr(field, "net", None)):
        for found in (getattr(net, "data_floor", None), net.floor if isinstance(net, DataPrediction) else None):
            if found is not None:
                return {"floor": float(found)}
    remedy = "let the factory return fields.DataPrediction(net, floor), or a DiT with data_floor"
    raise UserError(f"--recipe {entry.name} reads a network that predicts data, and {type(field).__name__} predicts a velocity: {remedy}")


def share(entry: Method, recipe: Recipe, beta: float | None) -> float | None:
    """The coefficient that the recipe trains at, `beta` where an option holds it; None without one, or without a derivative."""
    if not any(isinstance(term.objective, Eulerian) for term in recipe):
        return None
    return beta if isinstance(entry.coefficient, str) else entry.coefficient


# The center --------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Center:
    """`velocity` stands for E[v | z]. `halves`: the same on two halves of a posterior's reference.

    `rows`: which rows of the data are drawn; `cost`: reference points a row is compared with, which bounds chunks.
    """

    kind: str
    velocity: Velocity
    words: str
    rows: torch.Tensor
    halves: tuple[Velocity, ...] = ()
    cost: int = 1


def center(kind: str, probed: Probed, data: Dataset, seed: int, dtype: torch.dtype, device: torch.device) -> Center:
    """The center that was asked for, or the best that the data allow: posterior in few dimensions, else ema, else own."""
    entries = int(torch.tensor(data.event).prod())
    known = data.y is None or data.labelled
    if not kind:
        compared = known and data.independent and data.mask is None
        kind = "posterior" if entries <= LOW and len(data) >= ENOUGH and compared else "ema" if probed.ema is not None else "own"
    everything = torch.arange(len(data))
    if kind == "own":
        return Center(kind, own, "the network's own u(z, t, t)", everything)
    if kind == "ema":
        if probed.ema is None:
            raise UserError("--center ema needs the copy: give --average ema.safetensors, or a folder that holds one")
        return Center(kind, of(probed.ema), "the EMA copy's u(z, t, t)", everything)
    if not data.independent:
        raise UserError("--center posterior knows rows whose noise is independent of them, and these have a coupling: use own or ema")
    if data.mask is not None:
        raise UserError("--center posterior compares whole rows, and these have a mask: use own or ema")
    if not known:
        raise UserError("--center posterior compares labels, and these conditions are not whole numbers [N]: use own or ema")
    return _posterior(data, seed, dtype, device)


def _posterior(data: Dataset, seed: int, dtype: torch.dtype, device: torch.device) -> Center:
    n, order = len(data), torch.randperm(len(data), generator=key(seed, "reference"))
    whole = n <= MOST
    count = n if whole else min(MOST, n // 2)
    held, rows = order[:count].sort().values, torch.arange(n) if whole else order[count:].sort().values
    b = data.rows(held, dtype, device)
    x, y = b.x, b.y
    same = "" if y is None else " with the same label"
    words = f"the posterior over {'all' if whole else 'a random'} {count:,} rows of the data{same}"
    words += (
        ": exact if the network was trained on these rows"
        if whole
        else f" and the row's own point, rows drawn from the other {len(rows):,}"
    )
    half = torch.randperm(len(held), generator=key(seed, "halves")).chunk(2)
    velocity = Posterior(x, y, include_own=not whole)
    halves = tuple(Posterior(x[i.to(device)], None if y is None else y[i.to(device)]) for i in half)
    return Center("posterior", velocity, words, rows, halves, len(held))


def second(probed: Probed, center: Center) -> tuple[str, Velocity | None]:
    """The proxy whose bias is measured against the center: the EMA copy, else the network's own boundary; none if that is the center."""
    if probed.ema is not None and center.kind != "ema":
        return "the EMA copy", of(probed.ema)
    if center.kind == "posterior":
        return "the network's own u(z, t, t)", own
    return "", None
