"""How far the samples still are from the data, and what is not said then. Knows no figures and no page."""

from dataclasses import replace

from meanstep.program.latents.report.results import Results
from meanstep.program.pages.statistics import mean
from meanstep.program.pages.verdicts import OPEN, Claim

FAR, YOUNG = 64.0, 16.0
"""Models whose distance, a square, is `FAR` times its floor have not learnt the data, and nothing follows; above `YOUNG`, little."""


def times(results: Results) -> float:
    """One-step distance at beta 0 at the end in units of its floor, 0 where one of them is unknown."""
    found = mean(results.distance(results.base, results.end).values())
    return found.mean / results.floor if found and results.floor else 0.0


def far(results: Results) -> float:
    """The same if it exceeds `FAR`, else 0."""
    return found if (found := times(results)) > FAR else 0.0


def notice(results: Results) -> str:
    """What to bear in mind, empty if the samples are near enough."""
    if (found := times(results)) <= YOUNG:
        return ""
    if found > FAR:
        return (
            "One-step samples are still far from the data: no claim is decided, and the numbers say little about the methods. Train longer."
        )
    return f"One-step samples are still {_so_far(found)}, so the comparison is one of young networks."


def reason(results: Results) -> str:
    """Why the words name no best coefficient, no gain and no winner."""
    return (
        f"Which β is best, which gain could have been seen and who beats whom is not said: at β = 0 one-step samples are "
        f"{_so_far(times(results))}, and above {FAR:g} times nothing is decided."
    )


def undecided(claim: Claim, results: Results) -> Claim:
    """The claim without verdict, findings and what they would say; that it has no data stays."""
    if not any(row.claimed is not None for row in claim.rows):
        return replace(claim, verdict=OPEN, sentence=f"{claim.sentence.partition('. ')[0].rstrip('.')}.")
    rows = tuple(row if row.claimed is None else replace(row, finding="open") for row in claim.rows)
    said = f"Too far from the data to judge: at β = 0 one-step samples are {_so_far(times(results))}, more than {FAR:g} times."
    return replace(claim, verdict=OPEN, rows=rows, sentence=said)


def _so_far(found: float) -> str:
    return f"{found:.0f} times as far from the data as one half of the data is from the other"
