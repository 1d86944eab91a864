"""The configuration of a run: typed values, their YAML, and what cannot be. Builds no networks and knows no files."""

import dataclasses
import difflib
import functools
import typing
from dataclasses import dataclass, field, fields
from types import UnionType
from typing import Annotated, Any, Literal

import tyro
import yaml

from meanstep.program.data.look import PREVIEW
from meanstep.program.errors import UserError, shown
from meanstep.program.data.request import PairAs, Ragged, Table
from meanstep.program.evaluation import specs
from meanstep.program.flags import Device, Options, unset
from meanstep.program.ranges import Amount, Below, Count, Ranged, Rows, Seed, Share, Whole, ranged
from meanstep.program.reading import trees
from meanstep.program.registry import INDEPENDENT, NETWORKS, PARTNERS, check_coupling, check_method, check_path
from meanstep.program.runs.method import MethodConfig

@dataclass(frozen=True)
class DataConfig(Ranged):
    """The training data."""

    PREFIX = "data."

    source: str = "digits"
    """A folder that `meanstep cache` made, or what it reads: digits, .npz, .npy, .csv, .parquet, folders of images or .wav, see its help."""
    size: Annotated[int, unset("as the images are", "INT from 0 to 65536")] = 0
    """Side of the images in pixels, if the source has to be cached first."""
    flips: bool = False
    """Mirror each image with probability 1/2; a cache with mirror images has them anyway."""
    condition: Annotated[tuple[str, ...], unset("the labels, if there are some", "[NAME ...]", "")] = ()
    """Columns of a table, or arrays of a file, that the network is given beside the rows: whole numbers and words are categories."""
    ragged: Ragged = "refuse"
    """Rows of different lengths: refused, padded with zeros that a mask keeps out of the loss, or cropped to the shortest."""
    table: Table = "numbers"
    """A table's columns: numbers alone; standard: words one-hot too; quantile: numbers by their quantiles, words one-hot."""
    pair: Annotated[str, unset("none", "SOURCE | NAME", "")] = ""
    """A partner for each row: another source of as many rows, or an array of the same file."""
    pair_as: PairAs = "condition"
    """What the partner is: a condition that the network is given, or the source of the flow in place of noise."""
    preview: Annotated[str, unset("as the source says", "KIND", "", PREVIEW)] = ""
    conditional: bool = True
    """Give the network the labels or conditions, if there are some."""


@dataclass(frozen=True)
class NetworkConfig(Ranged):
    """The network."""

    PREFIX = "network."

    name: str = "dit"
    """A network's name, which decides its options, or your own as package.module:factory, called with size, channels and classes too."""
    options: Annotated[Options, unset("none", "YAML", "{}")] = field(default_factory=dict)
    """The network's options, added to the preset's: '{qk_norm: true, head: true}'."""
    start: Annotated[str, unset("weights drawn by the seed", "FOLDER | FILE | KIND:FILE", "")] = ""
    """What to start from: a run, a checkpoint, a file of this network's weights, or public ones as sit:FILE, repa:FILE, meanflow:FILE, dit:FILE; relabel-sit:FILE for other classes."""


@dataclass(frozen=True)
class OptimiserConfig(Ranged):
    """The optimiser and its learning rate, in samples seen."""

    optimiser: Literal["adamw", "radam", "muon"] = "adamw"
    """AdamW; RAdam, as SoFlow on CIFAR; Muon for matrices and AdamW for all else, as pixel MeanFlow, whose rate is 1e-3."""
    rate: Annotated[float, ranged("FLOAT above 0 below 1000")] = 1e-3
    """The learning rate: after the warm-up."""
    warmup: Whole = 10_000
    """Samples over which the rate rises from 0."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """The rate after the warm-up: constant, or falling to 0 at the end."""
    betas: Annotated[tuple[Below, Below], tyro.conf.arg(name="adam-betas", metavar="FLOAT FLOAT from 0 below 1")] = (0.9, 0.95)
    """AdamW's (RAdam's) decays of its two moments."""
    eps: Annotated[float, tyro.conf.arg(name="adam-eps", metavar="FLOAT above 0 below 1")] = 1e-8
    """AdamW's (RAdam's) term beside the root of the second moment; TiM has 1e-6."""
    weight_decay: Amount = 0.0
    """The optimiser's decay of the weights."""
    clip: Annotated[float, ranged("FLOAT from 0 or inf")] = 1.0
    """Largest norm of the gradient; 0 does not clip."""


