"""Recipes by name, from plain options as a configuration or a command line holds them: the one such table. Knows no files and no data.

`build("coefficient", net, ema, beta=0.5, times="uniform")`. Options are the recipe's own arguments, and `power`, `c` for its weight,
`proxy` for the velocity or field that it asks beside the network.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from meanstep import recipes
from meanstep import times as at_times
from meanstep.program.console import UserError
from meanstep.recipes import Recipe
from meanstep.types import Field, Times, Velocity, Weight
from meanstep.velocities import conditional, head, of, own
from meanstep.weights import adaptive, constant

EMA, HEAD, POSTERIOR, PROGRESS = "ema", "head", "posterior", "progress"
PREDICTION, COUPLINGS, LEARNED = "data prediction", "couplings", "learned weight"
NEEDS = {
    EMA: "an EMA copy of the network: ema = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn="
    "torch.optim.swa_utils.get_ema_multi_avg_fn(0.999)), and ema.update_parameters(net) after every step",
    HEAD: "a network with a method head(z, r, t, y), such as DiT(head=True) or MLP(head=True)",
    POSTERIOR: "reference points: velocities.Posterior(x, labels) over rows of the data",
    PROGRESS: "the share of the training that is done, at every call of the loss",
    PREDICTION: "a network that predicts data, as fields.DataPrediction(net, floor)",
    COUPLINGS: "pairs of data and noise from an earlier network, samplers.couplings",
    LEARNED: "loss.parameters() in the optimiser and in the checkpoint: its weight learns",
}
"""What a method may need beside the network, and how it is had."""
TIMES: dict[str, Times] = {"uniform": at_times.uniform, "logit-normal": recipes.IMAGENET, "logit_normal": recipes.IMAGENET}
"""Samplers of (r, t) by name."""


@dataclass(frozen=True)
class Method:
    """`recipe`: of `meanstep.recipes`; `slot`: its argument that `proxy` fills, with one of `proxies`, the default first.

    `needs`: keys of `NEEDS`, whatever the options; `weighting`: power, constant and reduction of its published adaptive weight.
    """

    recipe: Callable[..., Recipe]
    slot: str = ""
    proxies: tuple[str, ...] = ()
    needs: frozenset[str] = frozenset()
    weighting: tuple[float, float, str] = (1.0, 1e-2, "sum")

    @property
    def about(self) -> str:
        """The first line of the recipe's documentation."""
        return (inspect.getdoc(self.recipe) or "").split("\n")[0]

    @property
    def options(self) -> tuple[str, ...]:
        """Names of all options."""
        own_names = [name for name in inspect.signature(self.recipe).parameters if name != self.slot]
        extra = ["proxy"] * bool(self.slot) + [name for name in ("power", "c") if "weight" in own_names and name not in own_names]
        return (*own_names, *extra)


def _needs(*names: str) -> frozenset[str]:
    return frozenset(names)


METHODS: dict[str, Method] = {
    "flow_matching": Method(recipes.flow_matching),
    "meanflow": Method(recipes.meanflow),
    "coefficient": Method(recipes.coefficient, "proxy", (EMA, "own", POSTERIOR)),
    "posterior_meanflow": Method(recipes.posterior_meanflow, "posterior", (POSTERIOR,)),
    "improved_meanflow": Method(recipes.improved_meanflow, "tangent", (HEAD, "own")),
    "alpha_flow": Method(recipes.alpha_flow, needs=_needs(PROGRESS)),
    "modular_meanflow": Method(recipes.modular_meanflow, needs=_needs(PROGRESS), weighting=(0.5, 1e-3, "mean")),
    "curriculum_meanflow": Method(recipes.curriculum_meanflow, needs=_needs(PROGRESS)),
    "terminal_velocity": Method(recipes.terminal_velocity, "arrival", (EMA, "own")),
    "rectified_meanflow": Method(recipes.rectified_meanflow, needs=_needs(COUPLINGS), weighting=(0.5, 1e-2, "mean")),
    "decoupled_meanflow": Method(recipes.decoupled_meanflow, needs=_needs(LEARNED)),
    "split_meanflow": Method(recipes.split_meanflow, "teacher", ("conditional", "own", EMA, POSTERIOR)),
    "solution_flow": Method(recipes.solution_flow, needs=_needs(PROGRESS), weighting=(1.0, 1e-2, "mean")),
    "transition": Method(recipes.transition),
    "shortcut": Method(recipes.shortcut, "by", (EMA, "own")),
    "pixel_meanflow": Method(recipes.pixel_meanflow, "tangent", (HEAD, "own"), _needs(PREDICTION)),
}
"""Every recipe of `meanstep.recipes`, by its name there."""


