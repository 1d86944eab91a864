"""`meanstep train`."""

import dataclasses
import shlex
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from meanstep.program.console import Interrupted, UserError, err, out
from meanstep.program.data import Cache
from meanstep.program.runs import networks, options, saved
from meanstep.program.runs.config import (
    AveragesConfig,
    Config,
    DataConfig,
    MethodConfig,
    NetworkConfig,
    OptimiserConfig,
    RunConfig,
    checked,
    from_yaml,
    to_yaml,
)
from meanstep.program.runs.report.page import wanted
from meanstep.program.training import estimate, folder
from meanstep.program.training.loop import Failure
from meanstep.program.training.presets import DEFAULT, PRESETS
from meanstep.program.training.ranks import Ranks, ranks
from meanstep.program.training.train import train

ROOT = Path("runs")


@dataclass(frozen=True)
class Train:
    """Train a one-step generator of images or latents; the same command again goes on where it stopped.

    Without options: the embedded digits, two to three minutes on two cores. Start from a preset (`--preset NAME`, `--preset list`) or a
    file (`--config FILE`, YAML as in a run's config.yaml) and change single entries, e.g. `--method.recipe coefficient --method.options
    '{beta: 0.5}'`. Several processes: `torchrun --nproc-per-node 8 -m meanstep train ...`. Ctrl-C and SIGTERM save and stop.
    """

    out: Path = Path()
    """Folder of the run. Default: runs/ and the preset's name."""
    preset: str = ""
    """What to start from; list shows all. Default: the run that is in --out, else digits."""
    config: Path | None = None
    """A YAML file on top of the preset."""
    dry_run: bool = False
    """Print the resolved configuration, parameters, memory and time per step, and stop."""
    data: DataConfig = field(default_factory=DataConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    averages: AveragesConfig = field(default_factory=AveragesConfig)
    run_: Annotated[RunConfig, tyro.conf.arg(name="run")] = field(default_factory=RunConfig)

    @classmethod
    def parse(cls, args: Sequence[str]) -> "Train":
        """The command of a command line: preset, file and the run's own configuration first, single entries on top."""
        where, _ = tyro.cli(Where, args=[a for a in args if a not in ("--help", "-h")], return_unknown_args=True, add_help=False)
        place = where.out if where.out != Path() else ROOT / (where.preset or DEFAULT)
        found = based(where, started(where.preset) if where.preset else saved.held(place) or started(DEFAULT))
        if where.method.recipe not in ("", found.method.recipe):  # another recipe: the options of the first are not its own
            found = dataclasses.replace(found, method=dataclasses.replace(found.method, options={}))
        return options.parsed(cls, "meanstep train", cls(**parts(found), run_=found.run), args)

    def run(self) -> int:
        """Train. Exit code 0; 130 and 143 if a signal stopped the run, which is saved."""
        if self.preset == "list":
            return _listed()
        name = self.preset or DEFAULT
        where = self.out if self.out != Path() else ROOT / name
        config = checked(Config(**parts(self), run=self.run_))
        with ranks(config.run.device) as here:
            return _dry(config, here) if self.dry_run else _run(config, where, here)


def parts(of: Any) -> dict[str, Any]:
    """All parts of a configuration but `run`, which is a method's name here."""
    return {f.name: getattr(of, f.name) for f in dataclasses.fields(Config) if f.name != "run"}


@dataclass(frozen=True)
class _Recipe:
    recipe: str = ""


@dataclass(frozen=True)
class Where:
    """The options that decide what the others start from."""

    out: Path = Path()
    preset: str = ""
    config: Path | None = None
    method: _Recipe = field(default_factory=_Recipe)


def started(preset: str) -> Config:
    """A preset's configuration; `UserError` for one that there is not, `list` starts from the default."""
    if preset not in (*PRESETS, "list"):
        raise UserError(f"--preset: there is no preset {preset!r}; choose among {', '.join(PRESETS)}")
    return PRESETS[DEFAULT if preset == "list" else preset].config


def based(where: Where, start: Config) -> Config:
    """The configuration with the entries of the file that is named, if one is."""
    if where.config is not None:
        try:
            text = where.config.expanduser().read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"--config: {where.config} is no text in UTF-8") from error
        except OSError as error:
            raise UserError(f"--config: cannot read {where.config}: {error.strerror}") from error
        return from_yaml(text, str(where.config), start)
    return start


