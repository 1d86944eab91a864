"""One unit of work: train and measure every model of one set and seed, from where an earlier run stopped.

On a GPU a unit holds several sets and seeds of one dimension, trained as one ensemble.
"""

import functools
import io
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from meanstep.coefficients import binned
from meanstep.fields.flat import Runner
from meanstep.keys import key
from meanstep.program import disk
from meanstep.program.console import first_line
from meanstep.program.reproduce.points import KIND, fused, near, state
from meanstep.program.reproduce.points.draws import Block, Needs, Stream, stack
from meanstep.program.reproduce.points.engine import Cohort, structure
from meanstep.program.reproduce.points.measure import Judge, Probe, exact_beta, exact_map, probe_rows
from meanstep.program.reproduce.points.protocols import protocol
from meanstep.program.reproduce.points.sets import exact
from meanstep.program.reproduce.points.settings import BLOCK, MEASURING, Settings
from meanstep.program.reproduce.records import Part, Record
from meanstep.program.reproduce.study import Stopped, Tell
from meanstep.times import fewest_jumps

GLANCES = 8
"""Points of a training curve."""
CURVE = ("step", "sw1", "sw1_raw", "residual", "residual_gap")
VARIANCES = 32
"""Most moments of the second half of training at which the variance of the gradient is measured, where batches measure it."""
SAVE_EVERY = 20.0
"""Seconds between states on disk."""


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


@functools.cache
def _law_map(name: str, rows: int) -> dict[str, Any]:
    return exact_map(exact(name), 0, rows)


def describe(name: str, settings: Settings) -> Record:
    """The set's own record: what fresh data score against fresh data, and the exact law's noise."""
    started, law = time.perf_counter(), protocol(settings).law(name, settings)
    judges = [Judge(Stream(law, name, -1 - k), settings) for k in range(8)]  # data that no model is compared with
    floors = [judge.floor() for judge in judges]
    return {
        "kind": "set",
        "set": name,
        "dim": law.dim,
        "regions": law.regions,
        "floor": {metric: [f[metric] for f in floors] for metric in ("sw1", "sw2", "energy", "coverage")},
        "noise": {"sw1": [judge.start() for judge in judges]},
        "law": _law_map(name, settings.probe) if settings.protocol == "ours" and name != "points" else None,
        "seconds": round(time.perf_counter() - started, 2),
    }


def train(job: Job, settings: Settings, folder: Path, tell: Tell, device: str = "cpu") -> list[Record]:
    """The models' records, from where the job's state is; `tell` as the engine has it."""
    work = _Work(job, settings, folder, tell, device)
    work.resume()
    work.run()
    return list(work.measure())


