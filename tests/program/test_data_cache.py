"""Caches of images: the same bytes however they were made, refused when anything does not fit, read in an order of the seed alone."""

import itertools
import json
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from meanstep.cli import main
from meanstep.program.console import UserError
from meanstep.program.data import (
    Cache,
    Loader,
    Manifest,
    Opened,
    Request,
    build,
    check_fits,
    decoded,
    ensure,
    make,
    open_autoencoder,
    open_source,
    order,
)
from meanstep.program.data.tiny import Tiny

N = 23


@pytest.fixture
def images(tmp_path: Path) -> str:
    """23 images of 16 x 16 in three classes, as arrays."""
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (N, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=x, labels=np.arange(N) % 3, classes=["a", "b", "c"])
    return str(tmp_path / "images.npz")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TAESD with random weights."""
    path = tmp_path_factory.mktemp("weights") / "taesd.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(Tiny(4, pooled=False).state_dict(), path)
    return path


def made(request: Request, folder: Path) -> Cache:
    return make(Opened.of(request), folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


# Order -------------------------------------------------------------------------------------------------------------------------------


def test_every_epoch_is_a_permutation_of_its_own():
    epochs = [order.rows(10, 3, 10 * k, 10) for k in range(5)]
    assert all(epoch.sort().values.tolist() == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 5
    assert not torch.equal(order.rows(100, 0, 0, 100), order.rows(100, 1, 0, 100))


@pytest.mark.parametrize("of", [order.rows, order.flips])
def test_the_order_does_not_depend_on_who_asks(of):
    whole = of(7, 0, 0, 50)
    for size in (1, 3, 7, 20):
        assert torch.equal(torch.cat([of(7, 0, start, min(size, 50 - start)) for start in range(0, 50, size)]), whole)
    assert len(of(7, 0, 13, 0)) == 0


@pytest.mark.parametrize("wrong", [(0, 0, 0, 1), (3, 0, -1, 1), (3, 0, 0, -1)])
def test_an_order_of_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match="at least one row"):
        order.rows(*wrong)


# Pictures ----------------------------------------------------------------------------------------------------------------------------


def test_pictures_come_back_exactly(images: str, tmp_path: Path):
    cache = made(Request(images, shard=10, flips=True), tmp_path / "cache")
    source = open_source(images)
    truth = torch.from_numpy(np.stack([np.asarray(source[i][0]) for i in range(N)])).permute(0, 3, 1, 2)
    index = torch.tensor([22, 0, 9, 10, 11, 9])
    x, y = cache.rows(index)
    assert x.dtype == torch.float32 and y.tolist() == [i % 3 for i in index.tolist()]
    assert len(cache) == N and cache.shape == (3, 16, 16) and cache.classes == ("a", "b", "c") and len(cache.manifest.shards) == 3
    assert torch.equal(decoded(x, cache.manifest, open_autoencoder("identity")), truth[index])
    assert torch.equal(cache.stored(index), truth[index])
    assert x.min() >= -1 and x.max() <= 1
    flip = torch.tensor([True, False, True, False, False, False])
    mirrored, _ = cache.rows(index, flip)
    assert torch.equal(mirrored[flip], x[flip].flip(-1)) and torch.equal(mirrored[~flip], x[~flip])
    with pytest.raises(IndexError, match="of a cache of 23"):
        cache.rows(torch.tensor([23]))


def test_digits_stay_grey_and_small(tmp_path: Path):
    pytest.importorskip("sklearn")
    cache = made(Request("digits", limit=50), tmp_path)
    x, y = cache.rows(torch.arange(50))
    assert cache.shape == (1, 8, 8) and len(cache.classes) == 10 and len(y.unique()) > 5 and x.min() == -1 and x.max() == 1


def test_without_mirror_images_none_are_read(images: str, tmp_path: Path):
    cache = made(Request(images), tmp_path / "cache")
    with pytest.raises(UserError, match="made without mirror images: make it with --flips"):
        Loader(cache, 0, flips=True)
    with pytest.raises(UserError, match="--flips"):
        cache.rows(torch.arange(2), torch.tensor([True, False]))


# Latents -----------------------------------------------------------------------------------------------------------------------------


def test_latents_are_normalised_and_their_mirror_images_encoded(images: str, weights: Path, tmp_path: Path):
    request = Request(images, f"taesd:{weights}", shard=9, flips=True, dtype="float32", batch=4)
    cache, ae = made(request, tmp_path / "cache"), open_autoencoder(f"taesd:{weights}")
    assert cache.shape == (4, 2, 2) and cache.manifest.image == (3, 16, 16) and cache.manifest.codec == "latents"
    every = torch.arange(N)
    x, _ = cache.rows(every)
    mirrored, _ = cache.rows(every, torch.ones(N, dtype=torch.bool))
    both = torch.cat([x, mirrored]).double()
    assert both.mean((0, 2, 3)).abs().max() < 1e-5 and (both.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5
    source = open_source(images)
    pixels = torch.from_numpy(np.stack([np.asarray(source[i][0]) for i in range(N)])).permute(0, 3, 1, 2).float() / 127.5 - 1
    torch.testing.assert_close(cache.manifest.unnormalise(mirrored), ae.encode(pixels.flip(-1)), atol=1e-5, rtol=1e-4)
    assert decoded(x, cache.manifest, ae).shape == (N, 3, 16, 16)
    mixed, _ = cache.rows(every, every % 2 == 0)
    assert torch.equal(mixed[::2], mirrored[::2]) and torch.equal(mixed[1::2], x[1::2])


def test_a_test_split_is_normalised_like_its_train_split(images: str, weights: Path, tmp_path: Path):
    train = made(Request(images, f"taesd:{weights}"), tmp_path / "train")
    test = made(Request(images, f"taesd:{weights}", limit=5, like=tmp_path / "train"), tmp_path / "test")
    assert test.manifest.mean == train.manifest.mean and test.manifest.statistics == train.digest
    made(Request(images), tmp_path / "pixels")
    with pytest.raises(UserError, match="is of another autoencoder digest"):
        made(Request(images, f"taesd:{weights}", like=tmp_path / "pixels"), tmp_path / "x")


def test_latents_of_another_autoencoder_are_not_decoded(images: str, weights: Path, tmp_path: Path):
    cache = made(Request(images, f"taesd:{weights}", limit=4), tmp_path / "cache")
    with pytest.raises(UserError, match=r"made by another autoencoder \(taesd, sha256 .*\) than identity"):
        decoded(cache.rows(torch.arange(2))[0], cache.manifest, open_autoencoder("identity"))


def test_grey_images_come_back_grey(weights: Path, tmp_path: Path):
    np.savez(tmp_path / "grey.npz", images=np.random.default_rng(0).integers(0, 256, (6, 16, 16), dtype=np.uint8))
    cache = made(Request(str(tmp_path / "grey.npz"), f"taesd:{weights}", channels=1), tmp_path / "cache")
    assert cache.manifest.image == (1, 16, 16) and cache.shape == (4, 2, 2) and cache.classes == ()
    x, y = cache.rows(torch.arange(6))
    assert decoded(x, cache.manifest, open_autoencoder(f"taesd:{weights}")).shape == (6, 1, 16, 16) and y.tolist() == [-1] * 6


# Making ------------------------------------------------------------------------------------------------------------------------------


def interrupt(plan: Opened, folder: Path, after: int) -> None:
    def told(done: int) -> None:
        if done >= after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(plan, folder, told)


@pytest.mark.parametrize("after", [1, 5, 9, 22])
def test_an_interrupted_cache_goes_on_after_its_last_full_shard(images: str, weights: Path, tmp_path: Path, after: int, monkeypatch):
    request = Request(images, f"taesd:{weights}", shard=5, batch=2, flips=True)
    straight = contents(made(request, tmp_path / "straight").path)
    interrupt(Opened.of(request), tmp_path / "cut", after)
    assert not (tmp_path / "cut" / "manifest.json").exists()
    full = (after - 1) // 5
    assert len(list((tmp_path / "cut").glob("*.safetensors"))) == full
    told: list[int] = []
    make(Opened.of(request), tmp_path / "cut", told.append)
    assert contents(tmp_path / "cut") == straight and told[0] == 5 * full


def test_a_shard_spoilt_before_the_end_is_made_again(images: str, tmp_path: Path):
    request = Request(images, shard=5)
    straight = contents(made(request, tmp_path / "straight").path)
    interrupt(Opened.of(request), tmp_path / "cut", 15)
    (tmp_path / "cut" / "shard-00001.safetensors").write_bytes(b"x")
    assert contents(made(request, tmp_path / "cut").path) == straight


def test_a_finished_cache_is_left_alone_and_another_one_refused(images: str, tmp_path: Path):
    made(Request(images, flips=True), tmp_path / "cache")
    before = contents(tmp_path / "cache")
    made(Request(images, flips=True), tmp_path / "cache")
    with pytest.raises(UserError, match=r"holds another cache .*flips read, now none.*: choose another --out"):
        made(Request(images), tmp_path / "cache")
    assert contents(tmp_path / "cache") == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not empty and holds no cache"):
        made(Request(images), tmp_path / "full")
    assert contents(tmp_path / "full") == {"thesis.tex": b"years of work"}


def test_where_things_lie_does_not_matter(images: str, weights: Path, tmp_path: Path):
    (tmp_path / "far").mkdir()
    moved = shutil.copy(images, tmp_path / "far" / "other.npz"), shutil.copy(weights, tmp_path / "far" / "w.safetensors")
    one = made(Request(images, f"taesd:{weights}"), tmp_path / "one")
    two = made(Request(str(moved[0]), f"taesd:{moved[1]}"), tmp_path / "two")
    assert one.digest == two.digest
    check_fits(one.manifest, two.manifest)


def test_no_space_left_is_one_line_and_leaves_the_full_shards(images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plan = Opened.of(Request(images, shard=5))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
        with pytest.raises(UserError, match=r"no space left: 0.00 GB are needed"):
            make(plan, tmp_path / "cache")
    real = os.fsync

    def fsync(handle: int) -> None:
        if "shard-00002" in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(28, "No space left on device")
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(UserError, match=r"cannot write .*shard-00002.safetensors: No space left on device"):
            make(plan, tmp_path / "cache")
    assert {p.name for p in (tmp_path / "cache").glob("*s*")} == {"shard-00000.safetensors", "shard-00001.safetensors", "unfinished.json"}
    assert len(make(plan, tmp_path / "cache")) == N


def test_wide_rows_go_on_too_and_a_shard_is_noted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What is known of 16 shards of 30,000 columns has more bytes than other files are read of."""
    np.save(tmp_path / "wide.npy", np.random.default_rng(0).normal(size=(18, 30_000)).astype(np.float32))
    plan, encode, sizes = Opened.of(Request(str(tmp_path / "wide.npy"), shard=1)), build._shard, []

    def stopping(opened: Opened, k: int, *given):
        if k == 17:
            raise KeyboardInterrupt
        sizes.append(k)
        return encode(opened, k, *given)

    with monkeypatch.context() as patch:
        patch.setattr(build, "_shard", stopping)
        with pytest.raises(KeyboardInterrupt):
            make(plan, tmp_path / "cache")
    noted = (tmp_path / "cache" / "unfinished.json").read_bytes()
    assert len(noted) > 16 * 2**20 and noted.count(b"\n") == 18
    (tmp_path / "cache" / "unfinished.json").write_bytes(noted[:-100])  # a kill within the last line
    monkeypatch.setattr(build, "_shard", lambda opened, k, *given: sizes.append(k) or encode(opened, k, *given))
    assert len(make(plan, tmp_path / "cache")) == 18 and sizes[17:] == [16, 17]


