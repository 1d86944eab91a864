"""results.md: the contrasts of this study as they were stated before, from its records: python studies/paper/dit/contrasts.py [RUNS].

RUNS, the folder that run.sh filled, is packed into records/ first, its parts with a run that has ended. One-step distances with EMA
weights at the last moment, ratios paired by seed, geometric means with 95 percent t-intervals; p by Holm over the contrasts of a part.
Four steps, where they were measured, are for information.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from meanstep.program.pages.statistics import Change, holm, mean, ratio
from meanstep.program.reproduce.images import KIND
from meanstep.program.reproduce.records import Record, load
from meanstep.program.reproduce.study import held

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
from packs import pack, unpacked  # noqa: E402

PARTS = ("digits-authors", "digits-coefficient", "digits-uniform", "cifar-authors", "cifar-coefficient", "cifar-uniform")
CONTRASTS = (
    ("squared-anchored@1", "beta@0", "the published pair"),
    ("squared@0", "beta@0", "weight, at 0"),
    ("squared@1", "beta@1", "weight, at 1"),
    ("anchored@0", "beta@0", "anchor, at 0, p = 1"),
    ("anchored@1", "beta@1", "anchor, at 1, p = 1"),
    ("squared-anchored@0", "squared@0", "anchor, at 0, p = 0"),
    ("squared-anchored@1", "squared@1", "anchor, at 1, p = 0"),
    ("beta@0.25", "beta@0", "coefficient .25, p = 1"),
    ("beta@0.5", "beta@0", "coefficient .5, p = 1"),
    ("beta@1", "beta@0", "coefficient 1, p = 1"),
    ("squared@1", "squared@0", "coefficient 1, p = 0"),
    ("squared-anchored@1", "squared-anchored@0", "coefficient 1, p = 0, anchored"),
    ("stated@1", "beta@0", "coefficient 1 as stated, p = 1"),
    ("stated-squared-anchored@1", "squared-anchored@0", "coefficient 1 as stated, p = 0, anchored"),
)

TIMED = ("beta@0", "beta@1", "squared@0", "squared@1")
"""Arms that were trained with both kinds of times."""


def at_moment(records: list[Record], arm: str, seen: int, *path: str) -> dict[int, float]:
    """A number of an arm's records at a moment, by seed."""
    found = {}
    for record in records:
        if (record["kind"], record["arm"], record["seen"]) == ("moment", arm, seen):
            value: Any = record
            for name in path:
                value = (value or {}).get(name)
            if value is not None:
                found[int(record["seed"])] = float(value)
    return found


def last(folder: Path, arm: str) -> dict[int, float]:
    """An arm's one-step distance at the end of a part, by seed."""
    about, records = held(folder, KIND) or {}, load(folder, KIND)
    return at_moment(records, arm, about["moments"][-1], "distance", "ema", "1")


def ended(folder: Path) -> bool:
    """Whether a run of a part has."""
    about = held(folder, KIND)
    return about is not None and any(record.get("seen", 0) >= about["moments"][-1] for record in load(folder, KIND))


def contrasts(records: list[Record], end: int, steps: str = "1") -> dict[tuple[str, str, str], Change]:
    """Those of which both arms have two seeds at the last moment."""
    distances = {name: at_moment(records, name, end, "distance", "ema", steps) for pair in CONTRASTS for name in pair[:2]}
    found = {pair: ratio(distances[pair[0]], distances[pair[1]]) for pair in CONTRASTS}
    return {pair: change for pair, change in found.items() if change.n > 1}


def shown(change: Change | None) -> str:
    """A ratio with its interval."""
    if change is None:
        return ""
    return f"{change.value:.3f}" + (f" [{change.interval[0]:.3f}, {change.interval[1]:.3f}]" if change.interval else "")


