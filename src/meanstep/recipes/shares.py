"""What the recipes share: rows with `r = t` beside the moving ones, and the look at what a user hands in."""

import inspect
from dataclasses import replace

from torch import nn

from meanstep import boundary
from meanstep import times as at_times
from meanstep.terms import Recipe, Term
from meanstep.types import Objective, Times, Velocity, Weight
from meanstep.velocities import LabelDropout, of
from meanstep.velocities.conditioned import says_null

IMAGENET = at_times.logit_normal(-0.4, 1.0)
"""MeanFlow's sampler on ImageNet latents: two sorted logit-normals."""


def with_diagonal(objective: Objective, times: Times, weight: Weight, share: float, rows: Term) -> Recipe:
    """An objective on a part of the rows and another term's objective on the `share` that is left."""
    boundary.number("the share of r = t rows", share, 0, 1)
    moving = (Term(objective, times, weight, 1 - share),) if share < 1 else ()
    still = (replace(rows, share=share),) if share > 0 else ()
    return moving + still


def source_of(proxy: Velocity | nn.Module | None, recipe: str, what: str) -> Velocity:
    """The velocity that a user's proxy stands for, a module for its boundary; `ValueError` for what is none."""
    if not callable(proxy):
        remedy = "pass the module (an EMA copy such as ms.Average(net)) or a velocity"
        raise ValueError(f"{recipe} needs {what}: {remedy}, got {proxy!r}")
    if isinstance(proxy, nn.Module):
        return of(proxy)
    try:
        signature = inspect.signature(proxy)
    except ValueError:  # a built-in function: it will say for itself what it takes
        return proxy
    try:
        signature.bind(None, None)
    except TypeError:
        raise ValueError(f"{recipe} needs {what}, a function of (field, bridge): for the field {proxy!r} pass velocities.of(it)") from None
    return proxy


def expect_dropout(guidance: LabelDropout | None) -> None:
    """`TypeError` for guidance that does not say which label means none."""
    if guidance is not None:
        says_null("guidance", guidance)
