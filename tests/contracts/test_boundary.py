"""Every public constructor refuses what it cannot use: a number out of its range, no function, another kind of function, in one line.

The table is made from the signatures, so that a new argument is looked at from the day it is written.
"""

import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import meanstep as ms
from meanstep import auxiliary, boundary, coefficients, objectives, rates, recipes, terms, times, velocities, weights

MODULES = (auxiliary, coefficients, objectives, rates, recipes, terms, times, velocities, weights)
NET = ms.MLP(2, 4, 1)
GIVEN: dict[str, Any] = {
    "times": times.uniform, "other": times.uniform, "share": 0.5, "largest_gap": 0.5, "gap": 0.5, "levels": (1, 2), "power": 1.0,
    "weight": weights.constant, "factor": weights.tangent_gap, "scale": 1.0, "ratio": 0.5, "start": 0.5, "end": 0.2, "value": 0.5,
    "rate": rates.Exact(), "objective": objectives.Matching(), "loss": lambda look: look.bridge.t, "distance": lambda a, b: a,
    "network": nn.Identity(), "layer": nn.Identity(), "projection": nn.Identity(), "null": 3, "dropout": velocities.LabelDropout(3),
    "base": velocities.conditional, "proxy": NET, "given": velocities.as_is, "by": NET, "a": velocities.own, "c": velocities.own,
    "beta": 0.5, "arrival": NET, "posterior": velocities.conditional, "reference": torch.zeros(3, 2), "velocity": velocities.conditional,
}  # fmt: skip
"""What is given for the arguments that are not looked at."""
OWN = {
    ("alpha", "c"): 1e-3,
    ("hidden_from", "proxy"): velocities.own, ("scaled_guided", "by"): velocities.own, ("oracle", "velocity"): torch.lerp,
    ("ScaledRows", "scale"): velocities.random_scale(), ("random_scale", "scale"): 1.0, ("Guided", "by"): velocities.own,
    ("flexibly_guided", "by"): velocities.own,
}  # fmt: skip
"""Where that name means something else."""
MADE = {"Look", "Condition", "Factored", "Known", "beside", "method", "at_scale", "binned", "shown", "moving"}
"""Records, and functions of what another function made; `at_scale` takes rows and is below."""
NUMBERS = (float("nan"), float("inf"), float("-inf"), "word", (1.0, 2.0, 3.0), [], torch.zeros(2))
PAIRS = (3, "ab", (0.1,), (0.1, 0.2, 0.3), (float("nan"), 0.5), (0.2, float("inf")), ("a", "b"), (0.2, -0.5), None)
FUNCTIONS = (3, "blocks.0", (1, 2))
WRONG = {
    "float": NUMBERS, "int": (0.5, "word", -1, float("nan")), "tuple[float, float]": PAIRS, "Times": (*FUNCTIONS, lambda: 0),
    "Velocity": (*FUNCTIONS, lambda b: b), "Weight": (*FUNCTIONS, lambda e: e), "Rate": (*FUNCTIONS, lambda f, b: f),
    "Coefficient": (-0.5, 1.5, float("nan"), "word", (0.5, 0.5)),
    "LabelDropout": (3, None, velocities.as_is), "nn.Module": (3, "blocks.0", len),
}  # fmt: skip
"""For each kind of argument what is none of it; `Coefficient` is a number in [0, 1], a tensor of such, or a function."""


STEP = {"b", "shape", "error", "field", "y", "at", "table", "swing", "noise", "jn", "entries", "r", "recipe", "x"}
"""Arguments of functions that a step calls."""


def constructors() -> Iterator[tuple[str, Any]]:
    for module in MODULES:
        listed = getattr(module, "__all__", None)
        for name, part in vars(module).items():
            home = getattr(part, "__module__", "")
            ours = home.startswith(module.__name__) and not name.startswith("_") and (listed is None or name in listed)
            if ours and (inspect.isfunction(part) or inspect.isclass(part)) and name not in MADE and makes(part):
                yield f"{module.__name__.rpartition('.')[2]}.{name}", part


def makes(part: Any) -> bool:
    """Whether it makes a part of a method: a class, or a function that takes none of a step's tensors."""
    names = inspect.signature(part).parameters
    return bool(names) and not names.keys() & STEP


def kinds(parameter: inspect.Parameter) -> tuple[str, bool]:
    """The kind of an argument, as the table above names it, and whether None may stand for it."""
    text = parameter.annotation if isinstance(parameter.annotation, str) else inspect.formatannotation(parameter.annotation)
    for alias in ("Times", "Velocity", "Weight", "Rate", "Coefficient"):
        text = text.replace(inspect.formatannotation(getattr(ms.types, alias)), alias)
    text = text.replace("torch.nn.modules.module.Module", "nn.Module").replace("meanstep.velocities.conditioned.", "")
    parts = {part.strip() for part in re.split(r"\|(?![^\[]*\])", text)}
    none = "None" in parts
    return next((kind for kind in WRONG if parts - {"None"} == {kind}), ""), none


