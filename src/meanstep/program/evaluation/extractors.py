"""From images uint8, or rows of numbers, to features: `open_extractor` of a spec. Never calls a distance FID that is none."""

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from meanstep.keys import key
from meanstep.metrics import Statistics
from meanstep.program.console import UserError
from meanstep.program.evaluation import pretrained
from meanstep.program.evaluation.features import Extractor, digest, misfit
from meanstep.program.evaluation.inputs import Entries, Input
from meanstep.program.evaluation.specs import unknown
from meanstep.program.reading.tensors import alike
from meanstep.program.runs.public_weights import read

COMPONENTS, GRID, PLAIN = 32, 16, 64
MOST, SUMS = 4096, 1024
"""Entries of a row that `rows` takes as they are, a covariance has their square; and of how many sums of entries it makes features else."""
SEEN = 64
"""Pixels of a side that `random` sees at most."""


def open_extractor(spec: str, device: torch.device | str = "cpu", fetch: bool = True) -> Extractor:
    """The extractor that a spec names; `UserError` in one line if there is none or its weights are absent, damaged or of another network.

    `pixels`, `random`, `rows`, `inception[:FILE]`, `efficientnet-lite0:FILE`, `timm:NAME[:FILE]`, `torchvision:NAME[:FILE]`. Without
    `fetch` one whose weights would come over the network is refused: for a spec that a run's folder names, not the user.
    """
    kind, _, rest = spec.partition(":")
    if not fetch and pretrained.fetches(kind, rest):
        raise UserError(f"the weights of {spec} are fetched over the network, and only the run's folder names it: give --extractor {spec}")
    device = torch.device(device)
    if kind in OWN and not rest:
        return OWN[kind](device)
    if kind == "efficientnet-lite0":
        return efficientnet(rest, device)
    if kind == "inception":
        return pretrained.inception(rest, device)
    if kind in ("timm", "torchvision") and rest:
        name, _, file = rest.partition(":")
        return (pretrained.timm if kind == "timm" else pretrained.torchvision)(name, file, device)
    raise UserError(unknown(spec))


def efficientnet(file: str, device: torch.device) -> Extractor:
    """EfficientNet-Lite0, 1280 features and 1000 ImageNet logits."""
    from meanstep.program.evaluation.efficientnet import lite0

    if not file:
        raise UserError("efficientnet-lite0 needs its weights: efficientnet-lite0:FILE.safetensors")
    tensors, taken = read(Path(file)), Input(224, "bicubic", (127.0,), (128.0,))
    try:
        net = lite0(tensors).to(device)
    except RuntimeError as error:
        raise UserError(f"{file} holds no EfficientNet-Lite0: {misfit(error)}") from None
    alike(tensors, net.state_dict(), file)
    name = "efficientnet-lite0"
    return Extractor(name, digest(name, taken, tensors), 1280, taken, device, net, lambda f: net._fc(f.to(device)).cpu())


