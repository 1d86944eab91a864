"""Decoders of autoencoders as modules from latents to pictures in [-1, 1]. Knows no runs."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from meanstep.program.data.autoencoders import DIFFUSERS
from meanstep.program.data.tiny import Tiny
from meanstep.program.reading.tensors import File


class _Scaled(nn.Module):
    """TAESD's decoder, whose pictures lie in [0, 1]."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, z: Tensor) -> Tensor:
        return 2 * self.decoder(z) - 1


class _Sample(nn.Module):
    """The decoder of an autoencoder of diffusers."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, z: Tensor) -> Tensor:
        return self.net.decode(z, return_dict=False)[0]


def decoder(spec: str) -> nn.Module:
    """The decoder of an autoencoder that is open already: its weights lie where it says."""
    kind, _, where = spec.partition(":")
    if kind in DIFFUSERS:
        import diffusers

        return _Sample(getattr(diffusers, DIFFUSERS[kind]).from_pretrained(where, use_safetensors=True, local_files_only=True).eval())
    return _Scaled(Tiny.of(File.open(Path(where)).tensors()).decoder)
