"""Weights under the names of public DiT and SiT code, as weights of our `DiT`. Knows no files.

Four public codes share one layout of names; diffusers has a second for the same network, and flax a third. What the weights mean differs:

| source | the network's output | its time | here |
|---|---|---|---|
| `sit` (2401.08740) | `x - e`, the velocity from noise to data | 0 = noise, 1 = data | `u(z, t, t) = -SiT(z, 1 - t)` |
| `repa` (2410.06940) | `e - x` | 0 = data, 1 = noise | `u(z, t, t) = SiT(z, t)` |
| `meanflow` (2505.13447) | `e - x` | 0 = data, 1 = noise; and the gap `t - r` | `u(z, r, t) = SiT(z, r, t)` |
| `dit` (2212.09748) | the noise `e` on a variance-preserving path | steps 0 (data) to 999 (noise) | an initialisation, no velocity |

Neither sign nor direction costs anything later: the sign goes into the last layer, and cosines and sines of `1 - t` are linear in those
of `t`, so the direction goes into the first layer of the time embedding.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from meanstep.fields.dit import SIZES, DiT

State = dict[str, Tensor]


class Source(NamedTuple):
    """What public weights mean: `sign` times the output is the velocity; their time is `scale t`, or `scale (1 - t)` if `reversed`.

    `gap`: they embed `t - r`, as `r_embedder`, and are an average velocity.
    """

    sign: float = 1.0
    reversed: bool = False
    scale: float = 1.0
    velocity: bool = True
    dropped: tuple[str, ...] = ()
    gap: bool = False


SOURCES = {
    "sit": Source(sign=-1.0, reversed=True),
    "repa": Source(dropped=("projectors.",)),
    "meanflow": Source(gap=True),
    "dit": Source(scale=1000.0, velocity=False),
}


class Converted(NamedTuple):
    """Weights for `DiT.load_state_dict`, and sentences that say what was done to them."""

    state: State
    notes: tuple[str, ...]


def converted(given: Mapping[str, Tensor], net: DiT, source: str, *, relabel: bool = False) -> Converted:
    """Weights of a public DiT or SiT as a start for `net`, whose weights they do not touch.

    `given`: the file's tensors by name; `source`: `sit`, `repa`, `meanflow` or `dit`, see the table above.

    For `sit` and `repa` `u(z, r, t, y)` of the result is the file's velocity at `t`, whatever `r`: the gap embedding starts at zero (a
    split network: where `r = t`); for `meanflow` it is the file's average velocity. A head starts as the same velocity. `relabel`: for a
    network of other classes, or of none, each label starts as the file's own "no class". Raises `ValueError` for another architecture:
    the first name that is missing or left over, or whose shape differs.
    """
    if source not in SOURCES:
        raise ValueError(f"weights come from {', '.join(SOURCES)}, got {source!r}")
    meaning, state = SOURCES[source], {name: tensor.detach() for name, tensor in given.items()}
    _fits(net, source, meaning)
    state = _undiffused(state) if "transformer_blocks.0.norm1.linear.weight" in state else _unflaxed(state)
    state = {name: tensor for name, tensor in state.items() if not name.startswith(meaning.dropped)} if meaning.dropped else state
    _check(state, net, relabel, meaning.gap)
    doubled = state["final_layer.linear.weight"].shape[0] == 2 * math.prod(net.patch) * net.channels
    mine = net.state_dict()
    out = {ours: state[public] for public, ours in _names(len(net.blocks), meaning.gap) if ours in mine}
    out["patches.weight"] = out["patches.weight"].flatten(1)
    for part in ("weight", "bias"):
        out[f"last.out.{part}"] = _output(state[f"final_layer.linear.{part}"], net, meaning.sign)
    _time(out, net, mine, meaning)
    relabelled = _labels(out, net, state["y_embedder.embedding_table.weight"])
    return Converted({name: out[name].to(mine[name]) for name in mine}, _notes(net, meaning, doubled, relabelled))


# Names and shapes --------------------------------------------------------------------------------------------------------------------

LAYERS = {
    "x_embedder.proj": "patches",
    "t_embedder.mlp.0": "time.first",
    "t_embedder.mlp.2": "time.second",
    "final_layer.adaLN_modulation.1": "last.modulation",
    "final_layer.linear": "last.out",
}
BLOCK = {
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.out",
    "mlp.fc1": "up",
    "mlp.fc2": "down",
    "adaLN_modulation.1": "modulation",
}


GAP = {"r_embedder.mlp.0": "gap.first", "r_embedder.mlp.2": "gap.second"}


def _names(depth: int, gap: bool) -> Iterator[tuple[str, str]]:
    """Every public name and ours; `gap`: with those of the gap's embedding."""
    layers = (
        LAYERS
        | (GAP if gap else {})
        | {f"blocks.{k}.{public}": f"blocks.{k}.{ours}" for k in range(depth) for public, ours in BLOCK.items()}
    )
    for public, ours in layers.items():
        yield from ((f"{public}.{part}", f"{ours}.{part}") for part in ("weight", "bias"))
    yield "y_embedder.embedding_table.weight", "labels.weight"


