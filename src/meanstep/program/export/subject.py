"""What is exported, read off a trained model. The only file of the export that knows runs, their data and their autoencoders."""

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from meanstep.program.at_scale import AtScale
from meanstep.program.console import UserError, err, say
from meanstep.program.data.codecs import CODECS, check_same
from meanstep.program.export import told
from meanstep.program.export.decoders import decoder
from meanstep.program.export.modules import STEPS, Asked, Begun, Guided, Pictures, Plain, Several, Step, Told, Whole, named
from meanstep.program.export.stated import stated
from meanstep.program.registry import SAMPLERS
from meanstep.program.runs.saved import Saved, held, located
from meanstep.program.sampling import conditions, draw
from meanstep.program.sampling.model import Model, load
from meanstep.samplers import grid, noise
from meanstep.shapes import tree_map
from meanstep.velocities import at_scale

PICTURES, LINES, POINTS = "pictures", "lines", "points"
"""How what a network makes is looked at."""


def looked(shape: Sequence[int]) -> str:
    """How rows of numbers of this shape are looked at: of one or two numbers, a line would have no length."""
    return POINTS if tuple(shape) in ((1,), (2,)) else LINES


@dataclass(frozen=True)
class Choice:
    """What is baked into an export. `labels`: the classes that are offered, all that have data if None; one is always meant then.

    `guidance`: None is 1, or an input where the network takes its scale as one.
    """

    steps: int = 1
    guidance: float | None = None
    labels: tuple[int, ...] | None = None
    decode: bool = True
    half: bool = False
    batch: int = 0
    field: bool = False


