"""Runs under a coupling: recorded, gone on with, refused where the mathematics breaks; and pairs of a run as data of another."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import meanstep as ms
from meanstep.program.console import UserError
from meanstep.program.data import Batch
from meanstep.program.data.order import flips, rows
from meanstep.program.training.coupled import coupled

from .conftest import run

SMALL = ("--network.patch=4", "--network.width=16", "--network.depth=1", "--network.heads=2", "--batch=16", "--warmup=0")
QUIET = ("--device=cpu", "--sample-every=0", "--evaluate-every=0", "--averages.decays=0.9")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder, draw = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    np.savez(folder / "pictures.npz", images=draw.integers(0, 256, (40, 8, 8), dtype=np.uint8), labels=np.arange(40) % 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEANSTEP_CACHE", str(folder / "cache"))
        yield folder / "pictures.npz"


def train(out: Path, source: Path, *words: str, code: int = 0) -> Path:
    run("train", f"--out={out}", f"--data.source={source}", *SMALL, *QUIET, *words, code=code)
    return out


@pytest.fixture(scope="module")
def flow(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = ("--method.recipe=flow_matching", "--method.coupling=optimal-transport", "--samples=64")
    return train(tmp_path_factory.mktemp("flow") / "run", data, *words)


def test_a_coupling_is_recorded_and_stays(flow: Path, data: Path, capsys: pytest.CaptureFixture[str]):
    assert yaml.safe_load((flow / "config.yaml").read_text())["method"]["coupling"] == "optimal-transport"
    assert json.loads((flow / "method.json").read_text())["coupling"] == "optimal-transport"
    train(flow, data, "--method.coupling=independent", "--samples=96", code=2)
    assert "--method.coupling optimal-transport, now independent" in capsys.readouterr().err.replace("\n", " ")


def test_pairs_of_a_run_are_data_of_another(flow: Path, tmp_path: Path):
    run("couple", str(flow), f"--out={tmp_path / 'pairs.npz'}", "--pairs=20", "--steps=3", "--device=cpu")
    with np.load(tmp_path / "pairs.npz") as file:
        held = dict(file)
    model = ms.load(flow)
    assert np.array_equal(held["images"], model.sample(20, 3).movedim(1, -1).numpy())
    assert np.array_equal(held["noise"], ms.noise(range(20), (1, 8, 8)).numpy()) and len(held["labels"]) == 20
    words = ("--method.recipe=rectified_meanflow", f"--method.coupling=pairs:{tmp_path / 'pairs.npz'}", "--samples=32")
    train(tmp_path / "one", tmp_path / "pairs.npz", *words)
    assert ms.load(tmp_path / "one").sample(2).shape == (2, 1, 8, 8)


def test_pairs_are_not_written_over_what_their_run_was_trained_on(flow: Path, data: Path, tmp_path: Path, capsys: Any):
    """A second round of reflow with the first one's name would destroy the first one's data, of which the run's noise is a part."""
    pairs = tmp_path / "pairs.npz"
    run("couple", str(flow), f"--out={pairs}", "--pairs=20", "--device=cpu")
    np.save(tmp_path / "e.npy", ms.noise(range(40), (1, 8, 8)).numpy())
    one = train(tmp_path / "one", pairs, f"--method.coupling=pairs:{pairs}", "--samples=32")
    other = train(tmp_path / "other", data, f"--method.coupling=pairs:{tmp_path / 'e.npy'}", "--samples=32")
    (tmp_path / "link.npz").symlink_to(pairs)
    asked = [(one, "couple", "pairs.npz"), (one, "couple", "link.npz"), (one, "sample", "pairs.npz"), (other, "sample", "e.npy")]
    for folder, command, name in asked:
        before = (tmp_path / name).read_bytes()
        run(command, str(folder), f"--out={tmp_path / name}", "--device=cpu", code=2)
        assert "would be written over, which the run was trained on" in " ".join(capsys.readouterr().err.split())
        assert (tmp_path / name).read_bytes() == before


