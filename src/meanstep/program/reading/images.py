"""Pictures of others as Pillow reads them: a regular file, one frame, at most so many pixels. Knows no sizes that anybody wants."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from meanstep.program.errors import UserError, first_line
from meanstep.program.reading import files

if TYPE_CHECKING:
    from PIL import Image

PIXELS, BYTES, RATIO = 1 << 26, 1 << 28, 256
"""Most pixels, most bytes of a file, most of the longer side over the shorter one."""


@contextmanager
def picture(source: Path | bytes, name: str = "") -> "Iterator[Image.Image]":
    """An open picture, of whose pixels none is read yet; `UserError` for what is none, for a bomb and for a strip. `name`: of bytes."""
    from PIL import Image

    named = name or str(source)
    held = io.BytesIO(files.content(source, BYTES) if isinstance(source, Path) else source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of bombs and of odd metadata: the size is looked at below
            found = Image.open(held)
    except Image.DecompressionBombError:
        raise UserError(f"{named} says that it has more than {PIXELS:,} pixels, which are not read: make it smaller") from None
    except Exception as error:  # Pillow's readers raise many kinds
        raise UserError(f"{named} is no picture that Pillow reads: {first_line(error)}; remove it, or save it anew") from None
    with found:
        examined(*found.size, named)
        try:
            yield found
        except UserError:
            raise
        except (OSError, ValueError, SyntaxError, ArithmeticError, LookupError, TypeError, MemoryError) as error:
            raise UserError(f"{named} is damaged: {first_line(error)}; remove it, or save it anew") from None


def examined(width: int, height: int, name: str) -> None:
    """`UserError` for a picture without pixels, with too many, or so narrow that scaling it makes a bomb."""
    if min(width, height) < 1:
        raise UserError(f"{name} has no pixels: remove it")
    if width * height > PIXELS:
        raise UserError(f"{name} has {width:,} x {height:,} pixels, more than {PIXELS:,} are not read: make it smaller")
    if max(width, height) > RATIO * min(width, height):
        raise UserError(f"{name} is a strip of {width:,} x {height:,} pixels, a side at most {RATIO} times the other is read: cut it")
