"""`meanstep evaluate` at work: the cells that are missing, computed one after the other, and the table of all."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import Progress
from torch import nn

from meanstep.program.bar import counting
from meanstep.program.console import Interrupted, UserError, err, out, put_json, say, stage
from meanstep.program.errors import naming
from meanstep.program.evaluation import rows, samples, specs
from meanstep.program.evaluation.examples import Examples
from meanstep.program.evaluation.extractors import open_extractor
from meanstep.program.evaluation.features import Extractor
from meanstep.program.evaluation.measures import checked, fewest
from meanstep.program.evaluation.real_data import RunData, floor, halves
from meanstep.program.evaluation.references import Reference, reference
from meanstep.program.evaluation.rows import Row
from meanstep.program.evaluation.samples import Sampled, Weights
from meanstep.program.evaluation.table import table
from meanstep.program.machine import available
from meanstep.program.reading.tensors import NotFinite
from meanstep.program.registry import default_sampler
from meanstep.program.runs.decoder import decoder
from meanstep.program.runs.facts import known
from meanstep.program.runs.saved import Saved, held
from meanstep.program.runs.saved import manifest as described
from meanstep.program.sampling import model as models
from meanstep.program.tables import put
from meanstep.times import fewest_jumps

if TYPE_CHECKING:
    from meanstep.program.evaluation.command import Evaluate


@dataclass(frozen=True)
class Evaluation:
    """A table of a run's distances: `rows`, a dict a cell as evaluations.jsonl has them, and `floor`, what fresh data score.

    `distance`: what the Frechet distance is called, which says whose features it is of; `metrics`: those that were asked for; `usual`: the
    run's own sampler.
    """

    run: Path
    rows: tuple[Row, ...]
    floor: Row
    distance: str
    metrics: tuple[str, ...]
    usual: str

    def __repr__(self) -> str:
        what = f"Evaluation({str(self.run)!r}: {self.distance} to {self.rows[0]['reference'] if self.rows else 'nothing'}"
        cells = [(f"{row['seen']:,} seen, {row['average']}, {row['steps']} steps", row) for row in self.rows]
        told = [f"{words}: {_shown(row)}" for words, row in (*cells, ("floor", self.floor))]
        return "\n  ".join([what, *told]) + ")"


def _shown(row: Row) -> str:
    values = row.get("values")
    if not values:
        return str(row.get("failed"))
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items() if isinstance(value, float))


def evaluated(asked: "Evaluate", run: Path, saved: list[Saved], net: nn.Module | None = None) -> Evaluation:
    """Compute what the table lacks. `UserError` if there is nothing to compare with; `net`: as of `meanstep.load`."""
    device = available(asked.device)
    weights, config = samples.weights(saved, asked.average), held(run)
    with stage("opening extractor and autoencoder"):
        manifest = described(run)
        own = config.run.extractor if config else specs.usual(manifest.codec)
        extractor = open_extractor(asked.extractor or own, device, fetch=asked.extractor is not None)
        asked = dataclasses.replace(asked, metrics=asked.metrics or specs.metrics(manifest.codec))
        checked(asked.metrics, extractor, asked.count)
        facts = known(run)
        usual = default_sampler(facts.learns)
        samplers = tuple(dict.fromkeys(asked.sampler or (usual,)))
        for name in samplers:
            models.check_sampler(name, facts)
        data = RunData(run, manifest, decoder(run, manifest, device, asked.autoencoder))
    with naming("--reference"):
        shares = asked.class_shares == "data" and (config is None or config.data.conditional)
        real = data.reference(asked.reference, asked.split, shares) if asked.reference else data.trained_on()
    pool = data.held_out(asked.held_out or "", real, fewest(asked.metrics))
    steps = specs.steps(manifest.codec, fewest_jumps(config.method.largest_gap if config else None))
    with counting() as bar:
        against = _against(asked, real, extractor, bar)
        if manifest.codec == "plain":
            against = dataclasses.replace(against, among=among(asked.count, against, pool))
        work = Work(asked, run, real, against, pool, data.autoencoder.digest, samplers, usual, steps, bar, net)
        try:
            found, below = work.cells(weights), work.floor()
        except KeyboardInterrupt:
            raise Interrupted(f"stopped: finished cells are in {run / rows.NAME}, the same command goes on after them") from None
    return Evaluation(run, tuple(found), below, extractor.distance, asked.metrics, usual)


def _against(asked: "Evaluate", real: Examples, extractor: Extractor, bar: Progress) -> Reference:
    total = min(len(real), asked.reference_limit or len(real))
    task = bar.add_task(f"reference: {real.name}", total=total)
    try:
        against = reference(
            real, extractor, limit=asked.reference_limit or 0, batch=asked.chunk, told=lambda done: bar.update(task, completed=done)
        )
    except KeyboardInterrupt:
        raise Interrupted("stopped before the reference was complete: nothing was written") from None
    finally:
        bar.remove_task(task)
    for notice in notices(real, against, asked.count, "frechet" in asked.metrics):
        say(notice, on=err)
    return against


def show(found: Evaluation, json: Path | None) -> None:
    """Print the table, or write it where --json says."""
    if put_json(json, [*found.rows, found.floor]):
        return
    put(table(list(found.rows), found.floor, found.metrics, found.distance, found.usual), out)
    for words in remarks(found.rows, found.floor):
        say(words)
    say(f"reference: {found.rows[0]['reference']}; last line: {found.floor['data']}")
    say(f"rows: {found.run / rows.NAME}")


def among(count: int, against: Reference, pool: Examples | None) -> int:
    """How many rows of the reference sets of rows are compared with: as many as samples, and as there are others for the floor."""
    kept = len(against.features)
    return max(1, min(count, kept, len(pool)) if pool else min(count, kept // 2))


FEW = 3
"""So many times the floor's share of copies is worth a word."""


