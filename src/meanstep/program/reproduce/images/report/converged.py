"""How far the samples still are from the data, and what is not said then. Knows no figures and no page."""

from math import sqrt

from meanstep.program.pages import trained
from meanstep.program.pages.statistics import mean
from meanstep.program.pages.trained import Way
from meanstep.program.pages.verdicts import Claim
from meanstep.program.reproduce.images.report.results import Results

FAR, YOUNG = trained.FAR**2, 16.0
"""Models whose distance, a square, is `FAR` times its floor have not learnt the data, and nothing follows; above `YOUNG`, little."""


def way(results: Results) -> Way:
    """How far one-step samples at beta 0 have come at the end."""
    found = mean(results.distance(results.base, results.end).values())
    lengths = [None if x is None or x < 0 else sqrt(x) for x in (found.mean if found else None, results.floor, results.noise)]
    return trained.way(*([x] for x in lengths))


def far(results: Results) -> bool:
    """Whether they are so far that nothing follows."""
    return way(results).far


def notice(results: Results) -> str:
    """What to bear in mind, empty if the samples are near enough."""
    found = way(results)
    if found.far:
        return (
            "One-step samples are still far from the data: no claim is decided, and the numbers say little about the methods. Train longer."
        )
    if found.times**2 <= YOUNG:
        return ""
    return f"One-step samples are still {_so_far(found)}, so the comparison is one of young networks."


def reason(results: Results) -> str:
    """Why the words name no best coefficient, no gain and no winner."""
    found = way(results)
    where = f"are {_so_far(found)}, and above {FAR:g} times" if found.times**2 > FAR else f"{trained.covered(found)}, and so far off"
    return (
        f"Which β is best, which gain could have been seen and who beats whom is not said: at β = 0 one-step samples {where} "
        "nothing is decided."
    )


def undecided(claim: Claim, results: Results) -> Claim:
    """The claim without verdict, findings and what they would say; that it has no data stays."""
    found = way(results)
    where = f"are {_so_far(found)}, more than {FAR:g} times" if found.times**2 > FAR else trained.covered(found)
    return trained.undecided(claim, f"Too far from the data to judge: at β = 0 one-step samples {where}.")


def _so_far(found: Way) -> str:
    return f"{found.times**2:.0f} times as far from the data as one half of the data is from the other"
