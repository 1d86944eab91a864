"""Every kind of run through every target that takes it, by the command line, each export made once and compared with PyTorch here.

One process without this package opens all programs and pipelines.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import meanstep as ms
from meanstep.program.console import UserError
from meanstep.program.data.column import Column, column
from meanstep.program.data.columns import back
from meanstep.program.data.tiny import Tiny
from meanstep.program.export.runtime import PACKAGE, VERSION
from meanstep.program.export.targets import TARGETS
from meanstep.samplers import noise

HAS = {name: all(map(find_spec, target.needs)) for name, target in TARGETS.items()}
UNET = """
import meanstep as ms
from diffusers import UNet2DModel
def net(size, channels, classes):
    unet = UNet2DModel(size, channels, channels, block_out_channels=(16, 16), layers_per_block=1, norm_num_groups=4,
                       down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"))
    return ms.as_field(unet, ("z", "t"), output=lambda out: out.sample)
"""
ROWS: dict[str, Any] = {"codec": "plain", "dtype": "float32", "statistics": "own"}
KINDS = {
    "pictures": ("web", "onnx", "torch", "diffusers", "hub"),
    "latents": ("web", "onnx", "torch", "diffusers", "hub"),
    "signals": ("web", "onnx", "torch", "hub"),
    "table": ("web", "onnx", "torch", "hub"),
    "unet": ("onnx", "torch", "diffusers", "hub"),
}
COSTLY = {
    ("pictures", "web"),
    ("latents", "web"),
    ("signals", "web"),
    ("latents", "onnx"),
    ("signals", "onnx"),
    ("unet", "onnx"),
    ("unet", "torch"),
}
"""What `-m slow` runs: the table's page and graph, and the graph of pictures, are the same laws; a browser opens the page of pictures."""
SEEDS = range(40, 47)


def those(to: str | None = None) -> list[Any]:
    """Kinds and targets for a test of each, or the kinds that this target takes."""
    pairs = [(kind, name) for kind, targets in KINDS.items() for name in targets if to in (None, name)]
    return [pytest.param(*pair[: 1 if to else 2], marks=[pytest.mark.slow] if pair in COSTLY else []) for pair in pairs]


def rows(exportable: Callable[..., Path], *shape: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Path:
    """A run of rows of numbers of this shape, normalised by its first axis."""
    description = {
        "network": "mlp",
        "options": {"shape": list(shape), "classes": 0, "width": 16, "depth": 2, "frequencies": 2, "head": False},
    }
    return exportable(classes=0, description=description, manifest={**ROWS, "shape": shape, "image": shape, "mean": mean, "std": std})


def taesd(path: Path, seed: int = 0) -> str:
    """A TAESD of random weights, as it is named."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Tiny(4, False)
    net.decoder[-1].weight.data *= 20  # pictures that differ
    save_file(net.state_dict(), path)
    return f"taesd:{path}"


def latents(exportable: Callable[..., Path], folder: Path) -> Path:
    """A run of latents, normalised by channel, with a TAESD of random weights beside it."""
    taesd(folder / "taesd.safetensors")
    digest = hashlib.sha256((folder / "taesd.safetensors").read_bytes()).hexdigest()
    stated: dict[str, Any] = {"autoencoder": f"taesd:{folder / 'taesd.safetensors'}", "autoencoder_digest": digest}
    stated |= {"shape": (4, 2, 2), "image": (3, 16, 16), "codec": "latents", "dtype": "float32", "statistics": "own"}
    stated |= {"mean": (0.1, 0.2, 0.3, 0.4), "std": (1.0, 1.5, 0.5, 2.0)}
    description = {"network": "dit", "options": {"size": 2, "channels": 4, "patch": 1, "width": 16, "depth": 1, "heads": 2, "classes": 0}}
    return exportable(classes=0, manifest=stated, description=description, autoencoder=folder / "taesd.safetensors")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory):
    """The folder of the exports, which is the current one, so that a network of the user's own is found."""
    folder = tmp_path_factory.mktemp("suite")
    (folder / "unets.py").write_text(UNET)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def run(exportable, here) -> Callable[[str], Path]:
    """The run of each kind."""
    made = {
        "pictures": exportable,
        "latents": lambda: latents(exportable, here),
        "signals": lambda: rows(exportable, 2, 12, mean=(0.5, -1.0), std=(2.0, 0.5)),
        "table": lambda: rows(exportable, 3, mean=(5.0, -1.0, 0.0), std=(1.0, 2.0, 0.5)),
        "unet": lambda: exportable(
            classes=0, learns="instantaneous", description={"network": "unets:net", "options": {"size": 8, "channels": 1, "classes": 0}}
        ),
    }
    held: dict[str, Path] = {}
    return lambda kind: held.setdefault(kind, held.get(kind) or made[kind]())


@pytest.fixture(scope="module")
def left(run, ran, here) -> Callable[[str, str], Path]:
    """The folder of an export of 2 steps, made by the command line the first time."""

    def folder(kind: str, to: str) -> Path:
        if not HAS[to] or (kind == "unet" and not find_spec("diffusers")):
            pytest.skip(f"needs meanstep[{TARGETS[to].extra}] or diffusers")
        if to == "web" and not (user_runtime() / f"{PACKAGE}-{VERSION}").is_dir():
            pytest.skip(f"{PACKAGE} {VERSION} is not in {user_runtime()}: one `meanstep export --to web` fetches it")
        made = here / f"{kind}-{to}"
        if not made.exists():
            own = ["--network", "unets:net"] if kind == "unet" else []
            how = ["--runtime", user_runtime() / f"{PACKAGE}-{VERSION}"] if to == "web" else []
            assert ran("export", run(kind), "--to", to, "--steps", "2", "--out", made, *own, *how) == 0
        return made

    return folder


KEPT = Path(os.environ.get("MEANSTEP_CACHE") or Path.home() / ".cache" / "meanstep") / "runtime"


def user_runtime() -> Path:
    """Where the runtime of pages is kept, whatever cache a test has."""
    return KEPT


def wanted(run: Callable[[str], Path], kind: str, steps: int = 2) -> torch.Tensor:
    """What PyTorch makes of the seeds: pictures, or rows in units of the data."""
    return ms.load(run(kind), network="unets:net" if kind == "unet" else "").sample(SEEDS, steps)


def given(run: Callable[[str], Path], kind: str) -> list[np.ndarray]:
    """Noise of the seeds, and their labels."""
    model = ms.load(run(kind), network="unets:net" if kind == "unet" else "")
    y = model.labels(SEEDS)
    return [noise(SEEDS, model.shape).numpy()] + ([] if y is None else [y.numpy()])


def near(found: np.ndarray, ours: torch.Tensor) -> None:
    """Bytes within a level, and few that differ at all; numbers to 1e-5 of their spread."""
    assert found.shape == tuple(ours.shape)
    if found.dtype == np.uint8:
        apart = np.abs(found.astype(int) - ours.numpy().astype(int))
        assert apart.max() <= 1 and (apart > 0).mean() < 1e-2
    else:
        assert np.abs(found - ours.numpy()).max() < 1e-5 * float(ours.std())


# The suite -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("kind", "to"), those())
def test_every_kind_leaves_by_every_target(kind: str, to: str, left):
    card = json.loads((left(kind, to) / "card.json").read_text())
    assert card["difference"]["largest"] <= card["difference"]["bound"] == TARGETS[to].bound and card["difference"]["draws"] == 12
    assert ("levels" in card["difference"]) == (kind not in ("signals", "table"))
    assert (left(kind, to) / "README.md").is_file() and all(
        (left(kind, to) / name).stat().st_size == n for name, n in card["files"].items()
    )


@pytest.mark.parametrize("kind", those("onnx"))
def test_graphs_make_what_the_command_makes(kind: str, left, run):
    import onnxruntime

    made = onnxruntime.InferenceSession(left(kind, "onnx") / "model.onnx", providers=["CPUExecutionProvider"])
    inputs = given(run, kind)
    names = [entry.name for entry in made.get_inputs()]
    assert names == ["noise", "label"][: len(inputs)]
    near(made.run(None, dict(zip(names, inputs, strict=True)))[-1], wanted(run, kind))


@pytest.mark.parametrize("kind", those("hub"))
def test_folders_of_the_hub_are_read_back(kind: str, left, run):
    again = ms.load(left(kind, "hub"), network="unets:net" if kind == "unet" else "").sample(SEEDS, 2)
    assert torch.equal(again, wanted(run, kind)) and (left(kind, "hub") / "preview.png").stat().st_size > 100
    card = (left(kind, "hub") / "README.md").read_text()
    assert 'ms.load("hub:owner/name", network="unets:net")' in card if kind == "unet" else 'ms.load("hub:owner/name")' in card
    assert ("The network `unets:net` is not in this folder" in card) == ("hub:owner/name --network unets:net`" in card) == (kind == "unet")


def test_a_card_says_how_the_columns_of_a_table_became_numbers(exportable, here):
    """A reader of card.json decodes values as this package does."""
    held = (Column("town", "words", words=("Bath", "Rome")), Column("kind", "condition"), Column("age", "quantile", True, points=(1, 2, 9)))
    stated = {**ROWS, "shape": (3,), "image": (3,), "mean": (0.5, 0.5, 0.0), "std": (0.5, 0.5, 1.0)}
    description = {"network": "mlp", "options": {"shape": [3], "classes": 0, "width": 8, "depth": 1, "frequencies": 2}}
    own = exportable(classes=0, description=description, manifest={**stated, "columns": [asdict(column) for column in held]})
    record = ms.export(own, to="torch", out=here / "coded")
    assert [(entry["name"], entry["width"]) for entry in record["columns"]] == [("town", 2), ("age", 1)]
    text = (here / "coded" / "README.md").read_text()
    assert "coded entries of a table" in text and "| columns |" not in text and "points" not in text.partition("## How")[0]
    (values,), at = torch.export.load(here / "coded" / "model.pt2").module()(noise(SEEDS, (3,))), 0
    columns, wanted = json.loads((here / "coded" / "card.json").read_text())["columns"], ms.load(own).table(ms.load(own).sample(SEEDS))
    for entry in columns:
        width = entry.pop("width")
        assert back(column(entry), values[:, at : at + width].numpy()).tolist() == wanted[entry["name"]].tolist()
        at += width


@pytest.mark.parametrize("kind", ["signals", "table"])
def test_rows_of_numbers_are_no_pipeline(kind: str, run, ran, here, capsys):
    if not HAS["diffusers"]:
        pytest.skip("needs meanstep[latents]")
    assert ran("export", run(kind), "--to", "diffusers", "--out", here / "none") == 2
    assert "rows of numbers: --to web, onnx, torch or hub can" in capsys.readouterr().err


# Without this package ------------------------------------------------------------------------------------------------------------------

FRESH = """
import json, sys
sys.modules["meanstep"] = None  # as if it were not installed
import numpy as np, torch
found = {}
for kind in json.loads(sys.argv[1]):
    given = np.load(f"{kind}.npz")
    program = torch.export.load(f"{kind}-torch/model.pt2").module()
    found[f"{kind}-torch"] = program(*(torch.from_numpy(given[name]) for name in given.files))[-1].numpy()
for kind in json.loads(sys.argv[2]):
    from diffusers import DiffusionPipeline
    pipeline = DiffusionPipeline.from_pretrained(f"{kind}-diffusers", trust_remote_code=True)
    pipeline.set_progress_bar_config(disable=True)
    found[f"{kind}-diffusers"] = pipeline(seeds=range(40, 47), num_inference_steps=4, output_type="np").images
    assert type(pipeline.scheduler).__name__ == "FlowMapEulerDiscreteScheduler"
np.savez("found.npz", **found)
"""


@pytest.fixture(scope="module")
def apart(left, run, here) -> dict[str, np.ndarray]:
    """What a process makes of the seeds that cannot import this package: of programs in 2 steps, of pipelines in 4."""
    kinds = [kind for kind in KINDS if kind != "unet"]
    piped = [kind for kind in KINDS if "diffusers" in KINDS[kind] and HAS["diffusers"]]
    for kind in kinds:
        left(kind, "torch")
        np.savez(here / f"{kind}.npz", **{str(k): part for k, part in enumerate(given(run, kind))})
    for kind in piped:
        left(kind, "diffusers")
    where = {**os.environ, "HF_MODULES_CACHE": str(here / "modules"), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-W", "ignore", "-c", FRESH, json.dumps(kinds), json.dumps(piped)]
    done = subprocess.run(words, cwd=here, capture_output=True, text=True, check=False, env=where)
    assert done.returncode == 0, done.stderr
    return dict(np.load(here / "found.npz"))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("kind", ["pictures", "latents", "signals", "table"])
def test_programs_run_where_this_package_is_not(kind: str, apart, run):
    near(apart[f"{kind}-torch"], wanted(run, kind))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("kind", those("diffusers"))
def test_pipelines_run_where_this_package_is_not_and_are_walk(kind: str, apart, run):
    if f"{kind}-diffusers" not in apart:
        pytest.skip("needs meanstep[latents]")
    near(apart[f"{kind}-diffusers"].transpose(0, 3, 1, 2), wanted(run, kind, 4))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_a_pipeline_of_installed_code_runs_none_of_the_folders(left, run):
    from meanstep.program.export.flowmap_load import FlowMapPipeline

    folder, model = left("pictures", "diffusers"), ms.load(run("pictures"))
    for name in ("pipeline.py", "transformer/meanflow_transformer.py"):
        (folder / name).write_text("raise RuntimeError('code of the folder runs')")
    pipeline = FlowMapPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    near(pipeline(seeds=SEEDS, num_inference_steps=4, output_type="np").images.transpose(0, 3, 1, 2), model.sample(SEEDS, 4))
    z, net, t, y = ms.noise(range(3), (1, 8, 8)), pipeline.transformer, torch.tensor([900.0, 500.0, 20.0]), torch.tensor([0, 1, 2])
    with torch.no_grad():
        u = model.field(z, torch.full((3,), 0.25), t / 1000, y)
        for name in ("r_timestep", "timestep_r"):
            assert torch.allclose(net(z, t, class_labels=y, **{name: 250}).sample, u, atol=1e-6)
        assert torch.allclose(net(z, 500, return_dict=False)[0], model.field(z, torch.full((3,), 0.5), torch.full((3,), 0.5)), atol=1e-6)
    assert pipeline(class_labels="dog", seeds=[1]).images[0].size == (8, 8)
    for wrong in ({"class_labels": 3}, {"class_labels": [0, 1]}, {"class_labels": "wolf"}):
        with pytest.raises(ValueError):
            pipeline(seeds=[1], **wrong)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_a_pipeline_refuses_guidance_that_its_network_cannot_have(left, run):
    from meanstep.program.export.flowmap_load import FlowMapPipeline

    for kind in ("pictures", "latents"):
        pipeline = FlowMapPipeline.from_pretrained(left(kind, "diffusers"))
        pipeline.set_progress_bar_config(disable=True)
        if kind == "pictures":
            made = pipeline(seeds=SEEDS, guidance_scale=4, num_inference_steps=2, output_type="np").images
            near(made.transpose(0, 3, 1, 2), ms.load(run(kind)).sample(SEEDS, 2, guidance=4))
            pipeline.facts["guided"] = False
        with pytest.raises(ValueError, match="leave it at 1"):
            pipeline(seeds=[0], guidance_scale=4)
        del pipeline.facts["guided"]  # a folder of before
        pipeline(seeds=[0], guidance_scale=4)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_labels_are_drawn_where_their_generator_is(left, monkeypatch):
    """torch refuses a generator of another device than the tensor's, and a tensor's is the processor where nothing is said."""
    from meanstep.program.export.flowmap_load import FlowMapPipeline

    pipeline, drawn, draw = FlowMapPipeline.from_pretrained(left("pictures", "diffusers")), [], torch.randint
    monkeypatch.setattr(torch, "randint", lambda *given, **how: drawn.append(how) or draw(*given, **how))
    generator = ms.key(0)
    pipeline._labels(None, None, 3, generator)
    assert [how["device"] for how in drawn] == [generator.device] * 3


@pytest.mark.parametrize("index", [{}, {"facts": 3}, {"facts": {}, "scheduler": {"a": 1}}, {"facts": {}, "unet": ["diffusers", ["a"]]}])
def test_a_pipeline_of_others_is_one_line(index, tmp_path: Path):
    pytest.importorskip("diffusers", reason="needs meanstep[latents]")
    from meanstep.program.export.flowmap_load import parts

    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "DDPMPipeline"} | index))
    with pytest.raises(UserError, match=r"is no exported pipeline: its model_index\.json|which neither diffusers nor this package has"):
        parts(tmp_path)


