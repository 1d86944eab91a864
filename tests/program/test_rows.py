"""Rows of any shape from a file of numbers to samples, distances and previews; what is refused; and what speaks of pictures."""

import ast
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import meanstep as ms
from meanstep.fields import MLP
from meanstep.metrics import Statistics, frechet
from meanstep.program.console import UserError
from meanstep.program.data import Batch, Cache, Loader, Opened, Request, arrays, decoded, ensure, make, open_autoencoder, views
from meanstep.program.data.look import Look
from meanstep.program.data.tiny import Tiny
from meanstep.program.evaluation import Gathered, measured, open_extractor, reference
from meanstep.program.evaluation.examples import of_cache
from meanstep.program.runs import networks
from meanstep.program.runs.config import Config, DataConfig, MethodConfig, NetworkConfig, RunConfig
from meanstep.program.training.loop import Step
from meanstep.program.training.ranks import Ranks
from meanstep.program.training.state import fresh
from meanstep.times import uniform

from .conftest import run

pytestmark = pytest.mark.usefixtures("here")

PACKAGE = Path(__file__).parents[2] / "src" / "meanstep" / "program"
ALONE = Ranks(0, 1, torch.device("cpu"))
DRAW = np.random.default_rng(0)


def drawn(*shape: int) -> np.ndarray:
    """Numbers of no common scale."""
    return 5 + 3 * DRAW.normal(size=shape).astype(np.float32)


def saved(path: Path, **parts: Any) -> str:
    np.savez(path, **parts)
    return str(path)


IDENTITY = open_autoencoder("identity")
SHORT = ("--samples=64", "--batch=32", "--evaluate-count=40", "--device=cpu")


# From a file to samples --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "network"), [((2,), "mlp"), ((1,), "mlp"), ((3, 4), "mlp"), ((2, 4, 4), "dit")])
def test_rows_of_any_shape_are_trained_on_sampled_and_evaluated(shape: tuple[int, ...], network: str, here: Path):
    np.save(here / "x.npy", drawn(50, *shape))
    small = {"mlp": ("--network.width=16", "--network.depth=1"), "dit": ("--network.width=16", "--network.depth=1", "--network.heads=2")}
    run("train", "--out=run", "--data.source=x.npy", *SHORT, *small[network])
    model = ms.load("run")
    assert model.shape == shape and model.manifest.codec == "plain" and model.classes == ()
    config = (here / "run" / "config.yaml").read_text()
    assert f"name: {network}" in config and "extractor: rows" in config
    rows = model.sample(6)
    assert rows.shape == (6, *shape) and rows.dtype == torch.float32 and rows.isfinite().all()
    torch.testing.assert_close(rows, model.manifest.unnormalise(model.latents(6)), rtol=0, atol=0)
    run("sample", "run", "--seeds=0:6", "--out=s.png")
    with np.load("s.npz") as held, Image.open("s.png") as image:
        assert np.array_equal(held["x"], rows.numpy()) and image.size[0] > 90
    run("sample", "run", "--seeds=0:6", "--out=t.npy")
    assert np.array_equal(np.load("t.npy"), rows.numpy()) and not Path("t.png").exists()
    records = [json.loads(line) for line in (here / "run" / "records.jsonl").read_text().splitlines()]
    (told,) = [record for record in records if record["kind"] == "evaluation"]
    assert told["extractor"] == "rows" and all(math.isfinite(value) for value in told["steps"].values())
    assert len(list((here / "run" / "samples").glob("*.png"))) == 1 and (here / "run" / "report.html").is_file()
    run("evaluate", "run", "--count=30", "--metrics", "frechet", "--json=rows.json")
    cell = json.loads(Path("rows.json").read_text())[0]
    assert cell["distance"] == "FD-rows" and cell["reference"].endswith("50 rows")


def test_the_same_command_goes_on_and_labels_are_classes(here: Path, capsys: pytest.CaptureFixture[str]):
    saved(here / "a.npz", x=drawn(60, 2), y=np.arange(60) % 3, classes=["a", "b", "c"])
    words = ("train", "--out=run", "--data.source=a.npz", "--network.width=16", *SHORT[1:])
    run(*words, "--samples=32")
    run(*words, "--samples=64")
    assert "goes on at 32 samples" in capsys.readouterr().err
    model = ms.load("run")
    assert model.classes == ("a", "b", "c") and model.sample(3, labels=[0, 1, 2], guidance=2.0).shape == (3, 2)
    run("diagnose", "run", "--budget=1s", "--rows=64")


