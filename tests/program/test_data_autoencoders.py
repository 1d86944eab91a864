"""Autoencoders: the same numbers as diffusers', measured reconstructions, and never a pickle."""

import hashlib
import json
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from meanstep.program.console import UserError
from meanstep.program.data import open_autoencoder, open_source
from meanstep.program.data.pictures import Preparation
from meanstep.program.data.tiny import Tiny


def saved(path: Path, pooled: bool = False, channels: int = 4) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        save_file(Tiny(channels, pooled).state_dict(), path)
    return path


def pictures(n: int, side: int = 16) -> Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_identity_keeps_pictures():
    ae, x = open_autoencoder("identity"), pictures(2)
    assert ae.factor == 1 and ae.shape((1, 8, 8)) == (1, 8, 8) and torch.equal(ae.decode(ae.encode(x)), x)


@pytest.mark.parametrize(("kind", "pooled", "channels"), [("taesd", False, 4), ("taef2", True, 32)])
def test_a_tiny_autoencoder_from_its_file(tmp_path: Path, kind: str, pooled: bool, channels: int):
    path = saved(tmp_path / "w.safetensors", pooled, channels)
    ae = open_autoencoder(f"{kind}:{path}")
    assert (ae.factor, ae.channels, ae.digest) == (8, channels, hashlib.sha256(path.read_bytes()).hexdigest())
    x = pictures(3)
    z = ae.encode(x)
    assert z.shape == (3, *ae.shape((3, 16, 16))) and not z.requires_grad and ae.decode(z).shape == x.shape
    torch.testing.assert_close(ae.encode(x[:1]), z[:1], atol=1e-5, rtol=1e-5)
    grey = x[:, :1]
    assert torch.equal(ae.encode(grey), ae.encode(grey.repeat(1, 3, 1, 1)))
    with pytest.raises(UserError, match=r"pictures of 20 x 16 do not fit .*: both sides must be multiples of 8"):
        ae.shape((3, 20, 16))
    other = "taesd" if pooled else "taef2"
    with pytest.raises(UserError, match=f"is no {other} but a {kind}"):
        open_autoencoder(f"{other}:{path}")


class Bomb:
    def __reduce__(self):
        return os.abort, ()


