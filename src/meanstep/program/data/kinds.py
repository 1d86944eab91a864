"""Words for sources, autoencoders and croppings, as help and complaints list them. Needs no torch."""

from collections.abc import Sequence
from typing import Literal

SOURCES = (
    "digits, a folder of images (labels are its sub-folders), .npz or .npy of images (uint8) or rows of any shape (floats), "
    "webdataset .tar (with {000..009} or *), or hub:owner/name[:config]"
)
AUTOENCODERS = "identity, taesd:FILE, taef2:FILE, tiny:PATH, kl:PATH or dc:PATH (a folder, or owner/name on the Hugging Face hub)"
Crop = Literal["none", "center", "adm"]
Resample = Literal["none", "box", "bicubic", "lanczos"]
NAMED = 12
"""Classes that a line lists."""


def listed(names: Sequence[str]) -> str:
    """The first of them, and whether there are more."""
    return ", ".join(names[:NAMED]) + (" ..." if len(names) > NAMED else "")