def test_training_on_rows_is_a_loop_written_out(here: Path):
    x = drawn(20, 3, 4)
    np.save(here / "x.npy", x)
    words = ("--precision=float64", "--batch=8", "--samples=24", "--evaluate-every=0", "--sample-every=0", "--rate=0.01", "--warmup=0")
    words += ("--schedule=constant", "--clip=0", "--network.width=8", "--network.depth=2", "--seed=3", "--device=cpu")
    run("train", "--out=run", "--data.source=x.npy", *words)
    wide = torch.from_numpy(x).double()
    rows = (wide - wide.mean((0, 2), keepdim=True)) / wide.std((0, 2), correction=0, keepdim=True)
    net = MLP(12, 8, 2, generator=ms.key(3, "weights")).double()
    loss = ms.Loss(ms.recipes.meanflow(uniform, 0.5, ms.weights.constant))  # of twelve numbers
    optimiser = torch.optim.AdamW(net.parameters(), 0.01, (0.9, 0.95), weight_decay=0)
    order = torch.cat([torch.randperm(20, generator=ms.key(3, "order", epoch)) for epoch in range(2)])

    def field(z: Any, r: Any, t: Any, y: Any = None) -> Any:
        return net(z.flatten(1), r, t).view_as(z)

    for step in range(3):
        optimiser.zero_grad()
        at = order[8 * step : 8 * step + 8]
        loss(field, rows[at], progress=step / 3, generator=ms.key(3, "train", 8 * step)).loss.backward()
        optimiser.step()
    found = load_file(here / "run" / "checkpoints" / f"{24:012d}" / "model.safetensors")
    for name, value in net.state_dict().items():
        torch.testing.assert_close(found[f"net.{name}"], value, rtol=0, atol=1e-5)  # rows of a cache are float32


# A cache of numbers ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", ">f4"])
@pytest.mark.parametrize("shape", [(2,), (3, 5), (2, 3, 4, 5)])
def test_numbers_are_standardised_along_their_first_axis_and_come_back(kind: str, shape: tuple[int, ...], here: Path):
    x = (drawn(40, *shape) * np.arange(1, shape[0] + 1).reshape(-1, *[1] * (len(shape) - 1))).astype(kind)
    np.save(here / "x.npy", x)
    cache = make(Opened.of(Request("x.npy", shard=13)), here / "cache")
    assert cache.manifest.dtype == ("float16" if kind == "float16" else "float32") and cache.manifest.codec == "plain"
    rows, y = cache.rows(torch.arange(40))
    assert rows.shape == (40, *shape) and rows.dtype == torch.float32 and y.tolist() == [-1] * 40
    along = rows.double().transpose(0, 1).flatten(1)
    assert along.mean(1).abs().max() < 1e-5 and (along.std(1, correction=0) - 1).abs().max() < 1e-5
    back = decoded(rows, cache.manifest, IDENTITY)
    torch.testing.assert_close(back, torch.from_numpy(x.astype(np.float32)), rtol=1e-5, atol=1e-5)
    assert decoded(rows[:0], cache.manifest, IDENTITY).shape == (0, *shape)
    as_they_are = make(Opened.of(Request("x.npy", normalise=False)), here / "plain")
    assert torch.equal(as_they_are.rows(torch.arange(40))[0], torch.from_numpy(x.astype(np.float32)))
    assert Loader(cache, 0).chunk(37, 5).start == 37 and Loader(cache, 0).chunk(37, 5).y is None


def test_one_digest_whatever_the_shards_and_the_place(here: Path):
    np.save(here / "x.npy", drawn(20, 3))
    (here / "far").mkdir()
    np.save(here / "far" / "y.npy", np.load("x.npy"))
    one, two = (Opened.of(Request(spec)) for spec in ("x.npy", "far/y.npy"))
    assert one.digest == two.digest and ensure("x.npy").digest == ensure("far/y.npy").digest
    assert make(one, here / "a").digest != make(Opened.of(Request("x.npy", normalise=False)), here / "b").digest


def test_rows_that_are_not_finite_can_be_left_out(here: Path):
    x = drawn(10, 3)
    x[4, 1] = np.nan
    np.save(here / "x.npy", x)
    with pytest.raises(UserError, match=r"x\.npy, row 4 \(from 0\) is not finite in float32"):
        make(Opened.of(Request("x.npy")), here / "a")
    cache = make(Opened.of(Request("x.npy", skip_broken=True)), here / "b")
    assert (len(cache), cache.manifest.skipped) == (9, 1)