def _shapes(net: DiT, gap: bool) -> dict[str, list[int]]:
    """The public names and shapes of a network like this one; the last layer's output may be twice as long."""
    mine, width = net.state_dict(), net.positions.shape[-1]
    wanted = {public: list(mine[ours].shape) for public, ours in _names(len(net.blocks), gap) if ours in mine}
    wanted["x_embedder.proj.weight"] = [width, net.channels, *net.patch]
    wanted["y_embedder.embedding_table.weight"] = [net.classes + 1, width]
    features = math.prod(net.patch) * net.channels
    return wanted | {"final_layer.linear.weight": [features, width], "final_layer.linear.bias": [features]}


def _check(state: State, net: DiT, relabel: bool, gap: bool) -> None:
    """`ValueError` unless these are the weights of a network like this one."""
    wanted = _shapes(net, gap)
    missing = next((name for name in wanted if name not in state), None)
    left = next((name for name in state if name not in wanted and name != "pos_embed"), None)
    if missing or left:
        lack = f"lacks {missing} {wanted[missing]}" if missing else ""
        over = f"holds {left} {list(state[left].shape)}, for which this network has no place" if left else ""
        raise ValueError(f"not the weights of a DiT or SiT like this network: the file {' and '.join(filter(None, (lack, over)))}")
    for name, shape in wanted.items():
        found = list(state[name].shape)
        if name.startswith("final_layer.linear") and found == [2 * shape[0], *shape[1:]]:
            found = shape
        if name.startswith("y_embedder") and found != shape:
            _check_labels(found, net, relabel)
        elif found != shape:
            raise ValueError(f"not the weights of a network like this one: {name} is {found} in the file and {shape} here")
        if not state[name].isfinite().all():
            raise ValueError(f"{name} has entries that are not finite")
    _check_positions(state.get("pos_embed"), net)


def _check_labels(found: list[int], net: DiT, relabel: bool) -> None:
    if found[-1] != net.positions.shape[-1] or len(found) != 2:
        raise ValueError(f"y_embedder.embedding_table.weight is {found} in the file and [classes + 1, {net.positions.shape[-1]}] here")
    if not relabel:
        raise ValueError(
            f"the file has {found[0] - 1} classes and this network {net.classes}; with relabel every label starts as the file's 'no class'"
        )


def _check_positions(given: Tensor | None, net: DiT) -> None:
    if given is None:
        return
    if list(given.shape) != [1, *net.positions.shape]:
        raise ValueError(f"pos_embed is {list(given.shape)} in the file and {[1, *net.positions.shape]} here: another image size or patch")
    if (given[0].to(net.positions) - net.positions).abs().max() > 1e-3:
        raise ValueError("pos_embed is not DiT's fixed sines and cosines")


def _fits(net: DiT, source: str, meaning: Source) -> None:
    """`ValueError` for options of the network that public weights were not made for."""
    odd = [name for name in ("qk_norm", "rms") if getattr(net, name)]
    if odd:
        raise ValueError(f"public DiT and SiT weights know no {odd[0]}: build the network without it")
    if len(net.grid) != 2 or net.given is not None:
        raise ValueError(
            "public DiT and SiT weights are of pictures with labels: build the network for rows of three axes, without conditions"
        )
    if meaning.gap and net.gap is None:
        raise ValueError(f"weights of {source} embed the gap t - r: build the network without split")
    if net.data_floor is not None:
        raise ValueError(f"weights of {source} do not predict data: build the network without data_floor")
    heads = {shape[:2]: shape[2] for shape in SIZES.values()}.get((net.positions.shape[-1], len(net.blocks)), net.heads)
    if net.heads != heads:
        raise ValueError(f"a public network of this width and depth has {heads} heads, this one {net.heads}, and the file does not say")
    if meaning.velocity and net.time_scale != meaning.scale:
        raise ValueError(f"weights of {source} see times in [0, 1]: build the network with time_scale=1, not {net.time_scale:g}")


