"""One picture to the size asked for: mode, orientation, resize, crop. Everything here is stated in the manifest. Knows no files."""

from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageOps

from meanstep.program.console import UserError
from meanstep.program.data.manifest import Manifest
from meanstep.program.data.request import Crop, Request, Resample
from meanstep.program.data.source import Broken, Source

FILTERS = {"box": Image.Resampling.BOX, "bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}
GREY, COLOUR = ("1", "L", "LA"), ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr", "HSV", "LAB")
DEEP = ("I;16", "I;16L", "I;16B")
"""Grey of 16 bits: white is 65,535 = 257 * 255."""


@dataclass(frozen=True)
class Preparation:
    """To `channels` 1 or 3 and `size` x `size` pixels (0: as it is), by `crop`.

    `center`: the shorter side is resized to `size` with `resample`, then the middle is cut out. `adm`: likewise with bicubic, after
    halvings by box while the shorter side is at least twice `size` (arXiv 2105.05233). An image smaller than `size` is an error unless
    `enlarge`, and so is one of another than a given `shape`. Transparency is laid over white; a photograph's stated orientation is
    followed. Grey of 16 bits is taken where 8 bits hold it exactly.
    """

    channels: int = 3
    size: int = 0
    crop: Crop = "center"
    resample: Resample = "bicubic"
    enlarge: bool = False
    shape: tuple[int, ...] = field(default=(), repr=False)

    @classmethod
    def asked(cls, request: Request, source: Source) -> "Preparation":
        """What a request asks for, of a source."""
        resample: Resample = "bicubic" if request.crop == "adm" else request.resample
        return cls(request.channels or source.channels, request.size, request.crop, resample, request.enlarge)

    @classmethod
    def stated(cls, manifest: Manifest) -> "Preparation":
        """What was done to the pictures of a cache."""
        channels, side, *_ = manifest.image
        filtered: Resample = manifest.resample if manifest.resample != "none" else "bicubic"
        size = side if manifest.crop != "none" else 0
        return cls(channels, size, manifest.crop, filtered, manifest.enlarged, manifest.image)

    def __call__(self, image: Image.Image, where: str) -> np.ndarray:
        """uint8 `[channels, H, W]`; `UserError` that names `where` for an image that does not do."""
        image = self._mode(ImageOps.exif_transpose(image), where)
        if self.size:
            image = self._fit(image, where)
        pixels = np.asarray(image, dtype=np.uint8)
        pixels = np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))
        if self.shape and pixels.shape != self.shape:
            (_, high, wide), (_, h, w) = pixels.shape, self.shape
            raise UserError(f"{where} has {wide} x {high} pixels, others {w} x {h}: give --size and --crop")
        return pixels

    def _mode(self, image: Image.Image, where: str) -> Image.Image:
        image = _eight_bits(image)
        if image.mode not in GREY + COLOUR:
            lost = ", which loses some of its 65,536 levels" if image.mode in DEEP else ""
            remedy = f"convert it to 8 bits a channel{lost}, or leave it out with --skip-broken"
            raise Broken(f"{where} has pixels of mode {image.mode}: {remedy}")
        if image.mode in ("LA", "RGBA", "PA") or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        if self.channels == 3:
            return image.convert("RGB")
        if image.mode not in ("1", "L"):
            red, *others = image.convert("RGB").split()
            if any(o.tobytes() != red.tobytes() for o in others):
                raise UserError(f"{where} is in colour: one channel (--channels 1) is for grey images")
            return red
        return image.convert("L")

    def _fit(self, image: Image.Image, where: str) -> Image.Image:
        size, sides = self.size, f"{image.width} x {image.height}"
        if self.crop == "none":
            if image.size != (size, size):
                raise UserError(f"{where} has {sides} pixels, not {size} x {size}: give --crop center or --crop adm")
            return image
        if min(image.size) < size and not self.enlarge:
            raise UserError(f"{where} has {sides} pixels, less than {size}: give a smaller --size, or --enlarge")
        while self.crop == "adm" and min(image.size) >= 2 * size:
            image = image.resize((image.width // 2, image.height // 2), FILTERS["box"])
        if min(image.size) != size:
            scale = size / min(image.size)
            image = image.resize((round(image.width * scale), round(image.height * scale)), FILTERS[self.resample])
        left, top = (image.width - size) // 2, (image.height - size) // 2
        return image.crop((left, top, left + size, top + size))


def _eight_bits(image: Image.Image) -> Image.Image:
    """A grey image of 16 bits whose levels are those of 8 bits, times 257, with these; any other as it is."""
    if image.mode not in DEEP:
        return image
    pixels = np.asarray(image).astype(np.uint16)
    return image if (pixels % 257).any() else Image.fromarray((pixels // 257).astype(np.uint8))
