"""Trains and measures the models of studies/coefficient: `python studies/coefficient/run.py OUT [--steps N] [--seeds ...] [--sets ...]`.

One line of OUT/records.jsonl a model; the same command again goes on where it stopped. `--table` writes results.md beside this file from
the records in OUT, and packs them.
"""

import argparse
import copy
import gzip
import json
import math
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from scipy import stats
from torch import Tensor

import meanstep as ms
from meanstep.coefficients import Running
from meanstep.fields import MLP
from meanstep.fields.flat import Passes, Shape, Trace
from meanstep.fields.planar import PLANAR, gaussian_mixture
from meanstep.metrics import directions, sliced_wasserstein
from meanstep.program.console import write
from meanstep.program.machine import environment
from meanstep.recipes import coefficient
from meanstep.types import Bridge, Field, Velocity
from meanstep.velocities import Posterior, conditional, mix, of, oracle
from meanstep.weights import constant

SETS = (*PLANAR, "mixture-2", "mixture-16")
CONSTANTS = (0.0, 0.25, 0.5, 0.75, 1.0)
ARMS = ("0", "0.5", "1", "running", "running, oracle", "1, oracle", "both, posterior")
BATCH, DECAY, REFERENCE, EVERY, PROBED = 256, 0.999, 2048, 10, 2048


def law_of(name: str) -> Any:
    return (gaussian_mixture(int(name.split("-")[1])) if name.startswith("mixture") else PLANAR[name]()).to(torch.float32)


def exact(law: Any) -> Velocity:
    return oracle(law.velocity)


