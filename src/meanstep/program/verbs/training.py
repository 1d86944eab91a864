"""`meanstep.train`: a configuration from keywords, data and a network from memory, and a run's folder out of them."""

import dataclasses
import os
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from torch import nn

from meanstep.program.console import UserError
from meanstep.program.errors import shown
from meanstep.program.runs import given, options, saved
from meanstep.program.runs.config import Config, NetworkConfig, cast, flag, laid, to_yaml
from meanstep.program.runs.weighting import kept
from meanstep.program.training import command
from meanstep.program.training.command import ROOT, Where, examined, fitted, laid_out
from meanstep.program.training.presets import DEFAULT, PRESETS
from meanstep.program.verbs.rows import Named, named
from meanstep.program.verbs.run import Run
from meanstep.program.verbs.words import keyword, known, plain, spoken

if TYPE_CHECKING:
    from meanstep.program.training.caller import Callback

PARTS = ("data", "network", "method", "optimiser", "averages", "run")
LOOSE = {"data_source": "data", "network_name": "net"}
"""Entries that are arguments of their own."""
INSTEAD = LOOSE | {"network": "net", "out": "out", "config": "config", "preset": "config"}
"""Arguments that stand for options, by the option's keyword."""


def train(
    config: "str | os.PathLike[str] | Config | None" = None,
    *,
    data: Any = None,
    net: nn.Module | str | Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    callback: "Callback | None" = None,
    progress: bool = True,
    **overrides: Any,
) -> Run:
    """Train a one-step generator; the same call goes on with a run that stopped, and `meanstep train` does, too.

    - `config`: a preset's name such as "digits", a YAML file, or a `Config`; by default what is in `out`, else "digits".
    - `data`: an array or tensor of rows `[N, ...]`, floats or uint8 pictures; a dict of them, rows as `x`, whole numbers `y` as labels and
      all else as conditions by name; or what `--data.source` takes: a file, a folder, a cache. By default the configuration's.
    - `net`: a network's name ("dit", "mlp", "package.module:factory"), a dict of its name and options, or a module `(z, r, t, y)`, which
      is copied: the run's folder then holds its weights only, and `meanstep.load(folder, net=net)` opens it.
    - `out`: the run's folder, by default runs/ and the preset's name.
    - `callback`: called with a `Moment` at every record and evaluation (`log_every`, `evaluate_every`); `moment.stop()` ends the run, and
      so does what it raises, which is passed on. The run is saved first, and can go on.
    - `progress`: whether progress and notices are printed.
    - `overrides`: single entries, named as the command line's options with underscores: `samples`, `batch`, `rate`, `method_recipe`,
      `network_width`, `averages_decays`; or a whole part as a dict, `method={"recipe": "coefficient", "options": {"beta": 0.5}}`.

    No signal is handled and nothing of the process is changed: Ctrl-C is a `KeyboardInterrupt`, and the run goes on from its last
    checkpoint. `UserError` for what cannot be, which names the nearest option for a misspelled one.
    """
    with spoken(progress, _keywords(), INSTEAD):
        rows = Named("") if data is None else named(data)
        place = ROOT / (config if isinstance(config, str) and config in PRESETS else DEFAULT) if out is None else Path(out)
        chosen = kept(configured(config, rows, net, place, overrides), saved.held(place))
        return _trained(chosen, place, net if isinstance(net, nn.Module) else None, callback)


def _trained(config: Config, place: Path, net: nn.Module | None, callback: "Callback | None") -> Run:
    from meanstep.program import flags
    from meanstep.program.training import folder, session
    from meanstep.program.training.caller import Caller
    from meanstep.program.training.ranks import ranks

    with ranks(config.run.device) as here:
        if here.first:
            folder.examined(flags.folder(place), config)
        end = session.trained(config, place, here, Caller(net, callback, signals=False))
    if end is None:
        raise UserError("the first rank could not begin this run: its own error says why")
    return Run(end.folder, net)


def configured(config: "str | os.PathLike[str] | Config | None", rows: Named, net: Any, out: Path, overrides: Mapping[str, Any]) -> Config:
    """What the arguments of `train` say, as the command line would; `UserError` for what cannot be."""
    entries = entered(overrides)
    if rows.source:
        entries.setdefault("data", {})["source"] = rows.source
        if rows.condition:
            entries["data"].setdefault("condition", rows.condition)
    found = _started(config, out, entries, net if isinstance(net, str) else "")
    network, own = _network(net, found.network, entries.pop("network", {})), dict(entries)
    made = {part: _replaced(getattr(found, part), values, part) for part, values in own.items()}
    result = dataclasses.replace(found, **made, network=network)
    try:
        to_yaml(result)
    except yaml.YAMLError as error:
        remedy = "name a function of your own as package.module:function"
        raise UserError(
            f"a run's configuration is numbers, words and lists of them, as a file holds them ({error.args[-1]!s:.80}): {remedy}"
        ) from None
    return examined(result)


