"""Extractors that other packages build: the standard Inception, timm's and torchvision's networks. Reads files of tensors only."""

import contextlib
import hashlib
import io
import urllib.error
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from meanstep.program.console import UserError
from meanstep.program.evaluation.features import Extractor, digest, misfit
from meanstep.program.evaluation.inputs import Input
from meanstep.program.reading.tensors import alike
from meanstep.program.runs.public_weights import read
from meanstep.program.wrapped import matched

STANDARD = "6726825d"
"""Start of the sha256 of the published FID's Inception as torch-fidelity distributes it."""


def fetches(kind: str, rest: str) -> bool:
    """Whether opening an extractor may ask the network for its weights."""
    if kind == "inception" and not rest:
        return not _beside(package("torch_fidelity.feature_extractor_inceptionv3", "fidelity").URL_INCEPTION_V3).exists()
    return kind in ("timm", "torchvision") and ":" not in rest


def package(name: str, extra: str) -> Any:
    """A module, or `UserError` that names the extra."""
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(f"this extractor needs {error.name or name.partition('.')[0]}: pip install 'meanstep[{extra}]'") from None
    except RuntimeError as error:  # torchvision beside another torch than it was built for
        reason = str(error).splitlines()[0]
        raise UserError(f"{name.partition('.')[0]} cannot be imported ({reason}): install the torchvision of this torch's build") from None


@contextlib.contextmanager
def unseeded() -> Iterator[None]:
    """Other packages draw initial weights from the global random state; it stays as it was."""
    with torch.random.fork_rng(devices=[]):
        yield


def loaded(net: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """All weights of a network, no more and no less; `UserError` names the first that does not fit."""
    try:
        held = matched(tensors, net.state_dict())
        net.load_state_dict(held)
    except RuntimeError as error:
        raise UserError(f"{where} holds another network: {misfit(error)}") from None
    alike(held, net.state_dict(), where)


def finished(net: nn.Module, device: torch.device) -> nn.Module:
    return net.eval().requires_grad_(False).to(device)


class _AsItIs(Input):
    """Inception's own resize is inside the network: TensorFlow 1's bilinear one, without antialiasing, to 299 x 299."""

    def __call__(self, images: Tensor) -> Tensor:
        return (super().__call__(images)).to(torch.uint8)


def inception(file: str, device: torch.device) -> Extractor:
    """The Inception-v3 of the FID by torch-fidelity: 2048 features, 1008 logits without bias. Without a file it is fetched, or found."""
    module = package("torch_fidelity.feature_extractor_inceptionv3", "fidelity")
    path = Path(file).expanduser() if file else _fetched(module.URL_INCEPTION_V3)
    tensors, buffer = read(path), io.BytesIO()
    torch.save(tensors, buffer)  # torch-fidelity unpickles whatever it is given: it is given bytes that hold tensors only
    buffer.seek(0)
    try:
        with unseeded():
            net: Any = module.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=buffer)
    except RuntimeError as error:
        raise UserError(f"{path} holds no Inception of torch-fidelity: {misfit(error)}") from None
    alike(tensors, net.state_dict(), path)
    net = finished(net, device)
    with path.open("rb") as held:
        standard = hashlib.file_digest(held, "sha256").hexdigest().startswith(STANDARD)
    taken = _AsItIs(299, "none", (0.0,), (1.0,))
    made = digest("inception tf1 bilinear", taken, tensors)
    return Extractor(
        "inception", made, 2048, taken, device, lambda x: net(x)[0], lambda f: (f.to(device) @ net.fc.weight.mT).cpu(), standard
    )


def _beside(url: str) -> Path:
    """Where torch keeps what it fetched."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def _fetched(url: str) -> Path:
    path = _beside(url)
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=STANDARD, progress=False)
        except (urllib.error.URLError, OSError, RuntimeError) as error:
            reason = getattr(error, "reason", None) or error
            raise UserError(f"Inception's weights are not in {path.parent} and cannot be fetched ({reason}): give inception:FILE") from None
    return path


def timm(name: str, file: str, device: torch.device) -> Extractor:
    """A network of timm, its pooled features; weights from a file, else those that timm fetches from the hub."""
    library = package("timm", "timm")
    try:
        with unseeded():
            net: Any = library.create_model(name, pretrained=not file)
    except (RuntimeError, ValueError, OSError) as error:
        if library.is_model(name.partition(".")[0]):
            raise UserError(f"timm:{name}: its weights cannot be fetched: give timm:{name}:FILE") from None
        raise UserError(f"timm:{name}: {str(error).splitlines()[0][:160]}; `timm.list_models()` lists its networks") from None
    if file:
        loaded(net, read(Path(file)), file)
    held = library.data.resolve_data_config({}, model=net)
    mean, std = (tuple(255 * v for v in held[part]) for part in ("mean", "std"))
    taken = Input(held["input_size"][-1], "bilinear" if held["interpolation"] == "bilinear" else "bicubic", mean, std)
    net = finished(net, device)

    def features(x: Tensor) -> Tensor:
        return net.forward_head(net.forward_features(x), pre_logits=True)

    return _named(f"timm-{name}", net, net.get_classifier(), features, taken, device)


def torchvision(name: str, file: str, device: torch.device) -> Extractor:
    """A network of torchvision, what its last linear layer sees; weights from a file, else those that torchvision fetches."""
    models = package("torchvision.models", "fidelity")
    try:
        choice = models.get_model_weights(name).DEFAULT
        with unseeded():
            net: Any = models.get_model(name, weights=None)
            tensors = read(Path(file)) if file else choice.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (ValueError, AttributeError) as error:
        raise UserError(f"torchvision:{name}: {error}; `torchvision.models.list_models()` lists its networks") from None
    except (urllib.error.URLError, OSError) as error:
        raise UserError(f"torchvision:{name}: its weights cannot be fetched ({error}): give torchvision:{name}:FILE") from None
    loaded(net, tensors, file or str(choice))
    seen = choice.transforms()
    mean, std = (tuple(255 * v for v in part) for part in (seen.mean, seen.std))
    taken = Input(seen.crop_size[0], "bicubic" if "bicubic" in str(seen.interpolation).lower() else "bilinear", mean, std)
    net = finished(net, device)
    head = [m for m in net.modules() if isinstance(m, nn.Linear)][-1]
    return _named(f"torchvision-{name}", net, head, _Before(net, head), taken, device)


class _Before:
    """What a layer is given when the network is run."""

    def __init__(self, net: nn.Module, layer: nn.Module) -> None:
        self.net, self.seen = net, torch.empty(0)
        layer.register_forward_pre_hook(self._keep)

    def _keep(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.seen = args[0]

    def __call__(self, x: Tensor) -> Tensor:
        self.net(x)
        return self.seen


def _named(name: str, net: nn.Module, head: Any, features: Any, taken: Input, device: torch.device) -> Extractor:
    with torch.no_grad():
        dim = features(torch.zeros(1, 3, taken.size, taken.size, device=device)).shape[-1]
    fits = isinstance(head, nn.Linear) and head.in_features == dim
    logits = (lambda f: head(f.to(device)).cpu()) if fits else None
    return Extractor(name, digest(name, taken, dict(net.state_dict())), dim, taken, device, features, logits)
