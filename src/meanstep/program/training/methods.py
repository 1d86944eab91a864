"""From a configuration's words to a recipe, with its proxies, guidance and schedules. Knows no files and no loop."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from meanstep.program import methods, registry
from meanstep.program.console import UserError
from meanstep.program.registry import COUPLINGS, INDEPENDENT, PAIRS, POSTERIOR, Method
from meanstep.program.runs.method import MethodConfig
from meanstep.terms import Recipe, still
from meanstep.velocities import Guided, LabelDropout, Posterior, conditional, fading

TOP = 8.0
"""The largest guidance scale of the recipes that do not let it be chosen."""


@dataclass(frozen=True)
class Built:
    """`learner`: the coefficient that learns while training goes on, if one does."""

    recipe: Recipe
    learner: nn.Module | None


def build(config: MethodConfig, net: nn.Module, proxy: nn.Module | None, posterior: Posterior | None, null: Any) -> Built:
    """The recipe; `UserError` for words that mean nothing. `null`: what takes the place of a hidden condition, nothing for none."""
    method = registry.find(config.recipe)
    _fits(config, method)
    registry.check_options(method, config.options)
    moving = {o.name: methods.coefficient(o.name, config.options[o.name]) for o in method.coefficients if o.name in config.options}
    learners = {name: value for name, value in moving.items() if isinstance(value, nn.Module)}
    if len(learners) > 1:
        raise UserError(f"--method.options: one coefficient can learn, got {', '.join(learners)}")
    options = (
        config.options | moving | _guidance(config, method.options, null) | _scales(config, method.options, null) | _times(config, method)
    )
    recipe = methods.build(config.recipe, net, proxy, posterior, **options)
    if "velocity" in options and config.dropout_rows == "instant" and (share := still(recipe)) < config.dropout:
        what = f"hides {config.dropout:g} of the labels, all on rows with r = t, and {config.recipe} has a share of {share:g} of them"
        raise UserError(f"--method.dropout-rows instant {what}: lower --method.dropout, raise diagonal_share, or take all")
    return Built(recipe, next(iter(learners.values()), None))


def _fits(config: MethodConfig, method: Method) -> None:
    """`UserError` for a coupling under which the recipe's mathematics does not hold."""
    if COUPLINGS in method.needs and not config.coupling.startswith(PAIRS):
        what = f"--method.recipe {config.recipe} needs {registry.NEEDS[COUPLINGS]}"
        raise UserError(f"{what}: meanstep couple RUN writes some, then give --method.coupling {PAIRS}FILE")
    if POSTERIOR in needs(config) and config.coupling != INDEPENDENT:
        what = f"--method.coupling {config.coupling}: the posterior velocity of {config.recipe} weighs rows by the law of independent noise"
        raise UserError(f"{what}: leave the coupling out, or choose another recipe or proxy")


def needs(config: MethodConfig) -> frozenset[str]:
    """What the recipe asks beside the network, as words of `program.registry`."""
    return methods.needs(registry.find(config.recipe), **config.options)


def _times(config: MethodConfig, method: Method) -> dict[str, Any]:
    """The recipe's sampler of times under the configuration's cap, if it has one."""
    return {} if config.largest_gap is None else {"times": methods.capped(method, config.options, config.largest_gap)}


def _scales(config: MethodConfig, takes: tuple[str, ...], null: Any) -> dict[str, Any]:
    """Guidance as an input of the network, for the recipes that train it; `UserError` for others, and for data without labels."""
    if not config.scales:
        return {}
    low, high = config.scales
    if "guidance" not in takes:
        raise UserError(f"--method.scales: the recipe {config.recipe} gives the network no guidance scale: take improved_meanflow")
    if not isinstance(null, int):
        raise UserError(
            "--method.scales: a network is told a scale beside a label, and here is none: give data with labels, or leave it out"
        )
    if not config.dropout:
        raise UserError("--method.dropout: guidance compares with the network's answer without a label, so some must be hidden: give 0.1")
    if config.dropped != "plain" or config.dropout_inside:
        raise UserError("--method.scales: rows without a label are told scale 1 and learn the plain velocity: leave --method.dropped out")
    hidden = {"guidance": LabelDropout(null, config.dropout, config.dropout_rows)}
    if "scales" in takes:
        return hidden | {"scales": (low, high)}
    if low != 1:
        raise UserError(f"--method.scales: the scales of {config.recipe} begin at 1, got {low:g}")
    if "top_scale" in takes:
        return hidden | {"top_scale": high}
    if high != TOP:
        raise UserError(f"--method.scales: those of {config.recipe} end at {TOP:g}, got {high:g}")
    return hidden


def _guidance(config: MethodConfig, takes: tuple[str, ...], null: Any) -> dict[str, Any]:
    """The velocity that hides labels and guides the target, for the recipes that take one."""
    guided = config.omega != 1 or config.kappa != 0
    if config.scales:
        if guided:
            raise UserError("--method.omega, --method.kappa: --method.scales makes guidance an input of the network: leave them out")
        return {}
    if "velocity" not in takes:
        if guided:
            raise UserError(f"--method.omega, --method.kappa: the recipe {config.recipe} takes no guidance here")
        return {}
    if null is None:
        if guided:
            raise UserError(
                "--method.omega, --method.kappa: guidance needs labels or categories, or --method.hide-numbers, and here is none of them"
            )
        return {}
    if guided and not config.dropout:
        raise UserError("--method.dropout: guidance compares with the network's answer without a label, so some must be hidden: give 0.1")
    if not config.dropout:
        return {}
    hidden = LabelDropout(null, config.dropout, config.dropout_rows, config.window if config.dropout_inside else None)
    mix = 1 - config.kappa
    omega = config.omega if config.fade == 1 else fading(config.omega / mix, mix, config.fade)
    return {"velocity": Guided(conditional, hidden, omega, config.kappa, config.window, dropped=config.dropped)}
