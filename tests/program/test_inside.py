"""What a folder names lies in it, and the network is asked only for what the user names."""

import json
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import meanstep as ms
from meanstep.cli import main
from meanstep.program.console import UserError
from meanstep.program.data import Opened, Request, make, open_autoencoder
from meanstep.program.data.tiny import Tiny
from meanstep.program.evaluation.real_data import RunData
from meanstep.program.runs import networks
from meanstep.program.runs.config import Config, DataConfig, RunConfig, to_yaml


def weights(path: Path) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(Tiny(4, pooled=False).state_dict(), path)
    return path


def made_run(tmp_path: Path, autoencoder: str = "", **settings) -> Path:
    """A run of a small network that nothing trained, on latents; its data.json names the autoencoder `autoencoder`."""
    own = weights(tmp_path / "taesd.safetensors")
    np.savez(tmp_path / "data.npz", images=np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8))
    cache = make(Opened.of(Request(str(tmp_path / "data.npz"), f"taesd:{own}")), tmp_path / "cache")
    description = {"network": "dit", "options": {"size": 4, "channels": 4, "patch": 2, "width": 16, "depth": 1, "heads": 2, "classes": 0}}
    here = tmp_path / "run" / "checkpoints" / "000000000128"
    here.mkdir(parents=True)
    source = settings.pop("source", str(tmp_path / "cache"))
    (tmp_path / "run" / "config.yaml").write_text(to_yaml(Config(data=DataConfig(source=source), run=RunConfig(**settings))))
    held = json.loads(cache.manifest.text())
    (tmp_path / "run" / "data.json").write_text(json.dumps(held | ({"autoencoder": autoencoder} if autoencoder else {})))
    save_file(networks.made(description, 0).state_dict(), here / "model.safetensors")
    (here / "network.json").write_text(json.dumps(description))
    sizes = {name: (here / name).stat().st_size for name in ("model.safetensors", "network.json")}
    (here / "state.json").write_text(json.dumps({"seen": 128, "step": 1, "sizes": sizes}))
    return tmp_path / "run"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What diffusers is asked for; it has nothing, here or on the hub."""
    calls: list[dict] = []

    class AutoencoderKL:
        @staticmethod
        def from_pretrained(source: str, **how):
            calls.append({"source": source, **how})
            raise OSError("nothing of that name")

    monkeypatch.setitem(sys.modules, "diffusers", types.SimpleNamespace(AutoencoderKL=AutoencoderKL))
    return calls


# Autoencoders ------------------------------------------------------------------------------------------------------------------------


def test_a_name_of_the_hub_in_a_folder_asks_no_network(tmp_path: Path, asked: list[dict]):
    run = made_run(tmp_path, "kl:owner/name")
    with pytest.raises(UserError, match=r"kl:owner/name is not on this machine, and only a folder names it: give --autoencoder") as told:
        ms.load(run)
    assert [call.get("local_files_only") for call in asked] == [True] and "\n" not in str(told.value)
    with pytest.raises(UserError, match="cannot load kl:other/one"):
        ms.load(run, autoencoder="kl:other/one")
    assert asked[1]["source"] == "other/one" and not asked[1].get("local_files_only")


def test_a_cache_that_names_the_hub_asks_no_network_in_training(tmp_path: Path, asked: list[dict]):
    from meanstep.program.data import Cache
    from meanstep.program.training.ranks import Ranks
    from meanstep.program.training.samples import Samples

    run = made_run(tmp_path)
    path = tmp_path / "cache" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"autoencoder": "kl:owner/name"}))
    with pytest.raises(UserError, match="kl:owner/name"):
        Samples.of(Config(), Cache.open(tmp_path / "cache"), run, Ranks(0, 1, torch.device("cpu")))
    assert [call.get("local_files_only") for call in asked] == [True]


def test_an_autoencoder_outside_the_run_is_opened_only_if_the_user_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run, outside = made_run(tmp_path), f"taesd:{tmp_path / 'taesd.safetensors'}"
    with pytest.raises(UserError, match=r"names the autoencoder taesd:.*, which is not in its folder .*give --autoencoder taesd:"):
        ms.load(run)
    pictures = ms.load(run, autoencoder=outside).sample(2)
    (run / "autoencoder.safetensors").symlink_to(tmp_path / "taesd.safetensors")
    with pytest.raises(UserError, match="not in its folder"):
        ms.load(run)
    (run / "autoencoder.safetensors").unlink()
    shutil.copy(tmp_path / "taesd.safetensors", run / "autoencoder.safetensors")
    assert torch.equal(ms.load(run).sample(2), pictures)
    (run / "own").mkdir()
    shutil.move(run / "autoencoder.safetensors", run / "own" / "weights.safetensors")
    held = json.loads((run / "data.json").read_text())
    for inner, there in (("own/weights.safetensors", True), ("own/../../taesd.safetensors", False), ("~/taesd.safetensors", False)):
        (run / "data.json").write_text(json.dumps(held | {"autoencoder": f"taesd:{inner}"}))
        if there:
            assert torch.equal(ms.load(run).sample(2), pictures)
        else:
            with pytest.raises(UserError, match="not in its folder"):
                ms.load(run)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)  # a folder where the program happens to run is not in the run either
    (run / "data.json").write_text(json.dumps(held | {"autoencoder": "kl:owner/name"}))
    with pytest.raises(UserError, match="not in its folder"):
        ms.load(run)


def test_only_the_autoencoder_of_the_data_is_copied_into_a_run(tmp_path: Path):
    from meanstep.program.data import Manifest
    from meanstep.program.training.folder import _keep_autoencoder

    run = made_run(tmp_path)
    manifest = Manifest.read(run / "data.json")
    save_file({"secret": torch.ones(3)}, tmp_path / "taesd.safetensors")
    _keep_autoencoder(run, manifest)
    assert not (run / "autoencoder.safetensors").exists()
    weights(tmp_path / "taesd.safetensors")
    _keep_autoencoder(run, manifest)
    assert (run / "autoencoder.safetensors").read_bytes() == (tmp_path / "taesd.safetensors").read_bytes()


# Sources and extractors --------------------------------------------------------------------------------------------------------------


def test_data_of_the_hub_that_a_run_names_are_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MEANSTEP_CACHE", str(tmp_path / "user"))
    calls = []
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=lambda *a, **k: calls.append(a)))
    run = made_run(tmp_path, source="hub:owner/data")
    from meanstep.program.data import Manifest

    manifest = Manifest.read(run / "data.json")
    data = RunData(run, manifest, open_autoencoder("identity"))
    with pytest.raises(UserError, match="hub:owner/data, and the network is not asked for what only a run names"):
        data.trained_on()
    assert data.held_out("", types.SimpleNamespace(origin="x"), 2) is None and calls == []


def test_an_extractor_that_a_run_names_is_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    calls = []
    library = types.SimpleNamespace(create_model=lambda *a, **k: calls.append(a) or 1 / 0, is_model=lambda name: True)
    monkeypatch.setitem(sys.modules, "timm", library)
    run = made_run(tmp_path, extractor="timm:resnet18")
    with pytest.raises(SystemExit):
        main(["evaluate", str(run), "--count", "8"])
    assert calls == [] and "give --extractor timm:resnet18" in capsys.readouterr().err


# Reports -----------------------------------------------------------------------------------------------------------------------------


def test_inside_is_where_a_name_leads(tmp_path: Path):
    from meanstep.program.inside import inside

    here = tmp_path / "here"
    (here / "sub").mkdir(parents=True)
    (here / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    (here / "in").symlink_to(here / "a")
    (here / "out").symlink_to(tmp_path / "b")
    (here / "up").symlink_to(tmp_path)
    (here / "round").symlink_to(here / "round")
    for name in ("a", "sub/../a", "in", str(here / "a")):
        assert inside(here, name) == (here / "a").resolve()
    for name in ("../b", "out", "up/b", str(tmp_path / "b"), "absent", "round", "sub/../../b", "a\0b", ""):
        assert inside(here, name) in (None, here.resolve()) and (inside(here, name) is None or name == "")
    (tmp_path / "link").symlink_to(here)
    assert inside(tmp_path / "link", "a") == (here / "a").resolve()


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret.png"
    Image.fromarray(np.random.default_rng(7).integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(path)
    return path


@pytest.mark.parametrize("way", ["absolute", "up", "link", "link to a folder"])
def test_a_picture_outside_a_run_is_not_embedded(way: str, tmp_path: Path, secret: Path, monkeypatch: pytest.MonkeyPatch):
    from base64 import b64encode

    from meanstep.program.runs.report.page import build

    monkeypatch.setattr("meanstep.program.runs.report.figures.FIGURES", {})
    run = made_run(tmp_path)
    (run / "samples").mkdir()
    shutil.copy(secret, run / "samples" / "own.png")
    Image.new("RGB", (8, 8), "red").save(run / "samples" / "own.png")
    names = {"absolute": str(secret), "up": "samples/../../secret.png", "link": "samples/link.png", "link to a folder": "more/secret.png"}
    (run / "samples" / "link.png").symlink_to(secret)
    (run / "more").symlink_to(tmp_path)
    files = ["samples/own.png", names[way]]
    (run / "records.jsonl").write_text(
        "".join(json.dumps({"kind": "picture", "seen": k, "file": file}) + "\n" for k, file in enumerate(files))
    )
    text = build(run).read_text()
    assert b64encode((run / "samples" / "own.png").read_bytes()).decode() in text
    assert b64encode(secret.read_bytes()).decode() not in text and "not there any more: 1." in text


def test_a_link_out_of_a_run_is_not_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from meanstep.program.runs.report.page import build

    monkeypatch.setattr("meanstep.program.runs.report.figures.FIGURES", {})
    run = made_run(tmp_path)
    (run / "records.jsonl").write_text("")
    (tmp_path / "keys.json").write_text('{"password": "swordfish"}')
    (run / "env.json").symlink_to(tmp_path / "keys.json")
    assert "swordfish" not in build(run).read_text()


def test_links_out_of_a_study_or_a_sweep_are_not_read(tmp_path: Path, secret: Path):
    from meanstep.program.reproduce.report.results import numbered

    study = tmp_path / "study"
    (study / "samples").mkdir(parents=True)
    (study / "samples" / "paper-0.png").symlink_to(secret)
    assert numbered(study, "paper", "png") is None
    (study / "samples" / "paper-0.png").unlink()
    shutil.copy(secret, study / "samples" / "paper-0.png")
    assert numbered(study, "paper", "png") == study / "samples" / "paper-0.png"
    np.savez(tmp_path / "points.npz", data=np.zeros((5, 2)))
    (study / "samples" / "moons-0.npz").symlink_to(tmp_path / "points.npz")
    assert numbered(study, "moons", "npz") is None