@dataclass(frozen=True, eq=False)
class Subject:
    """A generator that can leave. `net`: the network in float32; `sampler`: the function, and its `way` by name; `shape`: of one event;
    `classes`: names of its labels; `among`: those offered; `decode`: from what the network makes to what is wanted, under the names
    `outputs`; `view`: how that is looked at; `facts`: what a card says of it; `run`: its folder; `saved`: its checkpoint;
    `decoder`: where its autoencoder is, as `meanstep cache` names it, empty for none; `condition`: rows of a tree of tensors that the
    network takes in place of labels, None if it takes none; `told`: how a run's network is told conditions, in units of the data; `start`:
    rows of the data where the flow starts, in place of noise, and the name of that input; `begin`: what the network sees of them; `scales`:
    the least and the largest guidance scale, where that is an input; `guided`: whether the network knows its field without a condition;
    `drawn`: whether a seed draws the label here that it draws for `meanstep sample`.
    """

    name: str
    net: nn.Module
    sampler: Callable[..., Tensor]
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    among: tuple[int, ...]
    choice: Choice
    decode: nn.Module
    outputs: tuple[str, ...]
    view: str
    facts: dict[str, Any]
    run: Path | None = None
    saved: Saved | None = None
    decoder: str = ""
    condition: Any = None
    told: Told | None = None
    start: tuple[str, Tensor] | None = None
    begin: Begun | None = None
    scales: tuple[float, ...] = ()
    guided: bool = False
    drawn: bool = True

    @property
    def label(self) -> int | None:
        """The label that is always meant, None if it is an input, or there are none."""
        return self.among[0] if len(self.among) == 1 else None

    @property
    def labelled(self) -> bool:
        """Whether a label is an input."""
        return len(self.among) > 1

    @property
    def every(self) -> bool:
        """Whether all labels are offered, in their order."""
        return self.among == tuple(range(len(self.classes)))

    @property
    def field(self) -> nn.Module:
        """The velocity at the choice's guidance, and of the label or the conditions that are always meant."""
        if self.scales:
            return Asked(self.net, self.label).eval()
        return self.told.eval() if self.told else Guided(self.net, self.guidance, len(self.classes), self.label).eval()

    @property
    def guidance(self) -> float:
        """The scale of classifier-free guidance outside the network."""
        return 1.0 if self.choice.guidance is None else self.choice.guidance

    def whole(self) -> nn.Module:
        """Noise, and labels or the parts of a condition, to what is wanted, as one module."""
        return self.apart(Whole(self.field, self.sampler, grid(self.choice.steps), self.decode, self.begin).eval())

    def apart(self, net: nn.Module) -> nn.Module:
        """A module whose last argument is a tree, with its parts as arguments; itself if it is not."""
        return Several(net, self.rows([0])).eval() if self.several else net

    @property
    def several(self) -> bool:
        """Whether what is an input beside the noise is a tree of tensors."""
        return self.condition is not None or bool(self.scales)

    def given(self, seeds: Sequence[int]) -> dict[str, Tensor]:
        """What is an input beside the noise, by name: labels, or the rows of the condition's parts in turn."""
        y = self.labels(seeds)
        return named(self.rows(seeds)) if y is None or self.scales else {"label": y}

    def rows(self, seeds: Sequence[int]) -> Any:
        """Rows of the condition in turn, or labels and scales, as a tree; None if there is none."""
        if self.scales:
            low, high = self.scales
            y, scale = self.labels(seeds), low + (high - low) * torch.tensor([seed % 7 / 6 for seed in seeds])
            return {"guidance": scale} if y is None else {"label": y, "guidance": scale}
        return None if self.condition is None else tree_map(lambda part: part[torch.tensor(seeds) % len(part)], self.condition)

    def step(self, target: str) -> nn.Module:
        """One step as a module; `UserError` for a sampler that is more than that."""
        if self.sampler not in STEPS:
            way = self.facts["sampler"]
            raise UserError(f"--to {target} takes steps one by one, and the sampler {way} does not work so: --to onnx or --to torch can")
        return Step(self.field, self.sampler).eval()

    def labels(self, seeds: Sequence[int]) -> Tensor | None:
        """The labels of these seeds, drawn from those offered as `meanstep sample` draws them; None if they are no input."""
        return draw.drawn_labels(seeds, self.among) if self.labelled else None

    def noise(self, seeds: Sequence[int]) -> Tensor:
        """The first input of these seeds: noise `[N, *shape]`, or where the flow starts, rows of the data in turn."""
        return noise(seeds, self.shape) if self.start is None else self.start[1][torch.tensor(seeds) % len(self.start[1])]

    @property
    def first(self) -> str:
        """The name of the first input."""
        return "noise" if self.start is None else self.start[0]

    def seen(self, seeds: Sequence[int]) -> Tensor:
        """The first input of these seeds as the network sees it."""
        return self.noise(seeds) if self.begin is None else self.begin(self.noise(seeds))

    @torch.no_grad()
    def reference(self, seeds: Sequence[int], steps: int | None = None) -> tuple[Tensor, ...]:
        """What PyTorch makes of these seeds, by the path that `meanstep sample` takes."""
        drawn = self.labels(seeds) if self.labelled else None if self.label is None else torch.full((len(seeds),), self.label)
        if self.condition is not None and self.told is None:
            z, times = self.noise(seeds), grid(steps or self.choice.steps)
            return self.decode(self.sampler(self.net, z, times=times, y=self.rows(seeds)))
        null = len(self.classes) if self.told is None else self.told.null
        known = at_scale(drawn, self.rows(seeds)["guidance"], trained=None) if self.scales and drawn is not None else drawn
        asked: dict[str, Any] = {"labels": known, "guidance": self.guidance, "null": null, "batch": max(1, len(seeds))}
        if self.told is not None:
            asked |= {"labels": self.told.tree(self.rows(seeds), len(seeds)), "start": self.seen(seeds) if self.start else None}
        found = draw.latents(self.net, self.shape, seeds, steps=steps or self.choice.steps, sampler=self.sampler, **asked)
        return self.decode(found)

    def rounded(self, decoder: bool = True) -> "Subject":
        """The same with weights that half precision can hold, those of the decoder too; `UserError` for one too large for it."""
        net = _rounded(self.net)
        told = None if self.told is None else self.told.around(net)
        return replace(self, net=net, told=told, decode=_rounded(self.decode) if decoder else self.decode)


def _rounded(module: nn.Module) -> nn.Module:
    """A copy whose parameters are rounded; what it holds beside them is not, and is stored as it is."""
    copied = copy.deepcopy(module)
    for name, value in copied.named_parameters():
        if value.numel() and (most := float(value.detach().abs().max())) > 65_504:
            raise UserError(f"--half: {name} has an entry of {most:.3g}, more than half precision holds: leave it out")
        value.data = value.data.half().to(value.dtype)
    return copied