def find(name: str) -> Method:
    """The method of that name; `UserError` names all others."""
    if name not in METHODS:
        raise UserError(f"there is no recipe {name!r}: choose among {', '.join(METHODS)}")
    return METHODS[name]


def needs(name: str, **options: Any) -> frozenset[str]:
    """What a method needs at these options, as keys of `NEEDS`."""
    method = find(name)
    proxy = options.get("proxy", method.proxies[0] if method.proxies else None)
    asked = {proxy} & {EMA, HEAD, POSTERIOR} if isinstance(proxy, str) and not _plain(name, options) else set()
    learned = {LEARNED} if isinstance(options.get("weight"), nn.Module) else set()
    return method.needs | asked | learned


def build(name: str, field: Field, ema: Field | None = None, posterior: Velocity | None = None, **options: Any) -> Recipe:
    """The recipe `name` for a network, with its EMA copy and its posterior velocity where the method needs them.

    `options`: numbers, words (`proxy="ema"`, `times="uniform"`) or the objects that `meanstep.recipes` takes; what is left out is as
    published. `UserError` for a name, an option or a value that there is not, and for what the method needs and is not given.
    """
    method = find(name)
    for option in options:
        if option not in method.options and option != method.slot:
            raise UserError(f"recipe {name} has no option {option!r}: it takes {', '.join(method.options)}")
    given = dict(options)
    proxy = given.pop("proxy", None)
    if method.slot and method.slot not in given and not _plain(name, options):
        given[method.slot] = _proxy(name, proxy, field, ema, posterior)
    given |= _times(name, given)
    if "power" in method.options and given.keys() & {"power", "c"}:
        given["weight"] = _weight(name, method, given)
    try:
        return method.recipe(**given)
    except (ValueError, TypeError) as error:
        raise UserError(f"recipe {name}: {error}") from error


def _plain(name: str, options: dict[str, Any]) -> bool:
    """Whether the coefficient family asks no proxy."""
    return name == "coefficient" and all(isinstance(b := options.get(o, d), int | float) and b == 0 for o, d in PLAIN.items())


PLAIN = {"beta": 1.0, "target_beta": 0.0}


def _proxy(name: str, proxy: Any, field: Field, ema: Field | None, posterior: Velocity | None) -> Any:
    """The value of the method's slot: a velocity, or for shortcut the field that makes the half jumps."""
    method = METHODS[name]
    word = method.proxies[0] if proxy is None else proxy
    if not isinstance(word, str):
        return word
    if word not in method.proxies:
        raise UserError(f"recipe {name}: proxy is one of {', '.join(method.proxies)}, got {word!r}")
    present = {EMA: ema is not None, HEAD: callable(getattr(field, "head", None)), POSTERIOR: posterior is not None}
    if not present.get(word, True):
        others = [other for other in method.proxies if present.get(other, True)]
        raise UserError(f"recipe {name} with proxy={word} needs {NEEDS[word]}" + (f"; or choose proxy={others[0]}" if others else ""))
    if name == "shortcut":
        return ema if word == EMA else field
    velocities = {"own": own, "conditional": conditional, HEAD: head, POSTERIOR: posterior}
    return of(ema) if word == EMA and ema is not None else velocities[word]


def _times(name: str, given: dict[str, Any]) -> dict[str, Times]:
    """The time samplers that were given by name."""
    words = {option: value for option, value in given.items() if isinstance(value, str)}
    for option, value in words.items():
        if option != "times":
            raise UserError(f"recipe {name}: option {option} is no word, got {value!r}: give a number, or build the recipe in Python")
        if value not in TIMES:
            raise UserError(f"recipe {name}: times is uniform or logit-normal, got {value!r}")
    return {option: TIMES[value] for option, value in words.items()}


def _weight(name: str, method: Method, given: dict[str, Any]) -> Weight:
    """The method's adaptive weight with another power or constant, which are taken out of `given`; power 0: the squared error."""
    published, c, reduction = method.weighting
    power, c = given.pop("power", published), given.pop("c", c)
    if "weight" in given:
        raise UserError(f"recipe {name}: give power and c, or a weight, not both")
    if not (isinstance(power, int | float) and 0 <= power <= 4):
        raise UserError(f"recipe {name}: power is a number in [0, 4], got {power!r}")
    try:
        return adaptive(power, c, reduction) if power else constant
    except (ValueError, TypeError) as error:
        raise UserError(f"recipe {name}: {error}") from error
