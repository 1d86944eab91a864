"""Methods, samplers, paths, networks and metrics by name: what each is, needs and takes, known before PyTorch is imported. Builds nothing.

Shipped ones are read off the source of the modules that hold them (see `meanstep.catalogue`). A user's own are named
`package.module:name`, which imports that module: only what a user names on a command line is ever looked up so.
"""

import ast
import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from meanstep.catalogue import Entry, Option, declared
from meanstep.program.console import UserError
from meanstep.program.factories import attribute

EMA, HEAD, POSTERIOR, PROGRESS = "ema", "head", "posterior", "progress"
PREDICTION, COUPLINGS, LEARNED = "data prediction", "couplings", "learned weight"
AVERAGE, INSTANTANEOUS = "average", "instantaneous"
NEEDS = {
    EMA: "an EMA copy of the network: ema = ms.Average(net, 0.999), and ema.update(net) after every step",
    HEAD: "a network with a method head(z, r, t, y), such as DiT(head=True) or MLP(head=True)",
    POSTERIOR: "reference points: velocities.Posterior(x, labels) over rows of the data",
    PROGRESS: "the share of the training that is done, at every call of the loss",
    PREDICTION: "a network that predicts data, as fields.DataPrediction(net, floor)",
    COUPLINGS: "pairs of data and noise from an earlier network",
    LEARNED: "loss.parameters() in the optimiser and in the checkpoint: its weight learns",
}
"""What a method may need beside the network, and how it is had."""
TIMES = ("uniform", "logit-normal")
"""Samplers of (r, t) by name."""
SPREAD, PAIRED = ("logit-normal", "instants"), ("logit-normal-pair", "sorted-pair")
"""Samplers with a mean and a deviation, `{logit-normal: [-0.4, 1]}`; with those of t, then of r, `{sorted-pair: [-0.6, 1.6, -4, 1.6]}`."""
DRAWN = ", ".join([*TIMES, *(f"{{{word}: [mean, std]}}" for word in SPREAD), *(f"{{{word}: [of t, of t, of r, of r]}}" for word in PAIRED)])
SCHEDULES, LEARNERS = ("linear", "cosine", "logistic", "over_t"), ("running", "climber")
"""Coefficients that move: functions and classes of `meanstep.coefficients`."""


