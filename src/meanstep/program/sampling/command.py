"""`meanstep sample`."""

import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from meanstep.program.console import UserError, err, out, writable, write
from meanstep.program.machine import available
from meanstep.program.registry import SAMPLER_HELP
from meanstep.program.sampling import pictures
from meanstep.program.sampling.model import Model, load

KINDS = (".png", ".npz", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Sample:
    """Make pictures with a trained model: a grid as PNG, or all of them as arrays in an .npz.

    A sample is a seed: the same seed makes the same picture whatever else is sampled beside it.

    Examples: meanstep sample runs/digits; meanstep sample runs/digits --seeds 0:1000 --steps 2 --labels 3 --out threes.npz
    """

    folder: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(name="run", metavar="RUN")]]
    """A run's folder, or one of its checkpoints."""
    out: Path = Path("samples.png")
    """Where to: .png (or .jpg, .webp) a grid, .npz arrays `images` uint8 [N, H, W, C], `seeds` and `labels`."""
    seeds: Annotated[str, tyro.conf.arg(metavar="FIRST:END | N,N,...")] = "0:64"
    """Which samples: a range without its end, or a list."""
    steps: int = 1
    """Evaluations of the network for each sample (twice as many with guidance)."""
    labels: Annotated[str, tyro.conf.arg(metavar="N | N,N,... | NAME")] = ""
    """One class for all, or a list that is repeated over the seeds. Default: drawn, the same for a seed each time."""
    guidance: float = 1.0
    """Scale of classifier-free guidance at sampling time; 1 is the conditional model."""
    sampler: Annotated[str, tyro.conf.arg(help=SAMPLER_HELP, help_behavior_hint="(default: the run's own)")] = ""
    ema: str = ""
    """An average's name, or raw for the weights themselves. Default: the run's first average."""
    checkpoint: int = -1
    """Samples seen by the checkpoint. Default: the last one."""
    batch: int = 64
    """Samples at a time: it changes memory and speed, nothing else beyond rounding."""
    columns: int = 0
    """Of the grid. Default: as many as rows."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, mps."""
    network: str = ""
    """The function package.module:factory that may be called to make the network, if it is not one of ours."""
    autoencoder: str = ""
    """Where the autoencoder is now, if it is neither in the run's folder nor where it was."""

    def run(self) -> int:
        """Sample and write. Exit code 0."""
        path = writable(self.out)
        if path.suffix.lower() not in KINDS:
            raise UserError(f"--out: a name that ends in {', '.join(KINDS)}, got {self.out}")
        seeds = parsed_seeds(self.seeds)
        for name, value in {"steps": self.steps, "batch": self.batch, "columns": self.columns or 1}.items():
            if value < 1:
                raise UserError(f"--{name}: at least 1, got {value}")
        device = available(self.device)
        model = load(
            self.folder,
            ema=self.ema or None,
            checkpoint=self.checkpoint if self.checkpoint >= 0 else None,
            device=device,
            autoencoder=self.autoencoder or None,
            sampler=self.sampler or None,
            network=self.network,
        )
        labels = parsed_labels(self.labels, model, len(seeds))
        began = time.perf_counter()
        images = self._images(model, seeds, labels)
        seconds = time.perf_counter() - began
        _save(path, images, seeds, labels, self.columns or None)
        what = f"{len(seeds)} samples in {self.steps} step{'s' * (self.steps > 1)}, {len(seeds) / seconds:,.0f}/s"
        out.print(f"{path}: {what}, weights {model.average} after {model.seen:,} samples", highlight=False, soft_wrap=True, markup=False)
        return 0

    def _images(self, model: Model, seeds: list[int], labels: Tensor | None) -> Tensor:
        parts = []
        columns = (TextColumn("sampling"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=err, transient=True) as bar:
            task = bar.add_task("", total=len(seeds))
            for start in range(0, len(seeds), self.batch):
                piece = slice(start, start + self.batch)
                y = labels[piece] if labels is not None else None
                parts.append(model.sample(seeds[piece], self.steps, y, self.guidance, self.batch))
                bar.update(task, completed=start + len(parts[-1]))
        return torch.cat(parts)


def parsed_seeds(text: str) -> list[int]:
    """`0:64` or `3,5,8`; `UserError` for anything else."""
    try:
        if ":" in text:
            first, end = (int(part) for part in text.split(":"))
            found = list(range(first, end))
        else:
            found = [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds: a range such as 0:64 or a list such as 3,5,8, got {text!r}") from None
    if not found or min(found) < 0:
        raise UserError(f"--seeds: at least one, from 0 on, got {text!r}")
    return found


def parsed_labels(text: str, model: Model, count: int) -> Tensor | None:
    """A class's number or name, or a list of them that is repeated; None for those that the model draws."""
    if not text:
        return None
    if not model.conditional:
        raise UserError("--labels: this model was trained without labels")
    numbers = []
    for word in text.split(","):
        known = word in model.classes and not word.isdecimal()
        if not known and not word.strip().isdecimal():
            raise UserError(f"--labels: numbers in 0 to {len(model.classes) - 1} or names, got {word!r}; there are {_few(model.classes)}")
        numbers.append(model.classes.index(word) if known else int(word))
    return torch.tensor(numbers).repeat(count // len(numbers) + 1)[:count]


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:12]) + (" ..." if len(names) > 12 else "")


def _save(path: Path, images: Tensor, seeds: list[int], labels: Tensor | None, columns: int | None) -> None:
    if path.suffix.lower() != ".npz":
        pictures.save(path, pictures.grid(images, columns))
        return
    held: dict[str, Any] = {"images": images.permute(0, 2, 3, 1).numpy(), "seeds": np.array(seeds)}
    held |= {"labels": labels.numpy()} if labels is not None else {}
    box = io.BytesIO()
    np.savez_compressed(box, **held)
    write(path, box.getvalue())
