"""Public weights: the file's own network, written out here from its names alone, against ours that starts from it; files that are none."""

import argparse
import math
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

import meanstep as ms
from meanstep.fields import DiT
from meanstep.fields.public import converted
from meanstep.program.console import UserError
from meanstep.program.runs.public_weights import load, read
from meanstep.program.training.pretrained import start_from

WIDTH, DEPTH, HEADS, PATCH, CHANNELS, SIZE, CLASSES = 24, 3, 4, 2, 3, 8, 5
State = dict[str, Tensor]
RATES = 10000 ** (-torch.arange(128, dtype=torch.float64) / 128)


# The public network, from its names ----------------------------------------------------------------------------------------------------


def grid(side: int) -> Tensor:
    """Fixed positions: half of the features for the column, half for the row, each sines then cosines; loops, for independence."""
    rates = [10000 ** (-4 * k / WIDTH) for k in range(WIDTH // 4)]
    rows = [[f(rate * at) for at in (x, y) for f in (math.sin, math.cos) for rate in rates] for y in range(side) for x in range(side)]
    return torch.tensor(rows, dtype=torch.float64)[None]


def weights(outputs: int = 2 * CHANNELS, depth: int = DEPTH, seed: int = 0) -> State:
    """Random weights under the public names, float64."""
    shapes = {"x_embedder.proj": (WIDTH, CHANNELS, PATCH, PATCH), "t_embedder.mlp.0": (WIDTH, 256), "t_embedder.mlp.2": (WIDTH, WIDTH)}
    for k in range(depth):
        inner = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4), "adaLN_modulation.1": (6, 1)}
        shapes |= {f"blocks.{k}.{name}": (a * WIDTH, b * WIDTH) for name, (a, b) in inner.items()}
    shapes |= {"final_layer.adaLN_modulation.1": (2 * WIDTH, WIDTH), "final_layer.linear": (PATCH * PATCH * outputs, WIDTH)}
    out = {}
    for k, (name, shape) in enumerate(shapes.items()):
        out[f"{name}.weight"] = torch.randn(shape, generator=ms.key(seed, k), dtype=torch.float64) / math.prod(shape[1:]) ** 0.5
        out[f"{name}.bias"] = 0.3 * torch.randn(shape[0], generator=ms.key(seed, k, "bias"), dtype=torch.float64)
    out["y_embedder.embedding_table.weight"] = torch.randn(CLASSES + 1, WIDTH, generator=ms.key(seed, "y"), dtype=torch.float64)
    return out | {"pos_embed": grid(SIZE // PATCH)}


def public(w: State, x: Tensor, t: Tensor, y: Tensor, gap: Tensor | None = None) -> Tensor:
    """What the public code computes of these weights, its time as it is given; the learned variance left out. `gap`: MeanFlow's t - r."""

    def layer(name: str, h: Tensor) -> Tensor:
        return h @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(h: Tensor) -> Tensor:
        centred = h - h.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    def embedded(name: str, time: Tensor) -> Tensor:
        angles = time[:, None] * RATES
        return layer(f"{name}.mlp.2", F.silu(layer(f"{name}.mlp.0", torch.cat([angles.cos(), angles.sin()], 1))))

    time = embedded("t_embedder", t) if gap is None else embedded("t_embedder", t) + embedded("r_embedder", gap)
    c = F.silu(time + w["y_embedder.embedding_table.weight"][y])
    h = F.conv2d(x, w["x_embedder.proj.weight"], w["x_embedder.proj.bias"], stride=PATCH).flatten(2).transpose(1, 2) + w["pos_embed"]
    for k in range(sum(".attn.qkv.weight" in name for name in w)):
        a, b, gate, a2, b2, gate2 = (m[:, None] for m in layer(f"blocks.{k}.adaLN_modulation.1", c).split(WIDTH, 1))
        qkv = layer(f"blocks.{k}.attn.qkv", norm(h) * (1 + b) + a)
        mixed = torch.zeros_like(h)
        for head in range(HEADS):
            d = WIDTH // HEADS
            q, key, v = (qkv[..., p * WIDTH + head * d : p * WIDTH + (head + 1) * d] for p in range(3))
            mixed[..., head * d : (head + 1) * d] = (q @ key.transpose(1, 2) / d**0.5).softmax(-1) @ v
        h = h + gate * layer(f"blocks.{k}.attn.proj", mixed)
        inner = layer(f"blocks.{k}.mlp.fc1", norm(h) * (1 + b2) + a2)
        h = h + gate2 * layer(f"blocks.{k}.mlp.fc2", 0.5 * inner * (1 + (math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)).tanh()))
    a, b = (m[:, None] for m in layer("final_layer.adaLN_modulation.1", c).split(WIDTH, 1))
    tokens = layer("final_layer.linear", norm(h) * (1 + b) + a)
    image, side = torch.zeros_like(x), SIZE // PATCH
    for n in range(side * side):
        patch = tokens[:, n].reshape(len(x), PATCH, PATCH, -1)[..., :CHANNELS]  # channels are last in a token
        row, column = PATCH * (n // side), PATCH * (n % side)
        image[:, :, row : row + PATCH, column : column + PATCH] = patch.permute(0, 3, 1, 2)
    return image


def net(**options: Any) -> DiT:
    options = {"classes": CLASSES, **options}
    return DiT(SIZE, CHANNELS, PATCH, WIDTH, DEPTH, HEADS, generator=ms.key(9), **options).double()


def started(w: State, source: str = "sit", relabel: bool = False, **options: Any) -> DiT:
    made = net(**options)
    made.load_state_dict(converted(w, made, source, relabel=relabel).state)
    return made


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    z, t = torch.randn(6, CHANNELS, SIZE, SIZE, generator=ms.key(1)).double(), torch.rand(6, generator=ms.key(2)).double()
    t[0], t[1] = 0, 1
    return z, t * torch.rand(6, generator=ms.key(3)).double(), t, torch.arange(6) % (CLASSES + 1)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> None:
    assert b.std() > 0.1, "a comparison of zeros says nothing"
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# A start ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outputs", [CHANNELS, 2 * CHANNELS], ids=["velocity", "learned variance"])
def test_sit_weights_give_its_velocity_for_every_gap(outputs: int):
    """SiT runs from noise at 0 to data at 1: `u(z, r, t) = -SiT(z, 1 - t)`."""
    w, (z, r, t, y) = weights(outputs), inputs()
    made, velocity = started(w), -public(w, z, 1 - t, y)
    close(made(z, t, t, y), velocity)
    close(made(z, r, t, y), velocity)
    close(made(z, torch.zeros_like(t), t, y), velocity)


def test_repa_weights_give_their_velocity():
    """REPA's SiT runs as we do, and its projectors are of no use here."""
    w, (z, r, t, y) = weights(CHANNELS), inputs()
    close(started(w | {"projectors.0.0.weight": torch.zeros(3)}, "repa")(z, r, t, y), public(w, z, t, y))


def test_meanflow_weights_give_their_average_velocity():
    """A public MeanFlow's SiT embeds t and t - r, each as SiT does: exact in float64, where the fixed sines and cosines are, too."""
    w, (z, r, t, y) = weights(CHANNELS), inputs()
    w |= {name.replace("t_embedder", "r_embedder"): x.flip(0) for name, x in w.items() if name.startswith("t_embedder")}
    made = started(w, "meanflow")
    made.time.frequencies, made.gap.frequencies, made.positions = RATES, RATES, w["pos_embed"][0]
    close(made(z, r, t, y), public(w, z, t, y, t - r), 1e-10)
    assert (made(z, r, t, y) - made(z, t, t, y)).abs().max() > 0.1
    assert "u(z, r, t) is the file's average velocity" in converted(w, net(), "meanflow").notes
    with pytest.raises(ValueError, match="build the network without split"):
        started(w, "meanflow", split=2)
    with pytest.raises(ValueError, match=r"lacks r_embedder\.mlp\.0\.weight"):
        started(weights(CHANNELS), "meanflow")


def test_dit_weights_are_the_files_network_of_a_thousand_steps():
    w, (z, r, t, y) = weights(), inputs()
    close(started(w, "dit", time_scale=1000)(z, r, t, y), public(w, z, 1000 * t, y), 1e-3)  # float32 frequencies times 1000


def test_dit_weights_without_their_time_keep_the_networks_embedding():
    made = net()
    state, notes = converted(weights(), made, "dit")
    assert torch.equal(state["time.first.weight"], made.time.first.weight) and "the time embedding is fresh" in " ".join(notes)
    assert not torch.equal(state["patches.weight"], made.patches.weight)


def test_a_split_network_is_the_velocity_on_the_diagonal():
    w, (z, r, t, y) = weights(), inputs()
    made = started(w, split=2)
    close(made(z, t, t, y), -public(w, z, 1 - t, y))
    assert not torch.allclose(made(z, r, t, y), made(z, t, t, y))


def test_a_head_starts_as_the_velocity_too():
    w, (z, r, t, y) = weights(), inputs()
    for part in started(w, head=True).with_head(z, r, t, y):
        close(part, -public(w, z, 1 - t, y))


@pytest.mark.parametrize("classes", [0, 2, 9])
def test_other_classes_start_as_no_class(classes: int):
    w, (z, r, t, _) = weights(), inputs()
    made = started(w, relabel=True, classes=classes)
    close(made(z, r, t, torch.arange(6) % classes if classes else None), -public(w, z, 1 - t, torch.full((6,), CLASSES)))
    with pytest.raises(ValueError, match=f"the file has 5 classes and this network {classes}; with relabel"):
        converted(w, net(classes=classes), "sit")


def test_no_class_is_the_files():
    w, (z, r, t, _) = weights(), inputs()
    close(started(w)(z, r, t), -public(w, z, 1 - t, torch.full((6,), CLASSES)))


def test_the_gap_can_be_learned_from_there():
    """Its last layer starts at zero, its first does not, so that a gradient comes through."""
    made, (z, r, t, y) = started(weights()), inputs()
    made(z, r, t, y).square().sum().backward()
    assert made.gap.second.weight.grad.abs().max() > 0 and not made.gap.second.weight.any() and made.gap.first.weight.any()


def test_the_given_weights_are_left_alone():
    w, made = weights(), net()
    kept, before = {k: v.clone() for k, v in w.items()}, {k: v.clone() for k, v in made.state_dict().items()}
    state = converted(w, made, "sit").state
    assert all(torch.equal(kept[k], w[k]) for k in w) and all(torch.equal(before[k], v) for k, v in made.state_dict().items())
    assert {v.dtype for v in state.values()} == {torch.float64}
    assert {v.dtype for v in converted(w, net().float(), "sit").state.values()} == {torch.float32}


def test_a_float32_start_is_as_near_as_float32_allows():
    w, (z, r, t, y) = weights(), inputs()
    u = started(w).float()(z.float(), r.float(), t.float(), y)
    close(u.double(), -public(w, z, 1 - t, y), 1e-4)


# diffusers ---------------------------------------------------------------------------------------------------------------------------


def diffused(w: State) -> State:
    """The same weights under the names of diffusers, which has the embeddings in each block."""
    blocks, out = "transformer_blocks", {}
    plain = {"x_embedder.proj": "pos_embed.proj", "final_layer.adaLN_modulation.1": "proj_out_1", "final_layer.linear": "proj_out_2"}
    inner = {"adaLN_modulation.1": "norm1.linear", "attn.proj": "attn1.to_out.0", "mlp.fc1": "ff.net.0.proj", "mlp.fc2": "ff.net.2"}
    for part in ("weight", "bias"):
        out |= {f"{theirs}.{part}": w[f"{name}.{part}"] for name, theirs in plain.items()}
        for k in range(DEPTH):
            out |= {f"{blocks}.{k}.{theirs}.{part}": w[f"blocks.{k}.{name}.{part}"] for name, theirs in inner.items()}
            for q, rows in zip("qkv", w[f"blocks.{k}.attn.qkv.{part}"].chunk(3), strict=True):
                out[f"{blocks}.{k}.attn1.to_{q}.{part}"] = rows.clone()
            for n in (0, 1):
                out[f"{blocks}.{k}.norm1.emb.timestep_embedder.linear_{n + 1}.{part}"] = w[f"t_embedder.mlp.{2 * n}.{part}"].clone()
    for k in range(DEPTH):
        out[f"{blocks}.{k}.norm1.emb.class_embedder.embedding_table.weight"] = w["y_embedder.embedding_table.weight"].clone()
    return out


def flaxed(w: State, before: str, between: str) -> State:
    """The same weights as MeanFlow's own code in JAX holds them: matrices turned, kernels with their channels last, no positions."""
    out = {}
    for name, x in w.items():
        *layer, kind = name.replace("r_embedder", "h_embedder").split(".")
        if name == "pos_embed":
            continue
        layer = [f"layers_{part}" if part.isdecimal() else part for part in layer]
        if name == "x_embedder.proj.weight":
            x = torch.stack([torch.stack([x[:, :, i, j].T for j in range(PATCH)]) for i in range(PATCH)])
        elif name.startswith("y_embedder"):
            layer, kind = [*layer, "_flax_embedding"], "embedding"
        elif not name.startswith("x_embedder"):
            layer, x = [*layer, "_flax_linear"], x.T if kind == "weight" else x
        out[before + between.join([*layer, "kernel" if kind == "weight" else kind])] = x.clone()
    return out


@pytest.mark.parametrize(("before", "between"), [("net/", "/"), ("params.net.", "."), ("", "/")])
def test_weights_of_flax_are_the_same_average_velocity(before: str, between: str):
    w, (z, r, t, y) = weights(CHANNELS), inputs()
    more = weights(CHANNELS, seed=7)
    w |= {name.replace("t_embedder", "r_embedder"): x for name, x in more.items() if name.startswith("t_embedder")}
    made = started(flaxed(w, before, between), "meanflow")
    made.time.frequencies, made.gap.frequencies, made.positions = RATES, RATES, w["pos_embed"][0]
    close(made(z, r, t, y), public(w, z, t, y, gap=t - r), 1e-10)
    assert all(torch.equal(a, b) for a, b in zip(made.state_dict().values(), started(w, "meanflow").state_dict().values(), strict=True))
    with pytest.raises(ValueError, match=r"the file lacks r_embedder"):
        converted(flaxed(weights(CHANNELS), before, between), net(), "meanflow")


@pytest.mark.parametrize("positions", [True, False])
def test_names_of_diffusers_are_the_same_weights(positions: bool):
    w = weights()
    theirs = diffused(w) | ({"pos_embed.pos_embed": w["pos_embed"]} if positions else {})
    for a, b in zip(converted(theirs, net(), "sit").state.items(), converted(w, net(), "sit").state.items(), strict=True):
        assert a[0] == b[0] and torch.equal(a[1], b[1]), a[0]


def test_embeddings_that_differ_between_blocks_are_refused():
    theirs = diffused(weights())
    name = "transformer_blocks.2.norm1.emb.timestep_embedder.linear_1.bias"
    with pytest.raises(ValueError, match=f"{name} is not that of the first block"):
        converted(theirs | {name: theirs[name] + 1}, net(), "dit")


def test_a_network_of_diffusers_is_ours():
    """diffusers counts its 128 frequencies to 127, the public code to 128; told to count so, it is the same network."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    theirs = diffusers.DiTTransformer2DModel(
        HEADS, WIDTH // HEADS, CHANNELS, 2 * CHANNELS, DEPTH, sample_size=SIZE, patch_size=PATCH, num_embeds_ada_norm=CLASSES, norm_eps=1e-6
    ).double()
    w, (z, r, t, y) = weights(), inputs()
    theirs.load_state_dict(diffused(w), strict=True)
    for block in theirs.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    made = started(theirs.state_dict(), "dit", time_scale=1000)
    close(made(z, r, t, y), theirs.eval()(z, 1000 * t, y).sample[:, :CHANNELS], 1e-3)


# Another architecture ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"depth": 4}, r"the file lacks blocks.3.attn.qkv.weight \[72, 24\]"),
        ({}, {"depth": 2}, r"the file holds blocks.2.\S+ \[.*\], for which this network has no place"),
        ({"blocks.0.attn.q_norm.weight": torch.ones(6)}, {}, r"holds blocks.0.attn.q_norm.weight \[6\], for which"),
        ({}, {"width": 32}, r"x_embedder.proj.weight is \[24, 3, 2, 2\] in the file and \[32, 3, 2, 2\] here"),
        ({}, {"patch": 4}, r"x_embedder.proj.weight is \[24, 3, 2, 2\] in the file and \[24, 3, 4, 4\] here"),
        ({}, {"channels": 1}, r"x_embedder.proj.weight is \[24, 3, 2, 2\] in the file and \[24, 1, 2, 2\] here"),
        ({}, {"size": 16}, r"pos_embed is \[1, 16, 24\] in the file and \[1, 64, 24\] here: another image size or patch"),
        ({"pos_embed": torch.zeros(1, 16, 24)}, {}, "pos_embed is not DiT's fixed sines and cosines"),
        ({"final_layer.linear.bias": torch.full((24,), math.nan)}, {}, "final_layer.linear.bias has entries that are not finite"),
        ({}, {"qk_norm": True}, "know no qk_norm: build the network without it"),
        ({}, {"rms": True}, "know no rms: build the network without it"),
        ({}, {"data_floor": 0.05}, "weights of sit do not predict data: build the network without data_floor"),
        ({}, {"time_scale": 1000.0}, r"weights of sit see times in \[0, 1\]: build the network with time_scale=1, not 1000"),
    ],
)
def test_another_architecture_is_named(change: State, options: dict[str, Any], message: str):
    shape = {"size": SIZE, "channels": CHANNELS, "patch": PATCH, "width": WIDTH, "depth": DEPTH, "heads": HEADS, "classes": CLASSES}
    with pytest.raises(ValueError, match=message):
        converted(weights() | change, DiT(**shape | options), "sit")


def test_a_published_size_with_other_heads_is_refused():
    """A file does not say how many heads it has."""
    with torch.device("meta"):
        odd = DiT(32, 4, 2, 384, 12, 8, classes=1000)
    with pytest.raises(ValueError, match="of this width and depth has 6 heads, this one 8"):
        converted({}, odd, "sit")
    assert any("number of heads: 4 are taken" in note for note in converted(weights(), net(), "sit").notes)


def test_another_source_is_refused():
    with pytest.raises(ValueError, match="weights come from sit, repa, meanflow, dit, got 'mdt'"):
        converted(weights(), net(), "mdt")


# Files -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["safetensors", "safetensors by another name", "torch", "torch before 1.6", "training script"])
def test_files(tmp_path: Path, kind: str):
    w, (z, r, t, y), path = weights(), inputs(), tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    match kind:
        case "torch":
            torch.save(w, path)
        case "torch before 1.6":
            torch.save(w, path, _use_new_zipfile_serialization=False)
        case "training script":
            arguments = argparse.Namespace(model="SiT-S/2", seed=0)
            torch.save({"model": weights(seed=1), "ema": w, "opt": {"state": {}}, "args": arguments, "epoch": 3}, path)
        case _:
            save_file(w, path)
    made = net()
    notes = load(made, f"sit:{path}")
    close(made(z, r, t, y), -public(w, z, 1 - t, y))
    assert notes[0] == "u(z, r, t) is the file's velocity at t"


class Runs:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_is_not_run(tmp_path: Path, legacy: bool):
    path, trace = tmp_path / "w.pt", tmp_path / "trace"
    torch.save({"ema": weights(), "more": Runs(trace)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match=r"w.pt is no file of weights, or a pickle that holds more than tensors: it is not read"):
        load(net(), f"sit:{path}")
    path.write_bytes(pickle.dumps(Runs(trace)))
    with pytest.raises(UserError, match="it is not read"):
        load(net(), f"sit:{path}")
    assert not trace.exists()


@pytest.mark.parametrize("kind", ["safetensors", "torch", "legacy"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_one_line(tmp_path: Path, kind: str, share: float):
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    if kind == "safetensors":
        save_file(weights(), path)
    else:
        torch.save(weights(), path, _use_new_zipfile_serialization=kind == "torch")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    made = net()
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    with pytest.raises(UserError, match=r"w\.\w+(: .*; it is cut short or| is) no ") as caught:
        load(made, f"sit:{path}")
    assert "\n" not in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.state_dict().items())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(2)], "holds no weights by name, but list"),
        ({}, "holds no weights by name, but dict"),
        ({"a": torch.zeros(2), "epoch": 3}, "holds more than weights by name: 'epoch' is int"),
    ],
)
def test_a_torch_file_of_something_else(tmp_path: Path, content: Any, message: str):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(UserError, match=message):
        read(tmp_path / "w.pt")


def test_what_the_user_gave_is_named(tmp_path: Path):
    path = tmp_path / "w.safetensors"
    save_file(weights(), path)
    with pytest.raises(UserError, match=r"w.safetensors: the file has 5 classes and this network 2; with relabel"):
        load(net(classes=2), f"sit:{path}")
    load(net(classes=2), f"sit:{path}", relabel=True)
    for spec in (str(path), "vae:w.pt", "sit:"):
        with pytest.raises(UserError, match="given as sit:FILE, repa:FILE, meanflow:FILE, dit:FILE, got "):
            load(net(), spec)
    with pytest.raises(UserError, match=r"cannot read .*nowhere.pt: there is no such file"):
        load(net(), f"sit:{tmp_path / 'nowhere.pt'}")
    with pytest.raises(UserError, match=r"cannot read .*: it is a folder"):
        load(net(), f"sit:{tmp_path}")
    with pytest.raises(UserError, match="start the network dit, not MLP"):
        load(ms.MLP(2), f"sit:{path}")


def test_a_run_starts_on_latents_of_the_weights_scale_only(tmp_path: Path):
    file, latents = tmp_path / "sit.safetensors", SimpleNamespace(codec="latents", mean=(0.0,) * 3, std=(1.0,) * 3, scaling=0.18215)
    save_file(weights(), file)
    for odd in ({"codec": "pixels"}, {"std": (0.9,) * 3}, {"scaling": 1.0}):
        with pytest.raises(UserError, match=r"know latents times 0\.18215, not normalised by channel"):
            start_from(net(), f"sit:{file}", SimpleNamespace(**vars(latents) | odd))
    here, there = net(), net()
    start_from(here, f"sit:{file}", latents)
    load(there, f"sit:{file}")
    assert all(torch.equal(value, there.state_dict()[name]) for name, value in here.state_dict().items())
    with pytest.raises(UserError, match="relabel"):
        start_from(net(classes=2), f"sit:{file}", latents)
    start_from(net(classes=2), f"relabel-sit:{file}", latents)
