"""A trained model: `ms.load("runs/digits").sample(16)`."""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from meanstep import paths
from meanstep.program import methods, registry
from meanstep.program.console import UserError
from meanstep.program.data import Autoencoder, Manifest, decoded
from meanstep.program.data.beside import Condition
from meanstep.program.data.codecs import padded, seen
from meanstep.program.data.columns import table
from meanstep.program.data.ragged import filled
from meanstep.program.registry import AVERAGE, INDEPENDENT, INSTANTANEOUS, PATHS, SAMPLERS, default_sampler
from meanstep.program.runs import networks
from meanstep.program.runs.decoder import decoder
from meanstep.program.runs.facts import Facts, known
from meanstep.program.runs.restored import put
from meanstep.program.runs.saved import chosen, located
from meanstep.program.runs.saved import manifest as described
from meanstep.program.sampling import conditions, draw
from meanstep.velocities import at_scale

Labels = int | Sequence[int] | Tensor | Mapping[str, Tensor] | None
"""What samples are asked for: one label or one each, or other conditions by name."""


@dataclass(frozen=True, eq=False)
class Model:
    """A network with the weights of a checkpoint, in eval mode; `manifest`: what it was trained on; `seen`: samples it had seen.

    `conditional`: whether the network takes labels or other conditions; `held`: those of some rows of the data, by name; `facts`: what its
    method taught it; `sampler`: the name of the one that is used. The network has the type of the checkpoint, float32, or float64 of a run
    of `--precision float64`.
    """

    field: nn.Module
    manifest: Manifest
    autoencoder: Autoencoder
    seen: int
    average: str
    device: torch.device
    conditional: bool
    facts: Facts
    sampler: str
    held: conditions.Stored = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        sides, given = "x".join(map(str, self.shape)), ", ".join(self.given) or (f"{len(self.classes)} labels" if self.classes else "")
        made = f"{type(self.field).__name__}, {sum(p.numel() for p in self.field.parameters()):,} parameters"
        what = f"rows of {sides}{f', given {given}' if given else ''}, weights {self.average} after {self.seen:,} samples"
        return f"Model({made}: {what}, on {self.device})"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a row as the network makes it."""
        return self.manifest.shape

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels that the network takes, none if it takes none."""
        return self.manifest.classes if self.conditional else ()

    @property
    def given(self) -> dict[str, int | list[int]]:
        """The conditions beside labels that the network takes: numbers of categories or shapes, by name."""
        return self.manifest.given if self.conditional else {}

    @property
    def needed(self) -> tuple[Condition, ...]:
        """What samples are made with beside labels: conditions, the lengths of rows, and where the flow starts."""
        return self.manifest.beside if self.given else self.manifest.needed

    @property
    def null(self) -> Any:
        """What stands for a hidden condition; None for a model that was trained without one."""
        return networks.null(len(self.classes), self.given, self.facts.numbers) if self.facts.dropout else None

    @property
    def shown(self) -> tuple[int, ...]:
        """Labels of which the data held rows: all where the run does not say."""
        return self.manifest.shown if self.conditional else ()

    def latents(
        self,
        seeds: int | Sequence[int],
        steps: int | Sequence[float] = 1,
        labels: Labels = None,
        guidance: float = 1.0,
        batch: int = 64,
    ) -> Tensor:
        """What the network makes, float32 `[N, *E]`, before decoding. Arguments as of `sample`."""
        chosen = range(seeds) if isinstance(seeds, int) else seeds
        y = self.labels(chosen, labels)
        told = y if not self.needed else self.manifest.tree(y) if self.given else None
        if why := self.facts.refused(guidance, self.classes, self.given):
            raise UserError(f"guidance {guidance:g}: {why}")
        if self.facts.scales and isinstance(told, Tensor):
            told, guidance = at_scale(told, guidance, trained=(self.facts.scales[0], self.facts.scales[1])), 1.0
        start, mask = self._start(y), self.mask(y)
        z = draw.latents(
            self.field,
            self.shape,
            chosen,
            steps=steps,
            labels=told,
            guidance=guidance,
            null=self.null,
            batch=batch,
            device=self.device,
            dtype=networks.dtype(self.field),
            sampler=draw.named(self.sampler),
            path=self._path(),
            start=start,
            mask=mask,
        )
        return z if mask is None else padded(z, mask, self.manifest)

    def _start(self, y: Any) -> Tensor | None:
        c = self.manifest.start
        return None if c is None else seen(y[c.name], self.manifest)

    def mask(self, y: Any) -> Tensor | None:
        """Bool `[N, *E]` of conditions in units of the data: where rows of their lengths are; None for a model of rows of one length."""
        c = self.manifest.length
        return None if c is None or c.along is None else filled(y[c.name], self.shape, c.along)

    def _path(self) -> paths.Path:
        """The path of the training, for the samplers that ask it; one that is not ours is not looked up."""
        return methods.path(self.facts.path) if self.facts.path in PATHS else paths.linear

    def sample(
        self,
        seeds: int | Sequence[int],
        steps: int | Sequence[float] = 1,
        labels: Labels = None,
        guidance: float = 1.0,
        batch: int = 64,
    ) -> Tensor:
        """Pictures uint8 `[N, 1 or 3, H, W]`, or rows float32 `[N, *E]` in units of the data, one for each seed (N: 0 to N - 1).

        `steps`: of the sampler, or a falling grid of times from 1 to 0; `labels`: one for all or one each, None draws them by the seed
        from the classes that have rows in the data; of a model with other conditions tensors by name in units of the data, `[N, ...]` or
        one for all, `model.sample(64, labels={"seen": seen})`, None draws those of rows of the data; `guidance`: 1 is the conditional
        model, see `samplers.guided`. `batch` changes nothing beyond rounding. `UserError` for labels that there are not. Warns of
        guidance by what was never trained.
        """
        if why := self.untaught(guidance):
            warnings.warn(why, stacklevel=2)
        return self.rows(seeds, steps, labels, guidance, batch)

    def untaught(self, guidance: float) -> str:
        """Why samples at this scale ask the network for what it was never taught; empty if they do not."""
        return f"guidance {guidance:g}: {why}" if guidance != 1 and (why := self.facts.untaught(self.sampler)) else ""

    @torch.no_grad()
    def rows(self, seeds: int | Sequence[int], steps: int | Sequence[float], labels: Labels, guidance: float, batch: int) -> Tensor:
        """As `sample`, whose arguments these are, without a warning."""
        z = self.latents(seeds, steps, labels, guidance, batch)
        if bad := int((~z.isfinite()).flatten(1).any(1).sum()):
            raise UserError(
                f"{bad} of the {len(z)} samples are not finite: the weights {self.average} after {self.seen:,} samples are no good"
            )
        return self.decode(z, batch)

    def decode(self, z: Tensor, batch: int = 64) -> Tensor:
        """Rows in units of the data, pictures or numbers, of what the network makes."""
        return decoded(z, self.manifest, self.autoencoder, batch)

    def table(self, rows: Tensor, labels: Labels = None) -> dict[str, np.ndarray]:
        """Rows in units of the data as the columns that the table had, by name: texts, whole numbers as int64, other numbers as float64.

        `labels`: what the samples were given, whose columns are then among them. `UserError` for data that were no table.
        """
        if not self.manifest.columns:
            raise UserError("this model's data were no table of columns: its samples are arrays")
        return table(self.manifest.columns, rows.numpy(), conditions.told(labels, self.manifest))

    def labels(self, seeds: Sequence[int], labels: Labels = None) -> Any:
        """The labels of samples of these seeds, int64 `[len(seeds)]`: those given, else drawn from the classes that have images.

        None for a model without labels; other conditions by name, in units of the data. `UserError` for labels that there are not.
        """
        if self.needed:
            if labels is not None:
                return conditions.checked(labels, self.needed, self.shape, len(seeds))
            return {c.name: conditions.drawn(seeds, self.held, {})[c.name] for c in self.needed}
        if not self.conditional:
            if labels is not None:
                raise UserError("this model was trained without labels and cannot be asked for one")
            return None
        count = len(self.classes)
        if labels is None:
            return draw.drawn_labels(seeds, self.shown)
        y = torch.as_tensor(labels, dtype=torch.int64).expand(len(seeds)) if isinstance(labels, int) else torch.as_tensor(labels)
        if tuple(y.shape) != (len(seeds),):
            raise UserError(f"labels: one for all, or one for each of the {len(seeds)} seeds, got shape {tuple(y.shape)}")
        if len(y) and not 0 <= int(y.min()) <= int(y.max()) < count:
            raise UserError(f"labels lie in 0 to {count - 1}, got {int(y.min())} to {int(y.max())}")
        return y