def test_what_is_no_autoencoder(tmp_path: Path):
    torch.save({"x": torch.zeros(2)}, tmp_path / "w.pt")
    (tmp_path / "p.safetensors").write_bytes(pickle.dumps(Bomb()))
    whole = saved(tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "short.safetensors").write_bytes(whole[: len(whole) // 2])
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "config.json").write_text("{}")
    (tmp_path / "bin" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    (tmp_path / "void").mkdir()
    cases = {
        "vae": "unknown autoencoder 'vae'; give identity, taesd:FILE",
        "taesd:": "unknown autoencoder",
        f"taesd:{tmp_path}/w.pt": "w.pt is a pickle, which can run code when it is read",
        f"taesd:{tmp_path}/p.safetensors": "p.safetensors is a pickle",
        f"taesd:{tmp_path}/short.safetensors": "cut short or no safetensors file",
        f"taesd:{tmp_path}/other.safetensors": "holds no taesd autoencoder",
        f"taesd:{tmp_path}/no.safetensors": "there is no such file",
        f"taesd:{tmp_path}": "it is a folder",
        f"kl:{tmp_path}/bin": "weights in a pickle are not read",
        f"kl:{tmp_path}/void": "it has no config.json",
        "kl:./nowhere": "there is no such folder",
    }
    for spec, message in cases.items():
        with pytest.raises(UserError, match=message) as told:
            open_autoencoder(spec)
        assert "\n" not in str(told.value)


def test_diffusers_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match=r"pip install 'meanstep\[latents\]'"):
        open_autoencoder("kl:owner/name")


# Diffusers ---------------------------------------------------------------------------------------------------------------------------

SMALL = {"block_out_channels": (8, 8), "norm_num_groups": 4, "layers_per_block": 1}
KL = {
    **SMALL,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "latent_channels": 3,
    "scaling_factor": 0.5,
    "shift_factor": 0.25,
}
DC = {
    "latent_channels": 4,
    "encoder_block_out_channels": (8, 8),
    "decoder_block_out_channels": (8, 8),
    "encoder_layers_per_block": (1, 1),
    "decoder_layers_per_block": (1, 1),
    "encoder_block_types": "ResBlock",
    "decoder_block_types": "ResBlock",
    "encoder_qkv_multiscales": ((), ()),
    "decoder_qkv_multiscales": ((), ()),
    "scaling_factor": 2.0,
}


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """TAESD's names as diffusers has them: its decoder begins with a clamp that has no layer there."""
    found = {}
    for name, tensor in state.items():
        side, number, rest = name.split(".", 2)
        found[f"{side}.layers.{int(number) - (side == 'decoder')}.{rest}"] = tensor
    return found


def test_taesd_is_diffusers_autoencoder_tiny(tmp_path: Path):
    diffusers = pytest.importorskip("diffusers")
    ae = open_autoencoder(f"taesd:{saved(tmp_path / 'w.safetensors')}")
    net = diffusers.AutoencoderTiny()
    net.load_state_dict(renamed(Tiny.of(_tensors(tmp_path / "w.safetensors")).state_dict()))
    net.save_pretrained(tmp_path / "folder")
    theirs, x = open_autoencoder(f"tiny:{tmp_path / 'folder'}"), pictures(2)
    assert (theirs.factor, theirs.channels) == (ae.factor, ae.channels)
    torch.testing.assert_close(ae.encode(x), theirs.encode(x), atol=1e-6, rtol=1e-5)
    z = theirs.encode(x)
    torch.testing.assert_close(ae.decode(z), theirs.decode(z), atol=1e-6, rtol=1e-5)


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


@pytest.mark.parametrize(("kind", "name", "config"), [("kl", "AutoencoderKL", KL), ("dc", "AutoencoderDC", DC)])
def test_autoencoders_of_diffusers(tmp_path: Path, kind: str, name: str, config: dict, monkeypatch: pytest.MonkeyPatch):
    diffusers = pytest.importorskip("diffusers")
    net = getattr(diffusers, name)(**config).eval()
    net.save_pretrained(tmp_path / "a")
    net.save_pretrained(tmp_path / "b")
    ae, x = open_autoencoder(f"{kind}:{tmp_path / 'a'}"), pictures(2)
    assert (ae.factor, ae.channels, ae.scaling) == (2, config["latent_channels"], config["scaling_factor"])
    assert ae.digest == open_autoencoder(f"{kind}:{tmp_path / 'b'}").digest
    with torch.no_grad():
        raw = net.encode(x).latent_dist.mean if kind == "kl" else net.encode(x).latent
        decoded = net.decode(raw).sample
    torch.testing.assert_close(ae.encode(x), (raw - ae.shift) * ae.scaling)
    torch.testing.assert_close(ae.decode(ae.encode(x)), decoded, atol=1e-5, rtol=1e-5)
    held = json.loads((tmp_path / "b" / "config.json").read_text())
    assert ae.shift == (held.get("shift_factor") or 0)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_autoencoder(f"{kind}:~/a").spec == ae.spec == f"{kind}:{tmp_path / 'a'}", "as who reads it again takes it"


# Real weights ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "digest", "least"), [("taesd", "5da634e56ce5", 23.0), ("taef2", "01d59e82d571", 27.5)])
def test_real_weights_reconstruct_photographs(kind: str, digest: str, least: float):
    data = os.environ.get("MEANSTEP_DATA")
    if not data:
        pytest.skip("MEANSTEP_DATA names no folder with clothing256_webp.npz and the autoencoders' weights")
    ae, source = open_autoencoder(f"{kind}:{data}/{kind}.safetensors"), open_source(f"{data}/clothing256_webp.npz")
    prepare = Preparation(3, 128)
    x = torch.from_numpy(np.stack([prepare(source[i * 400][0], "") for i in range(8)])).float()
    y = ((ae.decode(ae.encode(x / 127.5 - 1)) + 1) * 127.5).clamp(0, 255)
    psnr = 10 * torch.log10(255**2 / (y - x).square().mean((1, 2, 3)))
    assert ae.digest.startswith(digest) and psnr.mean() > least
