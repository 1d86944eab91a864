"""The open question as claims: does a schedule or recipe beat every constant coefficient? Knows no figures and no page."""

from dataclasses import replace

from meanstep.program.pages.verdicts import FAILS, HOLDS, OPEN, Claim, Row, readable_p, with_interval
from meanstep.program.reproduce.images.report.caveats import caveats
from meanstep.program.reproduce.images.report.contests import (
    COMPUTE_EQUAL,
    STEPS_EQUAL,
    Contest,
    Smallest,
    contests,
    smallest,
    together,
    unmatched,
)
from meanstep.program.reproduce.images.report.results import Results

BEATS = {"schedule-steps": STEPS_EQUAL, "schedule-compute": COMPUTE_EQUAL}


def beats(results: Results, terms: str, key: str) -> Claim:
    """Whether some arm beats every constant in one step."""
    found = contests(results, terms)
    findings = [contest.finding for contest in found]
    beaten = findings and set(findings) == {"contradicts"}
    return Claim(
        key,
        f"Some schedule or recipe beats every constant coefficient in one step, {terms}.",
        "ours: nobody claimed it, the paper leaves schedules open",
        "Against each constant the one-sided paired p-value, at the seeds that both have; the largest decides (intersection-union; a row "
        "shows that constant), with Holm's correction over the arms. A constant is beaten where it broke off, an arm that broke off cannot "
        "win. Holds if one arm beats all constants; does not hold if each arm is worse than some constant.",
        "Distance over that of the constant that decides",
        tuple(_contest_row(contest) for contest in found),
        HOLDS if "agrees" in findings else FAILS if beaten else OPEN,
        " ".join(said for said in (outcome(results, found, terms), caveats(results, terms) if found else "") if said),
    )


def _contest_row(contest: Contest) -> Row:
    where = f"{contest.arm.name} over β = {contest.hardest:g}"
    return Row(where, contest.change, contest.words, (0.0, 1.0), (0.0, 1.0), contest.finding)


def with_p(claim: Claim, found: list[Contest]) -> Claim:
    """The claim with the p-values after Holm's correction in the findings, as text."""
    return replace(claim, rows=tuple(_told(row, contest) for row, contest in zip(claim.rows, found, strict=True)))


def _told(row: Row, contest: Contest) -> Row:
    lost = row.finding == "contradicts"
    p = contest.p_worse if lost else contest.p_better
    if p is None or row.finding != contest.finding:
        return row
    words = readable_p(p) if p < 0.001 else f"= {readable_p(p)}"
    return replace(row, finding=f"{row.finding} ({'worse than one' if lost else 'better than all'}: p {words} by Holm)")


def outcome(results: Results, found: list[Contest], terms: str) -> str:
    """Who beats every constant, what gain could have been seen, and what is missing."""
    missing = _missing(results, found, terms)
    if not found:
        return f"There are no data for it: it needs constants and other arms (--arms constants schedules recipes).{missing}"
    if (least := smallest(found)) is None:
        return f"{terms[0].upper()}{terms[1:]}: one seed, so nothing can be told.{missing}"
    winners = [f"{c.arm.name} ({with_interval(c.change)} against β = {c.hardest:g})" for c in found if c.finding == "agrees"]
    who = f"{len(winners)} of {len(found)} {'beats' if len(winners) == 1 else 'beat'}" if winners else "none beats"
    said = f"{terms[0].upper()}{terms[1:]} {who} every constant" + (f": {', '.join(winners)}" if winners else "")
    behind = sum(contest.finding == "contradicts" for contest in found)
    said += f"; {behind} of {len(found)} {'is' if behind == 1 else 'are'} worse than some constant" if behind else ""
    return f"{said}; {_could(least)}.{missing}"


def _could(least: Smallest) -> str:
    arms = "" if least.arms == 1 else f" over {least.arms} arms by Holm's first step"
    return (
        f"with {least.seeds} seeds a gain below {100 * (1 - least.ratio):.2g} percent could hardly have been seen (one-sided at 5 percent"
        f"{arms}, power 80 percent, against one constant: that all of them have to be beaten at once is left out, and makes it larger)"
    )


def _missing(results: Results, found: list[Contest], terms: str) -> str:
    said = together([*(note for contest in found for note in contest.notes), *unmatched(results, terms)])
    return f" What is missing: {said}." if said else ""
