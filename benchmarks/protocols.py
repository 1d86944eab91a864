"""Model-steps per second under the authors' protocol against ours, on one thread: the same network, inputs, row share and factors.

    python benchmarks/protocols.py
    python benchmarks/protocols.py --json benchmarks/records/protocols.json

Both run in turn in one process; the figure is the median over rounds of the ratio of processor time. Draws are part of a step; `models`
models share them, as those of one set and seed do.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import options
import torch

import meanstep as ms
from meanstep.program.machine import environment
from meanstep.program.reproduce.points.draws import Needs, Stream
from meanstep.program.reproduce.points.engine import Cohort
from meanstep.program.reproduce.points.protocols import SwappedShape, protocol
from meanstep.program.reproduce.points.settings import BLOCK, PUBLISHED, Settings, Spec

THEIRS = Settings(("swiss_roll",), (0.0, 1.0), (42,), ("plain",), 1_000_000, protocol="authors", largest_gap=0.5, **PUBLISHED)
OURS = replace(THEIRS, protocol="ours")
SPECS = {"beta 0": Spec(), "ema 1": Spec(beta=1.0, proxy="ema"), "trace": Spec(beta=1.0, proxy="ema", sigma="t2")}


def trained(settings: Settings, spec: Spec, models: int) -> Callable[[], None]:
    """A block of steps of every model."""
    shape = SwappedShape(2)
    stream = Stream(protocol(settings).law("swiss_roll", settings), "swiss_roll", 42)
    cohorts = [Cohort(shape, [spec], shape.initial(ms.key(k))[None], [0], settings) for k in range(models)]
    index = [0]

    def run() -> None:
        block = stream.block(index[0], shape, settings, Needs.of([spec]))
        for cohort in cohorts:
            cohort.run(block, index[0] * BLOCK, (index[0] + 1) * BLOCK)
        index[0] += 1

    return run


def measure(spec: Spec, models: int, rounds: int) -> dict[str, float]:
    """Model-steps per second of both, and the ratio."""
    variants = [trained(settings, spec, models) for settings in (OURS, THEIRS)]
    for run in variants:
        run()
    rates = []
    for _ in range(rounds):
        found = []
        for run in variants:
            start = time.process_time()
            run()
            found.append(BLOCK * models / (time.process_time() - start))
        rates.append(found)
    ours, theirs = (statistics.median(column) for column in zip(*rates, strict=True))
    return {"ours": ours, "authors": theirs, "ratio": statistics.median(b / a for a, b in rates)}


def main() -> None:
    """The table."""
    parser = options.parser(__doc__)
    options.rounds(parser, 25, "of both in turn")
    options.file(parser)
    asked = options.read(parser, "rounds")
    torch.set_num_threads(1)
    found = {f"{name}, {models} models": measure(spec, models, asked.rounds) for name, spec in SPECS.items() for models in (1, 3)}
    print(f"{'':22}{'ours':>10}{'authors':>10}{'ratio':>8}")
    for name, row in found.items():
        print(f"{name:22}{row['ours']:10.0f}{row['authors']:10.0f}{row['ratio']:8.2f}")
    if asked.json:
        options.write(asked.json, {"environment": environment(), "protocols": found})


if __name__ == "__main__":
    main()