def test_a_new_kind_of_file_is_one_entry_of_a_table(here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(arrays.READERS, ".txt", lambda path: {"": np.loadtxt(path)})
    np.savetxt("x.txt", drawn(40, 2))
    run("train", "--out=run", "--data.source=x.txt", "--network.width=8", *SHORT)
    assert ms.load("run").sample(2).shape == (2, 2)


@pytest.mark.parametrize("autoencoder", [True, False])
def test_a_manifest_from_before_codecs_is_read(autoencoder: bool, here: Path):
    saved(here / "a.npz", images=DRAW.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8))
    save_file(Tiny(4, pooled=False).state_dict(), here / "taesd.safetensors")
    made = make(Opened.of(Request("a.npz", "taesd:taesd.safetensors" if autoencoder else "identity")), here / "cache")
    path = here / "cache" / "manifest.json"
    path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != "codec"}))
    found = Cache.open(here / "cache").manifest
    assert found.codec == ("latents" if autoencoder else "pixels") and found.digest == made.digest and found == made.manifest


def test_latents_of_ones_own_are_decoded_by_their_autoencoder(here: Path):
    save_file(Tiny(4, pooled=False).state_dict(), here / "taesd.safetensors")
    z = DRAW.normal(size=(8, 4, 2, 2)).astype(np.float32)
    np.save(here / "z.npy", z)
    cache, ae = make(Opened.of(Request("z.npy", "taesd:taesd.safetensors")), here / "cache"), open_autoencoder("taesd:taesd.safetensors")
    assert (cache.manifest.codec, cache.shape, cache.manifest.image) == ("latents", (4, 2, 2), (3, 16, 16))
    expected = ((ae.decode(torch.from_numpy(z)) + 1) * 127.5).round().clamp(0, 255)
    pictures = decoded(cache.rows(torch.arange(8))[0], cache.manifest, ae)
    assert pictures.dtype == torch.uint8 and (pictures.float() - expected).abs().max() <= 1
    np.save(here / "odd.npy", z[:, :3])
    with pytest.raises(UserError, match=r"rows of shape 3 x 2 x 2 are no latents of taesd:taesd\.safetensors, which have 4 channels"):
        Opened.of(Request("odd.npy", "taesd:taesd.safetensors"))