def own(run: Any) -> nn.Module | None:
    """The network that a `Run` holds, None of anything else."""
    found = None if isinstance(run, nn.Module) else getattr(run, "net", None)
    return found if isinstance(found, nn.Module) else None


def load(
    path: "str | os.PathLike[str]",
    *,
    average: str | None = None,
    checkpoint: int | str = "last",
    device: torch.device | str = "cpu",
    autoencoder: str | None = None,
    sampler: str | None = None,
    network: str | None = None,
    net: nn.Module | None = None,
) -> Model:
    """The model of a run's folder (its checkpoint "last", "best", or the one that had seen so many samples), of a checkpoint's folder, of a
    `Run`, or of "hub:owner/name[@revision]".

    `average`: an average's name, "raw" for the weights themselves, None for the run's first average; `autoencoder`: where it is, if it is
    not in the folder: what the folder names outside is not opened, and nothing is fetched for it; `sampler`: of `meanstep.samplers` or
    your own `package.module:function`, None takes the first that reads what the recipe taught. `UserError` for a folder that holds no
    model, or a damaged one. A network that is not ours is made by calling the function that the checkpoint's network.json names, which
    `network` must allow by that name, `package.module:factory`. One that `meanstep.train` was given as an object is given again as
    `net`, which is copied, or built by the function `network`; a `Run` of it holds it.
    """
    run, saved = located(Path(path).expanduser(), checkpoint)
    manifest = saved.of(described(run))
    name = chosen(saved, average)
    given = net if net is not None or network else own(path)
    made_net = networks.made(saved.description, allowed=network or "", net=given)
    put(made_net, saved.tensors("model" if name == "raw" else f"ema_{name}"), saved.path)
    here = torch.device(device)
    made = decoder(run, manifest, here, autoencoder)
    facts = known(run)
    way = sampler or default_sampler(facts.learns)
    check_sampler(way, facts)
    takes = networks.conditional(saved.description)
    held = conditions.rows(run, manifest) if takes or manifest.needed else {}
    return Model(
        made_net.requires_grad_(False).eval().to(here), manifest, made, int(saved.about["seen"]), name, here, takes, facts, way, held
    )


def check_sampler(name: str, facts: Facts) -> None:
    """`UserError` for a sampler that there is not, or that cannot read what the method taught."""
    registry.check_sampler(name, facts.learns)
    if not callable(found := draw.named(name)):
        raise UserError(f"--sampler {name} is no function (field, z, times, y) but {found!r:.60}")
    if name not in SAMPLERS and facts.learns == INSTANTANEOUS and getattr(found, "facts", {}).get("reads") == AVERAGE:
        raise UserError(f"--sampler {name} jumps by the average velocity, and this field knows the instantaneous one only")
    if facts.coupling != INDEPENDENT and draw.asks(name, "fresh"):
        raise UserError(f"--sampler {name} mixes in fresh noise, and this run was trained under the coupling {facts.coupling}")
    if facts.path not in PATHS and draw.asks(name, "path"):
        raise UserError(
            f"--sampler {name} asks for the path {facts.path}, code that is not ours: sample from Python, samplers.{name}(path=)"
        )
