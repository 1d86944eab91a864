"""What a study trains, by name: a recipe and its options on top of the study's configuration. The table is arms.yaml."""

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import yaml

from meanstep.program import registry
from meanstep.program.errors import UserError, shown
from meanstep.program.reading import trees
from meanstep.program.reproduce.arms import unknown
from meanstep.program.reproduce.images.protocol import AUTHORS, OURS
from meanstep.program.runs.config import from_yaml as from_config
from meanstep.program.runs.method import MethodConfig

CONSTANT, ANCHORED, SCHEDULE, RECIPE = "constant", "anchored", "schedule", "recipe"


@dataclass(frozen=True)
class Arm:
    """`options` of the recipe and other entries of `MethodConfig`, which replace the study's own; `beta`: the coefficient, if a number.

    `family`: "constant" and "anchored" arms train on beyond the others, so that these can be compared with them at equal compute.
    """

    name: str
    about: str
    family: str
    recipe: str
    options: dict[str, Any] = field(default_factory=dict)
    method: dict[str, Any] = field(default_factory=dict)
    beta: float | None = None

    def of(self, base: MethodConfig) -> MethodConfig:
        """The arm's method: of the study's options those that the recipe has, the arm's own on top."""
        known = registry.find(self.recipe).options
        kept = {name: value for name, value in base.options.items() if name in known}
        return dataclasses.replace(base, recipe=self.recipe, options=kept | self.options, **self.method)


def _listed(name: str, entries: dict[str, Any]) -> Arm:
    rest = {key: value for key, value in entries.items() if key not in ("recipe", "options", "about", "family")}
    recipe, options = str(entries.get("recipe", "coefficient")), entries.get("options", {})
    about = entries["about"] if "about" in entries else registry.METHODS[recipe].about.partition(",")[0].rstrip(".")
    return Arm(name, str(about), entries.get("family", SCHEDULE), recipe, options, rest)


_TABLE = yaml.safe_load(files(__package__ or "").joinpath("arms.yaml").read_text(encoding="utf-8"))
SINGLES: dict[str, Arm] = {name: _listed(name, entries) for name, entries in _TABLE["single"].items()}
SWEPT: dict[str, dict[str, Any]] = _TABLE["swept"]
"""Arms with a coefficient, `NAME@BETA`."""
GROUPS: dict[str, list[str]] = _TABLE["groups"]
"""Names for several arms."""
GUIDED = f"{__package__}.guided:guided_meanflow"
"""The recipe of the authors' arms."""


@dataclass(frozen=True)
class Offer:
    """The arms of a protocol: single ones, those with a coefficient, and names for several."""

    single: dict[str, Arm]
    swept: dict[str, dict[str, Any]]
    groups: dict[str, list[str]]


_THEIRS = {name: {"recipe": GUIDED} | entries for name, entries in _TABLE["authors"]["swept"].items()}
OFFERS = {OURS: Offer(SINGLES, SWEPT, GROUPS), AUTHORS: Offer({}, _THEIRS, _TABLE["authors"]["groups"])}


def arms(names: Iterable[str], own: dict[str, Arm] | None = None, protocol: str = OURS) -> tuple[Arm, ...]:
    """The arms of these names and groups, each once, in order; `own`: further ones. `UserError` names what the protocol has."""
    offer = OFFERS[protocol]
    single = [part for name in names for part in offer.groups.get(name, (name,))]
    found = [_arm(name, offer.single | (own or {}), offer, protocol) for name in single]
    return tuple({arm.name: arm for arm in found}.values())


def _arm(name: str, there: dict[str, Arm], offer: Offer, protocol: str) -> Arm:
    if name in there:
        return there[name]
    kind, _, number = name.partition("@")
    if kind not in offer.swept or not number:
        for other, theirs in OFFERS.items():
            if other != protocol and (name in theirs.single or name in theirs.groups or (number and kind in theirs.swept)):
                listed = ", ".join([*(f"{arm}@BETA" for arm in offer.swept), *offer.groups, *there])
                raise UserError(f"--arms {name} is of --protocol {other}, and --protocol {protocol} has {listed}: leave one of them out")
        raise unknown(name, tuple(offer.swept), (*offer.groups, *there), "@BETA")
    try:
        beta = float(number)
    except ValueError:
        beta = -1.0
    if not 0 <= beta <= 1:
        raise UserError(f"--arms {name}: the coefficient lies in [0, 1], got {number!r}")
    short, entries = f"{beta:.12g}", {key: value for key, value in offer.swept[kind].items() if key != "swept"}
    options = entries.get("options", {}) | dict.fromkeys(offer.swept[kind].get("swept", ["beta"]), beta)
    arm = _listed(f"{kind}@{short}", entries | {"about": entries["about"].format(short), "options": options})
    return dataclasses.replace(arm, beta=beta)


def from_yaml(text: str, where: str) -> dict[str, Arm]:
    """Arms of one's own: `name: {recipe: coefficient, options: {...}, about: ..., proxy_decay: ...}`; `UserError` for anything else."""
    found = trees.from_yaml(text, where)
    if not isinstance(found, dict) or not found:
        raise UserError(f"{where}: expected entries such as late: {{recipe: coefficient, options: {{beta: {{over_t: [0, 1, 8]}}}}}}")
    return {str(name): _own(str(name), entries, where) for name, entries in found.items()}


def _own(name: str, entries: Any, where: str) -> Arm:
    allowed = {f.name for f in dataclasses.fields(MethodConfig)} | {"about"}
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.@+-]*", name) or name in GROUPS or name in SINGLES or name.partition("@")[0] in SWEPT:
        raise UserError(f"{where}: the name of an arm is new, and made of letters, digits and _.@+-, got {name!r}")
    if not isinstance(entries, dict) or not isinstance(entries.get("options", {}), dict):
        raise UserError(f"{where}, {name}: expected entries such as {{options: {{beta: 0.5}}}}, got {shown(entries, 80)}")
    for entry in entries:
        if entry not in allowed:
            raise UserError(f"{where}, {name}: there is no entry {entry!r}; there are {', '.join(sorted(allowed))}")
    from_config(yaml.safe_dump({"method": {key: value for key, value in entries.items() if key != "about"}}), f"{where}, {name}")
    arm = _listed(name, {"about": "own"} | entries)
    if ":" not in arm.recipe:  # a function of the user's own is looked at when it is imported
        registry.check_options(registry.find(arm.recipe), arm.options, f"{where}, {name}")
    return arm
