"""What is to be borne in mind: how far samples are from the data, weights that differ, what no count of passes holds. Knows no page."""

from math import sqrt
from typing import Any

from meanstep.program.pages import trained
from meanstep.program.pages.statistics import mean
from meanstep.program.registry import METHODS, POSTERIOR
from meanstep.program.reproduce.images.quantities import COMPUTE_EQUAL
from meanstep.program.reproduce.images.results import Results
from meanstep.program.reproduce.records import Record
from meanstep.program.reproduce.report.prose import some
from meanstep.program.reproduce.report.results import at

FAR, YOUNG = trained.FAR**2, 16.0
"""Models whose distance, a square, is `FAR` times its floor have not learnt the data, and nothing follows; above `YOUNG`, little."""


def _way(results: Results) -> trained.Way:
    """How far one-step samples at beta 0 have come at the end."""
    found = mean(results.distance(results.base, results.end).values())
    lengths = [None if x is None or x < 0 else sqrt(x) for x in (found.mean if found else None, results.floor(), results.floor("noise"))]
    return trained.way(*([x] for x in lengths))


def far(results: Results) -> str:
    """Why no claim is decided, if nothing follows from the models; else empty."""
    found = _way(results)
    if not found.far:
        return ""
    if found.times**2 > FAR:
        return f"at β = 0 the distance of one-step samples is {found.times**2:.0f} times its floor, more than {FAR:g} times"
    return f"at β = 0 one-step samples {trained.covered(found)}"


def notice(results: Results) -> str:
    """What to bear in mind of all numbers, empty if the samples are near enough."""
    found = _way(results)
    if found.far:
        return (
            "One-step samples are still far from the data. No claim is decided, and the numbers say little about the methods. Train longer."
        )
    if found.times**2 <= YOUNG:
        return ""
    return f"The distance of one-step samples is still {found.times**2:.0f} times its floor. The comparison is one of young networks."


def caveats(results: Results, terms: str) -> str:
    """What has to be said beside a contest with the constants on these terms."""
    found = (uncounted(results) if terms == COMPUTE_EQUAL else "", weighed(results))
    return " ".join(said for said in found if said)


def uncounted(results: Results) -> str:
    """Whose passes leave out what a posterior compares."""
    names = [entry["name"] for entry in results.about["arms"] if _asks_posterior(entry["recipe"], _options(results, entry))]
    return f"What a posterior compares is not counted in passes, only in the seconds: {some(names, 12)}." if names else ""


def mixed(results: Results) -> list[str]:
    """The arms that train under another weight than the constants, by name."""
    weights = {entry["name"]: _weight(entry["recipe"], _options(results, entry)) for entry in results.about["arms"]}
    theirs = {weights[arm.name] for arm in results.constants}
    return [arm.name for arm in results.others if theirs and weights[arm.name] not in theirs]


def weighed(results: Results) -> str:
    """The same in words, empty without any."""
    if not (names := mixed(results)):
        return ""
    who = "This arm trains" if len(names) == 1 else "These arms train"
    return f"{who} under another weight than the constants: {some(names, 12)}. A comparison with the constants mixes the weight in."


def _options(results: Results, entry: Record) -> Record:
    """The study's own options as far as the recipe has them, the arm's on top."""
    known = METHODS[entry["recipe"]].options if entry["recipe"] in METHODS else ()
    own = at(results.about, "config", "method", "options") or {}
    return {name: value for name, value in own.items() if name in known} | (entry["options"] or {})


def _asks_posterior(recipe: str, options: Record) -> bool:
    return POSTERIOR in METHODS[recipe].asks(options) if recipe in METHODS else options.get("proxy") == POSTERIOR


def _weight(recipe: str, options: Record) -> Any:
    """Something that is equal for equal weights; the recipe's name where it takes none and has its own."""
    method = METHODS.get(recipe)
    if "weight" in options:
        return str(options["weight"])
    if method is None or "power" not in method.options:
        return recipe
    given, default = options.keys() & {"power", "c"}, next(option.default for option in method.arguments if option.name == "weight")
    if not given and default in ("constant", "None"):
        return 0 if default == "constant" else recipe
    power, c, reduction = method.weighting
    power, c = options.get("power", power), options.get("c", c)
    return (power, c, reduction) if power else 0