def _listed() -> int:
    width = max(map(len, PRESETS)) + 2
    for name, preset in PRESETS.items():
        out.print(f"{name:<{width}}{preset.about}" + (f" Measured: {preset.band}" if preset.band else ""), highlight=False, soft_wrap=True)
    return 0


def data_cache(config: Config) -> Cache:
    """The cache that the configuration names, made first if it names a source."""
    from meanstep.program.data import Request, ensure

    return ensure(config.data.source, Request(config.data.source, size=config.data.size, flips=config.data.flips))


def _dry(config: Config, here: Ranks) -> int:
    cache = data_cache(config) if here.first else None  # made once, then read by the others
    here.wait()
    cache = cache or data_cache(config)
    if here.first:
        out.print(to_yaml(config), markup=False, highlight=False, soft_wrap=True)
    for line in estimate.lines(config, cache, here):
        if here.first:
            out.print(line, highlight=False, soft_wrap=True)
    return 0


def _run(config: Config, where: Path, here: Ranks) -> int:
    if not here.first:
        told = here.told(None)
        return 2 if told is None else _trained(config, Path(told), data_cache(config), here)
    with ExitStack() as claim:
        try:
            cache = data_cache(config)
            place = claim.enter_context(folder.claimed(where))
            folder.begin(place, config, cache, str(here.device))
        except UserError:
            here.told(None)  # the others wait for it
            raise
        here.told(str(place))
        return _trained(config, place, cache, here)


def _trained(config: Config, place: Path, cache: Cache, here: Ranks) -> int:
    began, there = time.perf_counter(), saved.found(place)
    if here.first:
        _announce(config, place, cache, there)
    try:
        state, stopped = train(config, place, cache, here)
    except Failure:  # a run that broke off is the one that is looked at
        _report(place, here)
        raise
    except UserError:
        if here.first:
            folder.withdraw(place)
        raise
    except torch.OutOfMemoryError as error:
        remedy = "a smaller --run.chunk, --network.options '{checkpointing: true}', --run.precision bf16 or --run.parallel fsdp"
        raise UserError(f"out of memory on {here.device}: {str(error).splitlines()[0]}; try {remedy}") from error
    _report(place, here)
    if stopped is not None:
        again = f"saved at {state.seen:,} samples in {place}; the same command goes on"
        raise Interrupted(again, stopped) if here.first else SystemExit(128 + stopped)
    if here.first:
        _summary(state, place, time.perf_counter() - began)
    return 0


def _report(place: Path, here: Ranks) -> None:
    if here.first:
        out.print(wanted(place), highlight=False, soft_wrap=True, markup=False)
    here.wait()  # a launcher ends all when one has failed: none goes before the first has written


def _announce(config: Config, place: Path, cache: Cache, there: list[Path]) -> None:
    begun = f"goes on at {int(there[-1].name):,} samples" if there else "begins"
    err.print(
        f"{place}: {config.method.recipe} on {len(cache):,} x {' x '.join(map(str, cache.shape))}, {begun}", highlight=False, soft_wrap=True
    )


def _next(state: Any, place: Path) -> str:
    name = networks.foreign(state.description)
    return shlex.join(["meanstep", "sample", str(place), *(["--network", name] if name else [])])


def _summary(state: Any, place: Path, seconds: float) -> None:
    last = [p for p in sorted((place / "samples").glob("*.png"))][-1:]
    found = f", best distance {state.best:.4g} at {state.best_seen:,} samples" if state.best_seen >= 0 else ""
    lines = [f"{state.seen:,} samples in {seconds:.0f} s{found}", *(f"samples: {p}" for p in last), f"go on: {_next(state, place)}"]
    for line in lines:
        out.print(line, highlight=False, soft_wrap=True)
