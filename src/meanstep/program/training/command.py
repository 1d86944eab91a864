"""`meanstep train`: what is asked for, and whether that can be. `session` does it."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from meanstep.program import flags
from meanstep.program.console import UserError, alone, out, put_json, say, stage, takes_json
from meanstep.program.data.manifest import NAME
from meanstep.program.data.request import Ragged, Table, chosen, present
from meanstep.program.errors import naming
from meanstep.program.evaluation import specs
from meanstep.program.flags import Json, hinted
from meanstep.program.parsing import known
from meanstep.program.reading import files, trees
from meanstep.program.runs import given, options, saved
from meanstep.program.runs.config import (
    AveragesConfig,
    Config,
    DataConfig,
    NetworkConfig,
    OptimiserConfig,
    RunConfig,
    checked,
    chunk,
    from_yaml,
)
from meanstep.program.runs.method import MethodConfig
from meanstep.program.runs.suited import suited
from meanstep.program.runs.weighting import kept
from meanstep.program.training import folder, loggers
from meanstep.program.training.presets import DEFAULT, PRESETS

ROOT = Path("runs")
PRESET = "A preset to start from; train --preset list shows all."
CONFIG = "A YAML file on top of the preset, with entries as in a run's config.yaml."


@dataclass(frozen=True)
class Train:
    """Train a one-step generator of images, latents or rows of any shape; the same command continues a stopped run.

    Without options: the embedded digits, two to three minutes on two cores. Start from a preset (--preset NAME, --preset list) or a
    file (--config FILE) and change single entries. Several processes: torchrun --nproc-per-node 8 -m meanstep train ... Ctrl-C and
    SIGTERM save and stop. docs/training.md says more.

    Examples: meanstep train; meanstep train --out runs/half --method.recipe coefficient --method.options '{beta: 0.5}' --samples 400000;
    meanstep train --preset latents-dit-s4 --data.source photos64 --out runs/photos --dry-run
    """

    out: Annotated[Path | None, hinted("Where results go: the run's folder.", "runs/ and the preset's name", "FOLDER")] = None
    preset: Annotated[str | None, hinted(PRESET, "what is in --out, else digits", "NAME")] = None
    config: Annotated[Path | None, hinted(CONFIG, "none", "FILE")] = None
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False
    """Say what would be made, and make nothing: the whole configuration, parameters, memory, time of a step."""
    json: Json = None
    data: DataConfig = field(default_factory=DataConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    optimiser: tyro.conf.OmitArgPrefixes[OptimiserConfig] = field(default_factory=OptimiserConfig)
    averages: AveragesConfig = field(default_factory=AveragesConfig)
    run_: tyro.conf.OmitArgPrefixes[Annotated[RunConfig, tyro.conf.arg(name="run")]] = field(default_factory=RunConfig)

    @classmethod
    def parse(cls, args: Sequence[str]) -> "Train":
        """The command of a command line: preset, file and the run's own configuration first, single entries on top."""
        found = laid_out(known(Where, args))
        return options.parsed(cls, "train", args, cls(**parts(found), run_=found.run))

    def run(self) -> int:
        """Train. Exit code 0; 130 and 143 if a signal stopped the run, which is saved."""
        if self.preset == "list":
            return _listed(self.json)
        where = self.out or ROOT / (self.preset or DEFAULT)
        config = kept(examined(Config(**parts(self), run=self.run_)), saved.held(where))
        if given.is_given(config.network.name):
            remedy = f"go on there, meanstep.train(out={str(where)!r}, net=...)"
            raise UserError(f"{where}: the run's network came from Python as an object, which the command line cannot name: {remedy}")
        takes_json(self.json)
        if not self.dry_run and os.environ.get("RANK", "0") == "0":
            folder.examined(flags.folder(where), config)
        with stage("importing PyTorch"):
            from meanstep.program.training import session
            from meanstep.program.training.ranks import ranks
        with alone(self.json), ranks(config.run.device) as here:
            return session.dry(config, here, self.json) if self.dry_run else session.run(config, where, here, self.json)


def parts(of: Any) -> dict[str, Any]:
    """All parts of a configuration but `run`, which is a method's name here."""
    return {f.name: getattr(of, f.name) for f in dataclasses.fields(Config) if f.name != "run"}


