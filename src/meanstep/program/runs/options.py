"""Options of a network by its name: checked, filled in, and as flags of a command line. Builds no networks.

A shipped network's options are the fields of its class, read off the source; a user's own factory says what it takes when it is called.
"""

import dataclasses
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

import tyro

from meanstep.catalogue import Option
from meanstep.program import parsing
from meanstep.program.console import UserError
from meanstep.program.factories import attribute
from meanstep.program.ranges import check
from meanstep.program.registry import NETWORKS, unknown
from meanstep.program.runs.config import Config, NetworkConfig, cast, over

T = TypeVar("T")
SIZES = ("size", "channels", "shape", "classes", "conditions")
"""What a network may be given beside its options: `shape`; a factory of others without it `size` and `channels` of square pictures."""
COMMON = {f.name for f in dataclasses.fields(NetworkConfig)}


def resolved(network: NetworkConfig) -> NetworkConfig:
    """With every option of a shipped network, of the type that it has, several as a list, as files hold them; `UserError` for a network or an option that there is not."""
    name = network.name
    if name not in NETWORKS:
        if ":" not in name:
            raise UserError(f"--network.name: {unknown('network', name, NETWORKS)}, or one of your own as package.module:factory")
        return network
    types = {option.name: option.type for option in NETWORKS[name].options}
    for option in network.options:
        if option not in types:
            raise UserError(_strange("--network.options", name, option, types))
    given = {option: cast(types[option], value, f"--network.{_flag(option)}") for option, value in network.options.items()}
    for option, words in NETWORKS[name].facts.get("ranges", {}).items():
        check(given.get(option), int if words.startswith("INT") else float, words, f"--network.{_flag(option)}")
    for option, others in NETWORKS[name].facts.get("instead", {}).items():
        for other in others:
            if given.get(option) and other in given:
                raise UserError(f"--network.{_flag(other)}: --network.{_flag(option)} {given[option]} says it already: leave one of them out")
    defaults = {option.name: option.value for option in NETWORKS[name].options}
    full = over(name, defaults, given) if given else defaults
    return dataclasses.replace(network, options={key: list(v) if isinstance(v, tuple) else v for key, v in full.items()})


def takes(name: str) -> tuple[str, ...] | None:
    """The options of a network; None if a factory of the user's own takes any. Imports that factory's module."""
    if name in NETWORKS:
        return tuple(option.name for option in NETWORKS[name].options)
    return accepted(attribute(name))


def accepted(factory: Any) -> tuple[str, ...] | None:
    """The keywords of a factory beside the sizes; None if it takes any, or does not say."""
    try:
        found = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_KEYWORD for p in found):
        return None
    return tuple(p.name for p in found if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name not in SIZES)


def fits(name: str, factory: Any, options: Mapping[str, Any]) -> None:
    """`UserError` for options, the sizes among them, that a user's own factory is not to be called with."""
    known = accepted(factory)
    for option in options:
        if known is not None and option not in (*known, *SIZES):
            raise UserError(_strange("--network.options", name, option, known))
    try:
        inspect.signature(factory).bind(**options)
    except TypeError as error:  # a ValueError: written in C, it will complain itself
        sizes = " and ".join(", ".join(size for size in SIZES if size in options).rsplit(", ", 1))
        raise UserError(f"{name} is called with {sizes} as keywords beside its --network.options: {error}") from None
    except ValueError:
        return


def _strange(flag: str, name: str, option: str, known: Iterable[str] | None) -> str:
    there = "--network.options '{...}' as its factory says" if known is None else ", ".join(known) or "none"
    return f"{flag}: the network {name} has no option {option!r}; it takes {there}"


def _flag(option: str) -> str:
    return option.replace("_", "-")


def flat(config: Config) -> dict[tuple[str, str], Any]:
    """Every entry of a configuration by part and name, in order, a shipped network's options among those of its part."""
    parts, network = dataclasses.asdict(config), resolved(config.network)
    if network.name in NETWORKS:
        parts["network"] = {"name": network.name, **network.options, "start": network.start}
    return {(part, name): value for part, entries in parts.items() for name, value in entries.items()}


# Flags -----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Name:
    name: str = ""


