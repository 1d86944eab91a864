"""From a row's mean squared error to its loss: `([*B], bridge) -> [*B]`. Knows no fields.

A weight may ask for derivatives of the field at its rows, see `probes`: then the loss answers it before it is called.
"""

from meanstep.weights.asking import Factored, answered, draws, exponent, probes, slope, times_factor
from meanstep.weights.plain import (
    Adaptive,
    Cauchy,
    adaptive,
    alpha,
    constant,
    inverse_square_scale,
    min_snr,
    normed,
    shrinking_gap,
    tangent_gap,
)
from meanstep.weights.traces import SIGMAS, Known, Trace, summed, trace

__all__ = [
    "SIGMAS",
    "Adaptive",
    "Cauchy",
    "Factored",
    "Known",
    "Trace",
    "adaptive",
    "alpha",
    "answered",
    "constant",
    "draws",
    "exponent",
    "inverse_square_scale",
    "min_snr",
    "normed",
    "probes",
    "shrinking_gap",
    "slope",
    "summed",
    "tangent_gap",
    "times_factor",
    "trace",
]
