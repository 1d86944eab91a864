"""Derivatives of a field beside its values: which rows, with or without gradient, by which way."""

from meanstep.tangents.choice import VERDICTS, automatic, automatic_recorded, trusted
from meanstep.tangents.dual import Dual, Unsupported, has_rule
from meanstep.tangents.forward_mode import Directions, derivative, differentiable_kernels
from meanstep.tangents.jvp import Way, carried, recorded, rehearsal, separate, taped
from meanstep.tangents.several import several_along

__all__ = [
    "VERDICTS",
    "Directions",
    "Dual",
    "Unsupported",
    "Way",
    "automatic",
    "automatic_recorded",
    "carried",
    "derivative",
    "differentiable_kernels",
    "has_rule",
    "recorded",
    "rehearsal",
    "separate",
    "several_along",
    "taped",
    "trusted",
]
