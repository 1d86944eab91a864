"""The table of papers: one method, one composition. No recipe has a loop, a draw or a derivative of its own.

Defaults are the published settings where they are known, and the docstrings say of each whether it is published or ours;
`docs/theory.md` holds the equations and `docs/choosing.md` the advice. Each refuses a number outside the range that its docstring
gives (`ValueError`) and what is no velocity, weight, rate or sampler of times where one is asked (`TypeError`).
"""

from meanstep.recipes.conditional import (
    curriculum_meanflow,
    decoupled_meanflow,
    flow_matching,
    meanflow,
    modular_meanflow,
    rectified_meanflow,
)
from meanstep.recipes.differences import alpha_flow, discrete_meanflow, solution_flow, transition
from meanstep.recipes.jumps import shortcut, split_meanflow, terminal_velocity
from meanstep.recipes.proxies import coefficient, improved_meanflow, pixel_meanflow, posterior_meanflow, trace_weighted
from meanstep.recipes.shares import IMAGENET
from meanstep.terms import Recipe, method

__all__ = [
    "IMAGENET",
    "Recipe",
    "alpha_flow",
    "coefficient",
    "curriculum_meanflow",
    "decoupled_meanflow",
    "discrete_meanflow",
    "flow_matching",
    "improved_meanflow",
    "meanflow",
    "method",
    "modular_meanflow",
    "pixel_meanflow",
    "posterior_meanflow",
    "rectified_meanflow",
    "shortcut",
    "solution_flow",
    "split_meanflow",
    "terminal_velocity",
    "trace_weighted",
    "transition",
]