def remarks(found: Sequence[Row], below: Row) -> Iterator[str]:
    """What the numbers of rows mean, in words: how they were compared, and whether samples may be copies."""
    if n := below.get("among"):
        yield (
            f"each row is compared with {n:,} of the reference, and so is the floor: entries over their standard deviation in the reference"
        )
    for row in found:
        values = row["values"] or {}
        if "nearest" in row["metrics"] and values and "copies" not in values:
            yield "rows of the reference are distinct points of a lattice, where equal rows are to be expected: no share of copies is given"
            break
        if (copies := values.get("copies")) is not None and copies - values["copies_half"] > FEW * values["copies_floor"]:
            yield (
                f"{copies:.0%} of the samples in {row['steps']} step{'s' * (row['steps'] > 1)} are nearer to a row of the reference than "
                f"{1 - values['copies_floor']:.0%} of its rows are to each other: these may be copies"
            )


def notices(real: Examples, against: Reference, count: int, frechet: bool = True) -> Iterator[str]:
    """What a reader of the numbers has to know; `frechet`: whether a Frechet distance is among them."""
    if real.left_out:
        yield f"{real.name}: left out, not read: {real.left_out}"
    dim, name = against.extractor.dim, against.extractor.distance
    if real.decoded:
        yield "the reference are pictures that the autoencoder decoded: its own error is not in the numbers; give --reference the originals"
    if against.extractor.input.repeats(real.image[0]):
        yield f"the images are grey: {against.extractor.name} sees their one channel three times"
    for what, n in (("samples", count), (f"{real.noun} of the reference", against.count)):
        if frechet and n <= dim:
            yield (
                f"{n:,} {what} for {dim:,} features: the covariance is singular and {name} mostly bias; compare it at equal counts only, "
                f"or take the kernel distance, or more than {dim:,} {what}"
            )


