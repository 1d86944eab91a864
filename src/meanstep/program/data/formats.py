"""Which files are pictures that are decoded here, and how the others are counted. Knows no folders and no sizes."""

import io
import re
import warnings
from collections.abc import Mapping
from functools import cache
from typing import Any

from PIL import Image, features

from meanstep.program.errors import UserError, first_line
from meanstep.program.reading.images import examined

FORMATS = ("AVIF", "BMP", "DDS", "DIB", "GIF", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "QOI", "SGI", "SUN", "TGA", "TIFF", "WEBP")
"""Of pillow's, those that need no other program (EPS runs one) and are pictures (PDF, HDF5, MPEG are not)."""
CODECS = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}
"""What pillow may have been built without."""
MOST = 8
"""Kinds of files that are named one by one."""


@cache
def formats() -> tuple[str, ...]:
    """Those that this pillow decodes."""
    return tuple(name for name in FORMATS if name not in CODECS or features.check(CODECS[name]))


@cache
def endings() -> frozenset[str]:
    """The endings of their files, small letters with the dot."""
    return frozenset(end for end, name in Image.registered_extensions().items() if name in formats())


def ending(name: str) -> str:
    """How a file is counted that is no picture: its ending, `no ending`, or `odd ending` for what is hardly one."""
    last = name.rpartition("/")[2]
    _, dot, end = last.rpartition(".")
    if not dot:
        return "no ending"
    return f".{end.lower()}" if re.fullmatch(r"\w{1,8}", end, re.ASCII) else "odd ending"


def readable(name: str) -> bool:
    """Whether a file of this name is taken for a picture."""
    return ending(name) in endings()


def decoded(data: bytes) -> Image.Image:
    """The image that bytes encode, whatever their file was called; `OSError` if they are none of these formats.

    Pillow has colours of 8 bits only: those of 16 are taken where nothing is lost (65,535 = 257 * 255), which is looked at in PNG.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of bombs: the size is looked at here
            found = Image.open(io.BytesIO(data), formats=formats())
        examined(*found.size, "it")
        if _narrowed(found) and not _whole(found, data):
            raise UserError("its colours have 16 bits, of which 8 would be lost: convert it to 8 bits, or leave it out with --skip-broken")
    except OSError:
        raise
    except Exception as error:  # a bomb, and whatever else Pillow's readers raise
        raise OSError(str(error) if isinstance(error, UserError) else first_line(error)) from None
    return found


def _narrowed(image: Image.Image) -> bool:
    """Whether Pillow will read 16 bits of a channel and keep 8; it keeps those of greys, in a mode of their own."""
    for codec, _, _, args in getattr(image, "tile", ()):
        parts = args if isinstance(args, tuple) else (args,)
        wide = any(isinstance(part, str) and re.search(r";16[BLN]", part) for part in parts) or codec == "SGI16"
        if image.mode[0] != "I" and (wide or (codec.startswith("ppm") and max((p for p in parts if isinstance(p, int)), default=0) > 255)):
            return True
    return False


def _whole(image: Image.Image, data: bytes) -> bool:
    """Whether both bytes of every entry of a PNG are the same, so that one of them says all."""
    tiles: list[Any] = getattr(image, "tile", [])
    if image.format != "PNG" or tiles[0].args not in ("RGB;16B", "RGBA;16B"):
        return False
    low: Any
    with Image.open(io.BytesIO(data), formats=("PNG",)) as low:
        low.tile = [tile._replace(args=str(tile.args).replace("16B", "16L")) for tile in low.tile]  # the lower byte for the upper one
        return low.tobytes() == image.copy().tobytes()


def counted(left_out: Mapping[str, int]) -> str:
    """What was left out, in words, the most frequent kinds first: `5 .jp2, 2 hidden`; empty if nothing was."""
    kinds = sorted(left_out.items(), key=lambda kind: (-kind[1], kind[0]))
    words = [f"{number:,} {name}" for name, number in kinds[:MOST]]
    if rest := kinds[MOST:]:
        words.append(f"{sum(number for _, number in rest):,} of {len(rest)} other kinds")
    return ", ".join(words)
