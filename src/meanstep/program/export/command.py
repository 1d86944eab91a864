"""`meanstep export`: what is asked for, and whether that can be. `session` does it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from meanstep.program import flags
from meanstep.program.console import UserError, chat, put_json, stage, takes_json
from meanstep.program.errors import shown
from meanstep.program.export.targets import TARGETS, check_belongs, fresh, require
from meanstep.program.flags import CHECKPOINT, Autoencoder, Json, Network, hinted
from meanstep.program.ranges import Ranged, check, ranged
from meanstep.program.registry import SAMPLER_HELP, check_sampler
from meanstep.program.runs.saved import chosen, located, manifest
from meanstep.program.sampling.labels import position

if TYPE_CHECKING:
    from meanstep.program.data.manifest import Manifest
    from meanstep.program.sampling.conditions import Stored

TO = "What to make. " + "; ".join(f"{name}: {target.about}" for name, target in TARGETS.items()) + "."
LABELS = "Which classes: those to choose from, by name or number; a single one is fixed."
GUIDANCE = "Scale of classifier-free guidance at sampling time, in the export; 1 is the conditional model."
CONDITION = "Conditions: those that are always meant, by the name of a category, a number in units of the data, an .npy."
RUNTIME = "With web: onnxruntime-web's .tgz or folder, where npm cannot fetch it."


@dataclass(frozen=True)
class Export(Ranged):
    """Make a trained model into something that runs without this program; it is compared with PyTorch before it is written.

    Sampler, guidance and decoding are part of it. docs/export.md says what is in each folder, and how to use it.

    Examples: meanstep export runs/digits --to web --out page; meanstep export runs/digits --to onnx --steps 2 --out onnx
    """

    folder: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(name="run", metavar="RUN")]]
    """A run's folder, or one of its checkpoints."""
    to: Annotated[str, tyro.conf.arg(metavar="TARGET", help=TO)]
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Where results go: a new folder."""
    steps: Annotated[int, ranged("INT from 1 to 1000")] = 1
    """Steps of the sampler, in the export; the page also offers 1, 2 and 4."""
    guidance: Annotated[float | None, hinted(GUIDANCE, "1; of a run of --method.scales an input", "FLOAT from 0")] = None
    labels: Annotated[str | None, hinted(LABELS, "those that have data", "N,... | NAME,...")] = None
    condition: Annotated[tuple[str, ...], hinted(CONDITION, "all are inputs: of onnx and torch; a page has none", "[NAME=VALUE ...]")] = ()
    sampler: Annotated[str | None, hinted(SAMPLER_HELP, "the run's own", "NAME")] = None
    average: Annotated[str | None, hinted("Which average of the weights: its name, or raw for none.", "the run's first", "NAME")] = None
    checkpoint: Annotated[
        str | None, hinted(f"Which checkpoint: {CHECKPOINT}.", "the last one, of a run that is finished", "CHECKPOINT")
    ] = None
    half: bool = False
    """Store the weights in half precision; computation is in float32."""
    decode: bool = True
    """Decode latents to pictures in the export; otherwise it returns latents."""
    batch: Annotated[str, tyro.conf.arg(metavar="dynamic | N from 1 to 65536")] = "dynamic"
    """Rows at a time: dynamic for any number, or always N."""
    field: bool = False
    """With onnx: write the velocity u(z, r, t, y) as well, for samplers of your own."""
    runtime: Annotated[Path | None, hinted(RUNTIME, "fetched by its name, and kept", "FILE")] = None
    network: Network = None
    autoencoder: Autoencoder = None
    json: Json = None

    def run(self) -> int:
        """Export and write. Exit code 0."""
        given = self._checked()
        with stage("importing PyTorch"):
            from meanstep.program.export.session import export
        record = export(self.folder, to=self.to, out=self.out, **given)
        if not put_json(self.json, {"command": "export", "out": str(self.out)} | record):
            size = sum(record["files"].values())
            difference, bound = record["difference"]["largest"], record["difference"]["bound"]
            said = f"{size / 1e6:.1f} MB, largest difference to PyTorch {difference:.2g} of the spread (bound {bound:g})"
            chat.print(f"{self.out}: {said}", highlight=False, soft_wrap=True, markup=False)
        return 0

    def _checked(self) -> dict[str, Any]:
        """The arguments of `meanstep.export`; `UserError` for what can be known to fail."""
        require(self.to)
        fresh(flags.folder(self.out))
        flags.factory(self.network)
        flags.readable(self.runtime if self.runtime and not self.runtime.expanduser().is_dir() else None, "--runtime")
        takes_json(self.json)
        if self.batch != "dynamic":
            if not re.fullmatch("[0-9]{1,100}", self.batch):
                raise UserError(f"--batch: dynamic, or a number of rows, got {shown(self.batch)}")
            check(int(self.batch), int, "from 1 to 65536", "--batch")
        check_belongs(self.to, field=self.field, runtime=self.runtime)
        if self.sampler is not None:
            check_sampler(self.sampler)
        return self._of_run()

    def _of_run(self) -> dict[str, Any]:
        run, saved = located(self.folder.expanduser(), self.checkpoint or "last")
        chosen(saved, self.average)
        classes = manifest(run).classes if saved.description.get("options", {}).get("classes") else ()
        if self.labels is not None and not classes:
            raise UserError("--labels: this model was trained without labels")
        fixed = self._fixed(manifest(run), classes)
        labels = None if self.labels is None else [position(word, classes) for word in self.labels.split(",")]
        same = ("steps", "guidance", "sampler", "average", "half", "decode", "batch", "field", "runtime", "network", "autoencoder")
        return {name: getattr(self, name) for name in same} | {"labels": labels, "checkpoint": self.checkpoint or "", "condition": fixed}

    def _fixed(self, data: "Manifest", classes: tuple[str, ...]) -> "Stored | None":
        """The conditions that are always meant."""
        if not self.condition:
            return None
        if not data.beside:
            raise UserError("--condition: this model was trained without conditions" + (": --labels chooses classes" if classes else ""))
        with stage("importing PyTorch"):
            from meanstep.program.sampling.conditions import named
        return named(self.condition, data.beside, data.shape)
