"""Partners of rows: a condition of the network, or where the flow starts; by name in folders, by number in files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import meanstep as ms
from meanstep.program.console import UserError
from meanstep.program.data import Cache, Loader, Opened, Request, make
from meanstep.program.evaluation.examples import conditioned, examples
from meanstep.program.runs.saved import manifest as described
from meanstep.program.training.coupled import coupled

from .conftest import run

pytestmark = pytest.mark.usefixtures("here")

DRAW = np.random.default_rng(6)
SHORT = (
    "--samples=48",
    "--batch=16",
    "--evaluate-count=24",
    "--device=cpu",
    "--network.name=mlp",
    "--network.width=16",
    "--network.depth=1",
)


def drawn(*shape: int) -> np.ndarray:
    return (3 + 2 * DRAW.normal(size=shape)).astype(np.float32)


def cached(spec: str, where: str = "cache", **how) -> Cache:
    return make(Opened.of(Request(spec, **how)), Path(where))


def test_a_partner_of_rows_is_seen_as_a_row_where_the_flow_starts_and_by_its_own_moments_as_a_condition():
    x, low = drawn(30, 2, 4), 7 * drawn(30, 2, 4)
    np.savez("a.npz", x=x, low=low)
    np.save("low.npy", low)
    at = torch.arange(30)
    start = cached("a.npz", "start", pair="low", pair_as="source")
    mean, std = x.mean((0, 2), dtype=np.float64).reshape(2, 1), x.std((0, 2), dtype=np.float64).reshape(2, 1)
    np.testing.assert_allclose(start.start(at).numpy(), (low - mean) / std, rtol=1e-4, atol=1e-4)
    assert start.manifest.given == {} and start.condition(at) is None
    batch, _ = coupled("pairs:data", 0, 30, (2, 4), False, False)(Loader(start, 0).chunk(5, 8))
    ((_, bridge),) = ms.Loss(ms.recipes.flow_matching()).draw(batch.x, noise=batch.noise, generator=ms.key(0))
    torch.testing.assert_close(bridge.v, batch.noise - batch.x)  # v = e - x: the flow runs from the partner to the row
    opened = Opened.of(Request("./a.npz", pair=str(Path("a.npz:low").absolute())))
    assert opened.source.left_out == {}, "the partners are read, however their file is written"
    outside = cached("a.npz:x", "outside", pair="low.npy", pair_as="source")
    assert torch.equal(outside.start(at), start.start(at))
    given = cached("a.npz", "given", pair="low")
    y = given.condition(at)
    assert given.start(at) is None and given.manifest.given == {"pair": [2, 4]}
    assert y.mean((0, 2)).abs().max() < 1e-5 and (y.std((0, 2), correction=0) - 1).abs().max() < 1e-5
    assert len({start.digest, given.digest, cached("a.npz", "none").digest}) == 3


def pictures(folder: str, names: list[str], side: int) -> None:
    for name in names:
        path = Path(folder, f"{name}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(DRAW.integers(0, 256, (side, side), dtype=np.uint8)).save(path)


def test_pictures_find_their_partners_by_name_and_these_are_brought_to_their_size():
    pictures("high", ["a", "b", "sub/c"][:2], 8)
    pictures("low", ["b", "a", "z"], 4)
    cache = cached("high", channels=1, pair="low")
    y = cache.condition(torch.arange(2))
    want = np.asarray(Image.open("low/b.png").resize((8, 8), Image.Resampling.BICUBIC), np.float32) / 127.5 - 1
    assert np.allclose(y[1, 0].numpy(), want, atol=1e-6) and cache.manifest.given == {"pair": [1, 8, 8]}
    start = cached("high", "start", channels=1, pair="low", pair_as="source")
    assert torch.allclose(start.start(torch.arange(2)), y, atol=1e-6)
    Path("low/a.png").unlink()
    with pytest.raises(UserError, match=r"high/a\.png has no partner a in low: put it there, or leave the row out"):
        cached("high", "lacking", channels=1, pair="low")


def test_a_flow_from_partners_is_recorded_samples_start_there_and_what_needs_noise_is_refused(capsys: pytest.CaptureFixture[str]):
    np.savez("a.npz", x=drawn(40, 3), low=drawn(40, 3), noisy=drawn(40, 2))
    words = ("--data.source=a.npz", "--data.pair=low", "--data.pair-as=source")
    run("train", "--out=run", *words, *SHORT)
    run("train", "--out=run", *words, *SHORT[1:], "--samples=64")
    model = ms.load("run")
    assert model.facts.coupling == "pairs:data" and model.given == {}
    low = torch.from_numpy(np.load("a.npz")["low"][:5])

    class Still(torch.nn.Module):
        def forward(self, z, r, t, y=None):
            return 0 * z + next(iter(model.field.parameters())).sum() * 0

    still = type(model)(**{**{f: getattr(model, f) for f in model.__dataclass_fields__}, "field": Still()})
    torch.testing.assert_close(still.sample(5, labels={"pair": low}), low, rtol=1e-5, atol=1e-5)  # a flow that stands still ends there
    assert not torch.equal(model.sample(5, labels={"pair": low}), model.sample(5, labels={"pair": low + 1}))
    run("sample", "run", "--seeds=0:4", "--out=made.npz", "--device=cpu")
    with np.load("made.npz") as held:
        assert all((held["condition_pair"][k] == np.load("a.npz")["low"]).all(1).any() for k in range(4))
    run("evaluate", "run", "--count=16", "--metrics", "frechet", "--device=cpu")
    capsys.readouterr()
    for line, message in {
        ("sample", "run", "--sampler=renoise", "--out=no.npz"): "mixes in fresh noise",
        ("diagnose", "run", "--budget=1s"): "the noise of other rows is independent of them",
        ("train", "--out=no", *words, *SHORT, "--method.coupling=optimal-transport"): "the flow starts at --data.pair low",
        ("train", "--out=no", *words, *SHORT, "--method.recipe=posterior_meanflow"): "law of independent noise",
    }.items():
        run(*line, code=2)
        assert message in " ".join(capsys.readouterr().err.split())
    run("cache", "a.npz", "--out=kept", "--pair=low", "--pair-as=source")
    run("train", "--out=no", "--data.source=kept", *SHORT, code=2)
    assert "give --method.coupling pairs:data" in " ".join(capsys.readouterr().err.split())


def test_a_run_is_given_partners_as_a_condition():
    np.savez("a.npz", x=drawn(40, 3), low=drawn(40, 2))
    run("train", "--out=run", "--data.source=a.npz", "--data.pair=low", *SHORT)
    model = ms.load("run")
    assert model.given == {"pair": [2]} and model.facts.coupling == "independent"
    assert model.sample(3, labels={"pair": torch.zeros(3, 2)}).shape == (3, 3)


@pytest.mark.parametrize("how", ["condition", "source"])
def test_another_file_is_a_reference_with_its_own_partners(how: str, capsys: pytest.CaptureFixture[str]):
    """As it is and as a cache of it: the same rows, partners and distances."""
    for name in ("a.npz", "b.npz"):
        np.savez(name, x=drawn(40, 3), low=drawn(40, 3), kind=DRAW.integers(2, size=40))
    np.savez("c.npz", x=drawn(40, 3), kind=DRAW.integers(2, size=40))
    words = ("--data.condition=kind", "--data.pair=low", f"--data.pair-as={how}")
    run("train", "--out=run", "--data.source=a.npz", *words, *SHORT)
    same = ("--condition=kind", "--pair=low", f"--pair-as={how}")
    run("cache", "a.npz", "--out=own", *same)
    run("cache", "b.npz", "--out=kept", "--like=own", *same)
    manifest = described(Path("run"))
    raw, kept = (examples(spec, manifest, ms.load("run").autoencoder, pair="low") for spec in ("b.npz", "kept"))
    assert np.array_equal(raw.conditions["pair"].numpy(), np.load("b.npz")["low"])
    assert all(torch.equal(raw.conditions[name], kept.conditions[name]) for name in ("kind", "pair"))
    found = []
    capsys.readouterr()
    for spec in ("b.npz", "kept"):
        run("evaluate", "run", f"--reference={spec}", "--count=16", "--steps=1", "--metrics=sliced", "--device=cpu", "--json=-")
        printed = capsys.readouterr()
        assert "left out" not in printed.err, "the partners are read"
        found.append(json.loads(printed.out)[0]["values"]["sliced"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    run("evaluate", "run", "--reference=c.npz", "--count=16", "--device=cpu", code=2)
    assert "has no array 'low'" in capsys.readouterr().err


def test_partners_of_another_file_need_a_cache(capsys: pytest.CaptureFixture[str]):
    np.savez("a.npz", x=drawn(40, 3))
    np.save("low.npy", drawn(40, 3))
    run("train", "--out=run", "--data.source=a.npz", "--data.pair=low.npy", *SHORT)
    run("evaluate", "run", "--reference=a.npz", "--count=16", "--device=cpu", code=2)
    assert "the run's rows have partners: make a cache of it with --pair" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("how", ["condition", "source"])
def test_a_row_whose_partner_is_broken_is_left_out_as_if_it_were_broken(how: str):
    x, low = drawn(10, 3), drawn(10, 3)
    low[4, 1] = np.nan
    np.savez("a.npz", x=x, low=low)
    with pytest.raises(
        UserError, match=r"a\.npz, row 4 \(from 0\) is not finite in float32: correct it, or leave it out with --skip-broken"
    ):
        cached("a.npz", pair="low", pair_as=how)
    own = cached("a.npz:x", "own", limit=3, pair="a.npz:x", pair_as=how)
    with pytest.raises(UserError, match=r"a\.npz, row 4 \(from 0\) is not finite"):
        conditioned("a.npz", own.manifest, "train", "low")
    cache, kept = cached("a.npz", pair="low", pair_as=how, skip_broken=True, batch=3), np.delete(np.arange(10), 4)
    assert len(cache) == 9 and cache.manifest.skipped == 1
    np.savez("b.npz", x=x[kept], low=low[kept])
    want = cached("b.npz", "b", pair="low", pair_as=how)
    assert want.manifest.conditions == cache.manifest.conditions and torch.equal(
        want.rows(torch.arange(9))[0], cache.rows(torch.arange(9))[0]
    )
    assert torch.equal(want.conditions["pair"], cache.conditions["pair"])


def test_pictures_whose_partners_are_damaged_are_left_out():
    pictures("high", ["a", "b", "c"], 8)
    pictures("low", ["a", "b", "c"], 4)
    Path("low/b.png").write_bytes(b"none")
    assert len(cached("high", pair="low", skip_broken=True)) == 2
    Image.new("RGB", (4, 4)).save("low/c.jpg")
    with pytest.raises(UserError, match=r"high/c\.png has more than one partner, low/c\.jpg and low/c\.png: keep one of them"):
        cached("high", "twice", pair="low", skip_broken=True)


def test_what_is_no_partner_is_named():
    np.savez("a.npz", x=drawn(10, 3), few=drawn(9, 3), other=drawn(10, 2), shots=np.zeros((10, 8, 8), np.uint8))
    for pair, how, message in (
        ("few", "condition", r"a\.npz, row 9 \(from 0\) has no partner: 10 rows of a\.npz, 9 of a\.npz: give one for each, in one order"),
        ("other", "source", r"a\.npz, row 0 \(from 0\) is 2, its row 3: a flow keeps the shape"),
        ("shots", "condition", r"a\.npz holds rows, a\.npz holds images: partners of pictures are pictures"),
        ("none", "condition", "has no array 'none'"),
        ("none.npy", "condition", "there is no such file"),
    ):
        with pytest.raises(UserError, match=message) as told:
            Opened.of(Request("a.npz", pair=pair, pair_as=how))
        assert "\n" not in str(told.value)
