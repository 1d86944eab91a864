"""`meanstep sample`: what is asked for, and whether that can be. `session` does it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from meanstep.program import flags
from meanstep.program.console import UserError, stage, takes_json
from meanstep.program.data.look import PREVIEW
from meanstep.program.flags import CHECKPOINT, Autoencoder, Device, Json, Network, Seeds, hinted
from meanstep.program.ranges import Amount, Ranged
from meanstep.program.registry import SAMPLER_HELP, check_sampler
from meanstep.program.runs.facts import known
from meanstep.program.runs.saved import chosen, located, manifest
from meanstep.program.sampling.labels import position

if TYPE_CHECKING:
    from meanstep.program.data.beside import Condition
    from meanstep.program.sampling.conditions import Stored

KINDS = (".png", ".npz", ".npy", ".csv", ".parquet", ".wav", ".jpg", ".jpeg", ".webp")
CONDITION = "Conditions: those that all samples get: the name of a category, a number in units of the data, an .npy; others are drawn."
LABELS = "Which classes: one, or several that are repeated over the seeds, by name or, if no class has that name, by number."


@dataclass(frozen=True)
class Sample(Ranged):
    """Make samples with a trained model: an image of them as PNG, or all of them as arrays in an .npz.

    The same seed makes the same sample, whatever else is sampled with it. docs/training.md says more.

    Examples: meanstep sample runs/digits; meanstep sample runs/digits --seeds 0:1000 --steps 2 --labels 3 --out threes.npz
    """

    folder: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(name="run", metavar="RUN")]]
    """A run's folder, or one of its checkpoints."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE | FOLDER")] = Path("samples.png")
    """Where results go: .png, .jpg or .webp a grid of pictures, lines or points; .npz for the arrays `images` uint8 [N, H, W, C], `seeds`,
    `labels` and `classes`; .npy for the first array. Rows of numbers are `x` float32 [N, ...], and a grid of them has an .npz beside it, of
    a table a .csv too, of sound a .wav; .csv and .parquet hold the table's columns. A name without an ending is a folder: a picture of
    all, and each picture or sound by its seed, in place of those of an earlier call; a folder of other files is refused."""
    seeds: Seeds = tuple(range(64))
    """Which seeds: 0:64 (without 64), 3,5,8 or 0:4,7."""
    count: Annotated[int | None, hinted("Samples: how many, of the seeds 0, 1, ...", "those of --seeds", "N from 1 to 1048576")] = None
    steps: Annotated[int, tyro.conf.arg(metavar="N from 1 to 100000")] = 1
    """Steps of the sampler: evaluations of the network for each sample (twice as many with guidance)."""
    labels: Annotated[
        str | None, hinted(LABELS, "drawn from those that have images, the same for a seed each time", "N,... | NAME,...")
    ] = None
    condition: Annotated[
        tuple[str, ...], hinted(CONDITION, "drawn with rows of the data, the same for a seed each time", "[NAME=VALUE ...]")
    ] = ()
    guidance: Amount = 1.0
    """Scale of classifier-free guidance at sampling time; 1 is the conditional model. Jumps extrapolate their ends, docs/conventions.md."""
    sampler: Annotated[str | None, hinted(SAMPLER_HELP, "the run's own", "NAME")] = None
    average: Annotated[str | None, hinted("Which average of the weights: its name, or raw for none.", "the run's first", "NAME")] = None
    checkpoint: Annotated[str, tyro.conf.arg(metavar="CHECKPOINT", help=f"Which checkpoint: {CHECKPOINT}.")] = "last"
    chunk: Annotated[int, tyro.conf.arg(metavar="N from 1 to 1048576")] = 64
    """Rows of one pass of the network: it changes memory and speed, nothing else beyond rounding."""
    columns: Annotated[int | None, hinted("Columns of the grid.", "as many as rows", "N from 1 to 65536")] = None
    preview: Annotated[str | None, hinted(PREVIEW, "as the data are", "KIND")] = None
    device: Device = "auto"
    network: Network = None
    autoencoder: Autoencoder = None
    json: Json = None

    def run(self) -> int:
        """Sample and write. Exit code 0."""
        path, labels, fixed = self._checked()
        with stage("importing PyTorch"):
            from meanstep.program.sampling import session
        session.sampled(self._counted(), path, labels, fixed)
        return 0

    def _counted(self) -> "Sample":
        """The same with the seeds that `--count` stands for."""
        if self.count is None:
            return self
        if self.seeds != Sample.seeds:
            raise UserError("--count and --seeds: the first counts seeds from 0 on, give one of the two")
        return replace(self, seeds=tuple(range(self.count)), count=None)

    def _checked(self) -> tuple[Path, list[int] | None, "Stored"]:
        """The file to write, the labels and the other conditions that are asked for; `UserError` for what can be known to fail."""
        path = flags.file(self.out) if self.out.suffix or self.out == Path() else flags.folder(self.out)
        if path.suffix.lower() not in ("", *KINDS):
            raise UserError(f"--out: a folder, or a name that ends in {', '.join(KINDS)}, got {self.out}")
        flags.device(self.device)
        flags.factory(self.network)
        if self.sampler is not None:
            check_sampler(self.sampler)
        takes_json(self.json)
        self._counted()
        run, saved = located(self.folder.expanduser(), self.checkpoint)
        chosen(saved, self.average)
        facts = known(run)
        if self.sampler:
            check_sampler(self.sampler, facts.learns)
        data, options = manifest(run), saved.description.get("options", {})
        classes, given = data.classes if options.get("classes") else (), saved.description.get("conditions") or {}
        if why := facts.refused(self.guidance, classes, given):
            raise UserError(f"--guidance: {why}")
        if not self.condition:
            return path, parsed_labels(self.labels, classes), {}
        taken = data.conditions if classes else data.beside if given else data.needed
        if not taken and not classes:
            raise UserError("--condition: this model was trained without conditions")
        fixed = _named(self.condition, taken, data.shape)
        if not classes:
            return path, parsed_labels(self.labels, classes), fixed
        if self.labels is not None:
            raise UserError("--labels and --condition: the labels are the condition, give one of the two")
        return path, [int(value) for value in fixed.values()], {}


def _named(words: tuple[str, ...], taken: "Sequence[Condition]", shape: tuple[int, ...]) -> "Stored":
    with stage("importing PyTorch"):
        from meanstep.program.sampling.conditions import named
    return named(words, taken, shape)


def parsed_labels(text: str | None, classes: tuple[str, ...]) -> list[int] | None:
    """Numbers of classes, given by name or number; None for those that the model draws."""
    if text is None:
        return None
    if not classes:
        raise UserError("--labels: this model was trained without labels")
    return [position(word, classes) for word in text.split(",")]