def rows() -> Iterator[Any]:
    for place, part in constructors():
        for name, parameter in inspect.signature(part).parameters.items():
            kind, none = kinds(parameter)
            if values := [value for value in WRONG.get(kind, ()) if not (value is None and none)]:
                yield pytest.param(part, name, values, id=f"{place}-{name}")


def filled(part: Any, but: str) -> dict[str, Any]:
    """Arguments that it needs beside one."""
    needed = [p for p in inspect.signature(part).parameters.values() if p.default is p.empty and p.name != but]
    given = {p.name: OWN.get((part.__name__, p.name), GIVEN.get(p.name)) for p in needed}
    return given | {name: GIVEN[name] for name in NEEDED.get(part.__name__, ()) if name != but}


NEEDED = {
    "coefficient": ("proxy",), "trace_weighted": ("proxy",), "terminal_velocity": ("arrival",), "shortcut": ("by",),
    "posterior_meanflow": ("posterior",),
}  # fmt: skip
"""What has a default that is refused."""
TABLE = list(rows())


def test_the_table_holds_what_it_should():
    named = {place for place, _ in constructors()}
    assert {f"recipes.{name}" for name in recipes.__all__ if name.islower() and name != "method"} <= named
    assert {"times.logit_normal", "velocities.randomly_guided", "auxiliary.Directional", "auxiliary.aligned", "weights.min_snr"} <= named
    assert len(TABLE) > 150


@pytest.mark.parametrize(("place", "part"), list(constructors()), ids=[place for place, _ in constructors()])
def test_what_is_given_beside_is_right(place: str, part: Any):
    """So that what is refused below is refused for the argument that is named."""
    part(**filled(part, ""))


@pytest.mark.parametrize(("part", "name", "values"), TABLE)
def test_what_cannot_be_is_refused_in_one_line_that_echoes_it(part: Any, name: str, values: list[Any]):
    for value in values:
        try:
            made = part(**filled(part, name) | {name: value})
        except (ValueError, TypeError) as error:
            text = str(error)
        else:
            pytest.fail(f"{name}={value!r} was taken: {made!r}")
        echoed = f"{value:g}" if isinstance(value, int | float) else getattr(value, "__name__", repr(value))
        assert "\n" not in text and echoed[:20] in text, text


# Ranges, each at its ends and beyond them --------------------------------------------------------------------------------------------

