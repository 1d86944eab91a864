"""Every number of a sweep as a row: mean, spread, interval, the seeds behind it and their values. Knows no figures and no page."""

from collections.abc import Iterator
from dataclasses import dataclass

from meanstep.program.pages.statistics import mean
from meanstep.program.reproduce.points.report.results import Line, Results, Seeds

CURVES = ("trace", "weighted", "noise", "error")
NAMED = (("proxies", "trace, proxy"), ("bias", "bias"), ("optimum", "optimum"))


@dataclass(frozen=True)
class Number:
    """A row of summary.csv: `steps` of the sampler for a score, `at` the probe's coefficient; blanks separate `seeds` and `values`."""

    set: str
    arm: str
    beta: float | None
    id: str
    weights: str
    metric: str
    steps: str
    at: str
    mean: float
    sd: float | None
    low95: float | None
    high95: float | None
    n: int
    seeds: str
    values: str
    floor: float | None


def numbers(results: Results) -> list[Number]:
    """Scores, then what the probes found, of every line on every set."""
    return [
        row for name in results.sets for line in results.lines for row in (*_scores(results, name, line), *_probes(results, name, line))
    ]


def _scores(results: Results, name: str, line: Line) -> Iterator[Number]:
    for weights in ("ema", "raw"):
        for metric, steps in _measured(results, name, line.id, weights):
            floor = mean(results.floor(name, metric))
            found = results.score(name, line.id, metric, weights, steps)
            yield from _row(name, line, weights, metric, steps, "", found, floor.mean if floor else None)


def _measured(results: Results, name: str, id: str, weights: str) -> list[tuple[str, str]]:
    found: dict[tuple[str, str], None] = {}
    for (s, _, i), model in sorted(results.models.items()):
        for metric, value in (model.get(weights) or {}).items() if (s, i) == (name, id) else ():
            found |= dict.fromkeys((metric, steps) for steps in (value if isinstance(value, dict) else ("1",)))
    return list(found)


def _probes(results: Results, name: str, line: Line) -> Iterator[Number]:
    for quantity in CURVES:
        for beta in results.probe_betas(name, line.id):
            yield from _row(name, line, "raw", quantity, "", f"{beta:g}", results.probed(name, line.id, quantity, beta))
    for group, words in NAMED:
        for key in dict.fromkeys(key for probe in results.probes(name, line.id) for key in probe.get(group) or {}):
            at = "1" if group == "proxies" else ""
            yield from _row(name, line, "raw", f"{words} {key}", "", at, results.probe(name, line.id, group, key))


def _row(
    name: str, line: Line, weights: str, metric: str, steps: str, at: str, found: Seeds, floor: float | None = None
) -> Iterator[Number]:
    if (m := mean(found.values())) is None:
        return
    seeds, values = " ".join(map(str, found)), " ".join(map(repr, found.values()))
    yield Number(name, line.arm, line.beta, line.id, weights, metric, steps, at, m.mean, m.sd, m.low, m.high, m.n, seeds, values, floor)
