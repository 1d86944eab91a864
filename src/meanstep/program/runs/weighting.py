"""The weight of a new run on rows of few numbers: the plain squared error, by studies/weights. Needs no torch."""

import dataclasses
import math

from meanstep.program.data.manifest import Manifest
from meanstep.program.registry import METHODS
from meanstep.program.runs.config import Config
from meanstep.program.runs.method import MethodConfig

FEW = 16
"""Numbers in a row up to which an adaptive weight was seen to lose modes."""
FALLING = 0.25
"""Exponent of a weight at a mean squared error of 1 above which modes were lost: 0.33 and more were measured, and 0."""
ASKED = ("power", "c", "weight")
"""Options that say which weight is meant."""


def plain(config: Config, data: Manifest) -> Config:
    """The configuration of a new run: with `power: 0` where rows are few numbers, not pictures, and nothing was said of the weight.

    Only for a recipe of ours whose published weight is an adaptive one of a power above 0; see theory, section 13.
    """
    method = METHODS.get(config.method.recipe)
    few = data.codec == "plain" and math.prod(data.shape) <= FEW and method is not None and method.adaptive
    return _powered(config, 0) if few else config


def kept(config: Config, held: Config | None) -> Config:
    """The configuration of a run that goes on, with the power that it `held` where nothing is said of the weight."""
    if held is None or "power" not in held.method.options or held.method.recipe != config.method.recipe:
        return config
    return _powered(config, held.method.options["power"])


def _powered(config: Config, power: float) -> Config:
    method: MethodConfig = config.method
    if any(name in method.options for name in ASKED):
        return config
    return dataclasses.replace(config, method=dataclasses.replace(method, options=method.options | {"power": power}))