def test_a_network_of_diffusers_keeps_its_class(left, run, ran, here, capsys):
    index = json.loads((left("unet", "diffusers") / "model_index.json").read_text())
    assert index["unet"] == ["diffusers", "UNet2DModel"]
    assert ran("export", run("unet"), "--to", "torch", "--out", here / "other") == 2
    assert "if you trust it, allow it" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("to", ["torch", pytest.param("onnx", marks=pytest.mark.slow), "diffusers", "hub"])
def test_latents_leave_in_half_precision_with_their_decoder(to: str, run, left, here):
    """Every target rounds the decoder that it carries; a folder of the hub has the run's autoencoder as it is."""
    whole, out = left("latents", to), here / f"half-{to}"
    said = ms.export(run("latents"), to=to, out=out, half=True, steps=2)["difference"]
    assert said["largest"] <= said["bound"] and 0 < said["half"] < 2e-2
    largest = {
        "torch": "model.pt2",
        "onnx": "model.onnx",
        "diffusers": "vae/diffusion_pytorch_model.safetensors",
        "hub": "model.safetensors",
    }
    sizes = [(folder / largest[to]).stat().st_size for folder in (whole, out)]
    assert sizes[1] < 0.75 * sizes[0], "it has the decoder, but for the hub"
    if to == "hub":
        assert (out / "autoencoder.safetensors").read_bytes() == (whole / "autoencoder.safetensors").read_bytes()
        model, again = ms.load(run("latents")), ms.load(out)
        assert again.autoencoder.digest == model.autoencoder.digest and again.manifest.digest == model.manifest.digest


