"""The criterion that a user calls: draws noise and times, splits the rows among a recipe's terms, returns a loss and what to log."""

import math
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.utils._device import DeviceContext

from meanstep.auxiliary import Look
from meanstep.joint_pass import Hidden, probed
from meanstep.keys import drawn
from meanstep.loss.inputs import batch_of
from meanstep.loss.mistakes import culprits, mistake_of
from meanstep.loss.rows import Rows, made, part, reads_head, shows_the_same
from meanstep.loss.unread import measured
from meanstep.paths import Path, linear
from meanstep.shapes import over, tree_map
from meanstep.terms import Recipe, Term
from meanstep.types import Answer, Bridge, Field, Objective, Query, Regression, Weight
from meanstep.values import like, record
from meanstep.weights import answered, draws, probes


class Output(NamedTuple):
    """`loss`: 0-d, to call backward on; `metrics`: by name, detached, 0-d or one value per ensemble member, worked out when they are first
    read. See `docs/conventions.md`."""

    loss: Tensor
    metrics: MutableMapping[str, Tensor]

    def __repr__(self) -> str:
        return record(self)


class Loss(nn.Module):
    """`Loss(recipe)(net, x)`: the loss of any recipe on any field and any event shape.

    - `recipe`: from `meanstep.recipes`, or a tuple of `Term`.
    - `path`: the path between data and noise; `paths.linear` by default.
    - `batch_dims`: how many leading axes of the data are the batch; 1, or 2 for an ensemble.
    - `check`: verify times, and raise `FloatingPointError` on a loss that is not finite, naming the rows. This reads one number back from
      the device each step. On by default. Without it all draws are made where the data are, as a CUDA graph needs them.
    - `measure`: offer `Output.metrics`, which cost next to nothing while nobody reads them; without it they are empty. On by default.

    Its parameters are those of learned weights (`weights.Cauchy`) and learned nulls (`velocities.LabelDropout`): give them to the
    optimiser. `TypeError` or `ValueError` for a recipe or path that is none.
    """

    def __init__(self, recipe: Recipe, path: Path = linear, *, batch_dims: int = 1, check: bool = True, measure: bool = True) -> None:
        super().__init__()
        if batch_dims < 1:
            raise ValueError(f"the loss needs at least one batch axis, got batch_dims={batch_dims}")
        if not isinstance(recipe, Sequence) or not recipe or not all(isinstance(term, Term) for term in recipe):
            raise TypeError(f"a recipe is a non-empty tuple of Term, such as recipes.meanflow(), got {recipe!r}")
        if not isinstance(path, Path):
            raise TypeError(f"a path is a paths.Path such as paths.trigonometric, got {path!r}")
        if recipe[0].times is None:
            raise ValueError("the first term of a recipe must draw times: times=None keeps those of the terms before")
        self.recipe, self.path, self.batch_dims, self.check, self.measure = tuple(recipe), path, batch_dims, check, measure
        weights = [term.weight for term in self.recipe if isinstance(term.weight, nn.Module)]
        given = [part for term in self.recipe for part in (getattr(term.objective, "given", None), term.prepare)]
        given += [part for term in self.recipe for part in term.beside]
        nulls = dict.fromkeys(null for part in given for null in getattr(part, "learned", ()))
        self.learned = nn.ModuleList([*weights, *nulls])

    def forward(
        self,
        field: Field,
        x: Tensor,
        y: Any = None,
        *,
        noise: Tensor | None = None,
        mask: Tensor | None = None,
        progress: float | Tensor | None = None,
        generator: Generator | None = None,
        independent: bool = False,
    ) -> Output:
        """The loss of `field` on the data `x` `[*B, *E]`, float32 or float64.

        - `y`: the condition, with leading axes `*B`.
        - `noise`: the noise of each row, if it is not a fresh draw: rectified couplings, or a source of your own.
        - `mask`: true where entries count, over `*B` and further leading axes of `x`; the other entries are set to 0.
        - `progress`: the share of the training done, in [0, 1], for schedules. In a compiled step pass a 0-d tensor, or it is compiled
          again for every number.
        - `generator`: draws noise and times; torch's global one by default.
        - `independent`: the given `noise` is a standard normal draw independent of the data, as a `Posterior` needs it.
        """
        _accepts(field, self.path)
        draws = self.draw(x, y, noise=noise, mask=mask, progress=progress, generator=generator, independent=independent)
        n = x.shape[self.batch_dims - 1]
        rows = self._regress(field, draws, n)
        loss = torch.stack([part(row, n) for row in rows]).sum()
        if self.check and loss.is_meta:
            raise ValueError("the data are on the meta device and hold no numbers: make them elsewhere, or give Loss(check=False)")
        if self.check and not math.isfinite(loss.detach().item()):
            raise FloatingPointError(culprits(rows, [part.start for part in self._deal(n)]))
        if self.check and mask is not None and not torch.stack([row.regression.prediction.isfinite().all() for row in rows]).all():
            raise FloatingPointError("the field returned numbers that are not finite under the mask, which reach the weights' gradient")
        return Output(loss, measured(rows, n) if self.measure else {})

    if TYPE_CHECKING:

        @like(forward)
        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def draw(
        self,
        x: Tensor,
        y: Any = None,
        *,
        noise: Tensor | None = None,
        mask: Tensor | None = None,
        progress: float | Tensor | None = None,
        generator: Generator | None = None,
        independent: bool = False,
    ) -> list[tuple[Term, Bridge]]:
        """Each term of the recipe with its draw of noise and times, for probes and tests. Arguments as of `forward`."""
        batch = batch_of(self.batch_dims, x, y, noise, mask, progress, generator)
        if mask is not None:  # a nan there would reach the weights' gradient even through an error of weight 0
            x = torch.where(over(mask, x), x, 0.0)
            noise = None if noise is None else torch.where(over(mask, x), noise, 0.0)
        e = noise if noise is not None else _fresh(torch.randn, x.shape, x, generator)
        aux, times = _fresh(torch.rand, (*batch, 4), x, generator), list(self._dealt(x, batch, generator))
        entries = math.prod(x.shape[self.batch_dims :])
        if own := max(draws(term.weight, entries) for term in self.recipe):
            aux = torch.cat([aux, _fresh(torch.rand, (*batch, own), x, generator)], -1)
        deal, found = list(self._deal(batch[-1])), []
        still = min(1.0, sum(term.share for term, (r, t) in zip(self.recipe, times, strict=True) if r is t))
        for (term, rows), (r, t) in zip(zip(self.recipe, deal, strict=True), times, strict=True):
            cut = _Cut(self.batch_dims, rows)
            mine = _fresh(torch.randn, x.shape, x, generator) if term.fresh and noise is None else e
            z, v = self.path(cut(x), cut(mine), t)
            given, common = independent or noise is None, aux[..., :1, :4]
            held = Bridge(z, v, r, t, tree_map(cut, y), tree_map(cut, mask), cut(aux), progress, self.path, given, common, still)
            found.append((term, term.prepare(held)))
        return found

    def _dealt(self, x: Tensor, batch: tuple[int, ...], generator: Generator | None) -> Iterator[tuple[Tensor, Tensor]]:
        """`r` and `t` of each term's rows, those of the terms before where it draws none; one tensor where its sampler gives one twice."""
        dealt = torch.empty(batch, dtype=x.dtype, device=x.device), torch.empty(batch, dtype=x.dtype, device=x.device)
        for term, rows in zip(self.recipe, self._deal(batch[-1]), strict=True):
            here, still = (..., rows) if self.batch_dims > 1 else (rows,), False
            if term.times is not None:
                r, t = self._times(term, (*batch[:-1], rows.stop - rows.start), x.device, generator)
                still = r is t
                for kept, new in zip(dealt, (r, t), strict=True):
                    kept[here] = new.to(kept)
            r, t = (kept[here].clone() for kept in dealt)
            yield (t, t) if still else (r, t)

    def _deal(self, n: int) -> Iterator[slice]:
        """Consecutive rows for one term after the other, starting over when the batch is full."""
        offset = 0.0
        for k, term in enumerate(self.recipe):
            offset = 0.0 if offset > 1 - 1e-9 else offset
            rows = slice(round(offset * n), round((offset + term.share) * n))
            if rows.stop == rows.start:
                raise ValueError(
                    f"a batch of {n} leaves term {k} (share {term.share:g}) without a row: use at least {-int(-1 // term.share)} rows"
                )
            if offset + term.share > 1 + 1e-9:
                raise ValueError(f"term {k} (share {term.share:g}) runs over the end of the batch: shares must fill it one after another")
            offset += term.share
            yield rows

    def _times(self, term: Term, shape: tuple[int, ...], device: torch.device, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """A sampler's pair. Without a generator it is drawn on the CPU to be checked, and its copy waits for a GPU; else on `device`."""
        assert term.times is not None
        with nullcontext() if generator is not None or self.check or device.type == "cpu" else DeviceContext(device):
            r, t = term.times(shape, generator)
        if r.shape != shape or t.shape != shape:
            raise ValueError(f"a sampler of times was asked for shape {shape} and returned r {tuple(r.shape)}, t {tuple(t.shape)}")
        if self.check and not _inside(r, t):
            row = int(((r >= 0) & (r <= t) & (t <= 1)).flatten().logical_not().nonzero()[0])
            raise ValueError(f"times need 0 <= r <= t <= 1, got r={r.flatten()[row]:.6g}, t={t.flatten()[row]:.6g} in row {row}")
        return r, t

    def _regress(self, field: Field, draws: list[tuple[Term, Bridge]], n: int) -> list[Rows]:
        """The regressions of all terms; what they ask of the field is answered together."""
        try:
            heads = self._heads(n)
            shared = {k: rows for k, rows in heads.items() if all(self.recipe[j].weight is self.recipe[k].weight for j in rows)}
            asked = [_asked(term, field, b, k not in shared) for k, (term, b) in enumerate(draws)]
            hidden: Hidden = {one.layer: {} for term in self.recipe for one in term.beside if one.layer is not None}
            answers = probed(field, [query for query, _ in asked], heads, hidden)
            slopes = [found for _, _, found in answers]
            for k, rows in shared.items():
                slopes[k] = _rejoined(*draws[k], [(slopes[j], draws[j][1]) for j in rows])
            regressions = [finish((u, du)) for (_, finish), (u, du, _) in zip(asked, answers, strict=True)]
        except (AttributeError, RuntimeError, TypeError) as failure:
            if (mistake := mistake_of(field, draws[0][1])) is None:
                raise
            raise mistake from failure
        weights = [answered(term.weight, b, found) for (term, b), found in zip(draws, slopes, strict=True)]
        looks = [Look(u, b) for (u, *_), (_, b) in zip(answers, draws, strict=True)]
        seen = [{layer: found[k] for layer, found in hidden.items() if k in found} for k in range(len(draws))]
        found = zip(looks, regressions, weights, seen, strict=True)
        return [made(term, *parts) for (term, _), parts in zip(draws, found, strict=True)]

    def _heads(self, n: int) -> dict[int, list[int]]:
        """Terms that regress the head on rows with the inputs of the terms before them, which then share a pass: those terms, in order."""
        dealt, found = list(self._deal(n)), {}
        for k, term in enumerate(self.recipe):
            if term.times is None and reads_head(term):
                alike = [j for j in range(k) if shows_the_same(self.recipe[j], term) and dealt[j].start >= dealt[k].start]
                ends = [dealt[k].start, *(dealt[j].stop for j in alike)]
                if [dealt[j].start for j in alike] == ends[:-1] and ends[-1] == dealt[k].stop:
                    found[k] = alike
        return found


def _accepts(field: Field, path: Path) -> None:
    """`ValueError` for a field that says on which path it means what it says, and is trained on another."""
    own = getattr(field, "path", None)
    if isinstance(own, Path) and own != path:
        raise ValueError(f"{type(field).__name__} is a velocity of the path {own} only, and this loss draws on {path}")


def _inside(r: Tensor, t: Tensor) -> bool:
    """Whether `0 <= r <= t <= 1` everywhere, in few operations: they run at every step."""
    low = t if r is t else torch.minimum(r, t - r)
    return bool(torch.minimum(low, 1 - t).amin() >= 0)


def settled(weight: Weight, field: Field, b: Bridge) -> Weight:
    """A weight ready to call on a bridge's rows outside a loss: one that needs derivatives of the field gets them."""
    if (along := probes(weight, b)) is None:
        return answered(weight, b, None)
    with torch.no_grad():
        return answered(weight, b, probed(field, [Query(b.z, b.r, b.t, b.y, probes=along)])[0][2])


def _rejoined(term: Term, b: Bridge, parts: list[tuple[Tensor | None, Bridge]]) -> Tensor | None:
    """The derivatives of the terms before, for a weight that asks for the same ones; where `r` is `t` they count nothing."""
    if (along := probes(term.weight, b)) is None:
        return None
    filled = [there.z.new_zeros((len(along), *there.z.shape)) if found is None else found.to(b.z) for found, there in parts]
    return torch.cat(filled, b.t.ndim)


def _asked(term: Term, field: Field, b: Bridge, probing: bool) -> tuple[Query, Callable[[Answer], Regression]]:
    """What an objective asks of the field, and its weight if it is `probing`; one that has no queries evaluates the field itself."""
    objective: Objective = term.objective
    if hasattr(objective, "query"):
        query, finish = objective.query(field, b)
    else:
        regression = objective(field, b)
        query, finish = Query(b.z, b.r, b.t, b.y, value=regression.prediction), lambda _: regression
    along = probes(term.weight, b) if probing else None
    return (query if along is None else query._replace(probes=along)), finish


def _fresh(sampler: Callable[..., Tensor], shape: Sequence[int], like: Tensor, generator: Generator | None) -> Tensor:
    return drawn(sampler, shape, generator=generator, dtype=like.dtype, device=like.device)


class _Cut:
    """Takes a slice of the last batch axis."""

    def __init__(self, batch_dims: int, rows: slice) -> None:
        self.axis, self.rows = batch_dims - 1, rows

    def __call__(self, p: Tensor) -> Tensor:
        return p.narrow(self.axis, self.rows.start, self.rows.stop - self.rows.start)
