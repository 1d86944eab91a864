"""What a picture costs outside PyTorch: eager PyTorch, ONNX Runtime and the page in Chromium, each on one thread, in the same run.

    python benchmarks/export.py runs/digits                      # a finished run
    python benchmarks/export.py runs/digits --json export.json   # and the numbers

In each round every variant makes the same pictures several times, one variant after the other. The figure is the least time, since other
processes only add to it; the median of the rounds' least times stands beside it, and is near it on a machine that does nothing else.
"""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import options
import torch
from playwright.sync_api import sync_playwright

import meanstep as ms
from meanstep.program.export import subject as subjects
from meanstep.program.export.to_onnx import session
from meanstep.program.machine import environment

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MAKE = """async ([seeds, repeats]) => { let least = Infinity;
  for (let i = 0; i < repeats; i++) least = Math.min(least, (await window.meanstep.make(seeds, 1)).milliseconds);
  return least; }"""


def least(run: Callable[[], Any], repeats: int) -> float:
    """Milliseconds of the fastest of so many runs."""
    found = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        found.append(1e3 * (time.perf_counter() - begin))
    return min(found)


def variants(run: Path, page: Any, folder: Path, count: int, repeats: int) -> dict[str, Callable[[], float]]:
    """Name -> milliseconds of one round."""
    seeds, subject = list(range(count)), subjects.of(run, subjects.Choice(), target="onnx", checkpoint="last")
    whole, z, y = subject.whole(), subject.noise(seeds), subject.labels(seeds)
    given = {"noise": z.numpy()} | ({} if y is None else {"label": y.numpy()})
    made = session((folder / "onnx" / "model.onnx").read_bytes())
    return {
        "PyTorch, eager": lambda: least(torch.no_grad()(lambda: whole(z, y)), repeats),
        "ONNX Runtime, model.onnx": lambda: least(lambda: made.run(None, given), repeats),
        "page in Chromium": lambda: float(page.evaluate(MAKE, [seeds, repeats])),
    }


def measure(table: dict[str, Callable[[], float]], rounds: int) -> dict[str, dict[str, float]]:
    found: dict[str, list[float]] = {name: [] for name in table}
    for _ in range(rounds):
        for name, run in table.items():
            found[name].append(run())
    base = min(found["ONNX Runtime, model.onnx"])
    return {name: {"least": min(times), "median": statistics.median(times), "ratio": min(times) / base} for name, times in found.items()}


def main() -> None:
    parser = options.parser(__doc__)
    parser.add_argument("run", type=Path, help="a finished run")
    parser.add_argument("--samples", type=int, default=16, help="samples of a batch (default: 16)")
    options.rounds(parser, 21)
    parser.add_argument("--repeats", type=int, default=40, help="runs of a round (default: 40)")
    parser.add_argument("--warm", type=int, default=300, help="runs of the page before: its code is compiled in stages (default: 300)")
    options.file(parser)
    asked = options.read(parser, "rounds", "samples", "repeats", "warm")
    if CHROMIUM is None:
        parser.error("there is no Chromium: install the system's package chromium")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name, sync_playwright() as tool:
        folder = Path(name)
        for target in ("onnx", "web"):
            ms.export(asked.run, to=target, out=folder / target, checkpoint="last")
        browser = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto((folder / "web" / "index.html").as_uri())
        page.evaluate("window.meanstep.ready")
        page.evaluate(MAKE, [list(range(asked.samples)), asked.warm])
        table = measure(variants(asked.run, page, folder, asked.samples, asked.repeats), asked.rounds)
        version = browser.version
        browser.close()
    machine = environment()
    place = f"{machine['processor']}, 1 thread"
    load = [round(x, 2) for x in os.getloadavg()]
    print(f"{place}, torch {machine['torch']}, Chromium {version}, {asked.samples} samples, {asked.rounds} rounds, load {load[0]}\n")
    print(f"{'':32} {'ms':>8} {'median':>8} {'of ONNX Runtime':>16}")
    for name, row in table.items():
        print(f"{name:32} {row['least']:8.2f} {row['median']:8.2f} {row['ratio']:16.2f}")
    if asked.json:
        record = {"environment": machine, "place": place, "chromium": version, "load": load, "samples": asked.samples}
        record |= {"rounds": asked.rounds, "repeats": asked.repeats, "rows": table}
        options.write(asked.json, record)


if __name__ == "__main__":
    main()
