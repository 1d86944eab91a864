"""The command: `meanstep evaluate RUN`, a table over checkpoints, averages, samplers, steps and guidance that can be extended."""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from meanstep.program.console import Interrupted, UserError, err, out, writable, write
from meanstep.program.data import open_autoencoder
from meanstep.program.data.manifest import Manifest
from meanstep.program.evaluation import rows, samples
from meanstep.program.evaluation.extractors import SPECS, open_extractor
from meanstep.program.evaluation.features import Extractor
from meanstep.program.evaluation.measures import checked
from meanstep.program.evaluation.pictures import Pictures, pictures
from meanstep.program.evaluation.real_data import RunData, floor, halves
from meanstep.program.evaluation.references import Reference, reference
from meanstep.program.evaluation.rows import Row
from meanstep.program.evaluation.samples import Sampled, Settings, Weights
from meanstep.program.evaluation.table import table
from meanstep.program.machine import available
from meanstep.program.registry import METRICS, SAMPLER_HELP, default_sampler, described
from meanstep.program.runs.facts import known
from meanstep.program.runs.saved import MANIFEST, held, place
from meanstep.program.sampling import model as models


def _hint(text: str, default: str, metavar: str) -> Any:
    return tyro.conf.arg(help=text, help_behavior_hint=f"(default: {default})", metavar=metavar)


METRICS_HELP = f"What is measured: {described(METRICS)}."
WIDTH = 120
"""Columns that the table takes at least; a narrower terminal wraps its lines."""


