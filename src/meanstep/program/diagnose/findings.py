"""What a diagnosis found, without the network and the data that it was made of: a value to keep, print and pickle."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meanstep.program.diagnose.diagnosis import Diagnosis
from meanstep.program.diagnose.measures import Measure
from meanstep.program.diagnose.rules import FIRES, WARN, Verdict


@dataclass(frozen=True)
class Findings:
    """`headline`: the result in one sentence; `verdicts`: every rule with what it measured; `facts`: everything in words, by name.

    `measures`: the numbers with their intervals, by name; `record`: all of it as `--json` writes it; `interrupted`: whether Ctrl-C ended
    it early; `report`: the page, if one was asked for.
    """

    headline: str
    verdicts: tuple[Verdict, ...] = field(repr=False)
    facts: dict[str, str] = field(repr=False)
    measures: dict[str, Measure] = field(repr=False)
    record: dict[str, Any] = field(repr=False)
    interrupted: bool = False
    report: Path | None = None

    def __repr__(self) -> str:
        told = [f"{v.rule.name}: {v.measured}; {v.change}" for v in self.verdicts if v.status == FIRES]
        return "\n  ".join([f"Findings({self.headline}", *told]) + ")"

    @property
    def warnings(self) -> tuple[str, ...]:
        """The names of the rules that warn."""
        return tuple(v.rule.name for v in self.verdicts if v.status == FIRES and v.rule.level == WARN)


def kept(found: Diagnosis, report: Path | None) -> Findings:
    """What a program keeps of a diagnosis."""
    return Findings(found.headline, tuple(found.verdicts), dict(found.facts), dict(found.values), found.record(), found.interrupted, report)