@dataclass(frozen=True)
class Work:
    """The cells that are missing, computed one after the other and written down at once.

    `pool`: real rows that the reference has not, if there are any; `decoder`: the autoencoder's digest; `usual`: the run's own sampler;
    `steps`: of its samples where none are asked for.
    """

    asked: "Evaluate"
    run: Path
    real: Examples
    against: Reference
    pool: Examples | None
    decoder: str
    samplers: tuple[str, ...]
    usual: str
    steps: tuple[int, ...]
    bar: Progress
    net: nn.Module | None = None

    def cells(self, weights: Sequence[Weights]) -> list[Row]:
        """The rows of the table, those that are there already included."""
        asked = self.asked
        steps = asked.steps or self.steps
        cells = [(w, *cell) for w in weights for cell in itertools.product(self.samplers, steps, asked.guidance)]
        wanted = [(cell[0], self._wanted(*cell)) for cell in cells]
        if any(scale != 1 for scale in asked.guidance):
            facts = known(self.run)
            for why in dict.fromkeys(filter(None, map(facts.untaught, self.samplers))):
                say(f"--guidance: {why}", on=err)
        held = rows.load(self.run)
        found = [rows.same(held, row, self.usual) for _, row in wanted]
        missing = [i for i, row in enumerate(found) if row is None]
        if len(missing) < len(wanted):
            say(f"{len(wanted) - len(missing)} of {len(wanted)} cells are there already", on=err)
        task = self.bar.add_task("samples", total=self.asked.count * len(missing))
        model: tuple[Weights, models.Model | str] | None = None
        for done, i in enumerate(missing):
            w, row = wanted[i]
            if model is None or model[0] is not w:
                model = w, self._model(w)
            found[i] = self._computed(model[1], row, task, done)
        return [row for row in found if row is not None]

    def _wanted(self, w: Weights, sampler: str, steps: int, scale: float) -> Row:
        row: Row = {"kind": "cell", "seen": w.seen, "average": w.average, "weights": w.digest, "sampler": sampler, "steps": steps}
        return row | {"guidance": scale, "labels": self._drawn()} | self._shared() | {"autoencoder": self.decoder}

    def _shared(self) -> Row:
        extractor, asked = self.against.extractor, self.asked
        row: Row = {"count": asked.count, "seed": asked.seed, "distance": extractor.distance, "extractor": extractor.name}
        row |= {"among": self.against.among} if self.against.among else {}
        row |= {"extractor_digest": extractor.digest, "input": str(extractor.input)}
        row |= {"repeated": extractor.input.repeats(self.real.image[0]), "metrics": list(asked.metrics)}
        return row | {"reference": f"{self.real.name}, {self.against.count:,} {self.real.noun}", "reference_digest": self.against.digest}

    def _drawn(self) -> str:
        """How labels are drawn: as in the reference only if it has labels for all images."""
        held = self.real.labels
        if self.real.conditions:
            if self.asked.class_shares != "data":
                raise UserError(
                    f"--class-shares {self.asked.class_shares}: conditions that are no labels are those of the data, leave it out"
                )
            return "data"
        return "data" if self.asked.class_shares == "data" and len(held) and int(held.min()) >= 0 else "uniform"

    def _labels(self, model: models.Model) -> Any:
        if model.needed:
            if missing := [c.name for c in model.needed if c.name not in self.real.conditions]:
                remedy = "make it with --condition as the run's, and --like its cache"
                raise UserError(f"--reference: {self.real.name} has no {', '.join(missing)}, which the run's network is given: {remedy}")
            return {c.name: self.real.conditions[c.name] for c in model.needed}
        if not model.conditional or self._drawn() == "uniform":
            return None
        if int(self.real.labels.max()) >= len(model.classes):
            raise UserError(f"the reference has more than the model's {len(model.classes)} classes: give --class-shares uniform")
        return self.real.labels

    def _model(self, w: Weights) -> models.Model | str:
        """The model, or why these weights are none."""
        asked, device = self.asked, available(self.asked.device)
        try:
            how: dict[str, Any] = {"autoencoder": asked.autoencoder, "network": asked.network, "net": self.net}
            model = models.load(w.saved.path, average=w.average, device=device, **how)
        except NotFinite as error:
            return str(error)
        for scale in self.asked.guidance:
            if why := model.facts.refused(scale, model.classes, model.given):
                raise UserError(f"--guidance: {why}")
        return model

    def _computed(self, model: models.Model | str, row: Row, task: Any, done: int) -> Row:
        asked = self.asked
        if isinstance(model, str):
            row |= {"values": None, "failed": model}
            rows.append(self.run, row)
            return row
        what = f"{row['seen']:,} seen, {row['average']}, {row['steps']} step{'s' if row['steps'] > 1 else ''}, guidance {row['guidance']:g}"
        self.bar.update(task, description=what if len(self.samplers) == 1 else f"{what}, {row['sampler']}")
        named = dataclasses.replace(model, sampler=row["sampler"])
        settings = (asked.count, asked.seed, asked.chunk, asked.metrics)
        sampled = Sampled(named, self._labels(model), row["steps"], row["guidance"], *settings)
        row |= samples.evaluated(sampled, self.against, lambda n: self.bar.update(task, completed=done * asked.count + n))
        self.bar.update(task, completed=(done + 1) * asked.count)
        rows.append(self.run, row)
        return row

    def floor(self) -> Row:
        """What rows that the reference has not score, or one half of it against the other; one that fails says why, and is not kept."""
        pool, both = self.pool, "halves: one half of the reference, drawn at random, against the other"
        name = f"held out: {pool.name}" if pool else both if self.against.among else f"{both}, the Frechet distance only"
        row: Row = {"kind": "floor", "data": name, "data_digest": pool.digest if pool else None} | self._shared()
        if held := rows.same(rows.load(self.run), row):
            return held
        asked = self.asked
        self.bar.add_task("floor", total=None)
        try:
            row["values"] = (
                floor(pool, asked.count, self.against, asked.metrics, asked.chunk) if pool else halves(self.against, asked.metrics)
            )
        except UserError as error:
            return row | {"values": None, "failed": str(error)}
        rows.append(self.run, row)
        return row
