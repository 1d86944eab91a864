"""What a study trains, by name: a recipe and its options on top of the study's configuration. Knows no files and no networks."""

import dataclasses
import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import yaml

from meanstep.program import registry
from meanstep.program.console import UserError
from meanstep.program.runs.config import MethodConfig
from meanstep.program.runs.config import from_yaml as from_config

CONSTANT, ANCHORED, SCHEDULE, RECIPE = "constant", "anchored", "schedule", "recipe"
ANCHOR: dict[str, Any] = {"anchor": 0.1, "delta": [0.0, 0.001], "anchor_share": 0.25}
"""Scale and gap of the paper's anchor on latents; that it takes a quarter of the rows is ours."""
NONE = {"anchor": 0.0}


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


def _schedule(name: str, about: str, **options: Any) -> Arm:
    return Arm(name, about, SCHEDULE, "coefficient", NONE | options)


def _recipe(name: str, about: str, method: dict[str, Any] | None = None, **options: Any) -> Arm:
    return Arm(name, about, RECIPE, name, options, method or {})


OTHERS = ("flow_matching", "modular_meanflow", "curriculum_meanflow", "split_meanflow", "solution_flow", "transition", "shortcut")
SINGLES: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        _schedule("rising", "EMA tangent, beta from 0 to 1 over the training", beta={"linear": [0, 1]}),
        _schedule("falling", "EMA tangent, beta from 1 to 0 over the training", beta={"linear": [1, 0]}),
        _schedule("falling-half", "EMA tangent, beta from 1 to 0 over the first half, then 0", beta={"linear": [1, 0, 0.5]}),
        _schedule("cosine-falling", "EMA tangent, beta from 1 to 0 along a cosine", beta={"cosine": [1, 0]}),
        _schedule("over-t", "EMA tangent, beta = t^4: only where the noise is", beta={"over_t": [0, 1, 4]}),
        _schedule("running", "EMA tangent, beta per bin of (r, t), estimated in training", beta="running"),
        _schedule("climber", "EMA tangent, beta moved by the one-step distance", beta="climber"),
        Arm(
            "projected",
            "posterior in 16 principal components, tangent and target, plain squared error",
            SCHEDULE,
            "coefficient",
            NONE | {"beta": 1.0, "target_beta": 1.0, "proxy": "posterior", "power": 0},
            {"components": 16},
        ),
        _recipe("alpha_flow", "alpha-Flow: trajectory flow matching annealed into MeanFlow"),
        _recipe("improved_meanflow", "iMF without a head: the network's own boundary as tangent", proxy="own"),
        _recipe("terminal_velocity", "TVM: velocity matching at the arrival, gradient through the derivative in r", {"proxy_decay": 0.99}),
        *(_recipe(name, registry.METHODS[name].about.partition(",")[0].rstrip(".")) for name in OTHERS),
    )
}
SWEPT: dict[str, tuple[str, str, dict[str, Any]]] = {
    "beta": ("EMA tangent at beta = {}, no anchor", CONSTANT, NONE),
    "anchored": ("EMA tangent at beta = {}, with the anchor", ANCHORED, ANCHOR),
    "own": ("the network's own boundary in the tangent at beta = {}", SCHEDULE, NONE | {"proxy": "own"}),
    "posterior": ("posterior in the tangent at beta = {}", SCHEDULE, NONE | {"proxy": "posterior"}),
    "posterior-both": ("posterior in tangent and target at beta = {}", SCHEDULE, NONE | {"proxy": "posterior"}),
    "squared": ("EMA tangent at beta = {}, plain squared error", SCHEDULE, NONE | {"power": 0}),
    "squared-posterior": (
        "posterior in the tangent at beta = {}, plain squared error",
        SCHEDULE,
        NONE | {"proxy": "posterior", "power": 0},
    ),
    "squared-both": ("posterior in both roles at beta = {}, plain squared error", SCHEDULE, NONE | {"proxy": "posterior", "power": 0}),
}
"""Arms with a coefficient, `NAME@BETA`: what it is, its family, its options."""
BOTH = {"posterior-both", "squared-both"}
GROUPS: dict[str, tuple[str, ...]] = {
    "paper": ("beta@0", "beta@0.25", "beta@0.5", "anchored@1"),
    "constants": ("beta@0", "beta@0.25", "beta@0.5", "beta@1"),
    "anchors": ("anchored@0", "anchored@1"),
    "schedules": ("rising", "falling", "over-t", "running", "climber", "posterior@1", "squared@0", "squared-both@1", "projected"),
    "recipes": ("alpha_flow", "improved_meanflow", "terminal_velocity"),
}
"""Names for several arms."""


