"""What a sample costs: the samplers against as many bare evaluations of the network, in the same run.

    python benchmarks/sampling.py                        # one CPU thread: DiT 6 x 256, 64 tokens, 16 samples
    python benchmarks/sampling.py --json sampling.json   # and the numbers

Every variant runs once in each round, one after the other; a figure is the median over the rounds, a ratio the median of the ratios
within a round. Noise is drawn outside, but for the row that says so.
"""

import statistics
import time
from collections.abc import Callable

import options
import torch
from torch import Tensor

import meanstep as ms
from meanstep.fields import DiT
from meanstep.program.machine import environment
from meanstep.samplers import euler, grid, heun, jump, walk


def variants(net: DiT, e: Tensor) -> dict[str, tuple[Callable[[], Tensor], int]]:
    """Name -> sampler, and how often it evaluates the network."""
    start, end, seeds = torch.zeros(len(e), device=e.device), torch.ones(len(e), device=e.device), range(len(e))

    @torch.no_grad()
    def bare() -> Tensor:
        return net(e, start, end)

    return {
        "bare evaluation": (bare, 1),
        "jump": (lambda: jump(net, e), 1),
        "jump, noise drawn seed by seed": (lambda: jump(net, ms.noise(seeds, e.shape[1:], device=e.device)), 1),
        "walk, 2 steps": (lambda: walk(net, e, grid(2)), 2),
        "walk, 4 steps": (lambda: walk(net, e, grid(4)), 4),
        "euler, 8 steps": (lambda: euler(net, e, grid(8)), 8),
        "heun, 8 steps": (lambda: heun(net, e, grid(8)), 16),
    }


def measure(table: dict[str, tuple[Callable[[], Tensor], int]], device: torch.device, rounds: int) -> dict[str, dict[str, float]]:
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    found: dict[str, list[float]] = {name: [] for name in table}
    for index in range(rounds + 2):
        for name, (run, _) in table.items():
            if device.type != "cpu":
                torch.cuda.synchronize()
            begin = clock()
            run()
            if device.type != "cpu":
                torch.cuda.synchronize()
            if index > 1:
                found[name].append(clock() - begin)
    bare = found["bare evaluation"]
    return {
        name: {
            "seconds": statistics.median(times),
            "evaluations": table[name][1],
            "ratio": statistics.median(a / b for a, b in zip(times, bare, strict=True)) / table[name][1],
        }
        for name, times in found.items()
    }


def main() -> None:
    parser = options.parser(__doc__)
    parser.add_argument("--samples", type=int, default=16, help="samples of a batch (default: 16)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    options.rounds(parser, 15)
    options.file(parser)
    asked = options.read(parser, "rounds", "samples")
    if asked.device not in ("cpu", "cuda") or (asked.device == "cuda" and not torch.cuda.is_available()):
        parser.error(f"--device: {asked.device} is not there; cpu{' and cuda' * torch.cuda.is_available()} can be used")
    torch.set_num_threads(1)
    device, machine = torch.device(asked.device), environment()
    net = DiT(16, 4, 2, 256, 6, 4, generator=ms.key(0)).to(device)
    e = ms.noise(range(asked.samples), (4, 16, 16), device=device)
    table = measure(variants(net, e), device, asked.rounds)
    place = torch.cuda.get_device_name() if asked.device == "cuda" else f"{machine['processor']}, 1 thread"
    print(f"{place}, torch {machine['torch']}, {asked.samples} samples, medians of {asked.rounds} rounds\n")
    print(f"{'':32} {'ms':>8} {'evaluations':>12} {'of as many bare ones':>21}")
    for name, row in table.items():
        print(f"{name:32} {1e3 * row['seconds']:8.1f} {row['evaluations']:12d} {row['ratio']:21.3f}")
    if asked.json:
        record = {"environment": machine, "place": place, "samples": asked.samples, "rounds": asked.rounds, "rows": table}
        options.write(asked.json, record)


if __name__ == "__main__":
    main()