def test_samples_are_not_written_into_what_their_run_was_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    photos, drawn = tmp_path / "photos", np.random.default_rng(0)
    photos.mkdir()
    for k in range(20):
        Image.fromarray(drawn.integers(0, 256, (8, 8), dtype=np.uint8)).save(photos / f"{k}.png")
    out = train(tmp_path / "run", photos, "--samples=32")
    for name in ("photos", "photos/made", "photos/made/more", "photos/a.png"):
        run("sample", str(out), f"--out={tmp_path / name}", "--seeds=0:2", code=2)
        assert "which the run was trained on" in " ".join(capsys.readouterr().err.split())
    assert len(list(photos.rglob("*"))) == 20
    (tmp_path / "rows").mkdir()
    np.savez(tmp_path / "rows" / "samples.npz", x=drawn.normal(size=(40, 2)).astype(np.float32))
    words = ("--network.name=mlp", "--network.width=8", "--samples=32", "--batch=16", *QUIET)
    run("train", f"--out={tmp_path / 'of-rows'}", f"--data.source={tmp_path / 'rows' / 'samples.npz'}", *words)
    run("sample", str(tmp_path / "of-rows"), f"--out={tmp_path / 'rows'}", "--seeds=0:2", code=2)
    assert "samples.npz would be written over" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "asked", "told"),
    [
        (("--data.condition=c",), (), "a file of pairs holds labels alone, and this network is given c"),
        (("--data.pair=low", "--data.pair-as=source"), (), "this flow starts at pair, not at noise"),
        (("--data.ragged=pad",), (), "rows of this run differ in length"),
        ((), ("--guidance=2",), "--guidance: this model was trained without labels"),
    ],
)
def test_a_run_that_has_no_pairs_says_so_before_a_sample_is_made(
    words: tuple[str, ...], asked: tuple[str, ...], told: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
):
    draw = np.random.default_rng(1)
    x = {name: draw.normal(size=(40, n)).astype(np.float32) for name, n in (("x", 4), ("c", 3), ("low", 4))}
    np.savez(tmp_path / "rows.npz", **x, **({"lengths": np.arange(40) % 3 + 2} if "--data.ragged=pad" in words else {}))
    network = ("--network.name=mlp", "--network.width=8", "--samples=32", "--batch=16", *QUIET)
    run("train", f"--out={tmp_path / 'run'}", f"--data.source={tmp_path / 'rows.npz'}", *network, *words)
    capsys.readouterr()
    monkeypatch.setattr("meanstep.program.sampling.model.Model.latents", None)
    run("couple", str(tmp_path / "run"), f"--out={tmp_path / 'pairs.npz'}", "--pairs=8", *asked, code=2)
    assert told in " ".join(capsys.readouterr().err.split()) and not (tmp_path / "pairs.npz").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--method.recipe=posterior_meanflow", "--method.coupling=optimal-transport"), "law of independent noise"),
        (("--method.recipe=rectified_meanflow",), "meanstep couple RUN"),
        (("--method.coupling=optimal",), "choose among independent, optimal-transport"),
        (("--method.coupling=pairs:none.npz",), "that is there"),
    ],
)
def test_what_a_coupling_breaks_is_refused(words: tuple[str, ...], told: str, data: Path, tmp_path: Path, capsys: Any):
    train(tmp_path / "run", data, *words, "--samples=32", code=2)
    assert told in " ".join(capsys.readouterr().err.split())


def test_fresh_noise_is_refused_where_noise_was_handed_in(flow: Path, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]):
    """A renoised sample is mixed with noise of its own, which such a field never saw with it; a run of independent noise has it."""
    words = ("--method.recipe=meanflow", "--method.coupling=optimal-transport", "--samples=32")
    coupled_run, plain = train(tmp_path / "coupled", data, *words), train(tmp_path / "plain", data, "--samples=32")
    run("sample", str(coupled_run), "--sampler=renoise", "--steps=2", "--count=2", f"--out={tmp_path / 's.npz'}", code=2)
    assert "--sampler renoise mixes in fresh noise, and this run was trained under the coupling" in " ".join(
        capsys.readouterr().err.split()
    )
    with pytest.raises(UserError, match="trained under the coupling optimal-transport"):
        ms.load(coupled_run, sampler="renoise")
    run("sample", str(plain), "--sampler=renoise", "--steps=2", "--count=2", f"--out={tmp_path / 's.npz'}")


def test_a_run_from_before_there_were_couplings_loads_and_goes_on(data: Path, tmp_path: Path):
    """Neither its configuration nor what it says of its method has the key: its noise was independent."""
    out = train(tmp_path / "run", data, "--samples=32")
    before = ms.load(out).sample(2)
    config, facts = out / "config.yaml", out / "method.json"
    text = config.read_text().replace("  coupling: independent\n", "").replace("  hide_numbers: false\n", "")
    assert "coupling" not in text and "hide_numbers" not in text
    config.write_text(text)
    facts.write_text(json.dumps({k: v for k, v in json.loads(facts.read_text()).items() if k in ("recipe", "learns", "path")}))
    model = ms.load(out, sampler="renoise")
    assert model.facts.coupling == "independent" and torch.equal(ms.load(out).sample(2), before)
    train(out, data, "--samples=48")
    assert ms.load(out).seen == 48


def test_what_reads_a_coupled_run_reads_it_with_its_noise(flow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ("diagnose", str(flow), "--budget=30s", "--rows=16", f"--out={tmp_path / 'page'}")
    run(*words)
    run(*words, "--center=posterior", code=2)
    assert "independent of them, and these have a coupling" in " ".join(capsys.readouterr().err.split())


def test_partners_follow_their_rows_and_are_mirrored_with_them(tmp_path: Path):
    e = torch.randn(10, 1, 2, 3, generator=ms.key(1))
    np.save(tmp_path / "e.npy", e.numpy())
    found = coupled(f"pairs:{tmp_path / 'e.npy'}", 7, 10, (1, 2, 3), False, True)
    batch, _ = found(Batch(8, torch.zeros(4, 1, 2, 3)))
    for k, (at, flip) in enumerate(zip(rows(10, 7, 8, 4).tolist(), flips(10, 7, 8, 4).tolist(), strict=True)):
        assert batch.noise is not None and torch.equal(batch.noise[k], e[at].flip(-1) if flip else e[at])
    for change, told in ((e[:9], "one row for each"), (e + 3, "samples start from 0 and 1"), (e / 0, "not finite")):
        np.save(tmp_path / "bad.npy", change.numpy())
        with pytest.raises(UserError, match=told):
            coupled(f"pairs:{tmp_path / 'bad.npy'}", 7, 10, (1, 2, 3), False, False)
