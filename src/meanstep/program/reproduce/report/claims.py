"""A claim as it is stated before there is any number, and how numbers decide it. Knows no claim in particular."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from meanstep.program.pages.trained import undecided
from meanstep.program.pages.verdicts import Claim, Row, decide, told


def _decided(results: Any, rows: Sequence[Row]) -> tuple[str, tuple[Row, ...]]:
    return decide(rows)


def _told(results: Any, sentence: str) -> str:
    return sentence


@dataclass(frozen=True)
class Stated:
    """Who says what, and the test that was stated for it.

    `quantity`: what its rows measure, `rows`: how, from a study's results, each with the published value and the ranges that decide it, and
    every comparison of the test among them, measured or not: a claim holds by all of them;
    `needs`: which options of the command would give data for it; `decision`: verdict and rows with findings, `told`: the sentence, where
    they are not the usual ones.
    """

    key: str
    text: str
    source: str
    test: str
    quantity: str
    rows: Callable[[Any], Iterable[Row]]
    needs: str | Callable[[Any], str]
    decision: Callable[[Any, Sequence[Row]], tuple[str, tuple[Row, ...]]] = _decided
    told: Callable[[Any, str], str] = _told

    def decided(self, results: Any) -> Claim:
        """With its numbers, verdict and sentence. What is judged and not measured stays, unless nothing is measured."""
        every = [*self.rows(results)]
        begun = any(row.change.n and row.claimed is not None for row in every)
        verdict, rows = self.decision(results, [row for row in every if row.change.n or (begun and row.claimed is not None)])
        sentence = told(rows, self.quantity, self.needs if isinstance(self.needs, str) else self.needs(results))
        return Claim(self.key, self.text, self.source, self.test, self.quantity, rows, verdict, self.told(results, sentence))


def judged(claims: Iterable[Stated], results: Any, far: str = "") -> list[Claim]:
    """All of them, decided or not; none is decided by models that are too `far` from the data, in words."""
    made = [claim.decided(results) for claim in claims]
    return [undecided(claim, f"Too far from the data to judge: {far}.") for claim in made] if far else made
