"""What `meanstep train` costs beside the steps themselves, and how long it takes to the first one.

    taskset -c 0 python benchmarks/training.py                           # one CPU thread, some minutes
    taskset -c 0 python benchmarks/training.py --json training.json      # and the numbers
    taskset -c 0 python benchmarks/training.py --starts --json training.json   # only the starts, beside the loops that the file holds

A bare loop (loss without metrics, backward pass, clipping, AdamW, always the same batch on the same network) takes a step after each one
of the unchanged `meanstep.program.training.train.train`, which reads, places and checks batches, measures, writes records, looks for
signals and keeps averages. Times are processor time, the reading thread's included; a ratio is the median over the rounds of the ratio
within a round. A record is written at every step, where a run by default writes one in fifty: the worst case. The start is a whole
process, `python -m meanstep train`, from its first instruction to the record of its first step; the median of five.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import options
import torch
from loading import latents

import meanstep as ms
from meanstep.loss import Loss
from meanstep.program.data import Cache, ensure
from meanstep.program.machine import environment
from meanstep.program.runs.config import AveragesConfig, Config, DataConfig, NetworkConfig, OptimiserConfig, RunConfig
from meanstep.program.training import train as training
from meanstep.program.training.loop import Step, batches
from meanstep.program.training.presets import PRESETS
from meanstep.program.training.ranks import Ranks
from meanstep.program.training.state import fresh

BATCH, WARM, STARTS = 128, 3, 5
ALONE = Ranks(0, 1, torch.device("cpu"))
AVERAGES = {"no average": (), "one average": (0.999,), "three averages": (0.99, 0.999, 0.9999)}


def configurations(folder: Path) -> dict[str, tuple[Config, Cache]]:
    """What is trained, on which cache."""
    never = {"sample_every": 0, "evaluate_every": 0, "save_every": 10**9}
    digits, run = ensure("digits"), RunConfig(batch=BATCH, device="cpu", samples=10**9, log_every=BATCH, **never)
    large = latents(folder, digits.manifest, shards=8)
    network = NetworkConfig(options={"patch": 4, "width": 256, "depth": 6, "heads": 4})
    return {
        "latents 4 x 32 x 32, DiT 6 x 256, 64 tokens": (
            Config(DataConfig(str(large.path)), network, optimiser=OptimiserConfig(), run=run),
            large,
        ),
        "digits 1 x 8 x 8, DiT 4 x 96, 16 tokens": (replace(PRESETS["digits"].config, run=run), digits),
    }


class Bare:
    """The loop that anybody would write first, without anything around it."""

    def __init__(self, config: Config, cache: Cache) -> None:
        state = fresh(replace(config, averages=AveragesConfig(())), cache, ALONE)
        self.net, self.optimiser, self.clip = state.owner.net, state.optimiser, config.optimiser.clip
        self.loss = Loss(state.owner.loss.recipe, check=False, measure=False)
        self.x, self.y = cache.rows(torch.arange(BATCH))
        self.generator = ms.key(0)

    def step(self) -> None:
        self.optimiser.zero_grad()
        self.loss(self.net, self.x, self.y, progress=0.0, generator=self.generator).loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.clip)
        self.optimiser.step()


def rounds(config: Config, cache: Cache, count: int) -> list[tuple[float, float]]:
    """Seconds of a step of the program and of the bare loop, in turn."""
    bare, found = Bare(config, cache), []

    def watched(step: Step, loader: Any, samples: int) -> Iterator[Any]:
        stream = batches(step, loader, samples)
        for _ in range(WARM + count):
            begin = time.process_time()
            yield next(stream)
            middle = time.process_time()
            bare.step()
            found.append((middle - begin, time.process_time() - middle))
        stream.close()

    quiet, place = open(os.devnull, "w"), tempfile.TemporaryDirectory()  # noqa: SIM115
    with quiet, redirect_stdout(quiet), place as folder, mock.patch.object(training, "batches", watched):
        training.train(config, Path(folder), cache, ALONE)  # the lines that show progress are written, but not seen
    return found[WARM:]


def shares(config: Config, cache: Cache, count: int) -> dict[str, dict[str, float]]:
    """A row for every number of averages."""
    rows = {}
    for name, decays in AVERAGES.items():
        found = rounds(replace(config, averages=AveragesConfig(decays)), cache, count)
        ratios = sorted(ours / bare for ours, bare in found)
        rows[name] = {
            "seconds": statistics.median(ours for ours, _ in found),
            "bare_seconds": statistics.median(bare for _, bare in found),
            "ratio": statistics.median(ratios),
            "ratio_low": ratios[len(ratios) // 4],
            "ratio_high": ratios[(3 * len(ratios)) // 4],
        }
    return rows


def start(words: list[str], folder: Path) -> dict[str, float]:
    """Seconds of a process to the record of its first step: of the clock and of the processor."""
    out = folder / "run"
    shutil.rmtree(out, ignore_errors=True)
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "meanstep", "train", "--out", str(out), "--device", "cpu", "--log-every", str(BATCH), *words]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    record: dict[str, Any] = {}
    while not record and run.poll() is None:
        time.sleep(0.01)
        lines = (out / "records.jsonl").read_text().splitlines() if (out / "records.jsonl").exists() else []
        record = next((json.loads(line) for line in lines if '"train"' in line and line.endswith("}")), {})
    seconds = time.perf_counter() - begin
    run.kill()
    run.wait()
    if not record:
        sys.exit(f"the run ended before its first step: {' '.join(command)}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "processor_seconds": spent, "first_step_seconds": record["seconds"]}


def starts(folder: Path, large: Path) -> dict[str, dict[str, float]]:
    wide = ["--network.patch", "4", "--network.width", "256", "--network.depth", "6"]
    cases = {
        "digits, nothing cached": [],
        "digits, cached": [],
        "latents of 0.3 GB, DiT 6 x 256": ["--data.source", str(large), *wide, "--evaluate-every", "0"],
    }
    found = {}
    for name, words in cases.items():
        each = []
        for k in range(STARTS):
            own = folder / ("own" if "nothing" not in name else f"own-{k}")
            with mock.patch.dict(os.environ, MEANSTEP_CACHE=str(own)):
                if own.name == "own":
                    ensure("digits")
                each.append(start(words, folder))
        found[name] = {key: statistics.median(row[key] for row in each) for key in each[0]}
    return found


def arguments() -> argparse.Namespace:
    parser = options.parser(__doc__)
    options.rounds(parser, 25, "of the latents; the digits get ten times as many")
    parser.add_argument("--starts", action="store_true", help="measure only the starts; with --json, into a file that holds the rest")
    options.file(parser)
    asked = options.read(parser, "rounds")
    if asked.starts and asked.json and not asked.json.is_file():
        parser.error(f"--starts --json: the file {asked.json}, which holds the rest, does not exist")
    return asked


def main() -> None:
    asked = arguments()
    torch.set_num_threads(1)
    machine, tables = environment(), {}
    print(f"{machine['processor']}, torch {machine['torch']}, one thread, batch {BATCH}, medians\n", flush=True)
    with tempfile.TemporaryDirectory() as place, mock.patch.dict(os.environ, MEANSTEP_CACHE=str(Path(place) / "cache")):
        cases = configurations(Path(place))
        for (name, (config, cache)), count in zip(cases.items(), (asked.rounds, 10 * asked.rounds), strict=True):
            if asked.starts:
                continue
            tables[name] = {"rounds": count, "rows": shares(config, cache, count)}
            for label, row in tables[name]["rows"].items():
                times = f"{1e3 * row['bare_seconds']:8.1f} ms bare {1e3 * row['seconds']:8.1f} ms"
                print(f"{name}, {label:15} {times} {row['ratio']:.3f} [{row['ratio_low']:.3f}, {row['ratio_high']:.3f}]", flush=True)
        begun = starts(Path(place), next(iter(cases.values()))[1].path)
    for name, row in begun.items():
        print(f"{name:34} {row['seconds']:5.1f} s to the first step, {row['processor_seconds']:.1f} s of the processor", flush=True)
    if asked.json:
        rest = json.loads(asked.json.read_text()) if asked.starts else {"environment": machine, "batch": BATCH, "loops": tables}
        options.write(asked.json, rest | {"starts": begun, "starts_environment": machine})


if __name__ == "__main__":
    main()