@dataclass(frozen=True)
class _Named:
    network: _Name = _Name()


def parsed(cls: type[T], name: str, args: Sequence[str], default: T) -> T:
    """The command of a command line: the network that is named decides which flags there are. `cls` has a field `network`."""
    base: NetworkConfig = default.network  # type: ignore[attr-defined]
    named = parsing.known(_Named, args).network.name or base.name
    if named != base.name:  # the options of another network are not its own
        base = NetworkConfig(named, start=base.start)
    full, given = resolved(base), _given(args)
    typed = {option.name for option in _table(base.name)}
    for option in given:
        if option not in typed | COMMON:
            raise UserError(_strange(f"--network.{_flag(option)}", base.name, option, takes(base.name)))
    kind, start = _kind(cls, full)
    parts = {f.name: getattr(default, f.name) for f in dataclasses.fields(default)}  # type: ignore[arg-type]
    made: Any = parsing.parsed(kind, name, args, kind(**parts | {"network": start}))
    asked = made.network
    words = {option: getattr(asked, f"option_{option}") for option in given if option in typed}
    for option in words.keys() & asked.options.keys():
        raise UserError(f"--network.{_flag(option)}: --network.options says it too, leave one of them out")
    options = over(asked.name, full.options if typed else base.options, words | asked.options)
    network = resolved(NetworkConfig(asked.name, options, asked.start))
    return cls(**{f.name: getattr(made, f.name) for f in dataclasses.fields(cls)} | {"network": network})  # type: ignore[arg-type]


def offered(cls: type[T]) -> tuple[type[T], T | None]:
    """A command's class as its flags are shown without a word, and its defaults: with those of the network that it starts from."""
    there = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if "network" not in there or there["network"].default_factory is dataclasses.MISSING:
        return cls, None
    kind, start = _kind(cls, resolved(NetworkConfig()))
    return kind, kind(network=start)


def _kind(cls: type[T], full: NetworkConfig) -> tuple[Any, NetworkConfig]:
    """A command's class with the typed flags of a network, and that network as they hold it."""
    table = _table(full.name)
    held = {key: tuple(v) if isinstance(v, list) else v for key, v in full.options.items()}
    shown = {f"option_{option.name}": held[option.name] for option in table if option.name in held}
    start: NetworkConfig = _flags(full.name)(name=full.name, options={} if table else full.options, start=full.start, **shown)
    change = [("network", type(start), field(default=start))]
    return dataclasses.make_dataclass(cls.__name__, change, bases=(cls,), namespace={"__doc__": cls.__doc__}, frozen=True), start


def _table(name: str) -> tuple[Option, ...]:
    return NETWORKS[name].options if name in NETWORKS else ()


def _given(args: Sequence[str]) -> list[str]:
    """The names of the flags of a network on a command line, in order."""
    words = [a.partition("=")[0].removeprefix("--network.").replace("-", "_") for a in args if a.startswith("--network.")]
    return [word.removeprefix("no_") for word in dict.fromkeys(words)]


def _shown(option: Option, range_: str | None) -> Any:
    """How help shows an option: its range, and of one that may be left unset that it is, in a word."""
    about, words = option.about.replace("\n", " "), {"int": "INT", "float": "FLOAT", "str": "STR"}
    if option.value not in (None, ""):
        return tyro.conf.arg(name=option.name, help=about, metavar=range_)
    hint = lambda shown: f"(default: {shown if shown not in ('None', '', repr('')) else 'none'})"  # noqa: E731
    return tyro.conf.arg(name=option.name, help=about, metavar=range_ or words[option.kind.partition(" ")[0]], help_behavior_hint=hint)


def _flags(name: str) -> type[Any]:
    """Entries of `NetworkConfig` and the options of a network, as tyro reads them."""
    ranges = NETWORKS[name].facts.get("ranges", {}) if name in NETWORKS else {}
    made = [(f"option_{o.name}", Annotated[o.type, _shown(o, ranges.get(o.name))], field(default=o.value)) for o in _table(name)]
    return dataclasses.make_dataclass("Network", made, bases=(NetworkConfig,), frozen=True, namespace={"__doc__": NetworkConfig.__doc__})
