"""Options of a request that can do nothing to what it reads: they are refused, not forgotten. Opens nothing."""

from dataclasses import fields

from meanstep.program.data import hub
from meanstep.program.data.request import Request
from meanstep.program.data.source import Source
from meanstep.program.errors import UserError

USUAL = Request("")
"""What nobody asked for."""
FLAGS = {"image": "--image-column", "label": "--label-column", "pair_as": "--pair-as"}
"""Where the command has another word for an entry of the request."""
RESIZING = ("crop", "resample", "enlarge")
PICTURES = ("size", "channels", "flips", *RESIZING)
"""What needs --size, or partners, which are brought to the size of the pictures; and what needs pictures."""


def checked(request: Request, source: Source, encodes: bool) -> None:
    """`UserError` that names the first option that was given and has no use; `encodes`: rows are latents."""
    for name in (f.name for f in fields(Request) if getattr(request, f.name) != getattr(USUAL, f.name)):
        flag = FLAGS.get(name, f"--{name}")
        if why := _idle(name, flag, request, source, encodes):
            raise UserError(why)


def _idle(name: str, flag: str, request: Request, source: Source, encodes: bool) -> str:
    """Why an entry of the request has no use, and what to do; empty if it has one."""
    if name in ("image", "label") and not (_keyed(request.source) or (name == "image" and _keyed(request.pair))):
        return f"{flag} is for data of the hub and .tar files, and {source.name} is neither: leave it out, or name a --condition"
    if name == "label" and request.conditions:
        return f"{flag}: conditions take the place of labels: name it among them (--condition), or leave it out"
    if name == "pair_as" and not request.pair:
        return f"{flag}: say which partners, with --pair"
    if name in PICTURES and source.plain:
        return f"{source.name} holds rows of numbers, and {flag} is for pictures: leave it out"
    if name == "dtype" and not source.plain and not encodes:
        return f"{flag}: {source.name} holds pictures, which are stored as uint8: leave it out, or give --autoencoder"
    if name in RESIZING and not request.size and not request.pair and (name, request.crop) != ("crop", "none"):
        return f"{flag}: without --size pictures stay as they are: give it, or leave {flag} out"
    if name == "resample" and request.crop == "adm":
        return f"{flag}: --crop adm resizes with bicubic: leave it out, or give --crop center"
    if name in ("resample", "enlarge") and request.crop == "none":
        return f"{flag}: --crop none resizes nothing: leave it out, or give --crop center"
    return ""


def _keyed(spec: str) -> bool:
    """Whether a source has columns, or members under a key, to choose among."""
    return bool(spec) and (hub.reads(spec) or spec.endswith(".tar"))
