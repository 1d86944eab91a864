"""Extractors: what they make of images, and what is said of a spec, a file or an image that does not do."""

import hashlib
import io
import os
import pickle
import random as python_random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

import meanstep as ms
from meanstep.program.console import UserError
from meanstep.program.evaluation import extractors, open_extractor
from meanstep.program.evaluation.efficientnet import Lite0, lite0
from meanstep.program.evaluation.inputs import Input
from meanstep.program.runs.public_weights import read

DATA = os.environ.get("MEANSTEP_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="set MEANSTEP_DATA to the folder of test data and pretrained weights")


def images(n: int, side: int = 16, channels: int = 3, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (n, channels, side, side), generator=ms.key(seed, "images"), dtype=torch.uint8)


def lite0_weights() -> dict[str, Tensor]:
    """A whole EfficientNet-Lite0 with small random weights."""
    with torch.device("meta"):
        shapes = {name: (value.shape, value.dtype) for name, value in Lite0().state_dict().items()}
    g = ms.key(0, "lite0")
    made = {}
    for name, (shape, dtype) in shapes.items():
        value = torch.randn(shape, generator=g) * 0.1
        made[name] = value.abs() + 0.5 if name.endswith(("running_var", "bn1.weight")) else value.to(dtype)
    return made


# What they make ----------------------------------------------------------------------------------------------------------------------


def test_random_features_are_these_on_every_machine():
    x = (torch.arange(2 * 3 * 8 * 8) % 251).to(torch.uint8).view(2, 3, 8, 8)
    before = torch.get_rng_state()
    extractor = open_extractor("random")
    found = extractor(x)
    assert torch.equal(before, torch.get_rng_state())
    assert found.shape == (2, 160) and found.dtype == torch.float32 and extractor.dim == 160 and extractor.distance == "FD-random"
    signs = torch.cat([w.flatten() for w in extractor._features.weights]) > 0
    assert hashlib.sha256(signs.numpy().tobytes()).hexdigest()[:16] == SIGNS
    means = torch.stack([part.mean() for part in found[0].split([32, 64, 64])])
    torch.testing.assert_close(means, torch.tensor(MEANS), rtol=1e-4, atol=1e-5)


SIGNS, MEANS = "6c62605eb769cd0f", [0.35496, 0.39450, 0.48648]


def test_a_batch_changes_nothing():
    x = images(7)
    extractor = open_extractor("random")
    torch.testing.assert_close(extractor(x), torch.cat([extractor(part) for part in x.split(3)]), rtol=1e-5, atol=1e-6)


def test_one_channel_is_repeated_for_a_network_and_not_for_pixels():
    grey = images(4, channels=1)
    extractor = open_extractor("random")
    assert torch.equal(extractor(grey), extractor(grey.expand(-1, 3, -1, -1)))
    assert extractor.input.repeats(1) and not extractor.input.repeats(3) and not open_extractor("pixels").input.repeats(1)


def test_few_pixels_are_taken_as_they_are():
    grey = images(20, side=8, channels=1)
    extractor = open_extractor("pixels").fit([grey[:11], grey[11:]])
    assert extractor.dim == 64
    torch.testing.assert_close(extractor(grey), grey.flatten(1) / 127.5 - 1, rtol=1e-6, atol=1e-6)


def test_many_pixels_become_the_principal_components_of_the_reference():
    x = images(200, side=32)
    plain = open_extractor("pixels")
    fitted = plain.fit(x.split(64))
    found = fitted(x)
    assert found.shape == (200, 32) and fitted.dim == 32
    pooled = F.avg_pool2d(x.float() / 127.5 - 1, 2).flatten(1).double()
    variances = torch.linalg.svdvals(pooled - pooled.mean(0))[:32].square()
    torch.testing.assert_close(found.double().square().sum(0), variances, rtol=1e-4, atol=0)
    again = plain.restored(fitted.state)
    assert torch.equal(again(x), found) and again.dim == 32
    with pytest.raises(UserError, match=r"256 means of pixels, those of the reference 768"):
        fitted(images(2, side=32, channels=1))


@pytest.mark.parametrize("size", [224, 40])
def test_the_whole_image_is_resized_with_antialiasing_as_by_pillow(size: int):
    """To within Pillow's own rounding: it works in 8 bits."""
    x = images(1, side=96)
    smooth = F.interpolate(x.float(), (12, 12), mode="area")
    x = F.interpolate(smooth, (96, 96), mode="bicubic").clamp(0, 255).round().to(torch.uint8)
    theirs = Image.fromarray(x[0].permute(1, 2, 0).numpy()).resize((size, size), Image.Resampling.BICUBIC)
    ours = Input(size, "bicubic", (127.0,), (128.0,))(x)[0] * 128 + 127
    difference = (ours.permute(1, 2, 0).numpy() - np.asarray(theirs, dtype=np.float32)).__abs__()
    assert difference.max() < 1.6 and difference.mean() < 0.5


def test_the_digest_holds_weights_and_preprocessing(tmp_path: Path):
    tensors = lite0_weights()
    save_file(tensors, tmp_path / "a.safetensors")
    torch.save(tensors, tmp_path / "a.pth")
    tensors["_fc.bias"] = tensors["_fc.bias"] + 1
    save_file(tensors, tmp_path / "b.safetensors")
    a, same, b = (open_extractor(f"efficientnet-lite0:{tmp_path / name}") for name in ("a.safetensors", "a.pth", "b.safetensors"))
    assert a.digest == same.digest != b.digest
    narrow, wide = (extractors.digest("x", Input(size, "bicubic", (0.0,), (1.0,)), {}) for size in (224, 256))
    assert narrow != wide
    assert len({a.digest, open_extractor("random").digest, open_extractor("pixels").digest}) == 3


def test_logits_are_the_last_layer_of_features(tmp_path: Path):
    save_file(lite0_weights(), tmp_path / "w.safetensors")
    extractor = open_extractor(f"efficientnet-lite0:{tmp_path / 'w.safetensors'}")
    features = extractor(images(2))
    assert features.shape == (2, 1280) and extractor.logits is not None and extractor.logits(features).shape == (2, 1000)
    assert extractor.distance == "FD-efficientnet-lite0"


# EfficientNet-Lite0's own weights ----------------------------------------------------------------------------------------------------


@needs_data
def test_features_of_photographs_tell_clothes_apart():
    """Five nearest neighbours name 20 kinds of clothes for about two of three photographs; the most frequent kind is one of five."""
    held = np.load(Path(DATA) / "clothing256_webp.npz")
    known = np.flatnonzero(held["classes"][held["labels"]] != "Not sure")[::90]

    def picture(i: int) -> Tensor:
        data = held["data"][held["offsets"][i] : held["offsets"][i + 1]].tobytes()
        return torch.from_numpy(np.array(Image.open(io.BytesIO(data)).convert("RGB"))).permute(2, 0, 1)

    extractor = open_extractor(f"efficientnet-lite0:{Path(DATA) / 'efficientnet_lite0.safetensors'}")
    features = extractor(torch.stack([picture(i) for i in known.tolist()]))
    y = torch.from_numpy(held["labels"][known].astype(np.int64))
    directions = F.normalize(features - features.mean(0), dim=-1)
    likeness = (directions @ directions.mT).fill_diagonal_(-2)
    guessed = F.one_hot(y[likeness.topk(5).indices], 20).sum(1).argmax(-1)
    majority = y.bincount().max().item() / len(y)
    assert (guessed == y).double().mean() > majority + 0.2
    named = extractor.logits(features).argmax(-1).bincount(minlength=1000)
    assert named[[608, 610, 841]].sum() > len(y) / 8  # jean, jersey, sweatshirt


@needs_data
def test_it_is_timms_network():
    timm = pytest.importorskip("timm", reason="timm, with a torchvision that this torch can import, is not installed", exc_type=ImportError)
    net = lite0(read(Path(DATA) / "efficientnet_lite0.safetensors"))
    with torch.random.fork_rng(devices=[]):
        theirs = timm.create_model("tf_efficientnet_lite0").eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), net.state_dict().values(), strict=True)))  # layers in the same order
    x = torch.randn(2, 3, 224, 224, generator=ms.key(0, "timm"))
    with torch.no_grad():
        torch.testing.assert_close(net._fc(net(x)), theirs(x), rtol=1e-5, atol=1e-5)