@dataclass(frozen=True)
class Method:
    """A function from options to a recipe, and what is known of it beside its terms; see `meanstep.recipes.method` for the facts.

    `arguments`: all of the function's; `recipe`: gives the function itself.
    """

    name: str
    about: str
    arguments: tuple[Option, ...]
    recipe: Callable[[], Callable[..., Any]] = field(repr=False)
    slot: str = ""
    proxies: tuple[str, ...] = ()
    field: bool = False
    idle: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    coefficient: float | str | None = None
    learns: str = AVERAGE
    unread: str = ""

    @property
    def options(self) -> tuple[str, ...]:
        """Names of all options: the function's own, `proxy` for its slot, `power` and `c` for its adaptive weight."""
        own = [option.name for option in self.arguments if option.name != self.slot]
        extra = ["proxy"] * bool(self.slot) + [name for name in ("power", "c") if "weight" in own and name not in own]
        return (*own, *extra)

    @property
    def coefficients(self) -> tuple[Option, ...]:
        """Those of its arguments that may be a schedule or learn."""
        return tuple(option for option in self.arguments if "Coefficient" in option.kind)

    @property
    def weighting(self) -> tuple[float, float, str]:
        """Power, constant and reduction of the adaptive weight that it is published with, MeanFlow's where it is published without."""
        default = next((option.default for option in self.arguments if option.name == "weight"), None)
        if not (default or "").startswith("adaptive("):
            return 1.0, 1e-2, "sum"
        call = ast.parse(default or "", mode="eval").body
        assert isinstance(call, ast.Call)
        names = ("power", "c", "reduction")
        given = dict(zip(names, map(ast.literal_eval, call.args), strict=False))
        given |= {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        return given.get("power", 1.0), given.get("c", 1e-2), given.get("reduction", "sum")

    @property
    def adaptive(self) -> bool:
        """Whether its published weight is the adaptive one with a power above 0, and may be given."""
        own = next((option.default for option in self.arguments if option.name == "weight"), None)
        return "power" in self.options and (own or "").startswith("adaptive(") and self.weighting[0] > 0

    def asks(self, options: Mapping[str, Any]) -> frozenset[str]:
        """What it needs at these options, as keys of `NEEDS`."""
        proxy = options.get("proxy", self.proxies[0] if self.proxies else None)
        asked = {proxy} & {EMA, HEAD, POSTERIOR} if isinstance(proxy, str) and not self.without(options) else set()
        return frozenset({*self.needs, *asked})

    def without(self, options: Mapping[str, Any]) -> bool:
        """Whether it asks no proxy at these options: all that would weigh one are the number 0."""
        defaults = {option.name: option.value for option in self.arguments}
        values = [options.get(name, defaults.get(name)) for name in self.idle]
        return bool(values) and all(isinstance(value, int | float) and value == 0 for value in values)


def _shipped(entry: Entry) -> Method:
    return Method(entry.name, entry.about, entry.options, entry.load, **entry.facts)


METHODS: Mapping[str, Method] = {name: _shipped(entry) for name, entry in declared("meanstep.recipes", "method").items()}
"""Every recipe of `meanstep.recipes`, by its name there."""
READ = tuple(name for name, method in METHODS.items() if not method.unread)
"""Those that `meanstep diagnose` can read from a network alone."""
SAMPLERS: Mapping[str, Entry] = declared("meanstep.samplers", "sampler")
"""Every sampler of `meanstep.samplers`; its fact `reads` is the velocity that it asks the field for."""
PATHS: Mapping[str, Entry] = declared("meanstep.paths", "path")
"""Every path of `meanstep.paths`."""
NETWORKS: Mapping[str, Entry] = declared("meanstep.program.runs.families", "network")
"""Every network of `meanstep.program.runs.families`; its fact `instead`: options that others say already, once these are given."""
METRICS: Mapping[str, Entry] = declared("meanstep.program.evaluation.metrics", "metric")
"""Every metric of `meanstep.program.evaluation.metrics`; its facts are the columns of a table, and what it needs."""


def find(name: str, flag: str = "--method.recipe") -> Method:
    """The method of that name, or of a function of the user's own, `package.module:function`; `UserError` names all others."""
    if name in METHODS:
        return METHODS[name]
    if ":" not in name:
        raise UserError(f"{flag}: {unknown('recipe', name, METHODS, 'a function')}")
    function = attribute(name)
    if not callable(function):
        raise UserError(f"{flag} {name} is no function from options to a recipe but {function!r:.60}")
    kinds = _kinds()
    facts = dict(getattr(function, "facts", {}))
    about = (inspect.getdoc(function) or "a recipe of one's own").split("\n")[0]
    return Method(name, about, tuple(_option(p, kinds) for p in inspect.signature(function).parameters.values()), lambda: function, **facts)


def _kinds() -> list[tuple[Any, str]]:
    """The aliases of `meanstep.types` that say how a plain value of an option is read."""
    from meanstep.types import Coefficient, Times  # the user's module has imported torch already

    return [(Coefficient, "Coefficient"), (Times, "Times")]


def _option(p: inspect.Parameter, kinds: list[tuple[Any, str]]) -> Option:
    empty = inspect.Parameter.empty
    alias = next((name for known, name in kinds if p.annotation == known), "")
    kind = "" if p.annotation is empty else p.annotation if isinstance(p.annotation, str) else inspect.formatannotation(p.annotation)
    return Option(p.name, alias or kind, None if p.default is empty else repr(p.default))


def unknown(kind: str, name: str, table: Iterable[str], own: str = "") -> str:
    """The complaint about a name that a table has not: the nearest one, all of them, and how `own` ones are named."""
    names = list(table)
    near = difflib.get_close_matches(name, names, 1)
    others = f", or {own} of your own as package.module:name" if own else ""
    return f"there is no {kind} {name!r}{f' (did you mean {near[0]}?)' if near else ''}: choose among {', '.join(names)}{others}"


def described(table: Mapping[str, Entry]) -> str:
    """The parts of a table for a text of help: each name with the first line of its documentation."""
    return "; ".join(f"{name}: {entry.about.rstrip('.')}" for name, entry in table.items())


SAMPLER_HELP = f"From noise to data. {described(SAMPLERS)}; or your own as package.module:function."


def default_sampler(learns: str) -> str:
    """The sampler that reads a field which knows this velocity: the first one."""
    return next(name for name, entry in SAMPLERS.items() if entry.facts["reads"] == learns)


def check_sampler(name: str, learns: str = "", flag: str = "--sampler") -> None:
    """`UserError` for a sampler that there is not, or that asks for a velocity which the field does not know."""
    if name not in SAMPLERS and ":" not in name:
        raise UserError(f"{flag}: {unknown('sampler', name, SAMPLERS, 'one')}")
    facts = SAMPLERS[name].facts if name in SAMPLERS else {}
    if learns == INSTANTANEOUS and facts.get("reads") == AVERAGE:
        fit = ", ".join(n for n, entry in SAMPLERS.items() if entry.facts["reads"] == INSTANTANEOUS)
        raise UserError(
            f"{flag} {name} jumps by the average velocity, and this field was trained on the instantaneous one only: take {fit}"
        )


def check_path(name: str, flag: str = "--method.path") -> None:
    """`UserError` for a path that there is not."""
    if name not in PATHS and ":" not in name:
        raise UserError(f"{flag}: {unknown('path', name, PATHS, 'one')}")


INDEPENDENT, TRANSPORT, PAIRS = "independent", "optimal-transport", "pairs:"
"""Couplings of data and noise by name; the last is followed by a file."""
PARTNERS = PAIRS + "data"
"""The coupling of a row with its partner in the data, where the flow starts."""


def check_coupling(name: str, flag: str = "--method.coupling") -> None:
    """`UserError` for a coupling that there is not."""
    if name not in (INDEPENDENT, TRANSPORT) and not (name.startswith(PAIRS) and name != PAIRS):
        raise UserError(f"{flag}: {unknown('coupling', name, (INDEPENDENT, TRANSPORT, PAIRS + 'FILE'))}")


# Options of a method, as a configuration holds them --------------------------------------------------------------------------------


def check_options(method: Method, options: Mapping[str, Any], flag: str = "--method.options") -> None:
    """`UserError` for an option that the method has not, or a plain value that it cannot be. Objects are left to the recipe itself."""
    kinds = {option.name: option.kind for option in method.arguments} | {"power": "float", "c": "float"}
    for name, value in options.items():
        if name not in method.options:
            raise UserError(f"{flag}: recipe {method.name} has no option {name!r}: it takes {', '.join(method.options)}")
        if name == "proxy":
            if isinstance(value, str) and value not in method.proxies:
                raise UserError(f"{flag}: recipe {method.name}: proxy is one of {', '.join(method.proxies)}, got {value!r}")
        elif isinstance(value, str | bool | int | float | list | tuple | dict) and (wanted := _wanted(kinds.get(name, ""), value)):
            raise UserError(f"{flag}: recipe {method.name}: {name} is {wanted}, got {value!r}")


def check_method(name: str, options: Mapping[str, Any], largest_gap: float | None) -> None:
    """`UserError` for a recipe that there is not, or that does not take these options or this cap."""
    method = find(name)
    check_options(method, options)
    check_capped(method, largest_gap)


def check_capped(method: Method, largest: float | None) -> None:
    """`UserError` for a recipe whose gaps no cap can bound: it draws its times itself, or has none but `r = t`."""
    if largest is None:
        return
    if method.learns != AVERAGE:
        raise UserError(f"--method.largest-gap: recipe {method.name} has no gaps, all its rows have r = t: leave it out")
    if all(option.name != "times" for option in method.arguments):
        raise UserError(f"--method.largest-gap: recipe {method.name} draws its own times: leave it out, or choose another recipe")


def _drawn(value: Any) -> bool:
    """Whether a plain value names a sampler of times, with its numbers if it has some."""
    if not isinstance(value, dict):
        return value in TIMES
    word, numbers = next(iter(value.items()), ("", ()))
    count = {**dict.fromkeys(SPREAD, 2), **dict.fromkeys(PAIRED, 4)}.get(word)
    finite = isinstance(numbers, list | tuple) and all(isinstance(n, int | float) and abs(n) < 100 for n in numbers)
    return len(value) == 1 and finite and len(numbers) == count and all(n > 0 for n in numbers[1::2])


def _wanted(kind: str, value: Any) -> str:
    """What a plain value should be and is not; empty if it may do."""
    parts = {part.strip() for part in kind.split("|")}
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if "Coefficient" in parts:
        word = value if isinstance(value, str) else next(iter(value), "") if isinstance(value, dict) else ""
        known = ", ".join([*(f"{{{w}: [0, 1]}}" for w in SCHEDULES), *LEARNERS])
        return "" if number or word in (*SCHEDULES, *LEARNERS) else f"a number or one of {known}"
    if "Times" in parts:
        return "" if _drawn(value) else f"one of {DRAWN}"
    if "float" in parts and not number:
        return "a number"
    if parts == {"int"} and not (number and value == int(value)):
        return "a whole number"
    if parts == {"bool"} and not isinstance(value, bool):
        return "true or false"
    if kind.startswith("tuple[float, float]") and not (isinstance(value, list | tuple) and len(value) == 2):
        return "two numbers"
    return (
        "no word: give a number, or build the recipe in Python" if isinstance(value, str) and parts != {""} and "str" not in parts else ""
    )
