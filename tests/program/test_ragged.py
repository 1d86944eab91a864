"""Rows of different lengths: padded under a mask or cut, from files to the loss, to samples of their own lengths."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import wavfile

import meanstep as ms
from meanstep.fields import MLP
from meanstep.program.console import UserError
from meanstep.program.data import Batch, Cache, Loader, Opened, Request, make, open_source
from meanstep.program.data.ragged import filled
from meanstep.program.data.sources import Alike
from meanstep.program.training.coupled import coupled

from .conftest import run

pytestmark = pytest.mark.usefixtures("here")

DRAW = np.random.default_rng(5)
LENGTHS = (5, 3, 7, 4, 6, 7, 2, 5, 3, 6, 4, 7)
SHORT = ("--samples=48", "--batch=16", "--evaluate-count=24", "--device=cpu", "--network.width=16", "--network.depth=1")


def folder(name: str = "f", channels: int = 2, lengths: tuple[int, ...] = LENGTHS) -> list[np.ndarray]:
    Path(name).mkdir()
    rows = [(4 + 2 * DRAW.normal(size=(channels, n))).astype(np.float32) for n in lengths]
    for k, row in enumerate(rows):
        np.save(f"{name}/{k:02d}.npy", row)
    return rows


def cached(spec: str, where: str = "cache", **how) -> Cache:
    return make(Opened.of(Request(spec, **how)), Path(where))


def padded(rows: list[np.ndarray], fill: float = 0.0) -> np.ndarray:
    side = max(row.shape[-1] for row in rows)
    return np.stack([np.pad(row, [(0, 0), (0, side - row.shape[-1])], constant_values=fill) for row in rows])


# In a cache ------------------------------------------------------------------------------------------------------------------------------


def test_rows_are_padded_with_their_lengths_beside_them_and_measured_without_the_padding():
    rows = folder()
    cache = cached("f", ragged="pad", shard=5)
    at = torch.arange(len(rows))
    x, mask = cache.rows(at)[0], cache.mask(at)
    assert cache.shape == (2, 7) and mask is not None and mask.sum((1, 2)).tolist() == [2 * n for n in LENGTHS]
    assert cache.manifest.given == {"length": []} and cache.manifest.length.along == 1
    flat = np.concatenate(rows, 1).astype(np.float64)
    np.testing.assert_allclose(cache.manifest.mean, flat.mean(1), rtol=1e-6)
    np.testing.assert_allclose(cache.manifest.std, flat.std(1), rtol=1e-6)
    back = cache.manifest.unnormalise(x)
    for k, row in enumerate(rows):
        torch.testing.assert_close(back[k][mask[k]].reshape(row.shape), torch.from_numpy(row), rtol=1e-5, atol=1e-5)
    assert torch.allclose(back[~mask], torch.zeros(()), atol=1e-5)


def test_a_file_of_padded_rows_is_what_the_folder_is_whatever_lies_in_its_padding():
    rows = folder()
    mask = np.arange(7) < np.array(LENGTHS)[:, None]
    np.savez("lengths.npz", x=padded(rows, np.nan), lengths=np.array(LENGTHS))
    np.savez("mask.npz", x=padded(rows, 9.0), mask=mask)
    np.savez("first.npz", x=np.moveaxis(padded(rows), 1, 2), lengths=np.array(LENGTHS))
    want, at = cached("f", ragged="pad"), torch.arange(len(rows))
    for name in ("lengths", "mask"):
        found = cached(f"{name}.npz", name, ragged="pad")
        assert torch.equal(found.rows(at)[0], want.rows(at)[0]) and torch.equal(found.mask(at), want.mask(at))
    first = cached("first.npz", "first", ragged="pad")
    assert first.shape == (7, 2) and torch.equal(first.mask(at), want.mask(at).transpose(1, 2))
    assert len(set(first.manifest.mean)) == len(set(first.manifest.std)) == 1  # along its first axis lengths differ: one mean for all
    assert first.manifest.mean[0] == pytest.approx(float(np.concatenate(rows, 1).mean()), rel=1e-6)


@pytest.mark.parametrize("lengths", [(24, 3, 7, 5, 11, 2), (20, 3, 7, 5, 11, 2), (9, 9, 9, 9, 9, 9)])
def test_lengths_are_along_the_axis_of_a_mask_or_of_the_training_data_and_never_of_another(lengths: tuple[int, ...]):
    """Rows of 100 by 24 numbers with lengths of at most 24: both axes could be meant."""
    n, x = np.array(lengths), DRAW.normal(size=(6, 100, 24)).astype(np.float32)
    mask = np.arange(100) < n[:, None]
    np.savez("lengths.npz", x=x, lengths=n)
    np.savez("mask.npz", x=x, lengths=n, mask=mask)
    refused("array lengths: they may be along either of 2 axes of a row of 100 x 24", "lengths.npz", ragged="pad")
    found = open_source("mask.npz", alike=Alike("pad"))
    assert found.along == 0 and found.conditions["length"].tolist() == n.tolist() and not found.left_out
    assert not found.read(0)[n[0] :].any() and np.array_equal(found.read(0)[: n[0]], x[0, : n[0]])
    for other in (DRAW.random((6, 100)) < 0.5, mask.astype(np.float32)):  # of what was observed, or weights: no mask of lengths
        np.savez("other.npz", x=x[:, :, :8], lengths=n + 8, mask=other)
        held = open_source("other.npz", alike=Alike("pad"))
        assert held.along == 0 and held.conditions["length"].tolist() == (n + 8).tolist() and held.left_out == {"mask": 6}
    own = cached("mask.npz", "own", ragged="pad")
    again = open_source("lengths.npz", alike=Alike.to(own.manifest))
    assert again.along == 0 and np.array_equal(again.read(1), found.read(1))
    Path("same").mkdir()
    for k in range(2):
        np.save(f"same/{k}.npy", x[k, :50])
    alike = open_source("same", alike=Alike.to(own.manifest))
    assert alike.along == 0 and alike.conditions["length"].tolist() == [50, 50] and alike.read(0).shape == (100, 24)


def test_cropped_rows_have_the_shortest_length_and_no_mask():
    rows = folder()
    cache = cached("f", ragged="crop", normalise=False)
    assert cache.shape == (2, 2) and cache.mask(torch.arange(3)) is None and not cache.manifest.beside
    assert np.array_equal(cache.rows(torch.arange(12))[0].numpy(), np.stack([row[:, :2] for row in rows]))


def test_sub_folders_stay_labels_beside_lengths_and_a_test_split_is_padded_like_the_train_split():
    for k, n in enumerate(LENGTHS):
        Path("s", "train", "ab"[k % 2]).mkdir(parents=True, exist_ok=True)
        wavfile.write(f"s/train/{'ab'[k % 2]}/{k}.wav", 8000, DRAW.normal(size=n).astype(np.float32))
    for part in ("test", "long"):
        Path("s" if part == "test" else "l", "test", "b").mkdir(parents=True)
        wavfile.write(
            f"{'s' if part == 'test' else 'l'}/test/b/0.wav", 8000, DRAW.normal(size=4 if part == "test" else 9).astype(np.float32)
        )
    cache = cached("s", "train", ragged="pad")
    assert cache.manifest.given == {"label": 2, "length": []} and cache.classes == ()
    other = cached("s", "test", split="test", like=Path("train"))
    assert other.shape == (1, 7) and other.manifest.ragged == "pad"
    y = other.condition(torch.arange(1))
    assert y["label"].tolist() == [1] and cache.manifest.length.back(y["length"]).round().tolist() == [4]
    with pytest.raises(UserError, match=r"0\.wav has length 9, and rows have 7 here: cut it"):
        cached("l", "too-long", split="test", like=Path("train"))


# In the loss -----------------------------------------------------------------------------------------------------------------------------


def test_the_loss_of_ragged_rows_is_the_mean_of_each_alone_and_padding_has_no_gradient():
    """A network that is pointwise along the ragged axis knows nothing of padding, so that each row can be put to it alone."""
    lengths = torch.tensor([3, 7, 1, 5])
    mask, x, e = filled(lengths, (2, 7), 1), torch.randn(4, 2, 7, generator=ms.key(1)), torch.randn(4, 2, 7, generator=ms.key(2))
    inner = MLP(1, 16, 1, generator=ms.key(3))

    def net(z, r, t, y=None):
        flat = z.reshape(-1, 1)
        shown = [p.reshape(-1, *[1] * (z.ndim - 1)).expand(z.shape).reshape(-1) for p in (r, t)]
        return inner(flat, *shown).reshape(z.shape)

    loss = ms.Loss(ms.recipes.flow_matching())

    def measured(rows: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        found = loss(net, rows, noise=noise, mask=mask, generator=ms.key(4)).loss
        return found.detach(), list(torch.autograd.grad(found, list(inner.parameters())))

    want, slopes = measured(x, e)
    garbage = torch.where(mask, 0.0, 1e3 * torch.randn(4, 2, 7, generator=ms.key(5)))
    found, others = measured(x + garbage, e - garbage)
    assert torch.equal(want, found) and all(torch.equal(a, b) for a, b in zip(slopes, others, strict=True))
    ((_, bridge),) = loss.draw(x, noise=e, mask=mask, generator=ms.key(4))
    alone = []
    for k, n in enumerate(lengths.tolist()):
        row = slice(k, k + 1)
        z = (1 - bridge.t[row, None, None]) * x[row, :, :n] + bridge.t[row, None, None] * e[row, :, :n]
        alone.append((net(z, bridge.t[row], bridge.t[row]) - (e - x)[row, :, :n]).square().mean())
    torch.testing.assert_close(want, torch.stack(alone).mean().detach())


def test_a_batch_has_its_mask_and_the_network_sees_zeros_in_padding():
    folder()
    cache = cached("f", ragged="pad")
    batch = Loader(cache, 0).chunk(3, 6)
    given, g = coupled("independent", 7, len(cache), cache.shape, False, False)(batch)
    fresh = torch.randn(batch.x.shape, generator=ms.key(7, "train", 3))
    assert torch.equal(given.noise, fresh)  # the numbers that the loss would draw
    for _, b in ms.Loss(ms.recipes.meanflow()).draw(given.x, given.y, noise=given.noise, mask=given.mask, generator=g):
        assert (b.z[~b.mask] == 0).all() and (b.z[b.mask] != 0).all()
    plain, _ = coupled("independent", 7, 9, (2, 7), False, False)(Batch(3, batch.x))
    assert plain.noise is None


# From files to samples -------------------------------------------------------------------------------------------------------------------


def test_a_run_on_ragged_rows_samples_rows_of_lengths_of_the_data_which_are_data_again():
    folder()
    run("train", "--out=run", "--data.source=f", "--data.ragged=pad", *SHORT)
    run("sample", "run", "--seeds=0:20", "--steps=2", "--out=made.npz", "--device=cpu")
    model = ms.load("run")
    with np.load("made.npz") as held:
        x, lengths, seeds = held["x"], held["lengths"], held["seeds"]
    assert x.shape == (20, 2, 7) and set(lengths.tolist()) <= set(LENGTHS) and len(set(lengths.tolist())) > 2 and len(seeds) == 20
    y = {"length": torch.from_numpy(lengths).float()}
    assert np.array_equal(x, np.where(model.mask(y).numpy(), model.sample(20, 2, y).numpy(), 0)) and (x[~model.mask(y).numpy()] == 0).all()
    assert (x[model.mask(y).numpy()] != 0).all()
    again = open_source("made.npz", alike=Alike("pad"))
    assert again.conditions["length"].tolist() == lengths.tolist()
    run("sample", "run", "--seeds=0:3", "--condition", "length=4", "--out=four.npz", "--device=cpu")
    with np.load("four.npz") as held:
        assert held["lengths"].tolist() == [4, 4, 4] and np.array_equal(held["mask"], np.tile(np.arange(7) < 4, (3, 1)))
    assert open_source("four.npz", alike=Alike("pad")).conditions["length"].tolist() == [4, 4, 4]
    assert open_source("four.npz", alike=Alike.to(model.manifest)).read(0).shape == (2, 7)
    run("evaluate", "run", "--count=16", "--metrics", "frechet", "--device=cpu")
    run("evaluate", "run", "--count=16", "--metrics", "frechet", "--device=cpu", "--reference=f")


def test_a_network_without_conditions_still_makes_rows_of_lengths_of_the_data(capsys: pytest.CaptureFixture[str]):
    Path("f").mkdir()
    folder("f/a")
    folder("f/b")
    run("train", "--out=run", "--data.source=f", "--data.ragged=pad", "--data.no-conditional", *SHORT)
    model = ms.load("run")
    assert model.given == {} and sorted({int(m.sum()) // 2 for m in model.mask(model.labels(range(60)))}) == sorted(set(LENGTHS))
    run("sample", "run", "--seeds=0:8", "--out=made.npz", "--device=cpu")
    assert set(np.load("made.npz")["lengths"].tolist()) <= set(LENGTHS)
    capsys.readouterr()
    run("sample", "run", "--seeds=0:8", "--condition", "label=a", "--out=other.npz", "--device=cpu", code=2)
    assert capsys.readouterr().err == "meanstep: --condition: NAME=VALUE with a name among length, got 'label=a'\n"


# What is refused -------------------------------------------------------------------------------------------------------------------------


def refused(message: str, spec: str, **how) -> None:
    with pytest.raises(UserError, match=message) as told:
        make(Opened.of(Request(spec, **how)), Path("none"))
    assert "\n" not in str(told.value)


def test_what_is_no_row_of_a_length_is_named(capsys: pytest.CaptureFixture[str]):
    folder(lengths=(5, 5, 6))
    refused(r"f/02\.npy is 2 x 6, 00\.npy 2 x 5: cut or pad them to one shape, or give --data\.ragged pad or crop", "f")
    np.save("f/03.npy", np.ones((3, 6), np.float32))
    refused(r"f/03\.npy is 3 x 6, f/00\.npy 2 x 5: rows may differ along one axis", "f", ragged="pad")
    x = DRAW.normal(size=(4, 2, 7)).astype(np.float32)
    files = {
        "none": ({}, "has no array lengths or mask: save one beside its rows"),
        "few": ({"lengths": np.array([3, 4])}, r"array lengths: int64 \(2,\) for 4 rows"),
        "long": (
            {"lengths": np.array([3, 4, 5, 8])},
            "the longest is 8, and no axis of a row of 2 x 7 can be: pad the rows to the longest",
        ),
        "either": ({"lengths": np.array([1, 1, 2, 2])}, r"they may be along either of 2 axes of a row of 2 x 7: save a mask \[N, T\]"),
        "masked": ({"mask": np.ones((4, 6), bool)}, "it is 6 long, and no axis of a row of 2 x 7 can be"),
        "odds": (
            {"mask": np.arange(7) < np.array([[3], [4], [5], [7]]), "lengths": np.array([3, 4, 6, 7])},
            r"row 2 \(from 0\): mask and lengths say different lengths: keep one of them",
        ),
        "zero": ({"lengths": np.array([3, 0, 5, 7])}, r"array lengths, row 1 \(from 0\): a length of 0"),
        "hole": (
            {"mask": np.array([[1] * 7, [1, 0, 1, 1, 1, 1, 1], [1] * 7, [1] * 7], bool)},
            r"array mask, row 1 \(from 0\): the mask has a hole",
        ),
    }
    for name, (parts, message) in files.items():
        np.savez(f"{name}.npz", x=x, **parts)
        refused(message, f"{name}.npz", ragged="pad")
    Path("t.csv").write_text("a,b\n1,2\n3,4\n")
    refused("holds a table, and --data.ragged .* is for arrays", "t.csv", ragged="pad")
    np.savez("own.npz", x=x, lengths=np.array([3, 4, 5, 7]), length=np.ones(4, np.float32))
    refused("the condition length is that of the rows' own lengths", "own.npz", ragged="pad", conditions=("length",))
    np.savez("good.npz", x=x, lengths=np.array([3, 4, 5, 7]))
    for words, message in {
        ("--method.coupling=optimal-transport", "--data.no-conditional"): "takes rows of one length",
        ("--method.recipe=posterior_meanflow", "--data.no-conditional"): "compares whole rows",
    }.items():
        run("train", "--out=run", "--data.source=good.npz", "--data.ragged=pad", "--network.width=8", *words, "--device=cpu", code=2)
        assert message in " ".join(capsys.readouterr().err.split())