@dataclass(frozen=True)
class Evaluate:
    """How far a run's samples are from data: a table over checkpoints, averages, samplers, steps, guidance. docs/evaluation.md says more.

    Every cell is sampled from the same seeds. Cells that were computed with the same settings are not computed again; interrupt it at any
    moment, the same command goes on. Only the Inception of the published FID makes a FID, everything else is FD-something.

    Examples: meanstep evaluate runs/digits --steps 1 2 4; meanstep evaluate runs/cifar --ema all --extractor inception --count 50000;
    meanstep evaluate runs/latents --reference photographs/ --extractor efficientnet-lite0:efficientnet_lite0.safetensors
    """

    folder: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(name="run", metavar="RUN")]]
    """A run's folder, or one of its checkpoints."""
    checkpoints: Annotated[tuple[str, ...], tyro.conf.arg(metavar="SEEN ...")] = ("last",)
    """Which checkpoints: last, best, all, or numbers of samples seen."""
    ema: Annotated[tuple[str, ...], _hint("Averages of the weights: their names, raw, all.", "the run's own", "NAME ...")] = ()
    sampler: Annotated[tuple[str, ...], _hint(SAMPLER_HELP, "the run's own", "NAME ...")] = ()
    steps: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N ...")] = (1,)
    """Steps of the sampler."""
    guidance: Annotated[tuple[float, ...], tyro.conf.arg(metavar="SCALE ...")] = (1.0,)
    """Guidance scales; 1 is the conditional model."""
    count: int = 10_000
    """Samples of each cell."""
    seed: int = 0
    """The first of as many seeds."""
    labels: Literal["data", "uniform"] = "data"
    """Of a conditional model's samples: as frequent as in the reference, or all alike."""
    extractor: Annotated[str, _hint(f"What makes features: {', '.join(SPECS)}.", "the run's own", "SPEC")] = ""
    metrics: Annotated[tuple[str, ...], tyro.conf.arg(metavar="METRIC ...", help=METRICS_HELP)] = (
        *("frechet", "kid", "precision-recall", "density-coverage"),
    )
    reference: Annotated[str, _hint("Compare with these images: a cache, or a source.", "the run's training data", "CACHE_OR_SOURCE")] = ""
    split: str = "train"
    """The split of a --reference that is a source."""
    reference_count: Annotated[int, _hint("At most so many images of the reference, evenly spaced.", "all", "N")] = 0
    held_out: Annotated[str, _hint("Images that show what fresh data would score.", "the source's test split", "CACHE_OR_SOURCE")] = ""
    network: Annotated[str, _hint("The function that may be called to make a network not ours.", "none", "MODULE:FACTORY")] = ""
    autoencoder: Annotated[str, _hint("Where a latent run's autoencoder is now.", "where it was", "SPEC")] = ""
    batch: int = 64
    """Samples at a time; it changes nothing beyond rounding."""
    device: str = "cpu"
    """Where to sample and extract: cpu, cuda, cuda:1, mps."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: no file)")] = None
    """Write the table's rows here too ("-" for standard output instead of the table)."""

    def run(self) -> int:
        """0 when the table is complete. `UserError` if there is nothing to evaluate, or nothing to compare with."""
        self._check()
        run = self.folder.expanduser()
        weights = samples.weights(run, self.checkpoints, self.ema)
        run = samples.run_folder(run)
        config = held(run)
        extractor = open_extractor(self.extractor or (config.run.extractor if config else "pixels"), available(self.device))
        checked(self.metrics, extractor, self.count)
        facts = known(run)
        usual = default_sampler(facts.learns)
        samplers = tuple(dict.fromkeys(self.sampler or (usual,)))
        for name in samplers:
            models.check_sampler(name, facts)
        manifest = Manifest.read(run / MANIFEST)
        data = RunData(run, manifest, open_autoencoder(self.autoencoder or place(run, manifest), available(self.device)))
        real = pictures(self.reference, manifest, data.autoencoder, self.split) if self.reference else data.trained_on()
        with _bar() as bar:
            work = Work(self, run, real, self._against(real, extractor, bar), data.autoencoder.digest, samplers, usual, bar)
            try:
                found, below = work.cells(weights), work.floor(data)
            except KeyboardInterrupt:
                raise Interrupted(f"stopped: finished cells are in {run / rows.NAME}, the same command goes on after them") from None
        self._show(found, below, extractor.distance, run, usual)
        return 0

    def _check(self) -> None:
        wrong = [
            (self.count < 2, f"--count: at least 2, got {self.count}"),
            (self.batch < 1, f"--batch: at least 1, got {self.batch}"),
            (self.seed < 0, f"--seed: at least 0, got {self.seed}"),
            (self.reference_count < 0, f"--reference-count: at least 0, got {self.reference_count}"),
            (any(n < 1 for n in self.steps), f"--steps: at least 1, got {min(self.steps, default=1)}"),
            (not all(map(math.isfinite, self.guidance)), "--guidance: finite numbers"),
            (
                not (self.steps and self.guidance and self.checkpoints and self.metrics),
                "give at least one of each: steps, guidance, metrics",
            ),
        ]
        for bad, message in wrong:
            if bad:
                raise UserError(message)
        if self.json is not None and str(self.json) != "-":
            writable(self.json)

    def _against(self, real: Pictures, extractor: Extractor, bar: Progress) -> Reference:
        total = min(len(real), self.reference_count or len(real))
        task = bar.add_task(f"reference: {real.name}", total=total)
        try:
            against = reference(
                real, extractor, limit=self.reference_count, batch=self.batch, told=lambda done: bar.update(task, completed=done)
            )
        except KeyboardInterrupt:
            raise Interrupted("stopped before the reference was complete: nothing was written") from None
        finally:
            bar.remove_task(task)
        for notice in notices(real, against, self.count):
            err.print(notice, soft_wrap=True, markup=False)
        return against

    def _show(self, found: list[Row], below: Row, distance: str, run: Path, usual: str) -> None:
        text = json.dumps([*found, below], indent=1) + "\n"
        if str(self.json) == "-":
            out.file.write(text)
            return
        if self.json is not None:
            write(self.json, text)
        shown = table(found, below, self.metrics, distance, usual)
        shown.width = WIDTH if out.width < WIDTH else None
        out.print(shown, crop=False)
        out.print(f"reference: {found[0]['reference']}; last line: {below['data']}", soft_wrap=True, markup=False)
        out.print(f"rows: {run / rows.NAME}", soft_wrap=True, markup=False)


def notices(real: Pictures, against: Reference, count: int) -> Iterator[str]:
    """What a reader of the numbers has to know."""
    dim, name = against.extractor.dim, against.extractor.distance
    if real.decoded:
        yield "the reference are pictures that the autoencoder decoded: its own error is not in the numbers; give --reference the originals"
    if against.extractor.input.repeats(real.image[0]):
        yield f"the images are grey: {against.extractor.name} sees their one channel three times"
    for what, n in (("samples", count), ("images of the reference", against.count)):
        if n <= dim:
            yield (
                f"{n:,} {what} for {dim:,} features: the covariance is singular and {name} mostly bias; compare it at equal counts only, "
                f"or take the kernel distance, or more than {dim:,} {what}"
            )