# What is refused ---------------------------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Any, str]] = {
    "rank 0": ({"x": np.zeros(5, np.float32)}, r"shape \(5,\): give rows with at least one axis .* one number, save x\[:, None\]"),
    "no entries": ({"x": np.zeros((5, 0), np.float32)}, "at least one axis after the first and an entry"),
    "none": ({"x": np.zeros((0, 3), np.float32)}, "holds no rows for the split 'train'"),
    "complex": ({"x": np.zeros((5, 2), np.complex64)}, "type complex64: save uint8 from 0 to 255, or rows of float32"),
    "whole": ({"x": np.zeros((5, 2), np.int64)}, "type int64: save uint8"),
    "not alike": ({"x": np.array([np.zeros(2), np.zeros(3)], dtype=object)}, "holds pickled objects, which are not read"),
    "floats called images": ({"images": np.zeros((5, 2), np.float32)}, "images of type float32: save uint8"),
    "infinite": ({"x": np.full((5, 2), np.inf)}, "row 0 .* is not finite"),
    "too large": ({"x": np.full((5, 2), 1e200)}, "row 0 .* is not finite in float32"),
    "few labels": ({"x": np.zeros((5, 2), np.float32), "y": np.arange(4)}, r"shape \(4,\) for 5"),
    "conditions": ({"x": np.zeros((5, 2), np.float32), "y": np.zeros((5, 3))}, r"shape \(5, 3\) for 5 .*; give whole numbers \[5\]"),
    "constant": ({"x": np.full((5, 2), 0.1, np.float32)}, "of the first axis of the rows is the same everywhere"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_rows_that_do_not_do_are_one_line(case: str, here: Path, capsys: pytest.CaptureFixture[str]):
    parts, message = REFUSED[case]
    spec = saved(here / "a.npz", **parts)
    with pytest.raises(UserError, match=message) as told:
        make(Opened.of(Request(spec)), here / "cache")
    assert "\n" not in str(told.value)
    run("train", "--out=run", f"--data.source={spec}", "--evaluate-every=0", code=2)
    complaint = capsys.readouterr().err.strip().splitlines()
    assert complaint[-1].startswith("meanstep: ") and not (here / "run" / "checkpoints").exists()


def test_what_does_not_fit_rows_names_the_remedy(here: Path):
    np.save(here / "x.npy", drawn(20, 3))
    np.save(here / "long.npy", drawn(4, 5000))
    cache = ensure("x.npy")
    for request in (Request("x.npy", size=8), Request("x.npy", flips=True), Request("x.npy", channels=1)):
        with pytest.raises(UserError, match="is for pictures: leave it out"):
            Opened.of(request)
    with pytest.raises(UserError, match=r"the rows are 3: give --network\.name mlp"):
        networks.described(NetworkConfig("dit"), cache.shape, 0)
    with pytest.raises(UserError, match=r"takes images uint8 .*: for rows of numbers give --extractor rows"):
        reference(of_cache(cache, IDENTITY), open_extractor("pixels"))
    assert reference(of_cache(ensure("long.npy"), IDENTITY), open_extractor("rows")).features.shape == (4, 1024)  # signed sums of 5,000


# Networks of one's own, conditions, masks ----------------------------------------------------------------------------------------------

OWN = """
from meanstep.fields import MLP

def build(shape, classes, width=8):
    return MLP(shape[0], width, 1, classes=classes)

def old(size, channels, classes):
    return MLP(size, 8, 1)
"""


def test_a_factory_that_takes_a_shape_gets_any_rows(here: Path, monkeypatch: pytest.MonkeyPatch):
    name = f"rows_{here.name.replace('-', '_')}"
    (here / f"{name}.py").write_text(OWN)
    description = networks.described(NetworkConfig(f"{name}:build"), (5,), 2)
    assert description["options"] == {"shape": [5], "classes": 2}
    assert networks.made(description, allowed=f"{name}:build")(torch.zeros(2, 5), torch.zeros(2), torch.ones(2)).shape == (2, 5)
    with pytest.raises(UserError, match="or a factory of your own that takes a keyword shape"):
        networks.described(NetworkConfig(f"{name}:old"), (5,), 2)


def test_noise_mask_and_condition_of_a_batch_reach_the_loss(here: Path):
    saved(here / "a.npz", x=drawn(16, 2, 3), y=np.arange(16) % 2)
    method, network = MethodConfig(options={"times": "uniform"}, dropout=0.0), NetworkConfig("mlp", {"width": 8, "depth": 1})
    config, cache = Config(DataConfig("a.npz"), network, method, run=RunConfig(samples=32, batch=8)), ensure("a.npz")
    for change in ({}, {"noise": torch.randn(8, 2, 3)}, {"mask": torch.rand(8, 2, 3) < 0.6}, {"y": None}):
        state = fresh(config, cache, ALONE)
        batch = Loader(cache, 0).chunk(0, 8)._replace(**change)
        g = ms.key(0, "train", 0)
        noise = torch.randn(8, 2, 3, generator=g) if batch.mask is not None else batch.noise  # the loss's own draw, which is 0 in padding
        given = {"noise": noise, "mask": batch.mask, "progress": 0.0, "generator": g}
        expected = state.owner.loss(state.owner.net, batch.x, batch.y, **given).loss
        measured = Step(config, state, ALONE, state.owner, 8)([batch])
        assert float(measured["loss"]) == float(expected.detach())


def test_a_batch_maps_trees_and_leaves_whole_numbers():
    batch = Batch(3, torch.ones(2, 4), {"label": torch.tensor([1, 2]), "text": torch.ones(2, 5)}, mask=torch.ones(2, dtype=torch.bool))
    found = batch.to(torch.device("cpu"), torch.float64)
    assert found.start == 3 and found.x.dtype == found.y["text"].dtype == torch.float64 and found.noise is None
    assert found.y["label"].dtype == torch.int64 and found.mask is not None and found.mask.dtype == torch.bool


# Distances and previews --------------------------------------------------------------------------------------------------------------


def test_the_distance_of_rows_is_that_of_their_entries(here: Path):
    x, made = drawn(300, 2, 3), torch.from_numpy(drawn(200, 2, 3)) + 1
    np.save(here / "x.npy", x)
    against = reference(of_cache(ensure("x.npy"), IDENTITY), open_extractor("rows"))
    found = measured(Gathered(against.extractor, 200).add(made), against)
    expected = frechet(Statistics(6).update(made.flatten(1)), Statistics(6).update(torch.from_numpy(x).flatten(1)))
    assert found["frechet"] == pytest.approx(expected, rel=1e-4) and against.extractor.distance == "FD-rows"
    again = reference(of_cache(ensure("x.npy"), IDENTITY), open_extractor("rows"))
    assert again.extractor.dim == 6 and torch.equal(again.features, against.features)


def ink(image: Image.Image) -> np.ndarray:
    """Where something is drawn that is neither white nor grey."""
    colours = np.asarray(image.convert("RGB")).astype(int)
    return (colours.max(-1) - colours.min(-1)) > 40


def test_points_are_drawn_where_they_are():
    rows = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    found = ink(views.shown(rows, Look()))
    low, high = views.MARGIN, views.CLOUD - views.MARGIN
    assert found[high, low] and found[low, high] and found[high, high] and not found[low, low] and found.sum() < 80


@pytest.mark.parametrize("shape", [(5,), (2, 5), (1,), (2, 3, 3), (2, 2, 3, 3), (1, 1)])
def test_every_shape_has_a_preview_and_no_number_breaks_it(shape: tuple[int, ...]):
    rows = torch.randn(6, *shape, generator=ms.key(0))
    for changed in (rows, rows * 0, rows * 1e30, torch.where(rows > 0, torch.nan, rows)):
        image = views.shown(changed, Look(), 3)
        assert min(image.size) > 60


def test_a_rising_signal_rises():
    found = ink(views.shown(torch.linspace(0, 1, 20)[None], Look(), 1))
    top, bottom = found[: len(found) // 2], found[len(found) // 2 :]
    half = found.shape[1] // 2
    assert top[:, half:].any() and bottom[:, :half].any() and not top[:, : half - 8].any() and not bottom[:, half + 8 :].any()


# Who speaks of pictures --------------------------------------------------------------------------------------------------------------

PICTURES = {
    "data": {"codecs", "pictures", "previews", "views", "autoencoders", "tiny", "formats", "arrays", "source", "request", "command"},
    "evaluation": {"inputs", "features", "extractors", "efficientnet", "pretrained"},
    "runs": {"families"},
}
"""Modules that may know that a picture has channels, a height and a width; in `runs` those that make networks for them."""
WORDS = {"channels", "height", "permute", "uint8"}


def of_pictures(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and words wherever code names an axis of a picture, or counts the axes of a row."""
    for node in ast.walk(tree):
        word = {ast.Name: "id", ast.Attribute: "attr", ast.arg: "arg", ast.keyword: "arg"}.get(type(node))
        if word and getattr(node, word) in WORDS:
            yield node.lineno, getattr(node, word)
        if isinstance(node, ast.Subscript):
            inside = node.slice.elts if isinstance(node.slice, ast.Tuple) else []
            if getattr(node.value, "id", "") != "Generator" and sum(isinstance(e, ast.Constant) and e.value is None for e in inside) > 1:
                yield node.lineno, "several new axes"
            if isinstance(node.value, ast.Name) and node.value.id == "tuple" and [getattr(e, "id", "") for e in inside] == ["int"] * 3:
                yield node.lineno, "a triple of sizes"
        if isinstance(node, ast.Tuple) and [getattr(e, "value", None) for e in node.elts] in ([0, 2, 3], [2, 3], [1, 2, 3]):
            yield node.lineno, "axes by number"
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple) and getattr(node.value, "attr", "") == "shape":
            yield node.lineno, "sizes taken apart"


def test_only_what_is_about_pictures_speaks_of_them():
    found = []
    for package in ("data", "training", "sampling", "evaluation", "diagnose", "runs"):
        for path in sorted((PACKAGE / package).rglob("*.py")):
            if path.stem not in PICTURES.get(package, ()):
                tree = ast.parse(path.read_text(encoding="utf-8"))
                found += [f"{path.relative_to(PACKAGE)}, line {line}: {what}" for line, what in of_pictures(tree)]
    assert found == []


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("c, h, w = x.shape", "sizes taken apart"),
        ("y = mean[:, None, None]", "several new axes"),
        ("def f(a: tuple[int, int, int]): ...", "a triple of sizes"),
        ("x.sum((0, 2, 3))", "axes by number"),
        ("x.permute(0, 1)", "permute"),
        ("n = image.channels", "channels"),
    ],
)
def test_talk_of_pictures_is_found(source: str, what: str):
    assert [found for _, found in of_pictures(ast.parse(source))] == [what]