DROPOUT = velocities.LabelDropout(3)
REFUSED = {
    "times.logit_normal(std=0)": (lambda: times.logit_normal(0.0, 0.0), r"a positive, finite deviation, got \(0\.0, 0\.0\)"),
    "times.logit_normal(std=-1)": (lambda: times.logit_normal(0.0, -1.0), r"got \(0\.0, -1\.0\)"),
    "times.instants(std=0)": (lambda: times.instants(0.0, 0), r"got \(0\.0, 0\)"),
    "times.logit_normal_pair": (lambda: times.logit_normal_pair(r=(0.0, -1.0)), r"times r: a finite mean.*got \(0\.0, -1\.0\)"),
    "times.sorted_pair": (lambda: times.sorted_pair(t=(0.0, 0.0)), r"times t: a finite mean"),
    "times.gap_first": (lambda: times.gap_first(gap=(0.0, 0.0)), "the gap's logit: a finite mean"),
    "times.u_shaped": (lambda: times.u_shaped(top=1.5), r"lies in \(0, 1\], got 1\.5"),
    "times.separated": (lambda: times.separated(times.uniform, 1.0), r"lies in \[0, 1\), got 1"),
    "times.fewest_jumps": (lambda: times.fewest_jumps(0.0), r"lies in \(0, 1\], got 0"),
    "randomly_guided(after=2)": (lambda: velocities.randomly_guided(DROPOUT, after=2), r"after, lies in \[0, 1\], got 2"),
    "fading(speed=0)": (lambda: velocities.fading(speed=0.0), "the speed of fading is a positive number, got 0"),
    "LabelDropout(inside of three)": (lambda: velocities.LabelDropout(3, inside=(0.1, 0.5, 0.9)), r"got \(0\.1, 0\.5, 0\.9\)"),  # type: ignore[arg-type]
    "Guided(window of three)": (lambda: velocities.Guided(velocities.own, DROPOUT, window=(0.1, 0.5, 0.9)), r"\(0\.1, 0\.5, 0\.9\)"),  # type: ignore[arg-type]
    "Guided(window beyond 1)": (lambda: velocities.Guided(velocities.own, DROPOUT, window=(0.5, 2.0)), r"in \[0, 1\], got \(0\.5, 2\.0\)"),
    "Directional(0)": (lambda: auxiliary.Directional(0), "floor, the least norm of a direction, is a positive number, got 0"),
    "Directional(-1)": (lambda: auxiliary.Directional(-1.0), "a positive number, got -1"),
    "terminal_velocity(2, 1)": (lambda: recipes.terminal_velocity(NET, scales=(2, 1)), r"the smaller one first, above 0, got \(2, 1\)"),
    "terminal_velocity(0, 1)": (lambda: recipes.terminal_velocity(NET, scales=(0, 1)), r"above 0, got \(0, 1\)"),
    "random_scale": (lambda: velocities.random_scale(-1.0, 1.0), r"above 0, got \(-1\.0, 1\.0\)"),
    "flexible_scale": (lambda: velocities.flexible_scale(0.5), "a finite number of at least 1, got 0.5"),
    "improved_meanflow": (lambda: recipes.improved_meanflow(top_scale=0.5), "a finite number of at least 1, got 0.5"),
    "pixel_meanflow": (lambda: recipes.pixel_meanflow(floor=0.0), r"the floor of the time lies in \(0, 1\], got 0"),
    "shortcut(levels=0)": (lambda: recipes.shortcut(NET, levels=0), "a whole number of at least 1, got 0"),
    "shortcut(clamp=0)": (lambda: recipes.shortcut(NET, clamp=0.0), "the bound of the target's entries, is a positive number, got 0"),
    "shortcut(all jumps)": (lambda: recipes.shortcut(NET, bootstrap_share=1.0), r"lies in \(0, 1\), got 1"),
    "alpha_flow(clamp=-4)": (lambda: recipes.alpha_flow(0.5, clamp=-4.0), "a positive number, got -4"),
    "alpha_flow(c=0)": (lambda: recipes.alpha_flow(0.5, c=0.0), "c is a positive number, got 0"),
    "transition(step=0)": (lambda: recipes.transition(step=0.0), r"the step of the difference lies in \(0, 1\], got 0"),
    "coefficient(delta)": (lambda: recipes.coefficient(0.0, delta=(0.2, 0.1)), r"delta, the gap of the anchor,.*got \(0\.2, 0\.1\)"),
    "curriculum(power=0)": (lambda: recipes.curriculum_meanflow(power=0.0), "power is a positive number, got 0"),
    "min_snr(0)": (lambda: weights.min_snr(0.0), "is a positive number, got 0"),
    "Cauchy(c=0)": (lambda: weights.Cauchy(0.0), "is a positive number, got 0"),
    "sigmoid(snap)": (lambda: coefficients.sigmoid(snap=0.5), r"lies in \[0, 0\.5\), got 0\.5"),
    "at_scale(trained)": (lambda: velocities.at_scale(torch.arange(3), 2.0, trained=(8.0, 1.0)), r"the smaller one first, finite, got \(8"),
    "distance_of(3)": (lambda: auxiliary.distance_of(3), r"network is a function or module from rows .* got 3"),  # type: ignore[arg-type]
    "perceptual(network)": (lambda: auxiliary.perceptual(nn.Linear(2, 2)), r"distance_of\(network\).*called with 2 arguments, and Linear"),
    "aligned by name": (
        lambda: auxiliary.aligned("blocks.0", nn.Identity(), nn.Identity()),  # type: ignore[arg-type]
        r"layer is a module of the field.*net\.get_submodule\('blocks\.3'\), got 'blocks\.0'",
    ),
    "aligned without a module": (lambda: auxiliary.aligned(NET, nn.Identity(), len), "projection is a module that learns.*got <built-in"),  # type: ignore[arg-type]
    "a field for a velocity": (lambda: recipes.meanflow(velocity=NET), r"velocities\.of\(net\) of another field, called with 2.*MLP takes"),
    "times by a word": (lambda: recipes.meanflow(times="uniform"), r"times is a sampler .* such as times\.logit_normal\(\), got 'uniform'"),  # type: ignore[arg-type]
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_range_is_held_at_its_ends(case: str):
    make, message = REFUSED[case]
    with pytest.raises((ValueError, TypeError), match=message) as told:
        make()
    assert "\n" not in str(told.value)


def test_the_ends_that_belong_to_a_range():
    times.separated(times.uniform, 0.0)
    times.u_shaped(top=1.0)
    velocities.randomly_guided(DROPOUT, 1.0, 1.0, after=1.0)
    velocities.randomly_guided(DROPOUT, after=0)
    velocities.Guided(velocities.own, DROPOUT, window=(0.4, 0.4))
    recipes.terminal_velocity(NET, scales=(2, 2))
    recipes.coefficient(1.0, NET, delta=(0.0, 0.0))
    velocities.flexible_scale(1.0)
    boundary.number("x", torch.tensor(0.5), 0, 1)
