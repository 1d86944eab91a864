"""A cache of an autoencoder's posterior: what is stored, what training draws from it, what it is normalised by, what cannot be."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from meanstep.cli import main
from meanstep.keys import key
from meanstep.program.console import UserError
from meanstep.program.data import Cache, order
from meanstep.program.data.loader import Loader
from meanstep.program.reading.tensors import File

KL = {
    "in_channels": 3, "out_channels": 3, "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (8, 8), "layers_per_block": 1, "latent_channels": 2, "norm_num_groups": 4, "scaling_factor": 0.4,
}  # fmt: skip
ROWS = 24


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, an autoencoder of wide posteriors, and caches of both kinds."""
    diffusers = pytest.importorskip("diffusers")
    folder = tmp_path_factory.mktemp("posterior")
    torch.manual_seed(0)
    net = diffusers.AutoencoderKL(**KL).eval()
    net.save_pretrained(folder / "kl")
    x = np.random.default_rng(0).integers(0, 256, (ROWS, 8, 8, 3), dtype=np.uint8)
    np.savez(folder / "images.npz", images=x, labels=np.arange(ROWS) % 3)
    made(folder, "drawn", "--posterior")
    made(folder, "mean")
    return folder


def made(folder: Path, out: str, *more: str) -> int:
    words = ["cache", str(folder / "images.npz"), "--out", str(folder / out), "--autoencoder", f"kl:{folder / 'kl'}", "--device", "cpu"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--flips", "--dtype", "float32", *more])
    return int(ended.value.code or 0)


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return File.open(folder / "shard-00000.safetensors").tensors()


def test_mean_and_deviation_are_the_posteriors(place: Path):
    import diffusers

    net = diffusers.AutoencoderKL.from_pretrained(place / "kl").eval()
    pictures = torch.from_numpy(np.load(place / "images.npz")["images"]).movedim(-1, 1).float() / 127.5 - 1
    found = stored(place / "drawn")
    for tail, seen in (("", pictures), ("_flip", pictures.flip(-1))):
        with torch.no_grad():
            law = net.encode(seen).latent_dist
        torch.testing.assert_close(found[f"x{tail}"], 0.4 * law.mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[f"deviation{tail}"], 0.4 * law.std, rtol=1e-4, atol=1e-5)
    assert torch.equal(found["x"], stored(place / "mean")["x"])


def test_moments_are_those_of_what_is_drawn(place: Path):
    """Mean of the means; the variance has the deviations' squares. Drawn rows have mean 0 and deviation 1."""
    cache, found = Cache.open(place / "drawn"), stored(place / "drawn")
    means = torch.cat([found["x"], found["x_flip"]]).double()
    spread = torch.cat([found["deviation"], found["deviation_flip"]]).double()
    variance = means.square().mean((0, 2, 3)) + spread.square().mean((0, 2, 3)) - means.mean((0, 2, 3)) ** 2
    torch.testing.assert_close(torch.tensor(cache.manifest.std).double(), variance.sqrt())
    index = torch.arange(ROWS).repeat(400)
    flip = torch.arange(len(index)) % 800 >= 400
    drawn = cache.rows(index, flip, key(0))[0].double()
    assert drawn.mean((0, 2, 3)).abs().max() < 0.02 and (drawn.std((0, 2, 3)) - 1).abs().max() < 0.02


def test_each_position_draws_anew_and_always_the_same(place: Path):
    cache = Cache.open(place / "drawn")
    loader = Loader(cache, seed=3)
    first, again, other = loader.chunk(0, ROWS), Loader(cache, seed=3).chunk(0, ROWS), loader.chunk(ROWS, ROWS)
    assert torch.equal(first.x, again.x)
    rows = [batch.x[batch.y.argsort(stable=True)].flatten(1).sort(0).values for batch in (first, other)]
    assert not torch.allclose(*rows, atol=1e-3)  # the same pictures, other draws
    assert not torch.equal(Loader(cache, seed=4).chunk(0, ROWS).x, first.x)


def test_every_step_has_noise_of_its_own(place: Path):
    """What is drawn, less the mean and over the deviation, is another standard normal at every start: a frozen draw repeats it by place."""
    cache, found = Cache.open(place / "drawn"), stored(place / "drawn")
    loader, scale = Loader(cache, seed=3), torch.tensor(cache.manifest.std)[:, None, None]
    means = cache.rows(torch.arange(ROWS))[0]
    noise = []
    for start in range(0, 40 * ROWS, ROWS):
        index = order.rows(ROWS, 3, start, ROWS)
        noise.append((loader.chunk(start, ROWS).x - means[index]) * scale / found["deviation"][index])
    z = torch.stack(noise).flatten(1).double()
    others = (z @ z.T / z.shape[1])[~torch.eye(len(z), dtype=torch.bool)]
    assert abs(z.var() - 1) < 0.05 and others.abs().max() < 6 / z.shape[1] ** 0.5


def test_without_a_generator_rows_are_means(place: Path):
    cache, plain = Cache.open(place / "drawn"), Cache.open(place / "mean")
    index = torch.arange(ROWS)
    ours, theirs = (c.manifest.unnormalise(c.rows(index)[0]) for c in (cache, plain))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert cache.digest != plain.digest and torch.equal(plain.rows(index, None, key(0))[0], plain.rows(index)[0])


def test_a_network_trains_on_draws(place: Path, tmp_path: Path):
    words = ["train", "--out", str(tmp_path / "run"), "--data.source", str(place / "drawn"), "--data.flips", "--device", "cpu"]
    words += ["--network.options", "{patch: 2, width: 16, depth: 1, heads: 2}", "--samples", "32", "--batch", "16"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--evaluate-every", "0", "--sample-every", "0", "--save-every", "32"])
    assert not ended.value.code


def test_what_has_no_posterior(place: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["cache", str(place / "images.npz"), "--out", str(place / "none"), "--posterior"])
    assert ended.value.code == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and "--posterior: only a kl autoencoder has a posterior to draw from" in told[0]
    rows: Any = np.random.default_rng(0).normal(size=(8, 2, 4, 4)).astype(np.float32)
    np.savez(place / "latents.npz", x=rows)
    with pytest.raises(SystemExit) as ended:
        main(["cache", str(place / "latents.npz"), "--out", str(place / "none"), "--posterior", "--autoencoder", f"kl:{place / 'kl'}"])
    assert ended.value.code == 2 and "these are of rows of numbers" in capsys.readouterr().err


def test_a_manifest_of_a_posterior_of_pictures_is_refused(place: Path, tmp_path: Path):
    text = (place / "drawn" / "manifest.json").read_text(encoding="utf-8")
    (tmp_path / "manifest.json").write_text(text.replace('"codec": "latents"', '"codec": "plain"'), encoding="utf-8")
    with pytest.raises(UserError, match="there is no posterior of plain"):
        Cache.open(tmp_path)
