"""No number depends on the order of the data, and nothing is compared with itself."""

import json
import tarfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

import meanstep as ms
from meanstep.metrics import Statistics, frechet
from meanstep.program.console import UserError
from meanstep.program.data import Cache, Opened, Request, make, open_autoencoder, open_source, order
from meanstep.program.evaluation import Examples, open_extractor, reference, references
from meanstep.program.evaluation.examples import of_source
from meanstep.program.evaluation.real_data import RunData
from meanstep.program.runs.config import Config, DataConfig, to_yaml


@pytest.fixture(autouse=True)
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEANSTEP_CACHE", str(tmp_path / "user"))


def in_turns(n: int, period: int = 2) -> torch.Tensor:
    """Dark images, every `period`-th a bright one, uint8 `[n, 1, 8, 8]`."""
    x = torch.randint(0, 60, (n, 1, 8, 8), generator=ms.key(0, "images"))
    x[::period] += 190
    return x.to(torch.uint8)


def kept(x: torch.Tensor, name: str) -> Examples:
    return Examples(name, f"digest of {name}", (1, 8, 8), torch.full((len(x),), -1), lambda index: x[index])


# Subsets -----------------------------------------------------------------------------------------------------------------------------


def test_a_subset_is_the_start_of_one_permutation():
    assert order.subset(50).sort().values.tolist() == list(range(50)) and torch.equal(order.subset(50, 7), order.subset(50)[:7])
    assert order.subset(8).tolist() == PINNED


PINNED = [4, 6, 7, 1, 3, 0, 5, 2]
"""The same on every machine."""


def test_the_floor_does_not_depend_on_the_order():
    """Random halves of 600 differ by their noise whatever the order; even and odd images of the first order differ in everything."""
    x = in_turns(600)
    shuffled = x[torch.randperm(600, generator=ms.key(1))]
    found = [
        frechet(*reference(kept(images, name), open_extractor("pixels")).halves) for name, images in (("turns", x), ("mixed", shuffled))
    ]
    even, odd = (Statistics(64).update(part.flatten(1).float() / 127.5 - 1) for part in (x[::2], x[1::2]))
    assert max(found) < 0.03 * frechet(even, odd)


def test_a_part_of_a_reference_is_a_fair_sample():
    x = in_turns(600, period=4)
    for limit in (150, 300):
        part = reference(kept(x, "turns"), open_extractor("pixels"), limit=limit)
        whole = reference(kept(x, "turns"), open_extractor("pixels"))
        bright = (part.features.mean(1) > 0).float().mean()
        assert abs(bright - 0.25) < 0.12 and part.count == limit
        assert (part.statistics.mean - whole.statistics.mean).abs().max() < 0.3


