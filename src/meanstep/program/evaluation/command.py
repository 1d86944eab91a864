"""The command `meanstep evaluate RUN`: what is asked for, and whether that can be. `session` does it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from meanstep.program import flags
from meanstep.program.console import UserError, stage, takes_json
from meanstep.program.evaluation import specs
from meanstep.program.flags import CHECKPOINT, Autoencoder, Device, Json, Network, hinted
from meanstep.program.ranges import Ranged, Seed, ranged
from meanstep.program.registry import METRICS, SAMPLER_HELP, check_sampler, described, unknown
from meanstep.program.runs.facts import known
from meanstep.program.runs.saved import Saved, averages, checkpoints

AVERAGE = "Which average of the weights: names, raw for none, all."
STEPS_HELP = "Steps of the sampler: evaluations of the network for each sample (twice as many with guidance)."
STEPS = "1, of a capped run also the fewest jumps within the cap; of rows that are no pictures 1 2 4 8 32"
METRICS_HINT = "frechet kid precision-recall density-coverage; of rows that are no pictures sliced energy density-coverage nearest"
METRICS_HELP = f"What is measured: {described(METRICS)}."


@dataclass(frozen=True)
class Evaluate(Ranged):
    """Measure how far a run's samples are from data: a table over checkpoints, averages, samplers, steps, guidance.

    All rows of the table use the same seeds. Rows that were computed before with the same settings are kept: you may interrupt it at any
    moment, and the same command continues. Only the Inception network of the published FID gives a FID; other distances are named
    FD-something. docs/evaluation.md says more.

    Examples: meanstep evaluate runs/digits --steps 1 2 4; meanstep evaluate runs/cifar --average all --extractor inception --count 50000;
    meanstep evaluate runs/latents --reference photographs/ --extractor efficientnet-lite0:efficientnet_lite0.safetensors
    """

    folder: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(name="run", metavar="RUN")]]
    """A run's folder, or one of its checkpoints."""
    checkpoint: Annotated[
        tuple[str, ...],
        tyro.conf.arg(metavar="CHECKPOINT ...", help=f"Which checkpoint: {CHECKPOINT}; several, or all, are lines of the table."),
    ] = ("last",)
    average: Annotated[tuple[str, ...], hinted(AVERAGE, "the run's first", "NAME ...")] = ()
    sampler: Annotated[tuple[str, ...], hinted(SAMPLER_HELP, "the run's own", "NAME ...")] = ()
    steps: Annotated[tuple[int, ...], hinted(STEPS_HELP, STEPS, "N from 1 to 100000 ...")] = ()
    guidance: Annotated[tuple[float, ...], tyro.conf.arg(metavar="SCALE from 0 ...")] = (1.0,)
    """Scale of classifier-free guidance at sampling time; 1 is the conditional model."""
    count: Annotated[int, ranged("INT from 2 to 100000000")] = 10_000
    """Samples: how many for each row of the table."""
    seed: Seed = 0
    """Seed of every draw: that of the first sample; the others count on from it."""
    class_shares: Literal["data", "uniform"] = "data"
    """How frequent classes are among the samples of a conditional model: as in the reference, or all alike."""
    extractor: Annotated[str | None, hinted(specs.HELP, "the run's own", "KIND")] = None
    metrics: Annotated[tuple[str, ...], hinted(METRICS_HELP, METRICS_HINT, "METRIC ...")] = ()
    reference: Annotated[str | None, hinted("Compare with these images.", "the run's training data", "CACHE | SOURCE")] = None
    split: str = "train"
    """Which part of the source, if it has several: train or test, any name on the hub; of a --reference that is a source."""
    reference_limit: Annotated[
        int | None, hinted("At most so many images of the reference: drawn at random, always the same.", "all", "N from 1")
    ] = None
    held_out: Annotated[
        str | None, hinted("Other real images, scored like samples: the floor.", "the source's test split", "CACHE | SOURCE")
    ] = None
    network: Network = None
    autoencoder: Autoencoder = None
    chunk: Annotated[int, tyro.conf.arg(metavar="N from 1 to 1048576")] = 64
    """Rows of one pass of the network: it changes memory and speed, nothing else beyond rounding."""
    device: Device = "auto"
    json: Json = None

    def run(self) -> int:
        """0 when the table is complete. `UserError` if there is nothing to evaluate, or nothing to compare with."""
        run, saved = self._checked()
        with stage("importing PyTorch"):
            from meanstep.program.evaluation import session
        session.show(session.evaluated(self, run, saved), self.json)
        return 0

    def _checked(self) -> tuple[Path, list[Saved]]:
        """The run and its checkpoints that are meant; `UserError` for what can be known to fail."""
        if not (self.guidance and self.checkpoint):
            raise UserError("give at least one of each: checkpoint, guidance")
        for metric in self.metrics:
            if metric not in METRICS:
                raise UserError(f"--metrics: {unknown('metric', metric, METRICS)}")
        flags.device(self.device)
        flags.factory(self.network)
        if self.extractor is not None:
            specs.checked(self.extractor)
        takes_json(self.json)
        run, saved = checkpoints(self.folder.expanduser(), self.checkpoint)
        for name in self.sampler:
            check_sampler(name, known(run).learns)
        for one in saved:
            averages(one, self.average)
        return run, saved