def arms(names: Iterable[str], own: dict[str, Arm] | None = None) -> tuple[Arm, ...]:
    """The arms of these names and groups, each once, in order; `own`: further ones. `UserError` names what there is."""
    single = [part for name in names for part in GROUPS.get(name, (name,))]
    found = [_arm(name, own or {}) for name in single]
    return tuple({arm.name: arm for arm in found}.values())


def _arm(name: str, own: dict[str, Arm]) -> Arm:
    if name in own:
        return own[name]
    if name in SINGLES:
        return SINGLES[name]
    kind, _, number = name.partition("@")
    if kind not in SWEPT or not number:
        raise UserError(_unknown(name, own))
    try:
        beta = float(number)
    except ValueError:
        beta = -1.0
    if not 0 <= beta <= 1:
        raise UserError(f"--arms {name}: the coefficient lies in [0, 1], got {number!r}")
    about, family, options = SWEPT[kind]
    both = {"target_beta": beta} if kind in BOTH else {}
    short = f"{beta:.12g}"
    return Arm(f"{kind}@{short}", about.format(short), family, "coefficient", options | {"beta": beta} | both, beta=beta)


def _unknown(name: str, own: dict[str, Arm]) -> str:
    known = [*GROUPS, *(f"{kind}@BETA" for kind in SWEPT), *SINGLES, *own]
    near = difflib.get_close_matches(name, [*known, *SWEPT], 1)
    hint = f"did you mean {near[0]}{'@BETA' if near[0] in SWEPT else ''}?" if near else f"there are {', '.join(known)}"
    return f"--arms: there is no arm {name!r}; {hint}"


def from_yaml(text: str, where: str) -> dict[str, Arm]:
    """Arms of one's own: `name: {recipe: coefficient, options: {...}, about: ..., proxy_decay: ...}`; `UserError` for anything else."""
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{where}: no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict) or not found:
        raise UserError(f"{where}: expected entries such as late: {{recipe: coefficient, options: {{beta: {{over_t: [0, 1, 8]}}}}}}")
    return {str(name): _own(str(name), entries, where) for name, entries in found.items()}


def _own(name: str, entries: Any, where: str) -> Arm:
    allowed = {f.name for f in dataclasses.fields(MethodConfig)} | {"about"}
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.@+-]*", name) or name in GROUPS or name in SINGLES or name.partition("@")[0] in SWEPT:
        raise UserError(f"{where}: the name of an arm is new, and made of letters, digits and _.@+-, got {name!r}")
    if not isinstance(entries, dict) or not isinstance(entries.get("options", {}), dict):
        raise UserError(f"{where}, {name}: expected entries such as {{recipe: coefficient, options: {{beta: 0.5}}}}, got {entries!r:.80}")
    for entry in entries:
        if entry not in allowed:
            raise UserError(f"{where}, {name}: there is no entry {entry!r}; there are {', '.join(sorted(allowed))}")
    from_config(yaml.safe_dump({"method": {key: value for key, value in entries.items() if key != "about"}}), f"{where}, {name}")
    rest = {key: value for key, value in entries.items() if key not in ("recipe", "options", "about")}
    recipe, options = str(entries.get("recipe", "coefficient")), entries.get("options", {})
    if ":" not in recipe:  # a function of the user's own is looked at when it is imported
        registry.check_options(registry.find(recipe), options, f"{where}, {name}")
    return Arm(name, str(entries.get("about", "own")), SCHEDULE, recipe, options, rest)