def test_the_features_kept_are_a_fair_sample(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(references, "KEPT", 100)
    found = reference(kept(in_turns(600, period=6), "sixth"), open_extractor("pixels"))
    assert found.features.shape == (100, 64) and 0.05 < (found.features.mean(1) > 0).float().mean() < 0.35


def test_any_first_images_are_a_fair_sample():
    """Sorted by brightness, as a folder of classes is: the first half is not the dark half."""
    x = torch.arange(200)[:, None, None, None].expand(200, 1, 8, 8).to(torch.uint8)
    first = next(kept(x, "sorted").batches(100)).float().mean()
    assert abs(first - 99.5) < 15
    assert torch.equal(next(kept(x, "sorted").batches(30, 50)), next(kept(x, "other").batches(30)))


# Caches of a part --------------------------------------------------------------------------------------------------------------------


def arrays(path: Path, n: int = 40, period: int = 4) -> str:
    x = np.arange(n, dtype=np.uint8)[:, None, None].repeat(8, 1).repeat(8, 2)
    np.savez(path, images=x, labels=np.arange(n) % period)
    return str(path)


def test_a_limited_cache_is_drawn_at_random_and_says_so(tmp_path: Path):
    spec = arrays(tmp_path / "a.npz")
    cache = make(Opened.of(Request(spec, limit=10)), tmp_path / "part")
    rows = cache.stored(torch.arange(10))[:, 0, 0, 0].tolist()
    assert rows == sorted(order.subset(40, 10).tolist()) and len(cache.labels.unique()) > 1
    held = json.loads((tmp_path / "part" / "manifest.json").read_text())
    assert (held["taken"], held["limit"]) == ("permutation", 10)
    for limit in (0, 40, 90):
        whole = make(Opened.of(Request(spec, limit=limit)), tmp_path / f"whole{limit}")
        assert whole.manifest.taken == "all" and len(whole) == 40


def test_older_caches_are_read_and_keep_their_digest(tmp_path: Path):
    spec = arrays(tmp_path / "a.npz")
    new = make(Opened.of(Request(spec)), tmp_path / "cache")
    path = tmp_path / "cache" / "manifest.json"
    old = {name: value for name, value in json.loads(path.read_text()).items() if name not in ("taken", "left_out", "empty")}
    path.write_text(json.dumps(old))
    found = Cache.open(tmp_path / "cache").manifest
    assert found.digest == new.digest and (found.taken, found.left_out, found.empty) == ("all", None, None)
    make(Opened.of(Request(spec)), tmp_path / "cache")  # the same command is content with it
    path.write_text(json.dumps(old | {"limit": 40}))
    part = Cache.open(tmp_path / "cache").manifest
    assert part.taken == "spaced" and part.digest != found.digest and part.shown == (0, 1, 2, 3)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "unfinished.json").write_text(json.dumps({"asked": unfinished(spec), "parts": []}, default=asdict))
    assert make(Opened.of(Request(spec)), tmp_path / "cut").digest == new.digest


def unfinished(spec: str) -> dict:
    plan = Opened.of(Request(spec))
    return {name: value for name, value in {**plan.statement, "rows": plan.rows}.items() if name != "taken"}


# Splits ------------------------------------------------------------------------------------------------------------------------------


def test_a_source_without_splits_refuses_one(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.zeros((8, 8, 8), np.uint8))
    arrays(tmp_path / "a.npz")
    (tmp_path / "x.png").write_bytes(b"")
    with tarfile.open(tmp_path / "a.tar", "w") as held:
        held.add(tmp_path / "x.png", "x.png")
    for name in ("a.npy", "a.npz", "a.tar"):
        with pytest.raises(UserError, match=r"a\.\w+ has no split 'test': it has one, train") as told:
            open_source(str(tmp_path / name), "test")
        assert "\n" not in str(told.value)


def run_of(tmp_path: Path, spec: str) -> tuple[RunData, Examples]:
    cache = make(Opened.of(Request(spec)), tmp_path / "cache")
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(to_yaml(Config(data=DataConfig(source=spec))))
    (run / "data.json").write_text(cache.manifest.text())
    return RunData(run, cache.manifest, open_autoencoder("identity")), of_source(open_source(spec), cache.manifest, "train")


def test_training_images_are_never_held_out(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.arange(40, dtype=np.uint8)[:, None, None].repeat(8, 1).repeat(8, 2))
    data, real = run_of(tmp_path, str(tmp_path / "a.npy"))
    assert data.held_out("", real, 2) is None
    with pytest.raises(UserError, match=r"--held-out .*a\.npy holds the images of the reference"):
        data.held_out(str(tmp_path / "a.npy"), real, 2)
    with pytest.raises(UserError, match="holds the images of the reference"):
        data.held_out(str(tmp_path / "cache"), real, 2)


def test_a_folder_called_test_is_not_held_out_from_itself(tmp_path: Path):
    from PIL import Image

    (tmp_path / "test").mkdir()
    for k in range(8):
        Image.new("L", (8, 8), k).save(tmp_path / "test" / f"{k}.png")
    data, real = run_of(tmp_path, str(tmp_path / "test"))
    assert data.held_out("", real, 2) is None