class _Net(nn.Module):
    """Three convolutions of at most 64 x 64 means, random signs as weights; the means of their outputs over the places, 32 + 64 + 64."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = [_signs(i, shape) for i, shape in enumerate([(32, 3, 3, 3), (64, 32, 3, 3), (64, 64, 3, 3)])]

    def forward(self, x: Tensor) -> Tensor:
        means, h = [], F.adaptive_avg_pool2d(x, (min(SEEN, x.shape[-2]), min(SEEN, x.shape[-1])))
        for i, w in enumerate(self.weights):
            h = F.relu(F.conv2d(F.pad(h, (1, 1, 1, 1), mode="replicate"), w.to(h), stride=1 if i == 0 else 2))
            means.append(h.mean((2, 3)))
        return torch.cat(means, -1)


def _signs(i: int, shape: tuple[int, ...]) -> Tensor:
    """+-(2 / fan-in)^(1/2): whole random numbers are the same on every machine, normal ones in the last digit not."""
    signs = torch.randint(0, 2, shape, generator=key(0, "random extractor", i)) * 2 - 1
    return signs * (2 / math.prod(shape[1:])) ** 0.5


def random(device: torch.device) -> Extractor:
    """A fixed small network with random weights, 160 features: it needs no file, and tells samples apart, not their quality."""
    net, taken = _Net(), Input(0, "none", (127.5,), (127.5,))
    return Extractor("random", digest(f"random {SEEN}", taken, {str(i): w for i, w in enumerate(net.weights)}), 160, taken, device, net)


def pixels(device: torch.device) -> Extractor:
    """At most 16 x 16 means of pixels; their 32 principal components in the reference, if there are more than 64. Not fitted yet."""
    taken = Input(0, "none", (127.5,), (127.5,), channels=0)
    return Extractor(
        "pixels", digest(f"pixels {COMPONENTS} {GRID} {PLAIN}", taken, {}), 0, taken, device, _pooled, _fit=_components, _restore=_projected
    )


def _pooled(x: Tensor) -> Tensor:
    """Means over a grid, `[B, C * at most 16 * at most 16]`."""
    return F.adaptive_avg_pool2d(x, (min(GRID, x.shape[-2]), min(GRID, x.shape[-1]))).flatten(1)


def _components(plain: Extractor, batches: Iterable[Tensor]) -> Extractor:
    held: Statistics | None = None
    for images in batches:
        features = plain(images)
        held = (held or Statistics(features.shape[-1])).update(features)
    if held is None:
        raise UserError("pixels: the reference holds no images")
    if held.dim <= PLAIN:
        return _projected(plain, {"mean": torch.zeros(held.dim), "components": torch.eye(held.dim)})
    vectors = torch.linalg.eigh(held.scatter).eigenvectors[:, -COMPONENTS:].flip(-1)
    vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
    return _projected(plain, {"mean": held.mean.float(), "components": vectors.float().contiguous()})


def _projected(plain: Extractor, state: dict[str, Tensor]) -> Extractor:
    mean, components = (state[name].to(plain.device) for name in ("mean", "components"))

    def features(x: Tensor) -> Tensor:
        pooled = _pooled(x)
        if pooled.shape[-1] != len(mean):
            raise UserError(f"pixels: the images have {pooled.shape[-1]} means of pixels, those of the reference {len(mean)}")
        return (pooled - mean) @ components

    return replace(plain, dim=components.shape[-1], _features=features, state=state)


def entries(device: torch.device) -> Extractor:
    """The entries of a row themselves, for data of any shape; of more than `MOST` sums of them. Not fitted yet.

    Fitted to a reference it has the scale of each feature: the standard deviation of its entry of the first axis (a column, a coordinate,
    a channel), by which distances are divided that compare entries with each other. Sums are of scaled entries, and have none.
    """
    taken = Entries()
    return Extractor("rows", digest(f"rows {MOST} {SUMS}", taken, {}), 0, taken, device, _same, _fit=_sized, _restore=_of_size)


def _same(x: Tensor) -> Tensor:
    return x


def _sized(plain: Extractor, batches: Iterable[Tensor]) -> Extractor:
    """Count the entries, and measure the scale along the first axis, in float64; 1 where all rows are the same."""
    shift = total = squares = torch.zeros(())
    n = places = 0
    for rows in batches:
        x = rows.double().reshape(len(rows), rows.shape[1], -1)
        shift, places = (shift if n else x.mean((0, 2)).unsqueeze(1)), x.shape[2]
        total, squares = total + (x - shift).sum((0, 2)), squares + (x - shift).square().sum((0, 2))
        n += len(x) * places
    std = (squares / n - (total / n).square()).clamp(min=0).sqrt()
    scale = torch.where(std > 1e-6 * shift.squeeze(1).abs(), std, 1.0).float()
    return _of_size(plain, {"scale": scale.repeat_interleave(places)})


def _of_size(plain: Extractor, state: dict[str, Tensor]) -> Extractor:
    scale = state["scale"]
    if (dim := len(scale)) <= MOST:
        return replace(plain, dim=dim, state=state, scale=scale)
    place, sign = _hashed(dim)
    divided = (sign / scale).to(plain.device)

    def features(x: Tensor) -> Tensor:
        return x.new_zeros(len(x), SUMS).index_add_(1, place.to(x.device), x * divided)

    return replace(plain, dim=SUMS, _features=features, state=state)


def _hashed(dim: int) -> tuple[Tensor, Tensor]:
    """To which of the `SUMS` each entry belongs, and with which sign: squared lengths are kept in the mean, to some 4 percent."""
    generator = key(0, "sums of entries", dim)
    return torch.randint(SUMS, (dim,), generator=generator), torch.randint(0, 2, (dim,), generator=generator) * 2.0 - 1


OWN = {"pixels": pixels, "random": random, "rows": entries}
"""Those that need no file."""
