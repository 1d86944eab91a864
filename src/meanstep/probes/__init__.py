"""Measurements of a field on drawn rows: the residual's noise, the Jacobi factor, a proxy's bias, the gradient's covariance.

They read the `Regression` that the loss reads. Every number has a standard error. Knows no optimiser, no files and no program.
"""

from meanstep.probes.bias import Bias, over_references, posterior_gain, proxy_bias
from meanstep.probes.gradients import of_batches, of_rows, of_step, of_terms
from meanstep.probes.jacobian import dense, factor, product, transposed
from meanstep.probes.noise import at_center, channels, coordinates, directions, moments, roles
from meanstep.probes.optimum import (
    Curve,
    Grid,
    at_beta,
    by_norm,
    by_sign,
    center_bound,
    center_shift,
    curve,
    difference,
    matrix,
    per_bin,
    per_direction,
)
from meanstep.probes.rows import Clipped, Estimate, Table

__all__ = [
    "Bias",
    "Clipped",
    "Curve",
    "Estimate",
    "Grid",
    "Table",
    "at_beta",
    "at_center",
    "by_norm",
    "by_sign",
    "center_bound",
    "center_shift",
    "channels",
    "coordinates",
    "curve",
    "dense",
    "difference",
    "directions",
    "factor",
    "matrix",
    "moments",
    "of_batches",
    "of_rows",
    "of_step",
    "of_terms",
    "over_references",
    "per_bin",
    "per_direction",
    "posterior_gain",
    "product",
    "proxy_bias",
    "roles",
    "transposed",
]
