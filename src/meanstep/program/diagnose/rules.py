"""What a rule is, and what becomes of it; the rules themselves are data, in rules.toml. Nothing is measured here."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files

from meanstep.program.diagnose.measures import Measure

WARN, NOTE = "warning", "note"
FIRES, CLEAR, OPEN, MISSING = "fires", "clear", "open", "not measured"


@dataclass(frozen=True)
class Rule:
    """Fires where the measure `key` is above `threshold` (below, if `below`) with its whole interval.

    `plain`: the finding in a few words;
    `quantity`: what is measured, in words; `means` and `change` may quote any measure by name in braces; `percent`: how to write it.
    """

    name: str
    plain: str
    level: str
    key: str
    quantity: str
    threshold: float
    source: str
    means: str
    change: str
    percent: bool = False
    below: bool = False

    @property
    def condition(self) -> str:
        """The threshold in words."""
        value = f"{100 * self.threshold:g}%" if self.percent else f"{self.threshold:g}"
        return f"{'below' if self.below else 'above'} {value}"

    def written(self, m: Measure) -> str:
        """A value of the measure."""
        return format(m, "%" if self.percent else "")


@dataclass(frozen=True)
class Verdict:
    """A rule and what became of it. `means` and `change` are filled in."""

    rule: Rule
    status: str
    measured: str = ""
    means: str = ""
    change: str = ""

    @property
    def sentence(self) -> str:
        """What is measured."""
        return f"{self.rule.quantity}: {self.measured} (rule: {self.rule.condition})"


QUIET_IS_NOT_GOOD = (
    "The quietest coefficient is not the best one. arXiv 2605.09235 reports the least gradient error at an interior beta and the best FID "
    "at beta = 0. In our studies/plane beta = 1 made gradients quieter and one-step samples no better (0.98 [0.92, 1.05])."
)

RULES = tuple(Rule(name, **entry) for name, entry in tomllib.loads(files(__package__).joinpath("rules.toml").read_text("utf-8")).items())
"""All rules, in the order of `rules.toml`."""


def verdicts(values: Mapping[str, Measure], words: Mapping[str, str]) -> list[Verdict]:
    """What became of every rule, those that fire first, warnings before notes."""
    found = [_verdict(rule, values, words) for rule in RULES]
    order = {FIRES: 0, OPEN: 1, CLEAR: 2, MISSING: 3}
    return sorted(found, key=lambda v: (order[v.status], v.rule.level != WARN))


def _verdict(rule: Rule, values: Mapping[str, Measure], words: Mapping[str, str]) -> Verdict:
    rule = replace(rule, quantity=rule.quantity.format_map({"proxy": "a proxy"} | dict(words)))
    m = values.get(rule.key)
    if m is None or m.value != m.value:
        return Verdict(rule, MISSING)
    above = Measure(-m.value, -m.high, -m.low).above(-rule.threshold) if rule.below else m.above(rule.threshold)
    status = FIRES if above else OPEN if above is None else CLEAR
    filled = dict(words) | dict(values) if status != CLEAR else {}
    means, change = (text.format_map(_Known(filled)) if filled else "" for text in (rule.means, rule.change))
    return Verdict(rule, status, rule.written(m), means, change)


class _Known(dict):
    """What a sentence may quote; a measure that is missing reads as unknown."""

    def __missing__(self, key: str) -> Measure:
        return Measure(float("nan"))
