"""Which real rows a run is compared with, and the floor: what fresh data would score."""

from dataclasses import dataclass, replace
from pathlib import Path

from meanstep.metrics import frechet
from meanstep.program.console import UserError, err, say
from meanstep.program.data import Autoencoder, Manifest, open_source
from meanstep.program.data.manifest import NAME
from meanstep.program.errors import naming
from meanstep.program.evaluation.examples import Examples, conditioned, examples, of_cache, of_source
from meanstep.program.evaluation.measures import Gathered, Values, gathering, measured
from meanstep.program.evaluation.references import Reference
from meanstep.program.runs import cached


@dataclass(frozen=True)
class RunData:
    """A run's own data: what its configuration and its data.json say."""

    run: Path
    manifest: Manifest
    autoencoder: Autoencoder

    @property
    def source(self) -> str:
        """The run's `--data.source`, or empty if it is not known."""
        return cached.source(self.run)

    @property
    def pair(self) -> str:
        """The run's `--data.pair`, or empty if there is none."""
        return cached.pair(self.run)

    def trained_on(self) -> Examples:
        """The rows of the training data; `UserError` if they cannot be found any more."""
        return of_cache(cached.cache(self.run, "give --reference"), self.autoencoder)

    def reference(self, spec: str, split: str, labelled: bool) -> Examples:
        """The rows that `spec` names, without their labels unless `labelled`; `UserError` if they do not fit."""
        return examples(spec, self.manifest, self.autoencoder, split, self.pair, labelled)

    def held_out(self, spec: str, reference: Examples, fewest: int) -> Examples | None:
        """Examples that the reference has not: those that `spec` names, else the test split of the run's source.

        None if there is no such split, or the reference is of it, or it would be fetched, or, which is said, it has fewer than `fewest`
        rows. `UserError` if `spec` names the reference, or so few.
        """
        if spec:
            with naming("--held-out"):
                named = self.reference(spec, "test" if _has_test(spec) else "train", labelled=False)
            if named.origin == reference.origin:
                raise UserError(f"--held-out {spec} holds the {named.noun} of the reference: give others, or leave it out")
            if len(named) < fewest:
                raise UserError(f"--held-out {spec}: {_few(named, fewest)}: give more, or leave it out")
            return named
        if cached.remote(self.source) or not _has_test(self.source):
            return None
        try:
            found = of_source(conditioned(self.source, self.manifest, "test", self.pair), self.manifest, "test", labelled=False)
        except UserError:
            return None
        if found.origin == reference.origin:
            return None
        if len(found) < fewest:
            say(f"{found.name}: {_few(found, fewest)}: the floor is that of halves of the reference", on=err)
            return None
        return found


def _few(found: Examples, fewest: int) -> str:
    return f"{len(found)} {found.noun}, and what is measured needs {fewest}"


def _has_test(spec: str) -> bool:
    if not spec or (Path(spec).expanduser() / NAME).exists():
        return False
    try:
        open_source(spec, "test")
    except UserError:
        return False
    return True


def floor(pool: Examples, count: int, against: Reference, metrics: tuple[str, ...], batch: int) -> Values:
    """What `count` rows that are not in the reference score, or as many as there are."""
    n = min(count, len(pool))
    found = gathering(against.extractor, n, metrics)
    for rows in pool.batches(batch, n):
        found.add(rows)
    return measured(found, against, metrics)


def halves(against: Reference, metrics: tuple[str, ...] = ()) -> Values:
    """One half of the reference against the other, drawn at random: the Frechet distance, biased as half as many rows are.

    Where sets of rows are compared with `among` rows of the reference, as many others against these, by the `metrics` too.
    """
    a, b = against.halves
    found: Values = {"count": a.n, "reference_count": b.n, "frechet": frechet(a, b), "blocks": 1}
    if not against.among:
        return found
    n, rest = against.among, tuple(metric for metric in metrics if metric != "frechet")
    others = Gathered.of(against.extractor, against.features[n : 2 * n])
    return found | measured(others, replace(against, features=against.features[:n]), rest) | {"count": n}
