"""meanstep: train, diagnose and evaluate one-step generators of the MeanFlow family."""

from meanstep import coefficients, fields, interpolants, metrics, objectives, rates, recipes, samplers, times, velocities, weights
from meanstep.fields import MLP, Gaussian, Mixture, as_field
from meanstep.keys import key
from meanstep.loss import Loss, Output
from meanstep.recipes import Recipe, Term
from meanstep.samplers import jump, noise, walk
from meanstep.types import Bridge, Field, Regression

__version__ = "0.1.0"
__all__ = [
    "MLP",
    "Bridge",
    "Field",
    "Gaussian",
    "Loss",
    "Mixture",
    "Output",
    "Recipe",
    "Regression",
    "Term",
    "as_field",
    "coefficients",
    "fields",
    "interpolants",
    "jump",
    "key",
    "metrics",
    "noise",
    "objectives",
    "rates",
    "recipes",
    "samplers",
    "times",
    "velocities",
    "walk",
    "weights",
]
