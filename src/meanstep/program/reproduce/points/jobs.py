"""One unit of work: train and measure every model of one set and seed, from where an earlier run stopped. Knows no processes.

On a GPU a unit holds several sets and seeds of one dimension, trained as one ensemble.
"""

import contextlib
import functools
import io
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from meanstep.coefficients import binned
from meanstep.fields.flat import Runner, Shape
from meanstep.fields.planar import PLANAR, gaussian_mixture
from meanstep.keys import key
from meanstep.program.disk import append, write
from meanstep.program.disk import folder as subfolder
from meanstep.program.reproduce.points.draws import BLOCK, Block, Needs, Stream, stack
from meanstep.program.reproduce.points.measure import Judge, Probe, exact_beta, exact_map, probe_rows
from meanstep.program.reproduce.points.points import Points, load
from meanstep.program.reproduce.points.records import Record
from meanstep.program.reproduce.points.settings import Settings, Spec, mixture_dimension
from meanstep.program.reproduce.points.train import Cohort, structure

GLANCES = 8
"""Points of a training curve."""
MEASURING = 250
"""What measuring one model costs, in plain training steps: for the remaining time only."""
SAVE_EVERY = 20.0
"""Seconds between states on disk."""
Tell = Callable[..., bool]


def cost(spec: Spec) -> float:
    """What a step of a model costs, in steps of plain MeanFlow: for the remaining time only."""
    return 5.0 if not spec.by_hand else 2.0 if spec.anchor else 1.0


class Stopped(Exception):
    """The user asked to stop; the state is on disk."""


@dataclass(frozen=True)
class Job:
    """Models of these `(set, seed)` pairs, all of one dimension; with `models` false only the sets' own records."""

    pairs: tuple[tuple[str, int], ...]
    models: bool = True

    @property
    def name(self) -> str:
        """For files and messages."""
        (data, seed), more = self.pairs[0], len(self.pairs) - 1
        return f"{data}-{seed}" + (f"-and-{more}" if more else "")


def law_of(name: str, settings: Settings) -> Any:
    """The data of a set, in float32."""
    if name == "points":
        assert settings.points is not None
        return Points(load(Path(settings.points)))
    dim = mixture_dimension(name)
    return (gaussian_mixture(dim) if dim else PLANAR[name]()).to(torch.float32)


@functools.cache
def _law_map(name: str, rows: int) -> dict[str, Any]:
    dim = mixture_dimension(name)
    return exact_map(gaussian_mixture(dim) if dim else PLANAR[name](), 0, rows)


def describe(name: str, settings: Settings) -> Record:
    """The set's own record: what fresh data score against fresh data, and the exact law's noise."""
    started, law = time.perf_counter(), law_of(name, settings)
    judges = [Judge(Stream(law, name, -1 - k), settings) for k in range(8)]  # data that no model is compared with
    floors = [judge.floor() for judge in judges]
    return {
        "kind": "set",
        "set": name,
        "dim": law.dim,
        "regions": law.regions,
        "floor": {metric: [f[metric] for f in floors] for metric in ("sw1", "energy", "coverage")},
        "noise": {"sw1": [judge.start() for judge in judges]},
        "law": _law_map(name, settings.probe) if name != "points" else None,
        "seconds": round(time.perf_counter() - started, 2),
    }


def train(job: Job, settings: Settings, folder: Path, tell: Tell, device: str = "cpu") -> list[Record]:
    """The models' records. `tell("steps", n)` and `tell("glance", set, id, sw1)` report; `tell("stop?")` true raises `Stopped`."""
    work = _Work(job, settings, folder, tell, device)
    work.resume()
    work.run()
    return list(work.measure())