@contextmanager
def _bar() -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("images"), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        yield bar


@dataclass(frozen=True)
class Work:
    """The cells that are missing, computed one after the other and written down at once."""

    asked: Evaluate
    run: Path
    real: Pictures
    against: Reference
    decoder: str
    """The autoencoder's digest."""
    samplers: tuple[str, ...]
    usual: str
    """The run's own sampler."""
    bar: Progress

    def cells(self, weights: Sequence[Weights]) -> list[Row]:
        """The rows of the table, those that are there already included."""
        asked = self.asked
        cells = [(w, *cell) for w in weights for cell in itertools.product(self.samplers, asked.steps, asked.guidance)]
        wanted = [(cell[0], self._wanted(*cell)) for cell in cells]
        known = rows.load(self.run)
        found = [rows.same(known, row, self.usual) for _, row in wanted]
        missing = [i for i, row in enumerate(found) if row is None]
        if len(missing) < len(wanted):
            err.print(f"{len(wanted) - len(missing)} of {len(wanted)} cells are there already", markup=False)
        task = self.bar.add_task("samples", total=self.asked.count * len(missing))
        model: tuple[Weights, models.Model] | None = None
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
        row |= {"extractor_digest": extractor.digest, "input": str(extractor.input)}
        row |= {"repeated": extractor.input.repeats(self.real.image[0]), "metrics": list(asked.metrics)}
        return row | {"reference": f"{self.real.name}, {self.against.count:,} images", "reference_digest": self.against.digest}

    def _drawn(self) -> str:
        """How labels are drawn: as in the reference only if it has labels for all images."""
        held = self.real.labels
        return "data" if self.asked.labels == "data" and len(held) and int(held.min()) >= 0 else "uniform"

    def _labels(self, model: models.Model) -> Tensor | None:
        if not model.conditional or self._drawn() == "uniform":
            return None
        if int(self.real.labels.max()) >= len(model.classes):
            raise UserError(f"the reference has more than the model's {len(model.classes)} classes: give --labels uniform")
        return self.real.labels

    def _model(self, w: Weights) -> models.Model:
        model = models.load(
            w.saved.path,
            ema=w.average,
            device=available(self.asked.device),
            autoencoder=self.asked.autoencoder or None,
            network=self.asked.network,
        )
        if not model.conditional and any(scale != 1 for scale in self.asked.guidance):
            raise UserError("--guidance: this model was trained without labels, there is nothing to guide it by; leave it at 1")
        return model

    def _computed(self, model: models.Model, row: Row, task: Any, done: int) -> Row:
        asked = self.asked
        what = f"{row['seen']:,} seen, {row['average']}, {row['steps']} step{'s' if row['steps'] > 1 else ''}, guidance {row['guidance']:g}"
        self.bar.update(task, description=what if len(self.samplers) == 1 else f"{what}, {row['sampler']}")
        settings = Settings(asked.count, asked.seed, asked.batch, asked.metrics)
        sampled = Sampled(dataclasses.replace(model, sampler=row["sampler"]), settings, self._labels(model), row["steps"], row["guidance"])
        row |= samples.evaluated(sampled, self.against, lambda n: self.bar.update(task, completed=done * asked.count + n))
        self.bar.update(task, completed=(done + 1) * asked.count)
        rows.append(self.run, row)
        return row

    def floor(self, data: RunData) -> Row:
        """What images that the reference has not score, or one half of it against the other."""
        pool = data.held_out(self.asked.held_out, self.real)
        name = (
            f"held out: {pool.name}"
            if pool
            else "halves: every second image of the reference against the others, the Frechet distance only"
        )
        row: Row = {"kind": "floor", "data": name, "data_digest": pool.digest if pool else None} | self._shared()
        if known := rows.same(rows.load(self.run), row):
            return known
        asked = self.asked
        self.bar.add_task("floor", total=None)
        row["values"] = floor(pool, asked.count, self.against, asked.metrics, asked.batch) if pool else halves(self.against)
        rows.append(self.run, row)
        return row


__all__ = ["Evaluate", "Work", "notices"]