def _undiffused(state: State) -> State:
    """diffusers' names, which repeat the embeddings of times and labels in each block, as the public ones."""
    blocks = "transformer_blocks"
    embedding = f"{blocks}.0.norm1.emb"
    names = {"pos_embed.proj": "x_embedder.proj", "proj_out_1": "final_layer.adaLN_modulation.1", "proj_out_2": "final_layer.linear"}
    names |= {f"{embedding}.timestep_embedder.linear_{k + 1}": f"t_embedder.mlp.{2 * k}" for k in range(2)}
    names |= {f"{embedding}.class_embedder.embedding_table": "y_embedder.embedding_table"}
    inner = {"norm1.linear": "adaLN_modulation.1", "attn1.to_out.0": "attn.proj", "ff.net.0.proj": "mlp.fc1", "ff.net.2": "mlp.fc2"}
    out: State = {}
    for name, tensor in state.items():
        layer, _, part = name.rpartition(".")
        k, _, rest = layer.removeprefix(f"{blocks}.").partition(".")
        if name == "pos_embed.pos_embed":
            out["pos_embed"] = tensor
        elif layer in names:
            out[f"{names[layer]}.{part}"] = tensor
        elif rest.startswith("norm1.emb."):
            if (first := state.get(f"{blocks}.0.{rest}.{part}")) is None or not torch.equal(tensor, first):
                raise ValueError(f"{name} is not that of the first block: this network embeds times and labels once")
        elif rest == "attn1.to_q" and all(f"{blocks}.{k}.attn1.to_{q}.{part}" in state for q in "kv"):
            out[f"blocks.{k}.attn.qkv.{part}"] = torch.cat([state[f"{blocks}.{k}.attn1.to_{q}.{part}"] for q in "qkv"])
        elif rest not in ("attn1.to_k", "attn1.to_v"):
            out[f"blocks.{k}.{inner[rest]}.{part}" if rest in inner else name] = tensor
    return out


def _unflaxed(state: State) -> State:
    """flax's names, such as those of MeanFlow's own code in JAX, as the public ones, whose matrices are turned; other names as they are."""
    first = next((name for name in state if re.search(r"(^|[/.])x_embedder[/.]proj[/.]kernel$", name)), None)
    if first is None:
        return state
    start, out = len(first) - len("x_embedder.proj.kernel"), {}
    for name, tensor in state.items():
        parts = [part.removeprefix("layers_") for part in re.split("[/.]", name[start:]) if part not in ("_flax_linear", "_flax_embedding")]
        turned = parts[-1] == "kernel"
        parts[0] = {"h_embedder": "r_embedder"}.get(parts[0], parts[0])
        parts[-1] = {"kernel": "weight", "embedding": "weight"}.get(parts[-1], parts[-1])
        out[".".join(parts)] = tensor.movedim((-1, -2), (0, 1)) if turned else tensor
    return out


# Meaning -----------------------------------------------------------------------------------------------------------------------------


def _output(given: Tensor, net: DiT, sign: float) -> Tensor:
    """The last layer: channels last and maybe twice as many there, first here; a head gets the same."""
    patches = given.reshape(*net.patch, -1, *given.shape[1:])[:, :, : net.channels]
    one = sign * patches.movedim(2, 0).flatten(0, 2)
    return torch.cat([one, one]) if net.two else one


def _time(out: State, net: DiT, mine: State, meaning: Source) -> None:
    """The embeddings of the time, turned around if need be, and of the gap, which starts at zero."""
    if net.gap is not None and not meaning.gap:
        out |= {name: mine[name] for name in mine if name.startswith("gap.first.")}
        out |= {name: torch.zeros_like(mine[name]) for name in mine if name.startswith("gap.second.")}
    if net.time_scale != meaning.scale:
        out |= {name: mine[name] for name in mine if name.startswith("time.")}
    elif meaning.reversed:
        angles = net.time.frequencies.double().to(out["time.first.weight"].device)
        cosines, sines = out["time.first.weight"].double().chunk(2, 1)
        turned = [cosines * angles.cos() + sines * angles.sin(), cosines * angles.sin() - sines * angles.cos()]
        out["time.first.weight"] = torch.cat(turned, 1)


def _labels(out: State, net: DiT, table: Tensor) -> bool:
    """The embedding of labels; whether each starts as "no class", the table's last row, which an unconditional network adds to the time."""
    if net.labels is None:
        out["time.second.bias"] = out["time.second.bias"].to(table) + table[-1]
    elif len(table) != net.classes + 1:
        out["labels.weight"] = table[-1:].expand(net.classes + 1, -1)
    else:
        return False
    return True


def _notes(net: DiT, meaning: Source, doubled: bool, relabelled: bool) -> tuple[str, ...]:
    where = "u(z, t, t)" if net.gap is None else "u(z, r, t)"
    what = "average velocity" if meaning.gap else "velocity at t"
    first = "an initialisation only: the file predicts noise on another path, not a velocity"
    published = {shape[:2] for shape in SIZES.values()}
    fresh = not meaning.velocity and net.time_scale != meaning.scale
    sentences = {
        f"{where} is the file's {what}" if meaning.velocity else first: True,
        f"the file does not say its number of heads: {net.heads} are taken": (net.positions.shape[-1], len(net.blocks)) not in published,
        f"the time embedding is fresh: the file's wants DiT(time_scale={meaning.scale:g})": fresh,
        "the second half of the file's outputs, a learned variance, is left out": doubled,
        "every label starts as the file's 'no class'": relabelled,
        "the head starts as the same velocity": net.two and meaning.velocity,
    }
    return tuple(sentence for sentence, holds in sentences.items() if holds)