def test_one_process_at_a_time(images: str, tmp_path: Path):
    plan = Opened.of(Request(images, shard=5))

    def told(done: int) -> None:
        with pytest.raises(UserError, match="another process makes a cache"):
            make(plan, tmp_path / "cache")

    make(plan, tmp_path / "cache", lambda done: told(done) if done == 5 else None)


# Opening -----------------------------------------------------------------------------------------------------------------------------


def spoil(folder: Path, how: str) -> None:
    shard, manifest = folder / "shard-00001.safetensors", folder / "manifest.json"
    held = json.loads(manifest.read_text())
    if how == "missing":
        shard.unlink()
    elif how == "short":
        shard.write_bytes(shard.read_bytes()[:-7])
    elif how == "altered":
        data = bytearray(shard.read_bytes())
        data[-1] ^= 1
        shard.write_bytes(bytes(data))
    elif how == "none":
        manifest.unlink()
    else:
        change = {"version": {"version": 99}, "shape": {"shape": [3, 8, 16]}, "count": {"count": 3}, "odd": {"extra": 1}}
        texts = {"no json": "{", "path": json.dumps(held).replace("shard-00001", "../shard-00001"), "list": "[]"}
        manifest.write_text(texts.get(how) or json.dumps({**held, **change[how]}))