@dataclass(frozen=True)
class AveragesConfig(Ranged):
    """Averages of the weights. The first is what samples are made with."""

    PREFIX = "averages."

    decays: Annotated[tuple[Below, ...], ranged("[FLOAT from 0 below 1 ...]")] = (0.999,)
    """Exponential averages: the share that each keeps at a step, such as 0.999."""
    widths: Annotated[tuple[float, ...], unset("none", "[FLOAT above 0 below 1 ...]", "")] = ()
    """Power-function averages: relative widths, such as 0.05 0.10; arXiv 2312.02696."""
    half_lives: Annotated[tuple[float, ...], unset("none", "[FLOAT from 1 ...]", "")] = ()
    """Exponential averages by their half-life in samples, such as 500000 1000000 2000000 of pixel MeanFlow."""
    ramp: Annotated[float, ranged("FLOAT from 0 to 1")] = 0.05
    """Largest share of the samples seen so far that a half-life has; 0: no ramp."""


@dataclass(frozen=True)
class RunConfig(Ranged):
    """Length, resources, and what is saved."""

    samples: Count = 1_000_000
    """Samples to see in all."""
    batch: Rows = 128
    """Rows at a time: of a training step, of all ranks together."""
    chunk: Annotated[int, unset("the batch over the ranks", "INT from 0 to 1048576")] = 0
    """Rows of one pass of the network: a divisor of the batch; with the same chunk any number of ranks makes the same steps."""
    seed: Seed = 0
    """Seed of every draw: weights, order, noise and times."""
    device: Device = "auto"
    precision: Literal["float32", "bf16", "float64"] = "float32"
    """bf16: autocast; weights, loss and derivative's sums stay float32. float64: everything, to compare with another program."""
    compile: bool = False
    """torch.compile the step; the random numbers are then those of the compiled program."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """With several ranks under torchrun: copies of the network, or its shards."""
    log_every: Count = 6_400
    """Samples between two records."""
    sample_every: Whole = 100_000
    """Samples between two pictures."""
    evaluate_every: Whole = 100_000
    """Samples between two evaluations; 0: never."""
    save_every: Count = 100_000
    """Samples between two checkpoints."""
    keep: Count = 2
    """Checkpoints that are kept beside the best one."""
    extractor: Annotated[str, tyro.conf.arg(metavar="KIND", help=specs.HELP)] = "pixels"
    evaluate_count: Annotated[int, ranged("INT from 2")] = 1024
    """Samples of an evaluation."""
    project: Annotated[str, unset("the tracker's own variable, else meanstep", "NAME", "")] = ""
    """The project, or experiment, of the trackers."""
    tags: Annotated[tuple[str, ...], unset("none", "[TAG ...]", "")] = ()
    """Tags of the trackers' runs; of mlflow KEY=VALUE."""
    loggers: Annotated[tuple[str, ...], unset("none", "[NAME ...]", "")] = ()
    """Trackers beside records.jsonl: tensorboard, wandb, mlflow, trackio; without --project and --tags their own variables hold."""


@dataclass(frozen=True)
class Config:
    """Everything that decides a run."""

    data: DataConfig = DataConfig()
    network: NetworkConfig = NetworkConfig()
    method: MethodConfig = MethodConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    averages: AveragesConfig = AveragesConfig()
    run: RunConfig = RunConfig()


def to_yaml(config: Config) -> str:
    """The configuration as text."""
    return str(yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False, allow_unicode=True))


def from_yaml(text: str, where: str, base: Config | None = None) -> Config:
    """The configuration of a text on top of `base`; `UserError` names `where` and the entry that is none."""
    found, base = trees.from_yaml(text, where), base or Config()
    if isinstance(found, dict) and isinstance(found.get("network"), dict):
        found = found | {"network": laid(base.network, found["network"])}
    return _filled(base, {} if found is None else found, where)


FLAT = ("model", "patch", "width", "depth", "heads")
"""Options of the DiT that stood beside `options` once; a file that was written then has all of them."""


def laid(base: NetworkConfig, entries: dict[str, Any]) -> dict[str, Any]:
    """A file's entries for a network: its options on top of the base's if it is the same network, those of an old file among them."""
    name, given = entries.get("name", base.name), entries.get("options") or {}
    if not isinstance(given, dict):
        return entries
    flat = {key: entries[key] for key in FLAT if key in entries}
    if len(flat) == len(FLAT):  # the program wrote it: of a model's name and the numbers one counted, and none of another network's
        numbers = {key: value for key, value in flat.items() if key != "model"}
        flat = {} if name not in NETWORKS else {"model": flat["model"]} if flat["model"] else numbers
    options = over(name, base.options if name == base.name else {}, flat | given)
    return {key: value for key, value in entries.items() if key not in FLAT} | {"options": options}


