"""Derivatives of a field beside its values: which rows, with or without gradient, by which way."""

from meanstep.tangents.dual import Dual, Unsupported, has_rule
from meanstep.tangents.forward_mode import Directions, derivative, differentiable_kernels
from meanstep.tangents.jvp import VERDICTS, Way, automatic, carried, recorded, rehearsal, separate, trusted
from meanstep.tangents.several import several_along

__all__ = [
    "VERDICTS",
    "Directions",
    "Dual",
    "Unsupported",
    "Way",
    "automatic",
    "carried",
    "derivative",
    "differentiable_kernels",
    "has_rule",
    "recorded",
    "rehearsal",
    "separate",
    "several_along",
    "trusted",
]