def test_what_is_no_weight_is_not_rounded(here, exportable):
    """A buffer of a third is a third in every target: the network's own, and the mean of the decoding."""
    source = "import torch\nclass Net(torch.nn.Module):\n    def __init__(self, size, channels, classes):\n        super().__init__()\n"
    source += "        self.w = torch.nn.Parameter(torch.ones(1))\n        self.register_buffer('third', torch.ones(1) / 3)\n"
    source += "    def forward(self, z, r, t, y=None):\n        return self.w * self.third * z\n"
    (here / "buffered.py").write_text(source)
    own = exportable(classes=0, description={"network": "buffered:Net", "options": {"size": 8, "channels": 1, "classes": 0}})
    for to in ("torch", "hub", *(["onnx"] if HAS["onnx"] else [])):
        record = ms.export(own, to=to, out=here / f"buffered-{to}", half=True, network="buffered:Net")
        assert record["difference"]["largest"] <= record["difference"]["bound"]
    third = load_file(here / "buffered-hub" / "model.safetensors")["third"]
    assert third.dtype == torch.float32 and ms.load(here / "buffered-hub", network="buffered:Net").field.third == third


def test_latents_leave_undecoded(run, ran, here):
    assert ran("export", run("latents"), "--to", "torch", "--no-decode", "--out", here / "bare") == 0
    program, z = torch.export.load(here / "bare" / "model.pt2").module(), ms.noise(range(9), (4, 2, 2))
    assert torch.equal(program(z)[0], ms.load(run("latents")).latents(range(9)))


@pytest.mark.parametrize("kind", ["latents", "pictures"])
def test_another_autoencoder_is_refused_as_for_samples(kind: str, run, here):
    other = taesd(here / "other.safetensors", seed=1)
    with pytest.raises(UserError, match="another autoencoder"):
        ms.load(run(kind), autoencoder=other).sample(1)
    with pytest.raises(UserError, match="another autoencoder"):
        ms.export(run(kind), to="torch", out=here / "never", autoencoder=other)
    assert not (here / "never").exists()