SPOILT = {
    "missing": "shard-00001.safetensors is missing; make the cache again",
    "short": "has [0-9]+ bytes instead of [0-9]+",
    "altered": "is altered: its sha256 is not the manifest's",
    "none": "is no cache: it has no manifest.json; make one with `meanstep cache`",
    "version": "is of version 99, this program reads 1",
    "shape": "has other shapes than the manifest states",
    "count": "its shards do not fit its counts",
    "odd": "unknown field extra",
    "no json": "is damaged",
    "list": "is of version None",
    "path": "its shards do not fit its counts",
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_cache_that_does_not_fit_is_refused_in_one_line(images: str, tmp_path: Path, how: str):
    made(Request(images, shard=10), tmp_path / "cache")
    spoil(tmp_path / "cache", how)
    with pytest.raises(UserError, match=SPOILT[how]) as told:
        Cache.open(tmp_path / "cache")
    assert "\n" not in str(told.value)


def test_a_pickle_named_like_a_shard_is_not_read(images: str, tmp_path: Path):
    cache = made(Request(images, shard=10), tmp_path / "cache")
    shard = tmp_path / "cache" / cache.manifest.shards[0].name
    torch.save({"x": torch.zeros(3)}, shard)
    held = replace(cache.manifest.shards[0], bytes=shard.stat().st_size)
    manifest = replace(cache.manifest, shards=(held, *cache.manifest.shards[1:]))
    (tmp_path / "cache" / "manifest.json").write_text(manifest.text())
    with pytest.raises(UserError, match=r"is a pickle, which can run code when it is read: .*; make the cache again"):
        Cache.open(tmp_path / "cache", verify=False)


def test_a_run_is_told_what_differs(images: str, weights: Path, tmp_path: Path):
    one = made(Request(images, f"taesd:{weights}"), tmp_path / "one").manifest
    (tmp_path / "data.json").write_text(one.text())
    assert Manifest.read(tmp_path / "data.json") == one
    check_fits(one, Manifest.read(tmp_path / "data.json"))
    cases = {
        "autoencoder digest": replace(one, autoencoder_digest="0" * 64),
        "shape is 4x4x4, there it was 4x2x2": replace(one, shape=(4, 4, 4)),
    }
    cases |= {"mean": replace(one, mean=(0.0,) * 4), "split is test, there it was train": replace(one, split="test")}
    for message, other in cases.items():
        with pytest.raises(UserError, match=f"the cache does not fit the run: its {message}") as told:
            check_fits(one, other)
        assert "\n" not in str(told.value) and len(str(told.value)) < 160


# Loader ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flips", [False, True])
def test_ranks_and_resumption_see_one_order(images: str, tmp_path: Path, flips: bool):
    loader = Loader(made(Request(images, shard=10, flips=True), tmp_path / "cache"), 5, flips)
    _, x, y, *_ = loader.chunk(0, 48)
    assert y[:N].sort().values.tolist() == sorted(i % 3 for i in range(N))
    for ranks in (1, 2, 4):
        share = 8 // ranks
        parts = [loader.chunk(step * 8 + rank * share, share) for step in range(6) for rank in range(ranks)]
        assert torch.equal(torch.cat([p.x for p in parts]), x) and torch.equal(torch.cat([p.y for p in parts]), y)
    again = Loader(Cache.open(tmp_path / "cache"), 5, flips)
    assert [start for start, *_ in again.stream(range(24, 48, 8), 8)] == [24, 32, 40]
    assert torch.equal(torch.cat([batch.x for batch in again.stream(range(24, 48, 8), 8)]), x[24:])


def test_the_thread_ends_with_the_stream(images: str, tmp_path: Path):
    loader = Loader(made(Request(images), tmp_path / "cache"), 0)
    stream = loader.stream(itertools.count(0, 4), 4, ahead=2)
    assert next(stream)[0] == 0
    stream.close()
    assert all(thread.name != "meanstep-loader" for thread in threading.enumerate())


def test_an_error_of_the_thread_is_raised_in_its_place(images: str, tmp_path: Path):
    loader, before = Loader(made(Request(images), tmp_path / "cache"), 0), torch.get_rng_state()
    stream = loader.stream([0, 4, -1, 8], 4)
    assert [next(stream)[0], next(stream)[0]] == [0, 4]
    with pytest.raises(ValueError, match="neither number negative"):
        next(stream)
    assert torch.equal(torch.get_rng_state(), before)


# Commands ----------------------------------------------------------------------------------------------------------------------------


def called(*args: str) -> int | str | None:
    with pytest.raises(SystemExit) as done:
        main(["cache", *args])
    return done.value.code


def test_the_command_makes_foresees_and_complains(images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = str(tmp_path / "cache")
    assert called(images, "--out", out, "--dry-run") == 0 and not Path(out).exists()
    assert "nothing was written" in capsys.readouterr().out
    assert called(images, "--out", out, "--flips", "--size", "8") == 0
    assert "23 images of images.npz, 3 classes\n3 x 8 x 8 uint8, mirrored when read, 1 shard," in capsys.readouterr().out
    wrong = [("--size", "32"), ("--autoencoder", "vae"), ("--batch", "0"), ("--size", "7", "--autoencoder", "taesd:no.safetensors")]
    for args in wrong:
        assert called(images, "--out", str(tmp_path / "x"), *args) == 2
        told = capsys.readouterr().err.strip()
        assert told.startswith("meanstep: ") and "\n" not in told
    assert not (tmp_path / "x").exists()


def test_ctrl_c_says_how_to_go_on(images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def pressed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("meanstep.program.data.build._encode", pressed)
        assert called(images, "--out", str(tmp_path / "cache")) == 130
    assert "the same command goes on after them" in capsys.readouterr().err
    assert called(images, "--out", str(tmp_path / "cache")) == 0


def test_a_source_becomes_a_cache_in_the_users_folder_once(images: str, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("MEANSTEP_CACHE", str(tmp_path / "user"))
    one = ensure(images)
    assert f"{images}: read once, into a cache in" in capsys.readouterr().err
    assert ensure(images).path == one.path and ensure(str(one.path)).digest == one.digest
    assert "read once" not in capsys.readouterr().err
    assert ensure(images, Request("", flips=True)).path != one.path


def test_a_run_waits_for_another_that_makes_its_cache(images: str, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("MEANSTEP_CACHE", str(tmp_path / "user"))
    encode, held, go, found = build._encode, threading.Event(), threading.Event(), []

    def slow(*given):
        held.set()
        assert go.wait(30)
        return encode(*given)

    monkeypatch.setattr(build, "_encode", slow)
    first, second = (threading.Thread(target=lambda: found.append(ensure(images))) for _ in range(2))
    first.start()
    assert held.wait(30)
    second.start()
    second.join(0.5)
    assert second.is_alive()
    go.set()
    first.join(30), second.join(30)
    assert len({cache.path for cache in found}) == 1 and len(found) == 2
    assert "another process makes the cache" in capsys.readouterr().err


def test_a_cache_is_not_taken_for_what_it_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Partners, lengths and columns are of the making: asked for later they are refused and not forgotten."""
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    np.savez("a.npz", x=x, low=x)
    np.savetxt("t.csv", x, delimiter=",", header="a,b,c,d", comments="")
    plain, paired = made(Request("a.npz"), Path("plain")), made(Request("a.npz", pair="low"), Path("paired"))
    table, numbers = made(Request("t.csv", table="quantile"), Path("table")), made(Request("t.csv"), Path("numbers"))
    assert ensure("numbers", Request("numbers", table="standard")).digest == numbers.digest, "without words it is the same"
    for asked in (Request("paired", pair="low"), Request("paired"), Request("plain"), Request("table", table="quantile")):
        assert ensure(asked.source, asked).digest == {"plain": plain, "paired": paired, "table": table}[asked.source].digest
    for asked, said in (
        (Request("plain", pair="low"), "was made with the conditions none: make it with --pair low"),
        (Request("plain", ragged="pad"), "was made with --ragged refuse: make it with --ragged pad"),
        (Request("plain", table="quantile"), "is no table, and --table quantile is for one: leave it out"),
        (Request("numbers", table="quantile"), "was made with --table numbers: make it with --table quantile"),
        (Request("table", table="standard"), "was made with --table quantile: make it with --table standard"),
        (Request("paired", pair="low", pair_as="source"), "was made with partners as a condition: make it with --pair-as source"),
        (Request("paired", conditions=("kind",)), "was made with the conditions pair: make it with --condition kind"),
    ):
        with pytest.raises(UserError, match=said):
            ensure(asked.source, asked)


def test_labels_beside_partners_are_nothing_that_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    np.savez("a.npz", x=x, low=x, y=np.arange(6) % 2, label=np.arange(6) % 3)
    cache = made(Request("a.npz", pair="low"), Path("labelled"))
    assert [c.name for c in cache.manifest.conditions] == ["label", "pair"]
    assert ensure("labelled", Request("labelled", pair="low")).digest == cache.digest
    own = made(Request("a.npz", pair="low", conditions=("label",)), Path("own"))
    assert ensure("own", Request("own", pair="low", conditions=("label",))).digest == own.digest
    with pytest.raises(UserError, match="was made with the conditions pair: make it with --condition kind --pair low"):
        ensure("labelled", Request("labelled", pair="low", conditions=("kind",)))


IDLE = [
    ("images.npz", {"label": "kind"}, "--label-column is for data of the hub and .tar files, and images.npz is neither"),
    ("images.npz", {"image": "mask.png"}, "--image-column is for data of the hub and .tar files, and images.npz is neither"),
    ("rows.csv", {"label": "kind"}, "rows.csv is neither: leave it out, or name a --condition"),
    ("images.npz", {"crop": "adm"}, "--crop: without --size pictures stay as they are: give it, or leave --crop out"),
    ("images.npz", {"enlarge": True}, "--enlarge: without --size pictures stay as they are"),
    ("images.npz", {"resample": "box"}, "--resample: without --size pictures stay as they are"),
    ("images.npz", {"resample": "box", "size": 8, "crop": "adm"}, "--resample: --crop adm resizes with bicubic"),
    ("images.npz", {"resample": "box", "size": 16, "crop": "none"}, "--resample: --crop none resizes nothing"),
    ("images.npz", {"enlarge": True, "size": 16, "crop": "none"}, "--enlarge: --crop none resizes nothing"),
    ("images.npz", {"dtype": "float32"}, "--dtype: images.npz holds pictures, which are stored as uint8"),
    ("images.npz", {"pair_as": "source"}, "--pair-as: say which partners, with --pair"),
    ("rows.csv", {"crop": "adm"}, "rows.csv holds rows of numbers, and --crop is for pictures: leave it out"),
    ("rows.csv", {"resample": "box"}, "rows.csv holds rows of numbers, and --resample is for pictures: leave it out"),
]


@pytest.mark.parametrize(("source", "given", "said"), IDLE, ids=lambda part: "-".join(part) if isinstance(part, dict) else None)
def test_an_option_that_could_do_nothing_is_refused(source: str, given: dict, said: str, images: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(Path(images).parent)
    Path("rows.csv").write_text("a,b\n1,2\n3,5\n")
    with pytest.raises(UserError) as told:
        Opened.of(Request(source, **given))
    assert said in str(told.value)


@pytest.mark.parametrize("given", [{"crop": "adm"}, {"resample": "box"}])
def test_partners_are_brought_to_the_size_of_pictures_by_the_options_of_a_size(given: dict, images: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(Path(images).parent)
    with np.load(images) as held:
        n, side = held["images"].shape[:2]
    pair = np.random.default_rng(0).integers(0, 256, (n, 2 * side, 2 * side), np.uint8)
    np.savez("large.npz", images=pair)
    plain, other = (Opened.of(Request("images.npz", pair="large.npz", **more)).source for more in ({}, given))
    assert not np.array_equal(plain.conditions["pair"], other.conditions["pair"])


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"flips": True}, "--data.flips is for pictures"),
        ({}, "drop it, or give meanstep cache --no-normalise"),
        ({"source": "nan.npy"}, "or leave it out with meanstep cache --skip-broken"),
    ],
)
def test_a_run_is_told_of_options_that_there_are(request_: dict, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MEANSTEP_CACHE", str(tmp_path / "user"))
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    x[:, 1] = 1
    np.save("constant.npy", x)
    np.save("nan.npy", np.where(np.arange(6)[:, None] == 4, np.nan, x))
    asked = Request(**{"source": "constant.npy"} | request_)
    with pytest.raises(UserError) as told:
        ensure(asked.source, asked)
    assert said in str(told.value) and str(told.value).count("meanstep cache") <= 1


def test_the_shards_are_plain_safetensors(images: str, tmp_path: Path):
    cache = made(Request(images), tmp_path / "cache")
    held = load_file(cache.path / "shard-00000.safetensors")
    assert set(held) == {"x", "y"} and held["x"].shape == (N, 3, 16, 16) and held["y"].dtype == torch.int64
