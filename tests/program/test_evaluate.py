"""References kept on disk, numbers of samples, and `meanstep evaluate` on a small run of random weights."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import meanstep as ms
from meanstep import cli
from meanstep.metrics import Statistics, frechet, mmd
from meanstep.program import registry
from meanstep.program.console import UserError
from meanstep.program.data import Opened, Request, ensure, make
from meanstep.program.data.order import subset
from meanstep.program.evaluation import Examples, Gathered, measured, open_extractor, reference, rows, samples
from meanstep.program.evaluation.measures import blocks, gathering
from meanstep.program.evaluation.table import columns
from meanstep.program.runs import networks
from meanstep.program.runs.config import Config, DataConfig, MethodConfig, to_yaml
from meanstep.program.sampling.model import load

DATA = os.environ.get("MEANSTEP_DATA", "")
SIZES = {"size": 8, "channels": 1, "patch": 4, "width": 16, "depth": 1, "heads": 2}


@pytest.fixture(autouse=True)
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEANSTEP_CACHE", str(tmp_path / "user"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "user"


def drawn(n: int, seed: int = 0, shift: int = 0) -> np.ndarray:
    """Grey images with a bright half, uint8 `[n, 8, 8]`."""
    x = torch.randint(0, 120, (n, 8, 8), generator=ms.key(seed, "pictures"))
    x[::2, :4] += 100
    return (x + shift).to(torch.uint8).numpy()


def kept(x: np.ndarray, name: str = "kept") -> Examples:
    images = torch.from_numpy(x)[:, None]
    return Examples(name, f"digest of {name}", (1, 8, 8), torch.full((len(x),), -1), lambda index: images[index])


# References --------------------------------------------------------------------------------------------------------------------------


def test_a_reference_is_the_statistics_of_its_images():
    x = drawn(51)
    heard: list[int] = []
    found = reference(kept(x), open_extractor("pixels"), batch=7, told=heard.append)
    plain = x.reshape(51, -1) / 127.5 - 1
    np.testing.assert_allclose(found.statistics.covariance, np.cov(plain, rowvar=False), atol=1e-6)
    np.testing.assert_allclose(found.halves[0].mean, plain[subset(51)[::2]].mean(0), atol=1e-6)
    assert found.count == 51 and found.halves[0].n == 26 and heard[-1] == 51 and found.features.shape == (51, 64)


def test_a_reference_is_computed_once(monkeypatch: pytest.MonkeyPatch):
    images, extractor = kept(drawn(20)), open_extractor("random")
    first = reference(images, extractor)
    silent = replace(images, read=lambda index: pytest.fail("it was computed again"))
    again = reference(replace(silent, name="other"), extractor)  # the source was renamed
    assert again.name == "other" and again.digest == first.digest and torch.equal(again.features, first.features)
    assert frechet(again.statistics, first.statistics) == pytest.approx(0, abs=1e-12)
    others = [
        reference(images, open_extractor("pixels")),
        reference(images, extractor, limit=10),
        reference(kept(drawn(20), "b"), extractor),
    ]
    assert len({first.digest, *(other.digest for other in others)}) == 4 and others[1].count == 10


@pytest.mark.parametrize("harm", ["cut", "altered", "unstated"])
def test_a_damaged_reference_is_computed_again_with_a_notice(harm: str, user_folder: Path, capsys: pytest.CaptureFixture[str]):
    images, extractor = kept(drawn(20)), open_extractor("pixels")
    first = reference(images, extractor)
    path = next((user_folder / "references").glob("*.safetensors"))
    data = path.read_bytes()
    if harm == "unstated":
        path.with_suffix(".json").write_text("{")
    else:
        path.write_bytes(data[:-9] if harm == "cut" else data[:-1] + bytes([data[-1] ^ 1]))
    again = reference(images, extractor)
    assert "is damaged" in capsys.readouterr().err and path.read_bytes() == data
    assert torch.equal(again.features, first.features)


def test_too_few_images_are_refused():
    with pytest.raises(UserError, match="holds 3 images: a reference needs at least 4"):
        reference(kept(drawn(3)), open_extractor("pixels"))


# Measures ----------------------------------------------------------------------------------------------------------------------------


def images(n: int, seed: int = 1, shift: int = 0) -> Tensor:
    return torch.from_numpy(drawn(n, seed, shift))[:, None]


def test_numbers_are_those_of_the_metrics_whatever_the_batches():
    against = reference(kept(drawn(300)), open_extractor("random"))
    x = images(210, shift=20)
    found = [Gathered(against.extractor, 210) for _ in range(2)]
    for gathered, size in zip(found, (210, 13), strict=True):
        for part in x.split(size):
            gathered.add(part)
    names = ("frechet", "kid", "precision-recall", "density-coverage")
    one, two = (measured(gathered, against, names) for gathered in found)
    assert one == pytest.approx(two, rel=1e-4)
    features = against.extractor(x)
    assert one["frechet"] == pytest.approx(frechet(Statistics(160).update(features), against.statistics), rel=1e-9)
    assert one["kid"] == pytest.approx(mmd(features, against.features).value, rel=1e-6)
    assert one["blocks"] == 1 and "frechet_low" not in one and one["neighbours_among"] == 210
    assert one["count"] == 210 and one["reference_count"] == 300


@pytest.mark.parametrize(("count", "dim", "number"), [(100, 64, 1), (194, 64, 1), (195, 64, 3), (10_000, 64, 10), (10_000, 2048, 4)])
def test_blocks_have_more_rows_than_dimensions(count: int, dim: int, number: int):
    assert blocks(count, dim) == number


def test_the_interval_is_that_of_the_blocks():
    against = reference(kept(drawn(300)), open_extractor("pixels"))
    x = images(200, shift=9)
    gathered = Gathered(against.extractor, 200)
    for part in x.split(64):
        gathered.add(part)
    assert [part.n for part in gathered.parts] == [67, 67, 66]
    values = measured(gathered, against)
    parts = [frechet(Statistics(64).update(against.extractor(part)), against.statistics) for part in x.split([67, 67, 66])]
    half = 4.302653 * np.std(parts, ddof=1) / 3**0.5  # Student's t with 2 degrees of freedom
    assert values["frechet_high"] - values["frechet"] == pytest.approx(half, rel=1e-5)


@pytest.mark.parametrize("name", list(registry.METRICS))
def test_every_metric_of_the_table_gives_the_numbers_of_its_columns(name: str):
    against = reference(kept(drawn(40)), open_extractor("random"))
    extractor = replace(against.extractor, logits=lambda features: features[:, :5])
    found = gathering(extractor, 30, [name]).add(images(30, shift=5))
    row = {"values": measured(found, against, [name])}
    heads, shown = zip(*columns([name], "FD-random"), strict=True)
    assert registry.METRICS[name].about and heads[-1] == "count" and len(heads) > 1
    assert all(show(row) for show in shown) and [show({"values": {"count": 3}}) for show in shown] == [*[""] * (len(shown) - 1), "3"]


def test_a_column_shows_an_interval_an_error_and_a_scale():
    values = {"count": 1000, "frechet": 4.0, "frechet_low": 3.5, "frechet_high": 4.5, "kid": 0.0123, "kid_error": 0.0021, "recall": 0.5}
    shown = dict(columns(["frechet", "kid", "precision-recall", "of another version"], "FID"))
    assert {head: show({"values": values}) for head, show in shown.items()} == {
        "FID": "4 ± 0.5",
        "kernel x 1000": "12.3 ± 2.1",
        "precision": "",
        "recall": "0.500",
        "count": "1,000",
    }


def test_too_few_rows_for_a_metric_are_one_line():
    against = reference(kept(drawn(5)), open_extractor("pixels"))
    found = gathering(against.extractor, 30, ["density-coverage"]).add(images(30))
    with pytest.raises(UserError, match="density-coverage needs at least 6 samples and 6 images, got 30 and 5"):
        measured(found, against, ["density-coverage"])


# The command -------------------------------------------------------------------------------------------------------------------------


def made_run(folder: Path, classes: int = 2, n: int = 40) -> Path:
    """A run with two checkpoints of a small network, a cache of its data in the user's folder; nothing was trained."""
    x = drawn(n)
    arrays = {"x_train": x, "x_test": drawn(24, seed=5)}
    labels = {"y_train": np.arange(n) % 2, "y_test": np.arange(24) % 2} if classes else {}
    np.savez(folder / "data.npz", **arrays, **labels)
    return run_of(
        Request(str(folder / "data.npz"), channels=1), folder / "run", {"network": "dit", "options": {**SIZES, "classes": classes}}
    )