# The Inception of the FID ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def inception_file(fidelity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Torch-fidelity's Inception with the random weights that it begins with, as safetensors."""
    net, held, empty = fidelity.inception.FeatureExtractorInceptionV3, {}, io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    with monkeypatch.context() as patched, torch.random.fork_rng(devices=[]):
        torch.manual_seed(ms.key(0, "inception").initial_seed())
        patched.setattr(net, "load_state_dict", lambda self, state: held.update(self.state_dict()))
        net("x", ["2048"], feature_extractor_weights_path=empty)
    save_file(held, tmp_path / "inception.safetensors")
    return tmp_path / "inception.safetensors"


def test_inception_is_torch_fidelitys_and_other_weights_are_no_fid(fidelity, inception_file: Path):
    before = torch.get_rng_state()
    extractor = open_extractor(f"inception:{inception_file}")
    assert torch.equal(before, torch.get_rng_state())
    x = images(2, side=24)
    buffer = io.BytesIO()
    torch.save(read(inception_file), buffer)
    buffer.seek(0)
    with torch.random.fork_rng(devices=[]):
        theirs = fidelity.inception.FeatureExtractorInceptionV3("x", ["2048", "logits_unbiased"], feature_extractor_weights_path=buffer)
    features, logits = theirs(x)
    torch.testing.assert_close(extractor(x), features)
    torch.testing.assert_close(extractor.logits(extractor(x)), logits)
    assert extractor.dim == 2048 and not extractor.standard and extractor.distance == "FD-inception"


