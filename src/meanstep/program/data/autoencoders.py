"""From pictures to latents and back: identity, TAESD and TAEF2 from a file, diffusers' autoencoders. Never unpickles. Knows no caches."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from meanstep.program.console import UserError
from meanstep.program.data.request import AUTOENCODERS, on_hub
from meanstep.program.data.tiny import Tiny
from meanstep.program.reading import tensors as reading

Map = Callable[[Tensor], Tensor]
DIFFUSERS = {"tiny": "AutoencoderTiny", "kl": "AutoencoderKL", "dc": "AutoencoderDC"}


@dataclass(frozen=True)
class Autoencoder:
    """`encode` pictures `[B, 3 or 1, H, W]` in [-1, 1] to `z` `[B, channels, H/factor, W/factor]`, `decode` them back; no gradients.

    `z = (the network's own - shift) * scaling`. `channels` 0: those of the picture. `digest`: sha256 of the weights (of the file, where
    it is one). A posterior is represented by its mean; `spread` is there where it has one.
    """

    spec: str
    digest: str
    factor: int
    channels: int
    device: torch.device
    _encode: Map = field(repr=False)
    _decode: Map = field(repr=False)
    scaling: float = 1.0
    shift: float = 0.0
    _spread: Callable[[Tensor], tuple[Tensor, Tensor]] | None = field(default=None, repr=False)

    @property
    def draws(self) -> bool:
        """Whether it has a posterior."""
        return self._spread is not None

    @torch.no_grad()
    def spread(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the posterior of `z`, as `encode` gives it; `UserError` without a posterior."""
        if self._spread is None:
            raise UserError(f"{self.spec} has no posterior to draw from: leave --posterior out, or give kl:PATH")
        mean, deviation = self._spread(x.to(self.device, torch.float32).expand(-1, 3, -1, -1))
        return (mean - self.shift) * self.scaling, deviation * self.scaling

    @property
    def encodes(self) -> bool:
        """Whether it makes latents, not pictures of pictures."""
        return self.channels > 0

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """`z` float32 on the autoencoder's device; one channel is seen as three equal ones."""
        x = x.to(self.device, torch.float32)
        return (self._encode(x.expand(-1, 3, -1, -1) if self.channels else x) - self.shift) * self.scaling

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Pictures, not clamped, on the autoencoder's device."""
        return self._decode(z.to(self.device, torch.float32) / self.scaling + self.shift)

    def image(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Shape of the picture that one `z` of a shape decodes to; `UserError` for latents that are not its own."""
        if len(shape) != 3 or shape[0] != self.channels:
            what = f"rows of shape {' x '.join(map(str, shape))} are no latents of {self.spec}"
            raise UserError(f"{what}, which have {self.channels} channels, height and width: leave --autoencoder out")
        return 3, shape[1] * self.factor, shape[2] * self.factor

    def shape(self, image: tuple[int, ...]) -> tuple[int, int, int]:
        """Shape of the `z` of one picture of shape `(C, H, W)`; `UserError` if the sides are no multiples of the factor."""
        c, h, w = image
        if h % self.factor or w % self.factor:
            raise UserError(f"pictures of {h} x {w} do not fit {self.spec}: both sides must be multiples of {self.factor}")
        return self.channels or c, h // self.factor, w // self.factor


def open_autoencoder(spec: str, device: torch.device | str = "cpu", fetch: bool = True) -> Autoencoder:
    """The autoencoder that a spec names; `UserError` in one line if there is none, or it is damaged, or a pickle.

    Without `fetch` one of the hub is found only if it is on this machine already: for a spec that a folder names, not the user.
    """
    kind, _, where = spec.partition(":")
    device = torch.device(device)
    if spec == "identity":
        return Autoencoder(spec, hashlib.sha256(b"identity").hexdigest(), 1, 0, device, _same, _same)
    if kind in ("taesd", "taef2") and where:
        return _tiny(kind, Path(where).expanduser(), device)
    if kind in DIFFUSERS and where:
        return _diffusers(kind, where, device, fetch)
    raise UserError(f"unknown autoencoder {spec!r}; give {AUTOENCODERS}")


def _same(x: Tensor) -> Tensor:
    return x


def _tiny(kind: str, path: Path, device: torch.device) -> Autoencoder:
    file = reading.File.open(path)
    tensors = file.tensors()
    try:
        net = Tiny.of(tensors).to(device)
    except (KeyError, RuntimeError):
        raise UserError(f"{path} holds no {kind} autoencoder: its tensors have other names or shapes") from None
    if (kind == "taef2") != ("encoder.11.pool.1.weight" in tensors):
        raise UserError(f"{path} is no {kind} but a {'taesd' if kind == 'taef2' else 'taef2'}: name it so")
    reading.alike(tensors, net.state_dict(), path)
    reading.finite(tensors, path)
    channels = len(tensors["encoder.14.bias"])
    spec = f"{kind}:{path}"

    def encode(x: Tensor) -> Tensor:
        return _parts(net.encoder, (x + 1) / 2, x.shape[-2] * x.shape[-1])

    def decode(z: Tensor) -> Tensor:
        return 2 * _parts(net.decoder, z, 64 * z.shape[-2] * z.shape[-1]) - 1

    return Autoencoder(spec, file.sha256(), 8, channels, device, encode, decode)


def _parts(net: nn.Module, x: Tensor, pixels: int) -> Tensor:
    """The network of a batch; a processor takes few pictures at a time, whose memory is used again: half the time at 256 x 256."""
    n = max(1, (1 << 16) // pixels) if x.device.type == "cpu" else len(x)
    return torch.cat([net(part) for part in x.contiguous(memory_format=torch.channels_last).split(n)]).contiguous()


def _diffusers(kind: str, where: str, device: torch.device, fetch: bool) -> Autoencoder:
    path = Path(where).expanduser()
    where = str(path) if path.exists() else where
    net = _pretrained(kind, where, fetch).to(device).requires_grad_(False).eval()
    given: Any = net.config
    encoders: dict[str, Map] = {
        "kl": lambda x: net.encode(x).latent_dist.mode(),
        "tiny": lambda x: net.encode(x).latents,
        "dc": lambda x: net.encode(x).latent,
    }
    factor = (
        net.spatial_compression_ratio
        if kind == "dc"
        else 2 ** (len(given.get("block_out_channels") or given.encoder_block_out_channels) - 1)
    )
    scaling, shift = float(given.scaling_factor or 1), float(given.get("shift_factor") or 0)
    decode: Map = lambda z: net.decode(z).sample  # noqa: E731

    def spread(x: Tensor) -> tuple[Tensor, Tensor]:
        found = net.encode(x).latent_dist
        return found.mean, found.std

    moments = spread if kind == "kl" else None
    spec, channels = f"{kind}:{where}", given.latent_channels
    return Autoencoder(spec, state_digest(net), factor, channels, device, encoders[kind], decode, scaling, shift, moments)


def _pretrained(kind: str, where: str, fetch: bool) -> Any:
    try:
        import diffusers
    except ImportError:
        raise UserError(f"{kind}:{where} needs diffusers: pip install 'meanstep[latents]'") from None
    path = Path(where).expanduser()
    if path.exists() and not (path / "config.json").is_file():
        raise UserError(f"{path} is no folder of a diffusers autoencoder: it has no config.json")
    if not path.exists() and not on_hub(f"{kind}:{where}"):
        raise UserError(f"cannot read {path}: there is no such folder, and it is no owner/name of the hub")
    if path.exists() and not any(path.glob("*.safetensors")):
        raise UserError(f"{path} has no .safetensors file; weights in a pickle are not read: convert them to safetensors")
    try:
        source = str(path) if path.exists() else where
        how = {"use_safetensors": True, "low_cpu_mem_usage": False, "local_files_only": not fetch}
        return getattr(diffusers, DIFFUSERS[kind]).from_pretrained(source, **how)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        if not fetch and on_hub(f"{kind}:{where}"):
            remedy = f"give --autoencoder {kind}:{where} (in Python autoencoder=) to fetch it; for training, first to meanstep cache"
            raise UserError(f"{kind}:{where} is not on this machine, and only a folder names it: {remedy}") from error
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"cannot load {kind}:{where}: {reason}") from error


def state_digest(net: nn.Module) -> str:
    """sha256 of names, shapes and float32 values: the same for a folder and the hub's copy of it."""
    found = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        found.update(f"{name} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
