"""Extractors by their words, as help and complaints list them. Opens nothing, and needs no torch."""

import difflib
from pathlib import Path

from meanstep.program.console import UserError
from meanstep.program.flags import readable

SPECS = (
    "pixels",
    "random",
    "rows",
    "inception",
    "inception:FILE",
    "efficientnet-lite0:FILE",
    "timm:NAME[:FILE]",
    "torchvision:NAME[:FILE]",
)
HELP = f"What makes features of images: {', '.join(SPECS)}; rows are the entries themselves, for numbers of any shape."


def usual(codec: str) -> str:
    """The extractor of data of a codec where none is named."""
    return "rows" if codec == "plain" else "pixels"


def metrics(codec: str) -> tuple[str, ...]:
    """What is measured of data of a codec where nothing is named."""
    return (
        ("sliced", "energy", "density-coverage", "nearest")
        if codec == "plain"
        else ("frechet", "kid", "precision-recall", "density-coverage")
    )


def steps(codec: str, fewest: int) -> tuple[int, ...]:
    """Steps of the sampler where none are named; `fewest`: jumps within a run's cap."""
    return tuple(sorted({1, 2, 4, 8, 32, fewest} if codec == "plain" else {1, fewest}))


def checked(spec: str) -> str:
    """The spec, or `UserError` for a kind that there is not and for a file that is not there."""
    kind, _, rest = spec.partition(":")
    if kind not in KINDS or (kind in ("pixels", "random", "rows") and rest) or (kind in ("timm", "torchvision") and not rest):
        raise UserError(unknown(spec))
    if kind == "efficientnet-lite0" and not rest:
        raise UserError("efficientnet-lite0 needs its weights: efficientnet-lite0:FILE.safetensors")
    if kind in ("inception", "efficientnet-lite0") and rest:
        readable(Path(rest), f"extractor {kind}")
    return spec


KINDS = tuple(dict.fromkeys(known.partition(":")[0] for known in SPECS))


def unknown(spec: str) -> str:
    """What to say of an extractor that there is not."""
    near = difflib.get_close_matches(spec.partition(":")[0], KINDS, 1)
    hint = [known for known in SPECS if near and known.partition(":")[0] == near[0]] or SPECS
    return f"there is no extractor {spec!r}; {'did you mean' if near else 'give'} {' or '.join(hint)}{'?' if near else ''}"