def of(
    source: str | os.PathLike[str] | Model, choice: Choice, *, target: str, checkpoint: int | str = "", condition: Any = None, **loaded: Any
) -> Subject:
    """The generator of a run's folder, or of a loaded model. `checkpoint`: empty for the last one of a run that is finished.

    `condition`: those that are always meant, by name and in units of the data; the others become inputs. `loaded`: further arguments of
    `meanstep.load`. `UserError` for a run that is not finished, labels or conditions that do not exist, guidance without them, rows of
    different lengths, a target that has no inputs for conditions, or a sampler that draws noise on its way. Guidance by what was never
    trained is said in a line.
    """
    run, saved = (None, None) if isinstance(source, Model) else located(Path(source).expanduser(), checkpoint or "last")
    if run and saved and not checkpoint:
        _check_finished(run, saved)
    model = source if isinstance(source, Model) else load(source, checkpoint=checkpoint or "last", **loaded)
    fixed = conditions.fixed(condition, model.needed, model.shape) if model.needed else {}
    if model.needed:
        told.refused(model, target, fixed)
    elif condition:
        raise UserError("--condition: this model was trained without conditions" + (": --labels chooses classes" if model.classes else ""))
    if draw.asks(model.sampler, "fresh"):
        others = ", ".join(name for name, e in SAMPLERS.items() if name != model.sampler and e.facts["reads"] == model.facts.learns)
        raise UserError(f"--to {target}: the sampler {model.sampler} draws noise on its way, which an export cannot: --sampler {others}")
    if model.facts.scales and target in ("diffusers", "hub"):
        raise UserError(f"--to {target}: the network takes its guidance scale as an input, which {target} has not: --to onnx, torch or web")
    scales = model.facts.scales if choice.guidance is None and not model.needed else ()
    if model.facts.scales and choice.guidance is None and not scales:
        low, high = model.facts.scales
        raise UserError(f"--guidance: beside conditions by name the scale is no input of an export: give one from {low:g} to {high:g}")
    choice = choice if scales else replace(choice, guidance=1.0 if choice.guidance is None else choice.guidance)
    among, scale = _offered(model, choice), 1.0 if choice.guidance is None else choice.guidance
    if why := model.untaught(scale):
        say(why, on=err)
    decode, outputs, view = _decoding(model, choice)
    name = run.resolve().name if run else "model"
    net, facts = copy.deepcopy(model.field).float().cpu().eval(), stated(model, choice, among, fixed)
    if choice.guidance is not None and model.facts.scales:
        net, choice = AtScale(net, choice.guidance).eval(), replace(choice, guidance=1.0)
    more = told.beside(model, net, scale, fixed) if model.needed else {}
    facts |= {"scales": list(scales), "inputs": ", ".join(["noise", *(["label"] if len(among) > 1 else []), "guidance"])} if scales else {}
    facts |= {"inputs": ", ".join([more["start"][0] if "start" in more else "noise", *(more["condition"] or ())])} if more else {}
    return Subject(
        name=name,
        net=net,
        sampler=draw.named(model.sampler),
        shape=model.shape,
        classes=model.classes,
        among=among,
        choice=choice,
        decode=decode,
        outputs=outputs,
        view=view,
        facts=facts,
        run=run,
        saved=saved,
        decoder=model.autoencoder.spec if model.manifest.codec == "latents" else "",
        scales=scales,
        drawn=among == tuple(model.shown),
        guided=not model.facts.unguided(model.classes, model.given),
        **more,
    )


def _check_finished(run: Path, saved: Saved) -> None:
    config = held(run)
    seen = int(saved.about["seen"])
    if config and seen < config.run.samples and saved.path != run:
        go_on = f"`meanstep train --out {run}` goes on, and --checkpoint {seen} exports it as it is"
        raise UserError(f"{run} is not finished: it stands at {seen:,} of {config.run.samples:,} samples; {go_on}")


def _offered(model: Model, choice: Choice) -> tuple[int, ...]:
    """The labels that the export offers."""
    if not model.classes and choice.labels is not None:
        raise UserError("--labels: this model was trained without labels")
    if choice.guidance is not None and (why := model.facts.refused(choice.guidance, model.classes, model.given)):
        raise UserError(f"--guidance: {why}")
    if not model.classes:
        return ()
    wrong = [k for k in choice.labels or () if not 0 <= k < len(model.classes)]
    if wrong:
        raise UserError(f"--labels: there are {len(model.classes)} classes, 0 to {len(model.classes) - 1}, got {wrong[0]}")
    return tuple(dict.fromkeys(choice.labels)) if choice.labels else tuple(model.shown)


def _decoding(model: Model, choice: Choice) -> tuple[nn.Module, tuple[str, ...], str]:
    """From what the network makes to what is wanted, and the names of that."""
    manifest, encoded = model.manifest, model.manifest.codec == "latents"
    if not encoded and not choice.decode:
        raise UserError("--no-decode leaves latents as they are, and this run was trained without an autoencoder: leave it out")
    mean, std = manifest.moments(torch.zeros(1))
    if encoded and not choice.decode:
        return Plain(torch.zeros_like(mean), torch.ones_like(std)), ("latents",), LINES
    if not CODECS[manifest.codec].pictures:
        return Plain(mean, std).eval(), ("values",), looked(model.shape)
    check_same(manifest, model.autoencoder)
    inner = decoder(model.autoencoder.spec) if encoded else None
    pictures = Pictures(mean, std, inner, model.autoencoder.scaling, model.autoencoder.shift, manifest.image[0])
    return pictures.eval(), ("values", "images"), PICTURES