def _started(config: Any, out: Path, entries: Mapping[str, Mapping[str, Any]], net: str) -> Config:
    """What single entries go on top of; `net`: the name of the network, if that is what was given."""
    given = entries.get("data", {})
    words = {f.name: given[f.name] for f in dataclasses.fields(command._Data) if f.name in given}
    data = command._Data(**words | {"condition": tuple(given.get("condition", ()))})
    if isinstance(config, Config):
        return fitted(config, config, command._said(data, config.data))
    if config is not None and not isinstance(config, str | os.PathLike):
        raise UserError(f"config is a preset's name, a YAML file or a Config, got {shown(config)}")
    method = command._Method(**{name: str(entries.get("method", {}).get(name, "")) for name in ("recipe", "path")})
    where = Where(out, network=command._Network(net or str(entries.get("network", {}).get("name", ""))), method=method, data=data)
    if config is None:
        return laid_out(where)
    if isinstance(config, str) and (config in PRESETS or not (Path(config).expanduser().exists() or config.endswith((".yaml", ".yml")))):
        return laid_out(dataclasses.replace(where, preset=config))
    return laid_out(dataclasses.replace(where, config=Path(config)))


def _network(net: Any, base: NetworkConfig, entries: Mapping[str, Any]) -> NetworkConfig:
    """The network of a name, a dict or an object, with the single entries on top."""
    if isinstance(net, nn.Module):
        if entries.keys() - {"start"}:
            raise UserError(
                f"network_{next(iter(entries.keys() - {'start'}))}: net is a module, which has its options already: leave it out"
            )
        return NetworkConfig(given.name(net), {}, str(entries.get("start", "")))
    if isinstance(net, NetworkConfig):
        net = {"name": net.name, "options": net.options, "start": net.start}
    if not isinstance(net, str | Mapping | None):
        raise UserError(f"net is a network's name, a dict of its name and options, or a torch.nn.Module, got {shown(net)}")
    first: dict[str, Any] = {"name": net} if isinstance(net, str) else dict(plain(net or {}))
    name, held = str(first.pop("name", base.name)), dict(first.pop("options", {}))
    start = first.pop("start", entries.get("start", base.start))
    asked = held | first | dict(entries.get("options", {})) | {k: v for k, v in entries.items() if k not in ("name", "options", "start")}
    whole = laid(base, {"name": name, "options": asked})
    return options.resolved(NetworkConfig(name, whole["options"], str(start)))


def _keywords() -> dict[str, tuple[str, str]]:
    """The part and entry of every keyword; those of a network's options are not among them."""
    parts = {part: getattr(Config(), part) for part in PARTS}
    return {keyword(flag(part, f.name)[2:]): (part, f.name) for part, of in parts.items() for f in dataclasses.fields(of)}


def entered(overrides: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Entries by part, of keywords and of whole parts; `UserError` for a keyword that there is not, with the nearest one."""
    there = {name: at for name, at in _keywords().items() if name not in LOOSE}
    whole = [part for part in PARTS if part not in ("data", "network")]
    single = [name for name in overrides if name not in whole and not name.startswith("network_")]
    for name in overrides.keys() & {*LOOSE, "network"}:
        raise UserError(f"{name} is given as {LOOSE.get(name, 'net')}=")
    known(single, [*there, *whole, *(f"network_{name}" for name in _network_options())], "train")
    found: dict[str, dict[str, Any]] = {part: _entries(part, overrides[part]) for part in whole if part in overrides}
    for name, value in overrides.items():
        if name in whole:
            continue
        part, entry = there.get(name) or ("network", name.removeprefix("network_"))
        found.setdefault(part, {})[entry] = plain(value)
    return found


def _network_options() -> list[str]:
    """Options of the networks of ours, for the nearest one to a misspelled word."""
    from meanstep.program.registry import NETWORKS

    return [option.name for network in NETWORKS.values() for option in network.options]


def _entries(part: str, value: Any) -> dict[str, Any]:
    """A part of the configuration as entries; `UserError` for one that it does not have."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if not isinstance(value, Mapping):
        raise UserError(f"{part}: a dict of entries, got {shown(value)}")
    known([str(name) for name in value], [f.name for f in dataclasses.fields(getattr(Config(), part))], part)
    return {str(name): plain(entry) for name, entry in value.items()}


def _replaced(base: Any, values: Mapping[str, Any], part: str) -> Any:
    """A part with some of its entries in place, of their types."""
    types = typing.get_type_hints(type(base))
    new = {name: cast(types[name], value, flag(part, name)) for name, value in values.items()}
    return dataclasses.replace(base, **new)