class Arm:
    """A recipe, and the running coefficient with the velocity that it takes for the marginal one."""

    def __init__(self, name: str, law: Any, ema: Field, reference: Tensor) -> None:
        self.running, self.center = (Running(rows=BATCH // 2) if "running" in name else None), of(ema)
        proxy: Any = of(ema)
        if "oracle" in name:
            proxy = self.center = exact(law)
        if "posterior" in name:
            proxy = Posterior(reference, dtype=torch.float32)
        beta: Any = self.running or (1.0 if name[0] in "1b" else float(name))
        target = 1.0 if "both" in name else 0.0
        times = {"times": ms.times.uniform, "diagonal_share": 0.5, "weight": constant}
        self.loss = ms.Loss(coefficient(beta, proxy, anchor=0.0, target_beta=target, **times), check=False, measure=False)

    def observe(self, net: Field, draws: Any) -> None:
        """The noise on the rows with r < t."""
        if self.running is not None:
            self.running.observe(net, draws[0][1], self.center)


def trained(arm: Arm, net: MLP, ema: MLP, law: Any, seed: int, steps: int) -> None:
    """Adam at 1e-3; the EMA copy warms up as (1 + k) / (10 + k)."""
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    for step in range(steps):
        g = ms.key(seed, "train", step)
        x, again = law.sample(BATCH, g), g.get_state()
        if arm.running is not None and step % EVERY == 0:
            arm.observe(net, arm.loss.draw(x, generator=g))
            g.set_state(again)
        optimiser.zero_grad()
        arm.loss(net, x, generator=g).loss.backward()
        optimiser.step()
        with torch.no_grad():
            for slow, fast in zip(ema.parameters(), net.parameters(), strict=True):
                slow.lerp_(fast, 1 - min(DECAY, (1 + step) / (10 + step)))


@torch.no_grad()
def probed(net: MLP, ema: MLP, law: Any, seed: int, running: Running) -> dict[str, Any]:
    """Tr Cov of a row's gradient on frozen weights, the same rows for all: constants, and the table that was learned while training."""
    g, shape = ms.key(seed, "probe"), Shape(net.dim)
    x = law.sample(PROBED, g)
    e = torch.randn(x.shape, generator=g)
    r, t = ms.times.uniform((PROBED,), g)
    b = Bridge(*ms.paths.linear(x, e, t), r, t)
    flat = shape.flatten([w[None] for w in net.weights], [p[None] for p in net.biases]).detach()
    passes, layers = Passes(shape, 1, PROBED, flat), shape.layers(flat)
    u, trace = passes.forward(layers, shape.inputs(b.z, r, t)[None])[0], Trace(passes, layers, shape.layers(torch.zeros_like(flat)))
    found: dict[str, Any] = {}
    for proxy, source in (("ema", of(ema)), ("oracle", exact(law))):
        for name, beta in {**{f"{beta:g}": beta for beta in CONSTANTS}, "running": running}.items():
            w = mix(conditional, source, beta)(net, b)
            change = passes.tangent(layers, torch.cat([w, shape.input_tangents(t, b.gap)], -1)[None])[0]
            found[f"{proxy} {name}"] = trace(2 * (u + b.gap[:, None] * change - b.v))
    return found


def record(name: str, arm_name: str, seed: int, steps: int) -> dict[str, Any]:
    """One model, trained and measured."""
    law = law_of(name)
    net = MLP(law.sample(1).shape[-1], generator=ms.key(seed, "weights"))
    ema = copy.deepcopy(net).requires_grad_(False)
    reference = law.sample(REFERENCE, ms.key(seed, "reference"))
    arm = Arm(arm_name, law, ema, reference)
    trained(arm, net, ema, law, seed, steps)
    fresh, lines = law.sample(10_000, ms.key(seed, "test")), directions(net.dim, 128)
    scores = {
        label: sliced_wasserstein(ms.jump(field, ms.noise(range(10_000), (net.dim,))), fresh, lines)
        for label, field in (("raw", net), ("ema", ema))
    }
    scores["floor"] = sliced_wasserstein(law.sample(10_000, ms.key(seed, "floor")), fresh, lines)
    traces = probed(net, ema, law, seed, arm.running) if arm.running is not None else None
    table = arm.running.table.tolist() if arm.running is not None else None
    return {"set": name, "arm": arm_name, "seed": seed, "steps": steps, "sw1": scores, "trace": traces, "table": table}


# The table ---------------------------------------------------------------------------------------------------------------------------


def interval(logs: list[float]) -> str:
    """Mean of logarithms as a ratio, with its 95 percent t-interval."""
    mean = statistics.fmean(logs)
    reach = stats.t.ppf(0.975, len(logs) - 1) * statistics.stdev(logs) / len(logs) ** 0.5 if len(logs) > 1 else math.nan
    return f"{math.exp(mean):.2f} [{math.exp(mean - reach):.2f}, {math.exp(mean + reach):.2f}]"


def over_sets(sets: list[str], logs: Callable[[str], list[float]]) -> list[str]:
    """A cell for each set, pairs being seeds, and one over the sets, each set's mean being a unit."""
    return [interval(logs(name)) for name in sets] + [interval([statistics.fmean(logs(name)) for name in sets])]


def tables(records: list[dict[str, Any]]) -> Iterator[str]:
    sets = [name for name in SETS if any(r["set"] == name for r in records)]
    seeds = sorted({r["seed"] for r in records})
    found = {(r["set"], r["arm"], r["seed"]): r for r in records}
    yield f"{len(records)} models, {records[0]['steps']} steps, seeds {', '.join(map(str, seeds))}.\n"
    header = ["", *sets, "all"]

    def grid(rows: dict[str, Callable[[str], list[float]]]) -> Iterator[str]:
        yield "| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|"
        yield from ("| " + " | ".join([label, *over_sets(sets, logs)]) + " |" for label, logs in rows.items())
        yield ""

    def sw1(arm: str, weights: str) -> Callable[[str], list[float]]:
        return lambda name: [math.log(found[name, arm, s]["sw1"][weights] / found[name, "0", s]["sw1"][weights]) for s in seeds]

    def trace(arm: str, proxy: str) -> Callable[[str], list[float]]:
        def logs(name: str) -> list[float]:
            measured = [found[name, arm, s]["trace"] for s in seeds]
            return [math.log(m[f"{proxy} running"][0] / min(m[f"{proxy} {beta:g}"][0] for beta in CONSTANTS)) for m in measured]

        return logs

    yield "## Tr Cov of a row's gradient: the learned table over the best of five constants on the same rows\n"
    yield from grid(
        {"center and proxy: EMA copy": trace("running", "ema"), "center and proxy: exact velocity": trace("running, oracle", "oracle")}
    )
    yield "## Sliced W1 of one-step samples (EMA weights), to beta = 0\n"
    yield from grid({arm: sw1(arm, "ema") for arm in ARMS[1:]})
    yield "## Sliced W1 of one-step samples (raw weights), to beta = 0\n"
    yield from grid({arm: sw1(arm, "raw") for arm in ARMS[1:]})
    yield "## Sliced W1 at beta = 0, and the floor of two fresh samples\n"
    for key in ("ema", "floor"):
        yield f"- {key}: " + ", ".join(f"{name} {statistics.fmean(found[name, '0', s]['sw1'][key] for s in seeds):.4f}" for name in sets)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--table", action="store_true", help="write results.md from what is there")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / "records.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("}")]
    if asked.table:
        here = Path(__file__).parent
        write(here / "results.md", "\n".join(["# Results\n", *tables(records)]).rstrip() + "\n")
        (here / "records.jsonl.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
        machine = environment() | {"command": "studies/coefficient/run.sh OUT"}
        (here / "env.json").write_text(json.dumps(machine, indent=1) + "\n", encoding="utf-8")
        return
    done = {(r["set"], r["arm"], r["seed"]) for r in records}
    todo = [(name, arm, seed) for seed in asked.seeds for name in asked.sets for arm in ARMS if (name, arm, seed) not in done]
    for name, arm, seed in track(todo, description="models"):
        line = json.dumps(record(name, arm, seed, asked.steps))
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    main()
