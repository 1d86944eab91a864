"""docs/choosing.md, published settings: every setting that the table names is code that runs, or an option that the command line takes."""

import re
import shlex
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import meanstep as ms
from meanstep import auxiliary, coefficients, conditions, fields, rates, recipes, terms, times, velocities, weights
from meanstep.program import methods
from meanstep.program.runs.options import parsed
from meanstep.program.training.command import Train

from .pages import ROOT

METHODS = {
    "pixel MeanFlow": "pixel_meanflow", "MeanFlow": "meanflow", "TiM": "transition", "SoFlow": "solution_flow", "alpha-Flow": "alpha_flow",
    "decoupled MeanFlow": "decoupled_meanflow", "rectified MeanFlow": "rectified_meanflow", "FastGen": "meanflow",
    "Stable Velocity": "posterior_meanflow",
}  # fmt: skip
NET = fields.DiT(8, 2, 4, 16, 28, 2)
EMA = ms.Average(NET, 0.9)
DROPOUT = velocities.LabelDropout(3, 0.1)
NAMES: dict[str, Any] = {
    **vars(ms.weights), **vars(recipes), **vars(coefficients), **vars(velocities), "torch": torch, "ms": ms, "auxiliary": auxiliary,
    "coefficients": coefficients, "fields": fields, "rates": rates, "terms": terms, "times": times, "velocities": velocities,
    "weights": weights, "DiT": lambda **given: fields.DiT(8, 2, 4, 16, 28, 2, **given), "net": NET, "ema": EMA, "teacher": EMA,
    "dropout": DROPOUT, "null": 3, "omega": 1.0, "kappa": 0.5, "window": (0.2, 0.8), "scale": 2.0, "power": 1.0, "c": 0.01,
    "invariant": True, "recipe": recipes.meanflow(), "lpips": lambda a, b: a, "convnext": lambda a, b: a, "network": nn.Identity(),
    "projection": nn.Linear(16, 4), "k": 1, "posterior": velocities.conditional, "field": NET,
    "path": ms.paths.linear, "conditions": conditions, "e": torch.zeros(2, 2, 8, 8), "y": None,
    "features": torch.zeros(6, 2), "labels": torch.arange(6) % 2, "K": 1, "split": 20,
}  # fmt: skip
"""What the words of the table stand for."""
ELSEWHERE = ("Decoupled(net", "class x K", "imagenet256-dit-b4", "r = t", "--network.start", "meanstep cache")
"""Words, and what other tests run: a network in parts, a preset, a start, another command."""


def rows() -> list[Any]:
    """The last column's pieces of code, with the method of their row."""
    text = (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8").partition("## Published settings")[2]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")]
    found = []
    for method, detail, _, _, way in lines[1 : next(k for k, line in enumerate(lines) if len(line) != 5)]:
        found += [
            pytest.param(method, code, id=f"{method}, {detail}, {code:.30}")
            for code in re.findall(r"`([^`]+)`", way)
            if not any(word in code for word in ELSEWHERE)
        ]
    return found


def typed(code: str) -> Train:
    """What `meanstep train` makes of an option."""
    return parsed(Train, "train", shlex.split(code), Train())


@pytest.mark.parametrize(("method", "code"), rows())
def test_a_published_setting_is_code_that_runs(method: str, code: str):
    name = METHODS.get(method.partition(",")[0], "meanflow")
    if code.startswith("--"):
        assert typed(code) != Train()
    elif code.startswith("{"):
        options = yaml.safe_load(code.replace(", ...}", "}")) | ({"proxy": "own"} if name == "pixel_meanflow" else {})
        assert methods.build(name, NET, EMA, velocities.conditional, **options)
    else:
        call = code if not re.match(r"[a-z_]+=(?!=)", code) else f"dict({code})"
        assert eval(call, dict(NAMES)) is not None  # code of our own page


def test_the_table_is_found():
    assert len(rows()) > 40
