"""Recipes from plain options, as a configuration or a command line holds them. Knows no files and no data.

`build("coefficient", net, ema, beta=0.5, times="uniform")`. Options are the recipe's own arguments, and `power`, `c` for its weight,
`proxy` for the velocity or field that it asks beside the network.
"""

import copy
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from meanstep import coefficients, recipes
from meanstep import times as at_times
from meanstep.paths import Path
from meanstep.program import registry
from meanstep.program.errors import UserError, naming
from meanstep.program.factories import attribute
from meanstep.program.registry import EMA, HEAD, LEARNED, NEEDS, POSTERIOR, Method
from meanstep.terms import Recipe, Term, moving
from meanstep.times import share_of_gaps
from meanstep.types import Bridge, Field, Times, Velocity, Weight
from meanstep.velocities import Condition, conditional, head, of, own
from meanstep.weights import adaptive, constant, exponent, probes

TIMES: dict[str, Times] = dict(zip(registry.TIMES, (at_times.uniform, recipes.IMAGENET), strict=True))


def needs(method: Method, **options: Any) -> frozenset[str]:
    """What a method needs at these options, as keys of `NEEDS`."""
    return method.asks(options) | ({LEARNED} if isinstance(options.get("weight"), nn.Module) else set())


def build(name: str, field: Field, ema: Field | None = None, posterior: Velocity | None = None, **options: Any) -> Recipe:
    """The recipe `name` for a network, with its EMA copy and its posterior velocity where the method needs them.

    `options`: numbers, words (`proxy="ema"`, `times="uniform"`) or the objects that `meanstep.recipes` takes; what is left out is as
    published. `UserError` for a name, an option or a value that there is not, and for what the method needs and is not given.
    """
    method = registry.find(name)
    registry.check_options(method, {o: value for o, value in options.items() if o != method.slot or isinstance(value, str)})
    given = dict(options)
    proxy = given.pop("proxy", None)
    if method.slot and method.slot not in given and not method.without(options):
        given[method.slot] = _proxy(method, proxy, field, ema, posterior)
    timed = {option.name for option in method.arguments if "Times" in option.kind or not option.kind}  # of ours all are typed
    given |= {option: sampler(value) for option, value in given.items() if option in timed and isinstance(value, str | dict)}
    if "power" in method.options and given.keys() & {"power", "c"}:
        given["weight"] = _weight(method, given)
    try:
        recipe = method.recipe()(**given)
    except (ValueError, TypeError) as error:
        raise UserError(f"recipe {name}: {error}") from error
    if not isinstance(recipe, tuple) or not recipe or not all(isinstance(term, Term) for term in recipe):
        raise UserError(f"recipe {name} returns {recipe!r:.60}: it must return a tuple of Term")
    return recipe


def sampler(value: Any) -> Any:
    """The sampler of times of a word or of `{logit-normal: [-0.4, 1]}`, which `registry.check_options` has seen; others as they are."""
    if isinstance(value, str):
        return TIMES.get(value, value)
    word, (mean, std, *of_r) = next(iter(value.items()))
    if not of_r:
        return (at_times.logit_normal if word == "logit-normal" else at_times.instants)(mean, std)
    return (at_times.sorted_pair if word == "sorted-pair" else at_times.logit_normal_pair)((mean, std), tuple(of_r))


def _proxy(method: Method, proxy: Any, field: Field, ema: Field | None, posterior: Velocity | None) -> Any:
    """The value of the method's slot: a velocity, or the field itself where the method takes one."""
    word = method.proxies[0] if proxy is None else proxy
    if not isinstance(word, str):
        return word
    present = {EMA: ema is not None, HEAD: callable(getattr(field, "head", None)), POSTERIOR: posterior is not None}
    if not present.get(word, True):
        others = [other for other in method.proxies if present.get(other, True)]
        raise UserError(
            f"recipe {method.name} with proxy={word} needs {NEEDS[word]}" + (f"; or choose proxy={others[0]}" if others else "")
        )
    if method.field:
        return ema if word == EMA else field
    velocities = {"own": own, "conditional": conditional, HEAD: head, POSTERIOR: posterior}
    return of(ema) if word == EMA and ema is not None else velocities[word]


