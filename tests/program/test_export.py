"""Exports against PyTorch: graphs that any runtime reads, programs and pipelines in processes without this package, what is refused."""

import hashlib
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import meanstep as ms
from meanstep.cli import main
from meanstep.fields import DiT
from meanstep.program.console import UserError
from meanstep.program.data.tiny import Tiny
from meanstep.program.export import subject as subjects
from meanstep.program.export.checks import compared
from meanstep.program.export.modules import Guided, Plain, Step, Whole
from meanstep.program.export.session import written
from meanstep.program.export.subject import Choice, Subject
from meanstep.program.export.targets import TARGETS

HAS = {name: all(map(find_spec, target.needs)) for name, target in TARGETS.items()}
ONNX = pytest.mark.skipif(not HAS["onnx"], reason="needs onnx, onnxscript and onnxruntime: pip install 'meanstep[export]'")
FRESH = """
import json, sys
sys.modules["meanstep"] = None  # as if it were not installed
import numpy as np, torch
"""


def fresh(code: str, folder: Path) -> str:
    """Standard output of a process that cannot import this package, in a folder."""
    where = {**os.environ, "HF_MODULES_CACHE": str(folder / "modules"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", FRESH + code], cwd=folder, capture_output=True, text=True, check=False, env=where)
    assert done.returncode == 0, done.stderr
    return done.stdout


def session(path: Path):
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


class Curve(nn.Module):
    """A field of signals `[B, channels, length]`, whose every input counts."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first, self.last = nn.Conv1d(channels + 2, 8, 3, padding=1), nn.Conv1d(8, channels, 3, padding=1)

    def forward(self, z, r, t, y=None):
        times = torch.stack([r, t], 1)[..., None].expand(-1, -1, z.shape[-1])
        return self.last(torch.tanh(self.first(torch.cat([z, times], 1))))


class Row(nn.Module):
    """A field of the columns of a table `[B, columns]`."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.net = ms.MLP(columns, 16, 2, generator=ms.key(0, "row"))

    def forward(self, z, r, t, y=None):
        return self.net(z, r, t)


def plain(net: nn.Module, shape: tuple[int, ...], view: str, **chosen) -> Subject:
    """A subject that no run made."""
    ones = torch.ones(*shape)
    facts = {"data": "made up", "images": 1, "samples seen": 0, "recipe": "meanflow", "sampler": "walk", "steps": 1, "guidance": 1.0}
    facts |= {"parameters": 0, "weights": "raw", "classes": []}
    choice = Choice(**chosen)
    return Subject("made", net.eval(), ms.walk, shape, (), (), choice, Plain(0.5 * ones, 2 * ones).eval(), ("values",), view, facts)


# torch ---------------------------------------------------------------------------------------------------------------------------------


def test_a_program_runs_where_this_package_is_not(exportable, tmp_path: Path):
    run = exportable()
    record = ms.export(run, to="torch", out=tmp_path / "torch", steps=2, guidance=1.5)
    assert record["difference"]["largest"] == 0 and record["difference"]["draws"] == 12
    held = json.loads((tmp_path / "torch" / "card.json").read_text())
    assert held == record and "model.pt2" in (tmp_path / "torch" / "README.md").read_text()
    seeds, model = range(50, 57), ms.load(run)
    y = model.labels(seeds)
    np.savez(tmp_path / "given.npz", noise=ms.noise(seeds, (1, 8, 8)).numpy(), label=y.numpy())
    code = "generate = torch.export.load('torch/model.pt2').module(); given = np.load('given.npz')"
    code += "; np.save('made.npy', generate(*(torch.from_numpy(given[k]) for k in ('noise', 'label')))[1].numpy())"
    fresh(code, tmp_path)
    assert np.array_equal(np.load(tmp_path / "made.npy"), model.sample(seeds, 2, y, 1.5).numpy())


def test_signals_and_tables_leave_as_values(tmp_path: Path):
    for net, shape, view in ((Curve(2), (2, 12), subjects.LINES), (Row(3), (3,), subjects.POINTS)):
        record = written(plain(net, shape, view, steps=2), "torch", tmp_path / view, {})
        assert record["difference"]["largest"] == 0 and "levels" not in record["difference"]
        program = torch.export.load(tmp_path / view / "model.pt2").module()
        z = ms.noise(range(5), shape)
        assert torch.equal(program(z)[0], 2 * ms.walk(net, z, (1, 0.5, 0)) + 0.5)


def test_half_precision_halves_the_file_and_says_what_it_costs(exportable, tmp_path: Path):
    description = {"network": "dit", "options": {"size": 8, "channels": 1, "patch": 2, "width": 64, "depth": 2, "heads": 2, "classes": 3}}
    run = exportable(description=description)
    sizes = {half: ms.export(run, to="torch", out=tmp_path / str(half), half=half)["files"]["model.pt2"] for half in (False, True)}
    assert sizes[True] < 0.7 * sizes[False]
    said = json.loads((tmp_path / "True" / "card.json").read_text())["difference"]
    assert said["largest"] == 0 and 0 < said["half"] < 2e-2
    assert "half precision" in (tmp_path / "True" / "README.md").read_text()


# The pieces ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", [ms.walk, ms.samplers.euler, ms.samplers.heun])
def test_steps_one_by_one_are_the_sampler(sampler):
    net = DiT(8, 1, 4, 16, 1, 2, classes=3, generator=ms.key(0, "net"))
    nn.init.normal_(net.last.out.weight, generator=ms.key(1, "net"))
    nn.init.normal_(net.blocks[0].modulation.weight, generator=ms.key(2, "net"))
    field, z, y, one = Guided(net, 1.7, 3), ms.noise(range(4), (1, 8, 8)), torch.tensor([0, 1, 2, 3]), torch.ones(4)
    step, x = Step(field, sampler), z
    with torch.no_grad():
        for t, r in ((1, 0.6), (0.6, 0.1), (0.1, 0)):
            x = step(x, r * one, t * one, y)
        wanted = sampler(lambda z, r, t, y: torch.lerp(net(z, r, t, torch.full_like(y, 3)), net(z, r, t, y), 1.7), z, (1, 0.6, 0.1, 0), y)
        assert torch.allclose(x, wanted, atol=1e-5) and not torch.allclose(x, z, atol=0.1)
        (found,) = Whole(Guided(net, 1.7, 3), sampler, (1, 0.6, 0.1, 0), Plain(torch.zeros(1), torch.ones(1)))(z, y)
        fixed = Guided(net, 1.7, 3, label=2)(z, 0 * one, one)
        assert torch.allclose(found, wanted, atol=1e-5) and torch.equal(fixed, field(z, 0 * one, one, torch.full((4,), 2)))


def test_a_difference_above_the_bound_is_refused(exportable):
    subject = subjects.of(exportable(), Choice(), target="torch")
    for wrong in (1e-3, float("nan")):
        with pytest.raises(UserError, match=r"differs from PyTorch by \S+ of the spread"):
            compared(subject, lambda z, y, by=wrong: [part + by for part in subject.whole()(z, y)], 1e-4, "it")
    with pytest.raises(UserError, match="and PyTorch"):
        compared(subject, lambda z, y: [part[:1] for part in subject.whole()(z, y)], 1e-4, "it")
    with torch.no_grad():
        assert compared(subject, subject.whole(), 0.0, "it").largest == 0


# onnx ----------------------------------------------------------------------------------------------------------------------------------


@ONNX
def test_a_graph_makes_the_pictures_of_any_batch(exportable, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("meanstep.program.export.to_onnx.SMALL", 1)  # constants are looked at as well as weights
    run = exportable()
    record = ms.export(run, to="onnx", out=tmp_path / "onnx", guidance=2.0, labels=[2, 0], half=True, field=True)
    assert record["difference"]["largest"] < 1e-5 and record["difference"]["levels"] <= 1
    model = ms.load(run)
    made = session(tmp_path / "onnx" / "model.onnx")
    assert [i.name for i in made.get_inputs()] == ["noise", "label"] and [o.name for o in made.get_outputs()] == ["values", "images"]
    for seeds in (range(1), range(3, 10)):
        y = torch.tensor([k % 3 for k in seeds])
        values, images = made.run(None, {"noise": ms.noise(seeds, (1, 8, 8)).numpy(), "label": y.numpy()})
        wanted = model.latents(seeds, 1, y, 2.0)
        assert np.abs(values - wanted.numpy()).max() < 2e-2 * wanted.std() and images.dtype == np.uint8
    field = session(tmp_path / "onnx" / "field.onnx")
    assert [i.name for i in field.get_inputs()] == ["z", "r", "t", "y"]
    assert [p.name for p in (tmp_path / "onnx").glob("*.data")] == [], "one file"


@ONNX
def test_one_label_is_no_input_and_a_fixed_batch_is_one(exportable, tmp_path: Path):
    run = exportable()
    ms.export(run, to="onnx", out=tmp_path / "onnx", labels=[1], batch=4)
    made = session(tmp_path / "onnx" / "model.onnx")
    assert [(i.name, i.shape) for i in made.get_inputs()] == [("noise", [4, 1, 8, 8])]
    images = made.run(None, {"noise": ms.noise(range(4), (1, 8, 8)).numpy()})[1]
    assert np.abs(images.astype(int) - ms.load(run).sample(4, 1, 1).numpy()).max() <= 1


def latent_run(exportable, folder: Path) -> Path:
    """A run of latents, normalised by channel, with a TAESD of random weights beside it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Tiny(4, False)
    net.decoder[-1].weight.data *= 20  # pictures that differ
    save_file(net.state_dict(), folder / "taesd.safetensors")
    digest = hashlib.sha256((folder / "taesd.safetensors").read_bytes()).hexdigest()
    stated = {
        "autoencoder": f"taesd:{folder / 'taesd.safetensors'}",
        "autoencoder_digest": digest,
        "shape": (4, 2, 2),
        "image": (3, 16, 16),
    }
    stated |= {"codec": "latents", "dtype": "float32", "mean": (0.1, 0.2, 0.3, 0.4), "std": (1.0, 1.5, 0.5, 2.0), "statistics": "own"}
    description = {"network": "dit", "options": {"size": 2, "channels": 4, "patch": 1, "width": 16, "depth": 1, "heads": 2, "classes": 0}}
    return exportable(classes=0, manifest=stated, description=description, autoencoder=folder / "taesd.safetensors")


def test_latents_are_decoded_inside(exportable, tmp_path: Path):
    run, seeds = latent_run(exportable, tmp_path), range(9)
    model = ms.load(run)
    ms.export(run, to="torch", out=tmp_path / "torch")
    ms.export(run, to="torch", out=tmp_path / "bare", decode=False)
    program, bare = (torch.export.load(tmp_path / name / "model.pt2").module() for name in ("torch", "bare"))
    images, z = model.sample(seeds), ms.noise(seeds, (4, 2, 2))
    assert program(z)[1].shape == images.shape == (9, 3, 16, 16)
    assert (program(z)[1].int() - images.int()).abs().max() <= 1 and torch.equal(bare(z)[0], model.latents(seeds))
    record = ms.export(run, to="hub", out=tmp_path / "hub")
    assert "autoencoder.safetensors" in record["files"] and torch.equal(ms.load(tmp_path / "hub").sample(9), images)


@ONNX
def test_latents_as_a_graph(exportable, tmp_path: Path):
    run, seeds = latent_run(exportable, tmp_path), range(20, 31)
    ms.export(run, to="onnx", out=tmp_path / "onnx")
    images = session(tmp_path / "onnx" / "model.onnx").run(["images"], {"noise": ms.noise(seeds, (4, 2, 2)).numpy()})[0]
    wanted = ms.load(run).sample(seeds).numpy().astype(int)
    assert images.shape == wanted.shape and np.abs(images - wanted).max() <= 1


@ONNX
def test_signals_and_tables_as_graphs(tmp_path: Path):
    for net, shape, view in ((Curve(2), (2, 12), subjects.LINES), (Row(3), (3,), subjects.POINTS)):
        written(plain(net, shape, view), "onnx", tmp_path / view, {})
        z = ms.noise(range(5), shape)
        found = session(tmp_path / view / "model.onnx").run(None, {"noise": z.numpy()})[0]
        assert np.abs(found - (2 * ms.jump(net, z) + 0.5).numpy()).max() < 1e-5


# diffusers -----------------------------------------------------------------------------------------------------------------------------

PIPELINE = """
from diffusers import DiffusionPipeline
pipeline = DiffusionPipeline.from_pretrained("folder", trust_remote_code=True)
pipeline.set_progress_bar_config(disable=True)
np.save("made.npy", pipeline(seeds=range(40, 47), num_inference_steps=4, output_type="np").images)
print(type(pipeline.scheduler).__name__)
"""


def pipeline_images(folder: Path) -> np.ndarray:
    pytest.importorskip("diffusers", reason="needs meanstep[latents]")
    assert fresh(PIPELINE, folder).split()[-1] == "FlowMapEulerDiscreteScheduler"
    return np.load(folder / "made.npy")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_a_pipeline_runs_where_this_package_is_not_and_is_walk(exportable, tmp_path: Path):
    pytest.importorskip("diffusers", reason="needs meanstep[latents]")
    from meanstep.program.export.flowmap_load import FlowMapPipeline

    run = exportable()
    record = ms.export(run, to="diffusers", out=tmp_path / "folder", guidance=1.5)
    assert record["difference"]["largest"] <= 1e-6 and record["difference"]["bytes_that_differ"] == 0
    model = ms.load(run)
    wanted = model.sample(range(40, 47), 4, None, 1.5).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(pipeline_images(tmp_path), wanted)
    for name in ("pipeline.py", "transformer/meanflow_transformer.py"):
        (tmp_path / "folder" / name).write_text("raise RuntimeError('code of the folder runs')")
    pipeline = FlowMapPipeline.from_pretrained(tmp_path / "folder")
    pipeline.set_progress_bar_config(disable=True)
    assert np.array_equal(pipeline(seeds=range(40, 47), num_inference_steps=4, output_type="np").images, wanted)
    z, net, t = ms.noise(range(3), (1, 8, 8)), pipeline.transformer, torch.tensor([900.0, 500.0, 20.0])
    y = torch.tensor([0, 1, 2])
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
def test_a_pipeline_carries_the_autoencoder(exportable, tmp_path: Path):
    pytest.importorskip("diffusers", reason="needs meanstep[latents]")
    run = latent_run(exportable, tmp_path)
    ms.export(run, to="diffusers", out=tmp_path / "folder")
    found = pipeline_images(tmp_path).astype(int)
    assert np.abs(found - ms.load(run).sample(range(40, 47), 4).permute(0, 2, 3, 1).numpy()).max() <= 1


UNET = """
import meanstep as ms
from diffusers import UNet2DModel
def net(size, channels, classes):
    unet = UNet2DModel(size, channels, channels, block_out_channels=(16, 16), layers_per_block=1, norm_num_groups=4,
                       down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"))
    return ms.as_field(unet, ("z", "t"), output=lambda out: out.sample)
"""


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_a_network_of_diffusers_keeps_its_class(exportable, tmp_path: Path, monkeypatch):
    pytest.importorskip("diffusers", reason="needs meanstep[latents]")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "unets.py").write_text(UNET)
    description = {"network": "unets:net", "options": {"size": 8, "channels": 1, "classes": 0}}
    run = exportable(classes=0, learns="instantaneous", description=description)
    ms.export(run, to="diffusers", out=tmp_path / "folder", network="unets:net")
    assert json.loads((tmp_path / "folder" / "model_index.json").read_text())["unet"] == ["diffusers", "UNet2DModel"]
    found = pipeline_images(tmp_path).astype(int)
    wanted = ms.load(run, network="unets:net").sample(range(40, 47), 4).permute(0, 2, 3, 1).numpy()
    assert np.abs(found - wanted).max() <= 1
    record = ms.export(run, to="torch", out=tmp_path / "torch", network="unets:net")
    assert record["difference"]["largest"] == 0
    with pytest.raises(UserError, match="if you trust it, allow it"):
        ms.export(run, to="torch", out=tmp_path / "other")


# Bad input -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "onix"], "--to: one of web, onnx, torch, diffusers, hub"),
        (["--to", "torch", "--labels", "wolf"], "names, or numbers in 0 to 2, got 'wolf'"),
        (["--to", "torch", "--labels", "3"], "names, or numbers in 0 to 2, got '3'"),
        (["--to", "torch", "--checkpoint", "64"], "has no checkpoint at 64 samples"),
        (["--to", "torch", "--average", "0.5"], "has no average '0.5'"),
        (["--to", "torch", "--steps", "0"], "--steps: at least 1"),
        (["--to", "torch", "--batch", "-1"], "--batch: dynamic, or a number of rows"),
        (["--to", "torch", "--field"], "--field belongs to --to onnx"),
        (["--to", "torch", "--runtime", "."], "--runtime belongs to --to web"),
        (["--to", "torch", "--guidance", "nan"], "--guidance: a number at least 0"),
        (["--to", "torch", "--sampler", "renoise"], "draws noise on its way, which an export cannot: --sampler walk"),
        (["--to", "hub", "--guidance", "2"], "--to hub exports the network, which takes every label"),
        (["--to", "web", "--batch", "4"], "a page makes any number of samples"),
    ],
)
def test_bad_input_is_one_line(words, said, exportable, ran, tmp_path: Path, capsys):
    if not HAS.get(words[1], True):
        pytest.skip(f"needs meanstep[{TARGETS[words[1]].extra}]")
    assert ran("export", exportable(), "--out", tmp_path / "new", *words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and said in lines[0] and not (tmp_path / "new").exists()


def test_a_run_that_is_not_finished_says_where_it_stands(exportable, ran, tmp_path: Path, capsys):
    run = exportable(samples=1000)
    assert ran("export", run, "--to", "torch", "--out", tmp_path / "new") == 2
    assert "it stands at 128 of 1,000 samples" in capsys.readouterr().err
    assert ran("export", run, "--to", "torch", "--out", tmp_path / "new", "--checkpoint", "128") == 0
    assert ran("export", run, "--to", "torch", "--out", tmp_path / "new", "--checkpoint", "128") == 2
    assert "exists: give the name of a new folder" in capsys.readouterr().err


def test_without_labels_there_is_nothing_to_choose(exportable):
    run = exportable(classes=0)
    for asked, said in (({"labels": [0]}, "trained without labels"), ({"guidance": 2.0}, "nothing to guide it by")):
        with pytest.raises(UserError, match=said):
            ms.export(run, to="torch", out="nowhere", **asked)


def test_a_missing_extra_is_named(exportable, monkeypatch, tmp_path: Path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *a: None if name == "onnxscript" else find_spec(name, *a))
    with pytest.raises(UserError, match=r"--to onnx needs onnxscript: pip install 'meanstep\[export\]'"):
        ms.export(exportable(), to="onnx", out=tmp_path / "new")


def test_what_a_target_cannot_take_names_one_that_can(exportable, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = "import torch\nclass Net(torch.nn.Module):\n    def __init__(self, size, channels, classes):\n        super().__init__()\n"
    source += "        self.w = torch.nn.Parameter(torch.ones(1))\n"
    source += "    def forward(self, z, r, t, y=None):\n        return self.w * torch.special.bessel_j0(z)\n"
    (tmp_path / "odd.py").write_text(source)
    run = exportable(classes=0, description={"network": "odd:Net", "options": {"size": 8, "channels": 1, "classes": 0}})
    with pytest.raises(UserError, match="this network is a Net: --to onnx or torch can"):
        ms.export(run, to="diffusers", out=tmp_path / "a", network="odd:Net")
    assert ms.export(run, to="torch", out=tmp_path / "b", network="odd:Net")["difference"]["largest"] == 0


@ONNX
def test_an_operation_that_onnx_has_not_is_named(exportable, tmp_path: Path, monkeypatch):
    test_what_a_target_cannot_take_names_one_that_can(exportable, tmp_path, monkeypatch)
    run = exportable(classes=0, description={"network": "odd:Net", "options": {"size": 8, "channels": 1, "classes": 0}})
    with pytest.raises(UserError, match=r"bessel_j0.*--to torch may take it"):
        ms.export(run, to="onnx", out=tmp_path / "c", network="odd:Net")


def test_help_names_every_target(capsys):
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    said = capsys.readouterr().out
    assert all(f"{name}: {target.about[:20]}" in " ".join(said.split()) for name, target in TARGETS.items() if name == "onnx")
