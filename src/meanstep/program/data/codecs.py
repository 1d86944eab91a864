"""Kinds of rows: from what a source holds to what a cache stores and a network sees, back to data, and to what a person looks at.

`pixels` are pictures as they are, `latents` an autoencoder's, `plain` numbers of any shape. What lies between a cache and a sampler asks
the codec that the manifest names, and knows no shapes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from meanstep.program.console import UserError
from meanstep.program.data import previews, views
from meanstep.program.data.autoencoders import Autoencoder
from meanstep.program.data.columns import table
from meanstep.program.data.look import Look
from meanstep.program.data.manifest import Manifest

DTYPES = {"uint8": torch.uint8, "float16": torch.float16, "float32": torch.float32}
"""How rows are stored, by the manifest's word."""


@dataclass(frozen=True)
class Codec:
    """One kind of rows.

    `flips`: how their mirror images come about, if they are asked for. `prepare`: from a batch of what a source holds, pictures uint8 or
    numbers `[B, *E]`, to stored rows. `seen`: from stored rows in float32 to what the network sees,
    in place; `measured`: by mean and deviation of the stored rows. `decode`: from what the network sees to rows in units of the data.
    `preview`: from those, how they look, a number of columns and rows of the data to show beside them, to one
    image; `named`: from those to arrays of a file, by name; `pictures`: whether they
    are pictures.
    """

    flips: Literal["none", "read", "stored"]
    prepare: Callable[[Tensor, Autoencoder, torch.dtype], Tensor]
    seen: Callable[[Tensor, Tensor, Tensor], Tensor]
    decode: Callable[[Tensor, Manifest, Autoencoder], Tensor]
    preview: Callable[[Tensor, Look, int | None, Tensor | None], Image.Image]
    named: Callable[[Tensor], dict[str, np.ndarray]]
    measured: bool = True
    pictures: bool = True


def _kept(items: Tensor, autoencoder: Autoencoder, dtype: torch.dtype) -> Tensor:
    return items.to(dtype).contiguous()


def _encoded(items: Tensor, autoencoder: Autoencoder, dtype: torch.dtype) -> Tensor:
    """Latents of pictures; numbers are latents already."""
    z = items if items.is_floating_point() else autoencoder.encode(items.float() / 127.5 - 1)
    return z.to("cpu", dtype).contiguous()


def _scaled(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return x.div_(127.5).sub_(1)


def _normalised(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return x.sub_(mean).div_(std)


def check_same(manifest: Manifest, autoencoder: Autoencoder) -> None:
    """`UserError` if the rows are those of another autoencoder, which would decode them to other pictures."""
    if autoencoder.digest != manifest.autoencoder_digest:
        made, given = manifest.autoencoder.partition(":")[0], autoencoder.spec
        raise UserError(f"the latents were made by another autoencoder ({made}, sha256 {manifest.autoencoder_digest[:12]}) than {given}")


def _pictures(x: Tensor, manifest: Manifest, autoencoder: Autoencoder) -> Tensor:
    """Pictures uint8 `[B, C, H, W]`; `UserError` if the rows are those of another autoencoder."""
    check_same(manifest, autoencoder)
    images = ((autoencoder.decode(manifest.unnormalise(x)) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return images if images.shape[1] == manifest.image[0] else images.float().mean(1, keepdim=True).round().to(torch.uint8)  # grey


def _unscaled(x: Tensor, manifest: Manifest, autoencoder: Autoencoder) -> Tensor:
    return manifest.unnormalise(x.float())


def _grid(rows: Tensor, look: Look, columns: int | None, real: Tensor | None) -> Image.Image:
    """Pictures speak for themselves: there is one way to show them, and no need of others beside."""
    return previews.grid(rows, columns)


def _images(rows: Tensor) -> dict[str, np.ndarray]:
    """Pictures `[N, H, W, C]`, as the sources read them."""
    return {"images": rows.movedim(1, -1).numpy()}


def _x(rows: Tensor) -> dict[str, np.ndarray]:
    return {"x": rows.numpy()}


CODECS: Mapping[str, Codec] = {
    "pixels": Codec("read", _kept, _scaled, _pictures, _grid, _images, measured=False),
    "latents": Codec("stored", _encoded, _normalised, _pictures, _grid, _images),
    "plain": Codec("none", _kept, _normalised, _unscaled, views.shown, _x, pictures=False),
}
"""By the name that a manifest states."""


def pictured(rows: Tensor, manifest: Manifest, columns: int | None = None, real: Tensor | None = None) -> Image.Image:
    """Rows in units of the data `[N, *E]` as one image, beside `real` ones if there are some; of a table its own columns, words too."""
    if manifest.columns and manifest.seen_as.kind == "table":
        made, held = (None if x is None else table(manifest.columns, x.numpy(), {}) for x in (rows, real))
        return views.table(made or {}, held)
    return CODECS[manifest.codec].preview(rows, manifest.look, columns, real)


def seen(rows: Tensor, manifest: Manifest) -> Tensor:
    """Stored rows `[B, *E]` as the network sees them, float32."""
    x = rows.to(torch.float32, copy=True)
    return CODECS[manifest.codec].seen(x, *manifest.moments(x))


def padded(x: Tensor, mask: Tensor, manifest: Manifest) -> Tensor:
    """Rows `[B, *E]` as the network sees them, with padding where the `mask` is false: what 0 in units of the data is to it."""
    mean, std = manifest.moments(x)
    return torch.where(mask, x, -mean / std)


@torch.no_grad()
def decoded(x: Tensor, manifest: Manifest, autoencoder: Autoencoder, batch: int = 64) -> Tensor:
    """Rows in units of the data of what a network makes, `x` `[N, *E]`, a batch at a time, on the processor.

    Of pixels and latents pictures uint8 `[N, C, H, W]`, of plain rows float32 `[N, *E]`. `UserError` for another autoencoder than theirs.
    """
    decode = CODECS[manifest.codec].decode
    parts = [decode(part.to(autoencoder.device), manifest, autoencoder).cpu() for part in x.split(batch)] if len(x) else []
    return torch.cat(parts) if parts else decoded(x.new_zeros(1, *manifest.shape), manifest, autoencoder)[:0]
