"""Estimates of the marginal velocity `E[v | z_t]`: `(field, bridge) -> v`. They serve as tangent, as target, or both.

Guidance is not a method, it is a velocity. No velocity carries a gradient.
"""

from meanstep.velocities.conditioned import Condition, LabelDropout, LabelOnly, ScaledRows, as_is, at_scale, flexible_scale, random_scale
from meanstep.velocities.estimates import auxiliary, conditional, head, mix, of, oracle, own
from meanstep.velocities.guidance import (
    Guided,
    faded,
    fading,
    flexibly_guided,
    floored,
    hidden_from,
    in_window,
    randomly_guided,
    scaled_guided,
    shown,
)
from meanstep.velocities.posterior import Posterior

__all__ = [
    "Condition",
    "Guided",
    "LabelDropout",
    "LabelOnly",
    "Posterior",
    "ScaledRows",
    "as_is",
    "at_scale",
    "auxiliary",
    "conditional",
    "faded",
    "fading",
    "flexible_scale",
    "flexibly_guided",
    "floored",
    "head",
    "hidden_from",
    "in_window",
    "mix",
    "of",
    "oracle",
    "own",
    "random_scale",
    "randomly_guided",
    "scaled_guided",
    "shown",
]
