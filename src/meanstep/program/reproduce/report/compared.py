"""Ratios that are told together: what each says, by one correction over them, and what they say as one. Knows no records and no page."""

from dataclasses import dataclass, replace
from math import exp
from typing import Self

import numpy as np

from meanstep.program.pages.forest import state, states
from meanstep.program.pages.form import KNOWN, OPEN
from meanstep.program.pages.statistics import Change, across

Changes = dict[str, Change]


@dataclass(frozen=True)
class Compared:
    """`states`: of each by name, "better", "worse" or "open", with Holm's correction over these alone."""

    changes: Changes
    states: dict[str, str]

    @classmethod
    def of(cls, changes: Changes, *, less: bool = True) -> Self:
        """All that have a pair; `less`: whether less is better."""
        there = {name: change for name, change in changes.items() if change.n}
        return cls(there, dict(zip(there, states([*there.values()], less=less), strict=True)))

    def named(self, found: str) -> list[str]:
        """Which are in a state."""
        return [name for name, each in self.states.items() if each == found]

    @property
    def best(self) -> str:
        """The one of the least ratio, among those that are better where some are."""
        return min(self.named("better") or self.changes, key=lambda name: self.changes[name].value)


@dataclass(frozen=True)
class Pooled:
    """Sets by one comparison each, and all of them with their means as units: one test of its own, outside the sets' family."""

    each: Compared
    change: Change
    state: str

    @classmethod
    def of(cls, changes: Changes, *, less: bool = True) -> Self:
        """Of a single set its seeds are the units."""
        each = Compared.of(changes, less=less)
        whole = across(changes.values())
        one = next(iter(each.changes.values()), Change(()))
        change = whole if len(each.changes) > 1 else replace(one, over=whole.over, under=whole.under)
        return cls(each, change, state(change, less=less))

    @property
    def counted(self) -> Changes:
        """The sets that the test is over: those of two seeds or more, all where there are none."""
        return {name: change for name, change in self.each.changes.items() if change.n > 1} or self.each.changes

    @property
    def value(self) -> float:
        """Their geometric mean, each set once: that of the test, where there is one."""
        return exp(float(np.mean([np.mean(change.differences) for change in self.counted.values()])))

    @property
    def found(self) -> str:
        """What all sets say; where that is open, what single ones do: known, if some are better and some worse."""
        told = set(self.each.states.values()) - {OPEN}
        return self.state if self.state != OPEN else KNOWN if len(told) > 1 else next(iter(told), OPEN)