def examined(config: Config) -> Config:
    """The configuration, or `UserError` for what can be known to fail before torch is imported and anything is written."""
    config = checked(config)
    flags.device(config.run.device)
    specs.checked(config.run.extractor)
    loggers.known(config.run.loggers, config.run.project, config.run.tags)
    chunk(config.run, int(os.environ.get("WORLD_SIZE", "1")))
    options.resolved(config.network)
    source, start = config.data.source, config.network.start
    if not (Path(source).expanduser() / NAME).is_file():
        with naming("--data.source"):
            present(source)
    if start and ":" not in start and not Path(start).expanduser().is_file():
        if not Path(start).expanduser().is_dir():
            raise UserError(f"--network.start: there is no folder or file {start}: give a run's, weights, or public ones as sit:FILE")
        saved.located(Path(start).expanduser())
    return config


@dataclass(frozen=True)
class _Network:
    name: str = ""


@dataclass(frozen=True)
class _Method:
    recipe: str = ""
    path: str = ""


@dataclass(frozen=True)
class _Data:
    source: str = ""
    condition: tuple[str, ...] = ()
    ragged: Ragged = "refuse"
    table: Table = "numbers"


@dataclass(frozen=True)
class Where:
    """The options that decide what the others start from."""

    out: Path | None = None
    preset: str | None = None
    config: Path | None = None
    network: _Network = field(default_factory=_Network)
    method: _Method = field(default_factory=_Method)
    data: _Data = field(default_factory=_Data)


def laid_out(where: Where) -> Config:
    """What single entries go on top of: the run that is there, else the preset, with the file and what suits the data."""
    held = None if where.preset else saved.held(where.out or ROOT / (where.preset or DEFAULT))
    if held is not None:
        _check_named(held, where)
    start = held or started(where.preset or DEFAULT)
    found = based(where, start)
    if held is None:
        found = fitted(found, start, _said(where.data, found.data))
    if where.method.recipe not in ("", found.method.recipe):  # another recipe: the options of the first are not its own
        found = dataclasses.replace(found, method=dataclasses.replace(found.method, options={}))
    return found


def _check_named(held: Config, where: Where) -> None:
    """`UserError` for code that the run in the folder names, and neither the command nor its file: a folder may be somebody else's."""
    file = based(where, started(DEFAULT))
    for option, name, said, read in (
        ("--network.name", held.network.name, where.network.name, file.network.name),
        ("--method.recipe", held.method.recipe, where.method.recipe, file.method.recipe),
        ("--method.path", held.method.path, where.method.path, file.method.path),
    ):
        if ":" in name and not given.is_given(name) and not said and read != name:
            raise UserError(f"the run in --out has {option} {name}, code that would run: if you trust it, say so, {option} {name}")


def _said(words: _Data, found: DataConfig) -> DataConfig:
    """The data as the command line has them, where it says something."""
    usual = _Data()
    said = {f.name: value for f in dataclasses.fields(words) if (value := getattr(words, f.name)) != getattr(usual, f.name)}
    return dataclasses.replace(found, **said)


def fitted(found: Config, start: Config, data: DataConfig) -> Config:
    """The configuration with the network and the extractor for data of numbers, where those of the preset `start` are for pictures."""
    source = data.source
    if source == "digits" or not Path(chosen(source)[0]).expanduser().exists():
        return found
    from meanstep.program.data.sources import Alike, plain_shape  # reads arrays, which help does not

    if (shape := plain_shape(source, data.condition, Alike(data.ragged, table=data.table))) is None:
        return found
    if found.network == start.network:
        found = dataclasses.replace(found, network=suited(start.network, shape))
    usual = specs.usual("plain") if found.run.extractor == start.run.extractor else found.run.extractor
    return dataclasses.replace(found, run=dataclasses.replace(found.run, extractor=usual))


def started(preset: str) -> Config:
    """A preset's configuration; `UserError` for one that there is not, `list` starts from the default."""
    flags.among([preset], (*PRESETS, "list"), "preset", "--preset")
    return PRESETS[DEFAULT if preset == "list" else preset].config


def based(where: Where, start: Config) -> Config:
    """The configuration with the entries of the file that is named, if one is."""
    if where.config is not None:
        try:
            return from_yaml(files.text(where.config.expanduser(), trees.LONG), str(where.config), start)
        except (UserError, RuntimeError) as error:  # there is no such user
            raise UserError(f"--config: {error}") from None
    return start


def _listed(json: Path | None) -> int:
    takes_json(json)
    if put_json(json, [{"preset": name, "about": preset.about} for name, preset in PRESETS.items()]):
        return 0
    width = max(map(len, PRESETS)) + 2
    for name, preset in PRESETS.items():
        say(f"{name:<{width}}{preset.about}", on=out)
    return 0