class _Work:
    def __init__(self, job: Job, settings: Settings, folder: Path, tell: Tell, device: str) -> None:
        self.settings, self.tell, self.device = settings, tell, device
        self.specs = settings.specs()
        self.needs = Needs.of(self.specs)
        self.protocol = protocol(settings)
        laws = {name: self.protocol.law(name, settings) for name, _ in job.pairs}
        matrix = any(spec.matrix for spec in self.specs)
        betas = {name: binned(*exact_beta(_law_map(name, settings.probe))) if matrix else None for name in laws}
        self.streams = [Stream(laws[name], name, seed, betas[name], device) for name, seed in job.pairs]
        self.shape = self.protocol.shape(self.streams[0].law.dim, settings.width, settings.depth)
        self.members = [(s, spec) for s in range(len(self.streams)) for spec in self.specs]
        self.cost = sum(spec.cost for _, spec in self.members)
        self.groups = self._groups()
        self.cohorts = [self._cohort(group) for group in self.groups]
        self.judges = [Judge(stream, settings) for stream in self.streams]
        self.file = folder / "state" / f"{job.name}.safetensors"
        self.samples = folder / "samples"
        self.step, self.drawing, self.saved = 0, 0.0, time.perf_counter()
        self.compiled = settings.steps >= fused.FEWEST and not settings.ensemble and device == "cpu"
        self.sums = [torch.zeros(2, len(group)) for group in self.groups]
        self.kept: tuple[int, Block] | None = None
        self.curves: dict[str, dict[str, list[float]]] = {}
        late = max(4, min(VARIANCES, settings.steps // 1000)) if self.protocol.replicates else 0
        self.variances = sorted({settings.steps // 2 + (settings.steps * (2 * k + 1)) // (4 * late) for k in range(late)})
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
        self._compile()
        while self.step < self.settings.steps:
            index = self.step // BLOCK
            stop = min((index + 1) * BLOCK, self.settings.steps, *(g for g in (*self.glances, *self.variances) if g > self.step))
            began = time.perf_counter()
            block = self._block(index)
            self.drawing += time.perf_counter() - began
            for cohort, total in zip(self.cohorts, self.sums, strict=True):
                total += cohort.run(block, self.step, stop).to(total)
            self.tell("steps", (stop - self.step) * self.cost)
            self.step = stop
            if stop in self.variances:
                self._vary()
            if stop in self.glances:
                self._glance()
            self._pause()
        self.save()

    def _compile(self) -> None:
        """Compiles the models' steps, where that pays; where it fails they train as they are written, and a line says so."""
        if not self.compiled or self.step >= self.settings.steps:
            return
        cohorts = [cohort for cohort in self.cohorts if cohort.specs[0].by_hand]
        turn = os.getpid() % max(1, len(cohorts))  # workers that begin together build other structures, and find the rest in the cache
        drawn = self.streams
        try:
            if self.needs.posterior and self.shape.dim <= near.MOST:
                made = fused.sums(self.settings, self.shape.dim)
                self.streams = [replace(stream, sums=made) for stream in drawn]
            for cohort in cohorts[turn:] + cohorts[:turn]:
                cohort.compile(self._block(self.step // BLOCK))
                self._pause()
        except RuntimeError as error:
            self.compiled, self.streams, self.kept = False, drawn, None
            for cohort in cohorts:
                cohort.fused = None
            self.tell("said", f"models train uncompiled, a quarter slower, with the same numbers to rounding: {first_line(error, 160)}")

    def _block(self, index: int) -> Block:
        """The block's draws; kept while a curve's point falls into it."""
        if self.kept is None or self.kept[0] != index:
            self.kept = index, stack([s.block(index, self.shape, self.settings, self.needs) for s in self.streams])
        return self.kept[1]

    def _vary(self) -> None:
        """The variance of a batch's gradient at the present weights, on draws that nothing trains on."""
        began = time.perf_counter()
        block = stack([s.block(self.step, self.shape, self.settings, self.needs, "variance") for s in self.streams])
        for cohort, group in zip(self.cohorts, self.groups, strict=True):
            for i, value in zip(group, cohort.variance(block).tolist(), strict=True):
                self._curve(i)["variance"].append(value)
        self.drawing += time.perf_counter() - began

    def _glance(self) -> None:
        since = self.step - max([0, *(g for g in self.glances if g < self.step)])
        for cohort, total, group in zip(self.cohorts, self.sums, self.groups, strict=True):
            for k, i in enumerate(group):
                s, spec = self.members[i]
                values = [self.judges[s].glance(Runner(self.shape, flat[k : k + 1].detach().cpu())) for flat in (cohort.ema, cohort.flat)]
                for name, value in zip(CURVE, (self.step, *values, *(total[:, k] / since).tolist()), strict=True):
                    self._curve(i)[name].append(value)
                self.tell("best", f"{self.streams[s].name}, sliced W1", spec.id, values[0])
            total.zero_()

    def _curve(self, i: int) -> dict[str, list[float]]:
        return self.curves.setdefault(str(i), {name: [] for name in (*CURVE, "variance")})

    # Stopping and resuming ----------------------------------------------------------------------------------------------------------

    def _pause(self) -> None:
        stop = self.tell("stop?")
        if stop or time.perf_counter() - self.saved > SAVE_EVERY:
            self.save()
            if stop:
                raise Stopped

    def save(self) -> None:
        """The state, for `resume`."""
        state.keep(
            self.file,
            self._tensors(),
            (self.step, self.curves, [self.drawing, *(cohort.seconds for cohort in self.cohorts)]),
            self.compiled,
        )
        self.saved = time.perf_counter()

    def _tensors(self) -> dict[str, Tensor]:
        """What training changes, where it lies."""
        held = {f"{i}.{name}": p for i, cohort in enumerate(self.cohorts) for name, p in cohort.state().items()}
        return held | {f"{i}.sums": total for i, total in enumerate(self.sums)}

    def resume(self) -> None:
        """Continue from the state on disk, if there is one; a damaged one is as good as none: the same numbers come again."""
        if not self.file.exists():
            disk.remove(self.file.with_suffix(".jsonl"))
            return
        if (told := state.restore(self.file, self._tensors(), 1 + len(self.cohorts))) is None:
            return
        self.step, self.curves, (self.drawing, *clocks) = told
        for cohort, seconds in zip(self.cohorts, clocks, strict=True):
            cohort.seconds = seconds
            cohort.count.fill_(self.step)
        self.compiled = self.compiled and state.compiled(self.file)  # what was begun uncompiled goes on so, to the bit
        self.tell("resumed", self.step * self.cost)

    # Measuring ----------------------------------------------------------------------------------------------------------------------

    def measure(self) -> Iterator[Record]:
        """One record a model, and the samples of the sweep's first seed."""
        exactly = not self.protocol.replicates
        probes = [Probe(probe_rows(s, self.shape, self.settings), self.shape, self.settings) if exactly else None for s in self.streams]
        kept: dict[int, dict[str, Tensor]] = {s: {"data": self.judges[s].data[:2000]} for s in range(len(self.streams))}
        part = Part(self.file.with_suffix(".jsonl"), KIND)
        before = {(r["set"], r["seed"], r["id"]): r for r in part.found}
        for cohort, group in zip(self.cohorts, self.groups, strict=True):
            for k, i in enumerate(group):
                if self.tell("stop?"):
                    raise Stopped
                began = time.perf_counter()
                s, spec = self.members[i]
                flat, ema, proxy = (p[k : k + 1].detach().cpu() for p in (cohort.flat, cohort.ema, cohort.proxy))
                held = before.get((self.streams[s].name, self.streams[s].seed, spec.id))
                if held is None:
                    probe = probes[s]
                    record = self._record(i, (flat, ema), probe(flat, proxy) if probe and spec.family else None)
                    seconds = cohort.seconds / len(group) + self.drawing / len(self.members)
                    record |= {"seconds": round(seconds, 3), "measuring": round(time.perf_counter() - began, 3)}
                yield held or part.add(record)
                kept[s][spec.id] = self.judges[s].samples(Runner(self.shape, ema))
                self.tell("resumed" if held else "steps", MEASURING)
        for s, arrays in kept.items():
            if self.streams[s].seed == self.settings.seeds[0]:
                self._keep(s, arrays)

    def _record(self, i: int, weights: tuple[Tensor, Tensor], probe: Record | None) -> Record:
        s, spec = self.members[i]
        about = {"kind": "model", "set": self.streams[s].name, "seed": self.streams[s].seed, "id": spec.id, "spec": asdict(spec)}
        raw = self.judges[s].scores(Runner(self.shape, weights[0]))
        jumps = sorted({1, 2, 4, fewest_jumps(self.settings.largest_gap), *([64] if spec.still else [])})
        ema = self.judges[s].scores(Runner(self.shape, weights[1]), tuple(jumps))
        curve = {name: self._curve(i)[name] for name in CURVE}
        compiled = self.compiled and spec.by_hand
        record = about | {"steps": self.settings.steps, "compiled": compiled, "raw": raw, "ema": ema, "curve": curve, "probe": probe}
        if traces := self._curve(i)["variance"]:
            record["variance"] = sum(traces) / len(traces)
        return record

    def _keep(self, s: int, arrays: dict[str, Tensor]) -> None:
        file = io.BytesIO()
        np.savez_compressed(file, **{name: x.half().numpy() for name, x in arrays.items()})  # type: ignore[arg-type]
        disk.folder(self.samples)
        disk.write(self.samples / f"{self.streams[s].name}-{self.streams[s].seed}.npz", file.getvalue())
