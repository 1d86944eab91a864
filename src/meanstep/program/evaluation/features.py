"""What an extractor is: images uint8 or rows of numbers in, features out, and a digest of all that decides them."""

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from meanstep.program.evaluation.inputs import Entries, Input

Map = Callable[[Tensor], Tensor]
CACHED = 8
"""Resized images that a processor works on at a time: more do not fit its cache, and take up to twice as long."""


@dataclass(frozen=True, eq=False)
class Extractor:
    """`extractor(rows)`: images uint8 `[B, C, H, W]`, or numbers `[B, *E]` if `input` takes them, to features float32
    `[B, dim]` on the processor, no gradients.

    `digest`: sha256 of weights, architecture and preprocessing; `logits` makes class logits of features, where the network has such a
    layer; `standard`: this is the Inception of the published FID; `scale` `[dim]`: what features are divided by where they are compared
    with each other, of entries of rows, whose units may differ. One channel is repeated for a network that takes three.
    """

    name: str
    digest: str
    dim: int
    input: Input | Entries
    device: torch.device = field(repr=False)
    _features: Map = field(repr=False)
    logits: Map | None = field(default=None, repr=False)
    standard: bool = False
    state: dict[str, Tensor] = field(default_factory=dict, repr=False)
    scale: Tensor | None = field(default=None, repr=False)
    _fit: "Callable[[Extractor, Iterable[Tensor]], Extractor] | None" = field(default=None, repr=False)
    _restore: "Callable[[Extractor, dict[str, Tensor]], Extractor] | None" = field(default=None, repr=False)

    @property
    def distance(self) -> str:
        """What a Frechet distance of these features is called."""
        return "FID" if self.standard else f"FD-{self.name}"

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Features `[B, dim]`; `UserError` for images of another type or with other channels than 1 or 3."""
        if self.device.type != "cuda":
            parts = images.split(CACHED) if self.input.size else (images,)
            return torch.cat([self._features(self.input(part.to(self.device))).float().cpu() for part in parts])
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):  # 10 bits would be too few
            return self._features(self.input(images.to(self.device))).float().cpu()

    def fit(self, batches: Iterable[Tensor]) -> "Extractor":
        """The extractor for a reference's images; most are the same for every reference."""
        return self._fit(self, batches) if self._fit else self

    def restored(self, state: dict[str, Tensor]) -> "Extractor":
        """What `fit` made, from what it kept in `state`."""
        return self._restore(self, state) if self._restore else self


def digest(name: str, taken: Input | Entries, tensors: dict[str, Tensor]) -> str:
    """sha256 of an architecture's name, its preprocessing and its weights, whatever file they came in."""
    found = hashlib.sha256(f"{name}\n{taken}\n".encode())
    for part, value in sorted(tensors.items()):
        found.update(f"{part} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def misfit(error: RuntimeError) -> str:
    """The first weight that `load_state_dict` complains of."""
    text = str(error)
    for what, said in (("Missing", "it lacks"), ("Unexpected", "it also has")):
        if named := re.search(rf'{what} key\(s\) in state_dict: "([^"]+)"', text):
            return f"{said} {named[1]}"
    return next((line.strip() for line in text.splitlines() if "size mismatch" in line), text)[:160].rstrip(".")