def told(folder: Path) -> str:
    """A part: distances over the floor, contrasts, and the estimators as published."""
    about, records = held(folder, KIND) or {}, load(folder, KIND)
    end, floor, lines = about["moments"][-1], about["floor"]["1"], [f"## {folder.name}\n"]
    distances = {arm["name"]: mean(at_moment(records, arm["name"], end, "distance", "ema", "1").values()) for arm in about["arms"]}
    over = ", ".join(f"{arm} {found.mean / floor:.2f}" for arm, found in distances.items() if found)
    lines += [f"Floor {floor:.3g}; one step, times the floor: {over}.\n"]
    lines += ["| contrast | arms | seeds | ratio | p (Holm) | in four steps |", "|---|---|---|---|---|---|"]
    rows, more = contrasts(records, end), contrasts(records, end, "4")
    for (pair, change), p in zip(rows.items(), holm([change.p() for change in rows.values()]), strict=True):
        above, below, what = pair
        sure = "" if p is None else f"{p:.3g}"
        lines.append(f"| {what} | {above} over {below} | {change.n} | {shown(change)} | {sure} | {shown(more.get(pair))} |")
    for number in ("kappa", "scalar", "matrix"):
        by_moment = [mean(at_moment(records, "beta@0", seen, "published", number).values()) for seen in about["moments"]]
        lines.append(
            f"\nPublished estimator, {number}, by moment: " + ", ".join("" if m is None else f"{m.mean:.3g}" for m in by_moment) + "."
        )
    lines += course(records, about["moments"])
    return "\n".join(lines) + "\n"


def course(records: list[Record], moments: list[int]) -> list[str]:
    """The coefficient's gain in the course of training, and what more steps at 0 do for it: where two seeds have both arms."""
    distances = {(arm, seen): at_moment(records, arm, seen, "distance", "ema", "1") for arm in TIMED[:2] for seen in moments}
    found = [(seen, ratio(distances["beta@1", seen], distances["beta@0", seen])) for seen in moments]
    said = [f"{seen:,}: {shown(change)}" for seen, change in found if change.n > 1]
    lines = [f"\nbeta@1 over beta@0 by samples seen: {'; '.join(said)}."] if said else []
    later = max((record["seen"] for record in records if record["arm"] == "beta@0" and record["kind"] == "moment"), default=0)
    more = ratio(at_moment(records, "beta@0", later, "distance", "ema", "1"), distances["beta@1", moments[-1]])
    if later > moments[-1] and more.n > 1:
        lines.append(f"\nbeta@0 at {later:,} over beta@1 at {moments[-1]:,}: {shown(more)}.")
    return lines


def times() -> str:
    """What the times alone change: distances, and the ratio of the coefficient 1 to 0, under uniform over logit-normal ones."""
    lines = ["## Uniform times over logit-normal ones\n", "One step; seeds that both parts have, no correction for several contrasts.\n"]
    lines += ["| data | what | seeds | ratio |", "|---|---|---|---|"]
    found = {folder.name: {arm: last(folder, arm) for arm in TIMED} for folder in parts()}
    for data in ("digits", "cifar"):
        above, below = (found.get(f"{data}-{name}", {}) for name in ("uniform", "coefficient"))
        rows = {arm: (above[arm], below[arm]) for arm in TIMED if above and below}
        for weight in ("beta", "squared") if rows else ():
            one, zero = f"{weight}@1", f"{weight}@0"
            rows[f"{one} over {zero}"] = (shares(above[one], above[zero]), shares(below[one], below[zero]))
        changes = {what: ratio(*pair) for what, pair in rows.items()}
        lines += [f"| {data} | {what} | {change.n} | {shown(change)} |" for what, change in changes.items() if change.n]
    return "\n".join(lines) + "\n"


def shares(above: dict[int, float], below: dict[int, float]) -> dict[int, float]:
    """By seed."""
    return {seed: above[seed] / below[seed] for seed in above.keys() & below.keys()}


def parts() -> Iterator[Path]:
    """A folder for each part that has records, for a while."""
    for packed in (HERE / "records" / part for part in PARTS):
        if packed.is_dir():
            with unpacked(packed) as folder:
                yield folder


if __name__ == "__main__":
    if sys.argv[1:]:
        made = [run for run in (Path(sys.argv[1]) / part for part in PARTS) if ended(run)]
        if not made:
            raise SystemExit(f"{sys.argv[1]} holds no part with a run that has ended: name the folder that run.sh fills")
        for run in made:
            pack(run, HERE / "records" / run.name, digits=6)
    text = "# Results\n\nMade of the records by `contrasts.py`.\n\n" + "\n".join([*map(told, parts()), times()])
    (HERE / "results.md").write_text(text, encoding="utf-8")
