"""The ratios of study (b), from its packed records: `python studies/paper/toys/pooled.py`.

Sliced W1 of two models of one seed and set, pooled over the six sets by their mean logarithm, geometric means over the seeds that have all
sets under both caps, 95 percent t-intervals; then the same for each set.
"""

import gzip
import json
import math
import statistics
from pathlib import Path

from scipy import stats

RECORDS = Path(__file__).parent / "records"
Model = tuple[str, str, str]
"""Which cap, which coefficient, how many jumps."""
NONE, ONE = "beta 0", "ema 1"
RATIOS: dict[str, tuple[Model, Model]] = {
    "B1 capped, one jump: beta = 1 over 0": (("capped", ONE, "1"), ("capped", NONE, "1")),
    "B2 capped, two jumps: beta = 1 over 0": (("capped", ONE, "2"), ("capped", NONE, "2")),
    "B3 uncapped, one jump: beta = 1 over 0": (("uncapped", ONE, "1"), ("uncapped", NONE, "1")),
    "B4 lifting the cap, one jump, beta = 0": (("uncapped", NONE, "1"), ("capped", NONE, "1")),
    "B4 the same at beta = 1": (("uncapped", ONE, "1"), ("capped", ONE, "1")),
    "B5 capped, two jumps over one, beta = 0": (("capped", NONE, "2"), ("capped", NONE, "1")),
    "B5 the same at beta = 1": (("capped", ONE, "2"), ("capped", ONE, "1")),
    "two jumps, capped, over one, uncapped, beta = 0": (("capped", NONE, "2"), ("uncapped", NONE, "1")),
}


def distances() -> dict[tuple[str, str, int, str], dict[str, float]]:
    """By cap, set, seed and model: sliced W1 by number of jumps, of the averaged weights."""
    lines = [
        (cap, json.loads(line))
        for cap in ("capped", "uncapped")
        for line in gzip.decompress((RECORDS / cap / "records.jsonl.gz").read_bytes()).splitlines()
    ]
    return {(cap, r["set"], r["seed"], r["id"]): r["ema"]["sw1"] for cap, r in lines if "ema" in r}


def interval(logs: list[float]) -> str:
    middle = statistics.mean(logs)
    half = stats.t.ppf(0.975, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    return f"{math.exp(middle):.3f} [{math.exp(middle - half):.3f}, {math.exp(middle + half):.3f}]"


def main() -> None:
    held = distances()
    sets = sorted({key[1] for key in held})
    wanted = [(cap, name, model) for cap in ("capped", "uncapped") for name in sets for model in (NONE, ONE)]
    seeds = sorted(seed for seed in {key[2] for key in held} if all((cap, name, seed, model) in held for cap, name, model in wanted))
    print(f"seeds {seeds}, sets {', '.join(sets)}")
    for title, (above, below) in RATIOS.items():

        def log(name: str, seed: int, above: Model = above, below: Model = below) -> float:
            top, bottom = (held[cap, name, seed, model][jumps] for cap, model, jumps in (above, below))
            return math.log(top / bottom)

        print(f"\n{title}: {interval([statistics.mean(log(name, seed) for name in sets) for seed in seeds])}")
        for name in sets:
            print(f"    {name:18} {interval([log(name, seed) for seed in seeds])}")


if __name__ == "__main__":
    main()