def capped(method: Method, options: Mapping[str, Any], largest: float) -> Times:
    """The sampler of times at these options, that of a word or the recipe's own, under a cap; `UserError` for a recipe that takes none."""
    registry.check_capped(method, largest)
    own = inspect.signature(method.recipe()).parameters["times"].default
    given = options.get("times", own)
    if given is inspect.Parameter.empty:
        raise UserError(f"--method.largest-gap: recipe {method.name} has no times of its own: give some in --method.options")
    return at_times.capped(sampler(given) if isinstance(given, str | dict) else given, largest)


LONG, RARE = 0.9, 0.001
"""A gap that counts as a sample's in one step, and the share of the moving rows below which it is hardly ever trained."""


def trained_jumps(recipe: Recipe, gap: float = LONG) -> float | None:
    """The share of a recipe's rows with r < t whose gap is that of a one-step sample; None where its terms have no such times."""
    rows = [(term.share, share_of_gaps(term.times, gap)) for term in recipe if moving(term) and term.times is not None]
    return sum(share * long for share, long in rows) / sum(share for share, _ in rows) if rows else None


def falls(recipe: Recipe, shape: Sequence[int]) -> float:
    """How fast the recipe's weights fall for rows of a shape, at most: their exponent at a mean squared error of 1, see `weights.exponent`.

    A weight that asks the field is left out.
    """
    one = torch.ones(1)
    y = Condition(one.long(), one, 0 * one, one)
    b = Bridge(
        torch.zeros(1, *shape), torch.zeros(1, *shape), one / 4, 3 * one / 4, y, None, torch.full((1, 4 + math.prod(shape)), 0.5), 0.5
    )
    weights = [term.weight for term in recipe if probes(term.weight, b) is None]
    found = [float(exponent(copy.deepcopy(weight).cpu() if isinstance(weight, nn.Module) else weight, b, one)) for weight in weights]
    return max(found, default=0.0)


def _weight(method: Method, given: dict[str, Any]) -> Weight:
    """The method's adaptive weight with another power or constant, which are taken out of `given`; power 0: the squared error."""
    published, c, reduction = method.weighting
    power, c = given.pop("power", published), given.pop("c", c)
    if "weight" in given:
        raise UserError(f"recipe {method.name}: give power and c, or a weight, not both")
    if not 0 <= power <= 4:
        raise UserError(f"recipe {method.name}: power is a number in [0, 4], got {power!r}")
    try:
        return adaptive(power, c, reduction) if power else constant
    except (ValueError, TypeError) as error:
        raise UserError(f"recipe {method.name}: {error}") from error


def coefficient(name: str, value: Any) -> Any:
    """The coefficient of a number, a schedule `{linear: [0, 1]}`, or a learner `running` or `{running: {bins: 4}}`."""
    if isinstance(value, int | float):
        return value
    word, given = (value, {}) if isinstance(value, str) else next(iter(value.items())) if isinstance(value, dict) and value else ("", {})
    made = {**{w: w for w in registry.SCHEDULES}, **{w: w.capitalize() for w in registry.LEARNERS}}
    if word not in made:
        known = ", ".join([*(f"{{{w}: [0, 1]}}" for w in registry.SCHEDULES), *registry.LEARNERS])
        raise UserError(f"--method.options, {name}: a number or one of {known}, got {value!r}")
    try:
        call = getattr(coefficients, made[word])
        return call(**given) if isinstance(given, dict) else call(*given)
    except (TypeError, ValueError) as error:
        raise UserError(f"--method.options, {name}: {word}: {error}") from None


def path(name: str, flag: str = "--method.path") -> Path:
    """The path of that name, or one of the user's own, `package.module:name`: a `Path`, or what makes one without arguments."""
    registry.check_path(name, flag)
    with naming(flag):
        found = registry.PATHS[name].load() if name in registry.PATHS else attribute(name)
    try:
        made = found if isinstance(found, Path) else found()
    except Exception as error:
        raise UserError(f"{flag} {name} failed: {error}") from error
    if not isinstance(made, Path):
        raise UserError(f"{flag} {name} is no paths.Path but {made!r:.60}")
    return made
