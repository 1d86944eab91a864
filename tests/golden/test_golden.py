"""Short training curves of every recipe. They say that numbers moved, not whether they moved for the better.

A change that is not about numerics leaves them alone. After one that is: `pytest tests/golden --regold` (one process), look at the
difference, and say under Numerics in CHANGELOG.md what moved and why.
"""

import json
from pathlib import Path

import pytest
import torch

from ..contracts.table import CASES

FILE = Path(__file__).with_name("curves.json")
STEPS, ROWS, RTOL = 12, 64, 1e-7

Curve = dict[str, list[float]]


def curve(name: str) -> Curve:
    """Loss and mean squared residual over 12 Adam steps of an MLP 2x16 in float64."""
    case = CASES[name]
    setting, out = case.setting("mlp", rows=ROWS), {"loss": [], "residual": []}
    optimiser = torch.optim.Adam([*setting.field.parameters(), *setting.loss.parameters()], lr=1e-2)
    for step in range(STEPS):
        # schedules run through their whole range
        given = {} if case.progress is None else {"progress": step / (STEPS - 1)}
        loss, metrics = setting(seed=step, **given)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        out["loss"].append(loss.item())
        out["residual"].append(metrics["residual"].item())
    return out


def read() -> dict[str, Curve]:
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def write(curves: dict[str, Curve]) -> None:
    lines = [f' "{name}": {json.dumps(curves[name])}' for name in CASES if name in curves]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def difference(want: Curve, got: Curve) -> str:
    """The first number that moved by more than the tolerance, or nothing."""
    for key, values in got.items():
        for step, (old, new) in enumerate(zip(want[key], values, strict=True)):
            if abs(new - old) > RTOL * abs(old):
                return f"{key} at step {step}: {old!r} became {new!r}, relative change {abs(new - old) / abs(old):.2g}"
    return ""


HOW = (
    "If that is meant: `pytest tests/golden --regold`, and say why under Numerics in CHANGELOG.md. If it is not, the change moves numbers "
    "that it should leave alone."
)


@pytest.mark.parametrize("name", CASES)
def test_the_curve(name: str, request: pytest.FixtureRequest):
    got = curve(name)
    if request.config.getoption("--regold"):
        write({**read(), name: {key: [float(f"{value:.12g}") for value in values] for key, values in got.items()}})
    want = read().get(name)
    assert want is not None, f"no golden curve of {name}. {HOW}"
    moved = difference(want, got)
    assert not moved, f"{name}: {moved}. {HOW}"


def test_every_golden_curve_belongs_to_a_recipe():
    stale = set(read()) - set(CASES)
    assert not stale, f"golden curves of recipes that are gone: {sorted(stale)}. {HOW}"


def test_training_goes_somewhere():
    """Curves of networks that do not learn would not notice much: the plain loss falls."""
    losses = read()["flow_matching"]["loss"]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


def test_a_moved_number_is_found():
    want: Curve = {"loss": [1.0, 2.0], "residual": [1.0, 1.0]}
    assert difference(want, {"loss": [1.0, 2.0 * (1 + 0.5e-7)], "residual": [1.0, 1.0]}) == ""
    assert "loss at step 1: 2.0 became 2.00002" in difference(want, {"loss": [1.0, 2.00002], "residual": [1.0, 1.0]})
