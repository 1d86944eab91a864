"""Coefficients: numbers, tensors over an ensemble, functions of `(r, t)`, schedules over training, and the closed-form optima."""

from meanstep.coefficients.learned import Climber, Running, part, swung
from meanstep.coefficients.optima import clipped_optimum, matrix_optimum, scalar_optimum
from meanstep.coefficients.schedules import at, binned, checked, constant, cosine, exponential, halving, linear, logistic, over_t, sigmoid

__all__ = [
    "Climber",
    "Running",
    "at",
    "binned",
    "checked",
    "clipped_optimum",
    "constant",
    "cosine",
    "exponential",
    "halving",
    "linear",
    "logistic",
    "matrix_optimum",
    "over_t",
    "part",
    "scalar_optimum",
    "sigmoid",
    "swung",
]