def run_of(asked: Request, run: Path, description: dict[str, Any]) -> Path:
    """A run on that data, with its cache in the user's folder."""
    cache = ensure(asked.source, asked)
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text(to_yaml(Config(data=DataConfig(source=asked.source))))
    (run / "data.json").write_text(cache.manifest.text())
    for seen in (128, 256):
        saved(run / "checkpoints" / f"{seen:012d}", seen, description)
    return run


def saved(folder: Path, seen: int, description: dict[str, Any]) -> None:
    folder.mkdir()
    for name, seed in (("model", 0), ("ema_0.9", 1)):
        net = networks.made(description, seed)
        save_file({k: v + 0.01 * (seen + seed) / 128 for k, v in net.state_dict().items()}, folder / f"{name}.safetensors")
    (folder / "network.json").write_text(json.dumps(description))
    there = {p.name: p.stat().st_size for p in folder.glob("*.safetensors")}
    (folder / "state.json").write_text(
        json.dumps({"seen": seen, "step": 1, "best_seen": 128, "best": 1.0, "chosen": "0.9", "sizes": there})
    )


def evaluate(*args: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main(["evaluate", *map(str, args)])
    return int(stop.value.code or 0)


QUICK = ("--count", 20, "--chunk", 8)


def test_a_table_over_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = made_run(tmp_path)
    wanted = ("--checkpoint", "all", "--average", "raw", 0.9, "--steps", 1, 2, "--guidance", 1, 2)
    assert evaluate(run, *wanted, *QUICK, "--json", tmp_path / "rows.json") == 0
    printed = capsys.readouterr()
    found = rows.load(run)
    assert len(found) == 17 and found == [rows.MISSING | row for row in json.loads((tmp_path / "rows.json").read_text())]
    here = [(row["seen"], row["average"], row["steps"], row["guidance"]) for row in found[:-1]]
    assert len(set(here)) == 16 and here[0] == (128, "raw", 1, 1.0)
    assert len({row["values"]["frechet"] for row in found[:-1]}) == 16
    assert "FD-pixels" in printed.out and "FID" not in printed.out and "held out" in printed.out
    assert "20 samples for 64 features" in printed.err
    assert found[-1]["data"] == "held out: data.npz, test" and found[-1]["values"]["count"] == 20


def test_numbers_are_those_of_the_models_own_samples(tmp_path: Path):
    run = made_run(tmp_path)
    assert evaluate(run, "--class-shares", "uniform", "--steps", 2, *QUICK) == 0
    row = rows.load(run)[0]
    x = load(run).sample(range(20), steps=2)
    assert row["labels"] == "uniform" and row["average"] == "0.9" and row["seen"] == 256
    real = Statistics(64).update(torch.from_numpy(drawn(40)).flatten(1) / 127.5 - 1)
    expected = frechet(Statistics(64).update(x.flatten(1) / 127.5 - 1), real)
    assert row["values"]["frechet"] == pytest.approx(expected, rel=1e-5)


def test_labels_are_as_frequent_as_in_the_data():
    y = samples.labels_of_data(range(2000), torch.tensor([0] * 30 + [2] * 10))
    assert y.unique().tolist() == [0, 2] and abs((y == 2).double().mean() - 0.25) < 0.05
    assert torch.equal(y[500:600], samples.labels_of_data(range(500, 600), torch.tensor([0] * 30 + [2] * 10)))


def test_the_same_cells_are_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    run = made_run(tmp_path)
    assert evaluate(run, *QUICK) == 0
    first = capsys.readouterr().out
    made: list[int] = []
    plain = samples.evaluated
    monkeypatch.setattr(samples, "evaluated", lambda sampled, *rest: (made.append(sampled.steps), plain(sampled, *rest))[1])
    assert evaluate(run, *QUICK) == 0
    repeated = capsys.readouterr()
    assert made == [] and "1 of 1 cells are there already" in repeated.err and repeated.out == first
    assert evaluate(run, *QUICK, "--metrics", "frechet") == 0 and made == []  # fewer numbers of the same cell
    assert evaluate(run, *QUICK, "--steps", 1, 4) == 0 and made == [4]
    assert (
        evaluate(run, "--count", 21) == 0
        and evaluate(run, *QUICK, "--seed", 7) == 0
        and evaluate(run, *QUICK, "--extractor", "random") == 0
    )
    assert made == [4, 1, 1, 1]
    path = run / "checkpoints" / "000000000256" / "ema_0.9.safetensors"
    save_file({k: v * 1.1 for k, v in load_file(path).items()}, path)
    assert evaluate(run, *QUICK) == 0 and made == [4, 1, 1, 1, 1]


def test_an_interrupt_keeps_the_finished_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    run = made_run(tmp_path)
    plain: Callable = samples.evaluated

    def stopped(sampled, *rest):
        if sampled.steps == 2:
            raise KeyboardInterrupt
        return plain(sampled, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(samples, "evaluated", stopped)
        assert evaluate(run, *QUICK, "--steps", 1, 2) == 130
    assert "the same command goes on after them" in capsys.readouterr().err
    before = rows.load(run)
    with (run / rows.NAME).open("a") as file:
        file.write('{"kind": "ce')  # what a kill leaves
    assert evaluate(run, *QUICK, "--steps", 1, 2) == 0
    after = rows.load(run)
    assert len(before) == 1 and after[0] == before[0] and [row["kind"] for row in after] == ["cell", "cell", "floor"]


def test_weights_that_are_not_finite_make_a_row_without_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = made_run(tmp_path)
    path = run / "checkpoints" / "000000000128" / "model.safetensors"
    save_file({k: v / 0 for k, v in load_file(path).items()}, path)
    assert evaluate(run, *QUICK, "--checkpoint", "all", "--average", "raw") == 0
    row, other = rows.load(run)[:2]
    assert row["values"] is None and "are not finite" in row["failed"] and other["values"]["frechet"] > 0
    assert "not finite" in " ".join(capsys.readouterr().out.split())  # lines are broken by the length of the folder's name


def test_without_a_test_split_the_floor_is_that_of_halves(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = made_run(tmp_path)
    np.savez(tmp_path / "data.npz", x_train=drawn(40), y_train=np.arange(40) % 2)
    assert evaluate(run, *QUICK, "--extractor", "random") == 0
    row = rows.load(run)[-1]
    assert row["data"].startswith("halves") and row["values"]["count"] == row["values"]["reference_count"] == 20
    assert "grey: random sees their one channel three times" in capsys.readouterr().err


def test_a_test_split_too_small_for_what_is_measured_is_no_floor(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run, few = made_run(tmp_path), drawn(3, seed=5)
    np.savez(tmp_path / "data.npz", x_train=drawn(40), y_train=np.arange(40) % 2, x_test=few, y_test=np.zeros(3, int))
    assert evaluate(run, *QUICK) == 0
    printed = capsys.readouterr()
    assert "data.npz, test: 3 images, and what is measured needs 6: the floor is that of halves of the reference" in printed.err
    assert "FD-pixels" in printed.out and rows.load(run)[-1]["data"].startswith("halves")
    assert evaluate(run, *QUICK, "--metrics", "frechet") == 0 and rows.load(run)[-1]["data"] == "held out: data.npz, test"
    before = rows.load(run)
    np.save(tmp_path / "few.npy", few)
    capsys.readouterr()
    assert evaluate(run, *QUICK, "--held-out", "few.npy", "--seed", 9) == 2 and rows.load(run) == before
    assert capsys.readouterr().err == "meanstep: --held-out few.npy: 3 images, and what is measured needs 6: give more, or leave it out\n"


def test_rows_are_compared_with_as_many_as_the_floor_has_where_that_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    x = torch.randn(46, 2, generator=ms.key(0, "rows")).numpy()
    np.savez(tmp_path / "rows.npz", x_train=x[:40], x_test=x[40:43])
    network = {"network": "mlp", "options": {"shape": [2], "width": 8, "depth": 1, "classes": 0}}
    where = run_of(Request("rows.npz"), tmp_path / "run", network)
    wanted = (where, "--extractor", "rows", "--count", 16, "--steps", 1, "--metrics", "sliced")
    assert evaluate(*wanted) == 0
    assert "rows.npz, test: 3 rows, and what is measured needs 6" in capsys.readouterr().err
    np.savez(tmp_path / "rows.npz", x_train=x[:40], x_test=x[40:])
    assert evaluate(*wanted) == 0
    assert [(row["kind"], row["among"], row["data"].partition(":")[0]) for row in rows.load(where)] == [
        ("cell", 16, "real rows"),
        ("floor", 16, "halves"),
        ("cell", 6, "real rows"),
        ("floor", 6, "held out"),
    ]


def test_a_floor_that_cannot_be_measured_says_why_below_the_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = made_run(tmp_path, classes=0)
    for split, pictures in (("train", drawn(40)), ("test", drawn(8, seed=5))):
        (tmp_path / "folder" / split).mkdir(parents=True)
        for k, picture in enumerate(pictures):
            Image.fromarray(picture).save(tmp_path / "folder" / split / f"{k}.png")
    (run / "config.yaml").write_text(to_yaml(Config(data=DataConfig(source=str(tmp_path / "folder")))))
    broken = tmp_path / "folder" / "test" / "5.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:60])
    assert evaluate(run, *QUICK, "--json", tmp_path / "rows.json") == 0
    cell, floor = json.loads((tmp_path / "rows.json").read_text())
    assert cell["values"]["frechet"] > 0 and floor["values"] is None and str(broken) in floor["failed"]
    assert evaluate(run, *QUICK) == 0
    assert "none:" in capsys.readouterr().out and [row["kind"] for row in rows.load(run)] == ["cell"]
    broken.write_bytes(whole)
    assert evaluate(run, *QUICK) == 0 and rows.load(run)[-1]["values"]["count"] == 8


@pytest.mark.parametrize("limit", [0, 20])
def test_a_reference_of_test_images_is_not_held_out_from_itself(limit: int, tmp_path: Path):
    run, source = made_run(tmp_path), str(tmp_path / "data.npz")
    make(Opened.of(Request(source, channels=1, split="test", limit=limit)), tmp_path / "cache")
    assert evaluate(run, *QUICK, "--reference", tmp_path / "cache") == 0
    assert evaluate(run, *QUICK, "--reference", source, "--split", "test") == 0
    floors = [row for row in rows.load(run) if row["kind"] == "floor"]
    assert len(floors) == 2 and all(row["data"].startswith("halves") and row["values"]["frechet"] > 1e-3 for row in floors)


def test_another_reference_is_prepared_as_the_data_were(tmp_path: Path):
    run = made_run(tmp_path)
    np.save(tmp_path / "more.npy", drawn(30, seed=9))
    assert evaluate(run, *QUICK, "--reference", tmp_path / "more.npy", "--reference-limit", 25) == 0
    assert rows.load(run)[0]["reference"] == "more.npy, train, 25 images"
    assert rows.load(run)[0]["labels"] == "uniform"


def test_a_reference_with_some_classes_of_the_model_counts_without_its_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = made_run(tmp_path)
    other = tmp_path / "other.npz"
    np.savez(other, images=drawn(30, seed=9), labels=np.arange(30) % 2, classes=["1", "new"])
    assert evaluate(run, *QUICK, "--reference", other) == 2
    assert "some of its classes are the model's, new is none of them" in " ".join(capsys.readouterr().err.split())
    assert evaluate(run, *QUICK, "--reference", other, "--class-shares", "uniform") == 0
    assert rows.load(run)[0]["labels"] == "uniform"


def test_a_folder_of_one_checkpoint_is_its_run(tmp_path: Path):
    run = made_run(tmp_path)
    assert evaluate(run / "checkpoints" / "000000000128", *QUICK) == 0
    assert [row["seen"] for row in rows.load(run) if row["kind"] == "cell"] == [128]


@pytest.mark.skipif(not DATA, reason="set MEANSTEP_DATA to the folder of test data and pretrained weights")
def test_latents_are_compared_decoded_or_with_the_originals(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source, autoencoder = str(Path(DATA) / "noto_emoji128_webp.npz"), f"taesd:{Path(DATA) / 'taesd.safetensors'}"
    asked = Request(source, autoencoder, size=32, limit=24)
    cache = make(Opened.of(asked), tmp_path / "cache")
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text(to_yaml(Config(data=DataConfig(source=str(tmp_path / "cache")))))
    (run / "data.json").write_text(cache.manifest.text())
    sizes = {**SIZES, "size": 4, "channels": 4, "patch": 2, "classes": 1}
    saved(run / "checkpoints" / f"{128:012d}", 128, {"network": "dit", "options": sizes})
    quick = (*QUICK, "--metrics", "frechet", "--autoencoder", autoencoder)
    assert evaluate(run, *quick) == 0
    assert "its own error is not in the numbers" in capsys.readouterr().err
    assert evaluate(run, *quick, "--reference", source, "--reference-limit", 24) == 0
    assert "its own error" not in capsys.readouterr().err
    make(Opened.of(replace(asked, autoencoder="identity")), tmp_path / "pictures")  # the originals as a cache
    assert evaluate(run, *quick, "--reference", tmp_path / "pictures", "--reference-limit", 24) == 0
    assert "its own error" not in capsys.readouterr().err
    decoded, originals, cached = (row for row in rows.load(run) if row["kind"] == "cell")
    assert cached["values"]["frechet"] == pytest.approx(originals["values"]["frechet"], rel=1e-3)
    assert decoded["reference"] == "noto_emoji128_webp.npz, train decoded, 24 images"
    assert originals["reference"] == "noto_emoji128_webp.npz, train, 24 images"
    assert decoded["values"]["frechet"] != pytest.approx(originals["values"]["frechet"], rel=1e-3)


# Samplers ----------------------------------------------------------------------------------------------------------------------------

SHRUNK = """
def shrunk(field, z, times, y=None):
    return 0.5 * z
"""


def cells(run: Path) -> list[tuple[str, int, float]]:
    found = [row for row in rows.load(run) if row["kind"] == "cell"]
    return [(row["sampler"], row["steps"], row["values"]["frechet"]) for row in found]


def test_a_sampler_is_part_of_a_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = made_run(tmp_path)
    (tmp_path / "shrunk_sampler.py").write_text(SHRUNK)
    assert evaluate(run, *QUICK, "--steps", 2) == 0
    assert "sampler" not in capsys.readouterr().out.partition("reference")[0], "the run's own one has no column"
    names = ("walk", "renoise", "euler", "shrunk_sampler:shrunk")
    assert evaluate(run, *QUICK, "--steps", 2, "--sampler", *names) == 0
    printed = capsys.readouterr()
    assert "1 of 4 cells are there already" in printed.err and "sampler" in printed.out.partition("reference")[0]
    assert [name for name, _, _ in cells(run)] == list(names) and len({value for _, _, value in cells(run)}) == 4
    real = Statistics(64).update(torch.from_numpy(drawn(40)).flatten(1) / 127.5 - 1)
    for name, _, value in cells(run):
        x = load(run, sampler=name).sample(range(20), 2, samples.labels_of_data(range(20), torch.arange(40) % 2))
        assert value == pytest.approx(frechet(Statistics(64).update(x.flatten(1) / 127.5 - 1), real), rel=1e-5)


def test_rows_without_a_sampler_are_of_the_runs_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = made_run(tmp_path)
    assert evaluate(run, *QUICK) == 0
    old = [{name: value for name, value in row.items() if name != "sampler"} for row in rows.load(run)]
    (run / rows.NAME).write_text("".join(json.dumps(row) + "\n" for row in old))
    assert evaluate(run, *QUICK, "--sampler", "walk") == 0 and rows.load(run) == old
    assert evaluate(run, *QUICK, "--sampler", "heun") == 0
    assert [row.get("sampler") for row in rows.load(run) if row["kind"] == "cell"] == [None, "heun"]
    capsys.readouterr()
    assert evaluate(run, *QUICK, "--sampler", "walk", "heun") == 0
    assert "walk" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "walk",
            "this field was trained on the instantaneous one only: take euler, heun",
        ),
        ("meanstep.samplers:walk", "jumps by the average velocity"),
        ("meanstep.samplers:none", "has no 'none'"),
        ("meanstep.paths:linear.none", "has no 'none'"),
        ("meanstep:__version__", "is no function (field, z, times, y)"),
    ],
)
def test_a_sampler_that_cannot_read_the_run_is_refused(name: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = made_run(tmp_path)
    (run / "config.yaml").write_text(
        to_yaml(Config(data=DataConfig(source=str(tmp_path / "data.npz")), method=MethodConfig("flow_matching")))
    )
    capsys.readouterr()
    assert evaluate(run, *QUICK, "--sampler", name) == 2
    text = capsys.readouterr().err
    assert said in text and text.count("\n") == 1 and not rows.load(run)


# Mistakes ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--extractor", "pixel"), "there is no extractor 'pixel'; did you mean pixels?"),
        (("--checkpoint", 64), "has no checkpoint at 64 samples: there are 128, 256"),
        (("--checkpoint", "newest"), "--checkpoint: last, best, or the samples that it had seen, got 'newest'; there are 128, 256"),
        (("--average", "0.5"), "has no average '0.5': choose among raw, 0.9"),
        (("--count", 3), "--count: at least 6 for precision-recall, got 3"),
        (("--steps", 0), "--steps: at least 1 and at most 100000, got 0"),
        (("--guidance", 1, "nan"), "--guidance: a number at least 0, got nan"),
        (("--metrics", "inception-score"), "--metrics inception-score needs class logits, which pixels has not"),
        (("--metrics", "frechet", "kd"), "--metrics: there is no metric 'kd' (did you mean kid?)"),
        (("--metrics", "frechet", "kid", "--count", 1), "--count: at least 2 and at most 100000000, got 1"),
        (("--sampler", "eulr"), "--sampler: there is no sampler 'eulr' (did you mean euler?)"),
        (("--reference", "nowhere.npz"), "cannot read nowhere.npz"),
        (("--json", "nowhere/rows.json"), "the folder"),
    ],
)
def test_a_mistake_is_one_line(args: tuple, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = made_run(tmp_path)
    capsys.readouterr()
    assert evaluate(run, *(QUICK if "--count" not in args else ()), *args) == 2
    text = capsys.readouterr().err
    assert said in text and text.count("\n") == 1


def test_guidance_needs_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = made_run(tmp_path, classes=0)
    assert evaluate(run, *QUICK, "--guidance", 1, 2) == 2
    assert "--guidance: this model was trained without labels" in capsys.readouterr().err
    assert evaluate(run, *QUICK) == 0


def test_a_folder_that_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert evaluate(tmp_path / "nowhere") == 2 and "there is no folder" in capsys.readouterr().err
    assert evaluate(tmp_path) == 2 and "holds no checkpoint" in capsys.readouterr().err


def test_training_data_that_are_gone_and_rows_that_are_damaged(tmp_path: Path, user_folder: Path, capsys: pytest.CaptureFixture[str]):
    run = made_run(tmp_path)
    (run / rows.NAME).write_text("{}\n{}\n")
    assert evaluate(run, *QUICK) == 2 and "line 1 is damaged" in capsys.readouterr().err
    (run / rows.NAME).unlink()
    (tmp_path / "data.npz").unlink()
    for path in (user_folder / "data").glob("*/*"):
        path.unlink()
    assert evaluate(run, *QUICK) == 2
    text = capsys.readouterr().err
    assert "the training data are not there any more" in text and "give --reference" in text and text.count("\n") == 1
    np.save(tmp_path / "others.npy", drawn(30, seed=9))
    make(Opened.of(Request(str(tmp_path / "others.npy"), channels=1)), tmp_path / "cache")
    (run / "config.yaml").write_text(to_yaml(Config(data=DataConfig(source=str(tmp_path / "cache")))))
    capsys.readouterr()
    assert evaluate(run, *QUICK) == 2
    text = capsys.readouterr().err
    assert "the cache does not fit the run" in text and text.endswith("): give --reference\n") and text.count("\n") == 1
