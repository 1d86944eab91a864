"""`meanstep couple`: pairs of noise and samples of a trained run, which `meanstep train` reads (reflow). `couples` makes them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from meanstep.program import flags
from meanstep.program.console import UserError, stage, takes_json
from meanstep.program.flags import CHECKPOINT, Autoencoder, Device, Json, Network, hinted, unset
from meanstep.program.ranges import Amount, Count, Ranged, Rows
from meanstep.program.runs.saved import chosen, located
from meanstep.program.runs.spared import check_spared


@dataclass(frozen=True)
class Couple(Ranged):
    """Write noise and samples of a trained model as pairs to train on: rectified couplings, arXiv 2511.23342. docs/couplings.md says more.

    Examples: meanstep couple runs/flow --out pairs.npz; meanstep train --out runs/one --data.source pairs.npz --method.coupling
    pairs:pairs.npz --method.recipe rectified_meanflow
    """

    folder: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(name="run", metavar="RUN")]]
    """A run's folder, or one of its checkpoints."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("pairs.npz")
    """Where results go, an .npz: `images` uint8 or `x` float32 as `meanstep sample` has them, `labels`, `classes`, `noise`, `seeds`."""
    pairs: Count = 10_000
    """Pairs to make: of the seeds from 0."""
    steps: Annotated[int, tyro.conf.arg(metavar="N from 1 to 100000")] = 32
    """Steps of the sampler."""
    longest: Annotated[float, unset("keep all", "FLOAT from 0", "0")] = 0.0
    """Leave out pairs whose mean squared distance, as the network sees them, is this or more; the source has 0.87 in its latents."""
    guidance: Amount = 1.0
    """Scale of classifier-free guidance at sampling time; 1 is the conditional model."""
    average: Annotated[str | None, hinted("Which average of the weights: its name, or raw for none.", "the run's first", "NAME")] = None
    checkpoint: Annotated[str, tyro.conf.arg(metavar="CHECKPOINT", help=f"Which checkpoint: {CHECKPOINT}.")] = "last"
    chunk: Rows = 64
    """Rows of one pass of the network."""
    device: Device = "auto"
    network: Network = None
    autoencoder: Autoencoder = None
    json: Json = None

    def run(self) -> int:
        """Make the pairs and write them. Exit code 0."""
        path = flags.file(self.out)
        if path.suffix.lower() != ".npz":
            raise UserError(f"--out: a name that ends in .npz, got {self.out}")
        if not 1 <= self.steps <= 100_000:
            raise UserError(f"--steps: from 1 to 100000, got {self.steps}")
        flags.device(self.device)
        flags.factory(self.network)
        takes_json(self.json)
        run, saved = located(self.folder.expanduser(), self.checkpoint)
        chosen(saved, self.average)
        check_spared(path, run)
        with stage("importing PyTorch"):
            from meanstep.program.sampling import couples
        couples.coupled(self, path)
        return 0