# Bad input ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("incepton", "there is no extractor 'incepton'; did you mean inception or inception:FILE?"),
        ("efficientnet", "did you mean efficientnet-lite0:FILE?"),
        ("dinov9", "there is no extractor 'dinov9'; give pixels or random or"),
        ("timm", "did you mean timm:NAME[:FILE]?"),
        ("efficientnet-lite0", "efficientnet-lite0 needs its weights: efficientnet-lite0:FILE.safetensors"),
        ("efficientnet-lite0:nowhere.safetensors", "cannot read nowhere.safetensors: there is no such file"),
    ],
)
def test_a_spec_that_names_nothing_is_one_line(spec: str, said: str):
    with pytest.raises(UserError) as refused:
        open_extractor(spec)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def refused(spec: str) -> str:
    with pytest.raises(UserError) as found:
        open_extractor(spec)
    assert "\n" not in str(found.value)
    return str(found.value)


def test_files_that_hold_no_such_weights_are_one_line(tmp_path: Path):
    tensors = lite0_weights()
    whole = tmp_path / "w.safetensors"
    save_file(tensors, whole)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole.read_bytes()[:100_000])
    assert "it is cut short or no safetensors file" in refused(f"efficientnet-lite0:{cut}")
    bias = tensors.pop("_fc.bias")
    save_file(tensors, whole)
    assert "holds no EfficientNet-Lite0: it lacks _fc.bias" in refused(f"efficientnet-lite0:{whole}")
    save_file(tensors | {"_fc.bias": bias[:10].clone()}, whole)
    assert "size mismatch for _fc.bias" in refused(f"efficientnet-lite0:{whole}")
    save_file(tensors | {"_fc.bias": bias, "more": bias.clone()}, whole)
    assert "it also has more" in refused(f"efficientnet-lite0:{whole}")


class Harmful:
    def __reduce__(self):
        return python_random.seed, (0,)


def test_a_pickle_is_never_run(tmp_path: Path):
    path = tmp_path / "w.pth"
    path.write_bytes(pickle.dumps({"x": Harmful()}))
    state = python_random.getstate()
    assert "pickle" in refused(f"efficientnet-lite0:{path}")
    torch.save({"x": Harmful()}, path)
    assert "pickle" in refused(f"efficientnet-lite0:{path}")
    assert python_random.getstate() == state


@pytest.mark.parametrize(
    "bad", [torch.zeros(2, 3, 8, 8), torch.zeros(2, 4, 8, 8, dtype=torch.uint8), torch.zeros(3, 8, 8, dtype=torch.uint8)]
)
def test_what_is_no_image_is_refused(bad: Tensor):
    with pytest.raises(UserError, match=r"images uint8 \[B, 1 or 3, H, W\]"):
        open_extractor("random")(bad)