def over(name: str, base: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Options of a network on top of others; those that a given one says already are left out of the others."""
    said = NETWORKS[name].facts.get("instead", {}) if name in NETWORKS else {}
    gone = {other for option, others in said.items() if given.get(option) for other in others}
    return {key: value for key, value in base.items() if key not in gone} | given


def _filled(base: Any, values: Any, where: str) -> Any:
    """A dataclass with some of its entries replaced by plain values."""
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected entries such as {fields(base)[0].name}: ..., got {shown(values, 60)}")
    if isinstance(base, MethodConfig) and values.get("recipe", base.recipe) != base.recipe:
        base = dataclasses.replace(base, options={})  # those of another recipe are not its own
    types, new = _types(type(base)), {}  # type: ignore[arg-type]  # a class is hashable
    for name, value in values.items():
        if name not in types:
            near = difflib.get_close_matches(str(name), types, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(types)}"
            raise UserError(f"{where}: there is no entry {shown(name)}; {hint}")
        old, place = getattr(base, name), f"{where}, {name}"
        new[name] = _filled(old, value, place) if dataclasses.is_dataclass(old) else cast(types[name], value, place)
    try:
        return dataclasses.replace(base, **new)
    except UserError as error:  # a number out of its range
        raise UserError(f"{where}: {error}") from None


@functools.cache
def _types(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def cast(kind: Any, value: Any, where: str) -> Any:
    """A plain value as the type says, or `UserError`."""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if value not in inside:
            raise UserError(f"{where}: one of {', '.join(map(str, inside))}, got {shown(value)}")
        return value
    if origin is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        if inside[-1] is not ... and len(items) != len(inside):
            raise UserError(f"{where}: {len(inside)} values, got {shown(value)}")
        return tuple(cast(inside[0], item, where) for item in items)
    if origin is dict or kind is dict:
        if not isinstance(value, dict):
            raise UserError(f"{where}: entries such as {{beta: 0.5}}, got {shown(value)}")
        return value
    if origin in (UnionType, typing.Union):
        return value if value is None and type(None) in inside else cast(next(k for k in inside if k is not type(None)), value, where)
    return _number(kind, value, where)


def _number(kind: type, value: Any, where: str) -> Any:
    """A string, truth value or number; YAML 1.1 reads 1e-3 as a string."""
    if kind is float and not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError):
            raise UserError(f"{where}: a number, got {shown(value)}") from None
    if kind is int and isinstance(value, float | str):
        try:
            if float(value) == int(float(value)):
                return int(float(value))
        except (TypeError, ValueError, OverflowError):
            pass
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        word = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}[kind]
        raise UserError(f"{where}: {word}, got {shown(value)}")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def flag(part: str, name: str) -> str:
    """The option of the command line for an entry: of `run` and `optimiser` without the part's name."""
    word = f"adam-{name}" if part == "optimiser" and name in ("betas", "eps") else name.replace("_", "-")
    return f"--{word}" if part in ("run", "optimiser") else f"--{part}.{word}"


def chunk(run: RunConfig, ranks: int) -> int:
    """Rows of a forward pass; `UserError` if batch, chunks and ranks do not divide."""
    size = run.chunk or run.batch // ranks
    if run.batch % ranks or not size or (run.batch // size) % ranks:
        what = f"a batch of {run.batch} in chunks of {size or run.batch} cannot be dealt to {ranks} ranks"
        raise UserError(f"{what}: choose --batch and --chunk so that batch / chunk is a multiple of the ranks")
    return size


def checked(config: Config) -> Config:
    """The configuration, or `UserError` for numbers that cannot be."""
    run, method = config.run, config.method
    if run.precision == "float64" and run.device.startswith("mps"):
        raise UserError(f"--precision float64: {run.device} has no such numbers, choose --device cpu")
    if run.chunk and run.batch % run.chunk:
        raise UserError(f"--chunk: a divisor of the batch {run.batch}, got {run.chunk}")
    if config.data.pair_as == "source":
        if not config.data.pair:
            raise UserError("--data.pair-as source: say which partners, with --data.pair")
        if method.coupling not in (INDEPENDENT, PARTNERS):
            raise UserError(f"--method.coupling {method.coupling}: the flow starts at --data.pair {config.data.pair}, leave one of them out")
        method = dataclasses.replace(method, coupling=PARTNERS)
        config = dataclasses.replace(config, method=method)
    check_path(method.path)
    check_coupling(method.coupling)
    if ":" not in method.recipe:  # a function of the user's own is looked at when it is imported
        check_method(method.recipe, method.options, method.largest_gap)
    return config