class _Work:
    def __init__(self, job: Job, settings: Settings, folder: Path, tell: Tell, device: str) -> None:
        self.settings, self.tell, self.device = settings, tell, device
        self.specs = settings.specs()
        self.needs = Needs.of(self.specs)
        laws = {name: law_of(name, settings) for name, _ in job.pairs}
        matrix = any(spec.matrix for spec in self.specs)
        betas = {name: binned(*exact_beta(_law_map(name, settings.probe))) if matrix else None for name in laws}
        self.streams = [Stream(laws[name], name, seed, betas[name], device) for name, seed in job.pairs]
        self.shape = Shape(self.streams[0].law.dim, settings.width, settings.depth)
        self.members = [(s, spec) for s in range(len(self.streams)) for spec in self.specs]
        self.cost = sum(cost(spec) for _, spec in self.members)
        self.groups = self._groups()
        self.cohorts = [self._cohort(group) for group in self.groups]
        self.judges = [Judge(stream, settings) for stream in self.streams]
        self.file = folder / "state" / f"{job.name}.safetensors"
        self.samples = folder / "samples"
        self.step, self.drawing, self.saved = 0, 0.0, time.perf_counter()
        self.sums = [torch.zeros(2, len(group)) for group in self.groups]
        self.kept: tuple[int, Block] | None = None
        self.curves: dict[str, dict[str, list[float]]] = {}
        self.glances = sorted({max(1, round(settings.steps * k / GLANCES)) for k in range(1, GLANCES + 1)})

    def _groups(self) -> list[list[int]]:
        """Which members train as one ensemble."""
        if not self.settings.ensemble:
            return [[i] for i in range(len(self.members))]
        found: dict[Any, list[int]] = {}
        for i, (_, spec) in enumerate(self.members):
            found.setdefault((structure(spec), None if spec.by_hand else i), []).append(i)
        return list(found.values())

    def _cohort(self, group: list[int]) -> Cohort:
        streams = [self.members[i][0] for i in group]
        # one draw of weights a set and seed, for all its models
        rows = [self.shape.initial(key(self.streams[s].seed, "weights", self.streams[s].name)) for s in streams]
        specs = [self.members[i][1] for i in group]
        return Cohort(self.shape, specs, torch.stack(rows).to(self.device), streams, self.settings)

    # Training -----------------------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """All steps from the present one."""
        while self.step < self.settings.steps:
            index = self.step // BLOCK
            stop = min((index + 1) * BLOCK, self.settings.steps, *(g for g in self.glances if g > self.step))
            began = time.perf_counter()
            block = self._block(index)
            self.drawing += time.perf_counter() - began
            for cohort, total in zip(self.cohorts, self.sums, strict=True):
                total += cohort.run(block, self.step, stop).to(total)
            self.tell("steps", (stop - self.step) * self.cost)
            self.step = stop
            if stop in self.glances:
                self._glance()
            self._pause()
        self.save()

    def _block(self, index: int) -> Block:
        """The block's draws; kept while a curve's point falls into it."""
        if self.kept is None or self.kept[0] != index:
            self.kept = index, stack([s.block(index, self.shape, self.settings, self.needs) for s in self.streams])
        return self.kept[1]

    def _glance(self) -> None:
        since = self.step - max([0, *(g for g in self.glances if g < self.step)])
        for cohort, total, group in zip(self.cohorts, self.sums, self.groups, strict=True):
            for k, i in enumerate(group):
                s, spec = self.members[i]
                curve = self.curves.setdefault(str(i), {name: [] for name in ("step", "sw1", "sw1_raw", "residual", "residual_gap")})
                values = [self.judges[s].glance(Runner(self.shape, flat[k : k + 1].detach().cpu())) for flat in (cohort.ema, cohort.flat)]
                for name, value in zip(curve, (self.step, *values, *(total[:, k] / since).tolist()), strict=True):
                    curve[name].append(value)
                self.tell("glance", self.streams[s].name, spec.id, values[0])
            total.zero_()

    # Stopping and resuming ----------------------------------------------------------------------------------------------------------

    def _pause(self) -> None:
        stop = self.tell("stop?")
        if stop or time.perf_counter() - self.saved > SAVE_EVERY:
            self.save()
            if stop:
                raise Stopped

    def save(self) -> None:
        """The state, aside and renamed: a crash leaves the one before."""
        from safetensors.torch import save

        tensors = {f"{i}.{name}": p.contiguous() for i, cohort in enumerate(self.cohorts) for name, p in cohort.state().items()}
        tensors |= {f"{i}.sums": total for i, total in enumerate(self.sums)}
        clock = [self.drawing, *(cohort.seconds for cohort in self.cohorts)]
        meta = {"step": str(self.step), "clock": json.dumps(clock), "curves": json.dumps(self.curves)}
        subfolder(self.file.parent)
        write(self.file, save({name: p.cpu() for name, p in tensors.items()}, meta))
        self.saved = time.perf_counter()

    def resume(self) -> None:
        """Continue from the state on disk, if there is one; a damaged one is as good as none: the same numbers come again."""
        from safetensors import SafetensorError, safe_open

        if not self.file.exists():
            return
        try:
            with safe_open(self.file, "pt") as found:
                meta, tensors = found.metadata(), {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118
        except (SafetensorError, OSError):
            return
        self.step, self.curves = int(meta["step"]), json.loads(meta["curves"])
        self.drawing, *clocks = json.loads(meta["clock"])
        for cohort, seconds in zip(self.cohorts, clocks, strict=True):
            cohort.seconds = seconds
        for i, (cohort, total) in enumerate(zip(self.cohorts, self.sums, strict=True)):
            cohort.restore({name.split(".")[1]: p for name, p in tensors.items() if name.split(".")[0] == str(i)}, self.step)
            total.copy_(tensors[f"{i}.sums"])
        self.tell("resumed", self.step * self.cost)

    # Measuring ----------------------------------------------------------------------------------------------------------------------

    def measure(self) -> Iterator[Record]:
        """One record a model, and the samples of the sweep's first seed."""
        probes = [Probe(probe_rows(s, self.shape, self.settings), self.shape, self.settings) for s in self.streams]
        kept: dict[int, dict[str, Tensor]] = {s: {"data": self.judges[s].data[:2000]} for s in range(len(self.streams))}
        before = {(r["set"], r["seed"], r["id"]): r for r in measured(self.file)}
        append(self.file.with_suffix(".jsonl"), "\n" if self.file.with_suffix(".jsonl").exists() else "")  # ends a line that a kill cut
        for cohort, group in zip(self.cohorts, self.groups, strict=True):
            for k, i in enumerate(group):
                if self.tell("stop?"):
                    raise Stopped
                began = time.perf_counter()
                s, spec = self.members[i]
                flat, ema, proxy = (p[k : k + 1].detach().cpu() for p in (cohort.flat, cohort.ema, cohort.proxy))
                if (held := before.get((self.streams[s].name, self.streams[s].seed, spec.id))) is not None:
                    yield held
                    kept[s][spec.id] = self.judges[s].samples(Runner(self.shape, ema))
                    self.tell("resumed", MEASURING)
                    continue
                record = self._record(i, (flat, ema), probes[s](flat, proxy) if spec.family else None)
                seconds = cohort.seconds / len(group) + self.drawing / len(self.members)
                clock = {"seconds": round(seconds, 3), "measuring": round(time.perf_counter() - began, 3)}
                record = finite(record | clock)
                append(self.file.with_suffix(".jsonl"), json.dumps(record) + "\n", sync=True)
                yield record
                kept[s][spec.id] = self.judges[s].samples(Runner(self.shape, ema))
                self.tell("steps", MEASURING)
        for s, arrays in kept.items():
            if self.streams[s].seed == self.settings.seeds[0]:
                self._keep(s, arrays)

    def _record(self, i: int, weights: tuple[Tensor, Tensor], probe: Record | None) -> Record:
        s, spec = self.members[i]
        steps = (1, 2, 4, 64) if spec.still else (1, 2, 4)
        raw = self.judges[s].scores(Runner(self.shape, weights[0]))
        ema = self.judges[s].scores(Runner(self.shape, weights[1]), steps)
        return {
            "kind": "model",
            "set": self.streams[s].name,
            "seed": self.streams[s].seed,
            "id": spec.id,
            "spec": vars(spec),
            "steps": self.settings.steps,
            "raw": raw,
            "ema": ema,
            "curve": self.curves[str(i)],
            "probe": probe,
        }

    def _keep(self, s: int, arrays: dict[str, Tensor]) -> None:
        file = io.BytesIO()
        np.savez_compressed(file, **{name: x.half().numpy() for name, x in arrays.items()})  # type: ignore[arg-type]
        subfolder(self.samples)
        write(self.samples / f"{self.streams[s].name}-{self.streams[s].seed}.npz", file.getvalue())


def measured(state: Path) -> list[Record]:
    """The models that were measured before a stop or a kill, of a job whose state is in that file; none of a line that was cut."""
    path, found = state.with_suffix(".jsonl"), []
    for line in path.read_bytes().split(b"\n") if state.exists() and path.is_file() else []:
        with contextlib.suppress(ValueError):
            found += [json.loads(line)] if line else []
    return found


def finite(x: Any) -> Any:
    """The same structure with null for every number that is not finite: a model that diverged, written as JSON."""
    if isinstance(x, dict):
        return {name: finite(value) for name, value in x.items()}
    if isinstance(x, (list, tuple)):
        return [finite(value) for value in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x
