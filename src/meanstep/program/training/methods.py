"""From the configuration's words to a recipe, with its proxies, guidance and schedules. Knows no files and no loop."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from meanstep import coefficients
from meanstep.program import registry
from meanstep.program.console import UserError
from meanstep.program.registry import COUPLINGS
from meanstep.program.runs.config import MethodConfig
from meanstep.recipes import Recipe
from meanstep.velocities import Guided, LabelDropout, Posterior, conditional

SCHEDULES: dict[str, Any] = {
    "linear": coefficients.linear,
    "cosine": coefficients.cosine,
    "logistic": coefficients.logistic,
    "over_t": coefficients.over_t,
}
LEARNERS: dict[str, Any] = {"running": coefficients.Running, "climber": coefficients.Climber}
COEFFICIENTS = ("beta", "target_beta", "ratio", "through")


@dataclass(frozen=True)
class Built:
    """`learner`: the coefficient that learns while training goes on, if one does."""

    recipe: Recipe
    learner: nn.Module | None


def build(method: MethodConfig, net: nn.Module, proxy: nn.Module | None, posterior: Posterior | None, classes: int) -> Built:
    """The recipe; `UserError` for words that mean nothing."""
    if COUPLINGS in registry.find(method.recipe).needs:
        raise UserError(f"--method.recipe {method.recipe} needs {registry.NEEDS[COUPLINGS]}: train it from Python, loss(net, x, noise=e)")
    moving = {name: coefficient(name, method.options[name]) for name in COEFFICIENTS if name in method.options}
    learners = {name: value for name, value in moving.items() if isinstance(value, nn.Module)}
    if len(learners) > 1:
        raise UserError(f"--method.options: one coefficient can learn, got {', '.join(learners)}")
    options = method.options | moving | _guidance(method, classes)
    return Built(registry.build(method.recipe, net, proxy, posterior, **options), next(iter(learners.values()), None))


def needs(method: MethodConfig) -> frozenset[str]:
    """What the recipe asks beside the network, as words of `program.methods`."""
    return registry.needs(method.recipe, **method.options)


def coefficient(name: str, value: Any) -> Any:
    """The coefficient of a number, a schedule `{linear: [0, 1]}`, or a learner `running` or `{running: {bins: 4}}`."""
    if isinstance(value, int | float):
        return value
    word, given = (value, {}) if isinstance(value, str) else next(iter(value.items())) if isinstance(value, dict) and value else ("", {})
    try:
        if word in SCHEDULES:
            return SCHEDULES[word](**given) if isinstance(given, dict) else SCHEDULES[word](*given)
        if word in LEARNERS:
            return LEARNERS[word](**given)
    except (TypeError, ValueError) as error:
        raise UserError(f"--method.options, {name}: {word}: {error}") from None
    known = ", ".join([*(f"{{{w}: [0, 1]}}" for w in SCHEDULES), *LEARNERS])
    raise UserError(f"--method.options, {name}: a number or one of {known}, got {value!r}")


def _guidance(method: MethodConfig, classes: int) -> dict[str, Any]:
    """The velocity that hides labels and guides the target, for the recipes that take one."""
    guided = method.omega != 1 or method.kappa != 0
    if "velocity" not in registry.find(method.recipe).options:
        if guided:
            raise UserError(f"--method.omega, --method.kappa: the recipe {method.recipe} takes no guidance here")
        return {}
    if not classes:
        if guided:
            raise UserError("--method.omega, --method.kappa: guidance needs labels, and these data or this network have none")
        return {}
    if guided and not method.dropout:
        raise UserError("--method.dropout: guidance compares with the network's answer without a label, so some must be hidden: give 0.1")
    hidden = LabelDropout(classes, method.dropout)
    return {"velocity": Guided(conditional, hidden, method.omega, method.kappa, method.window)} if method.dropout else {}
