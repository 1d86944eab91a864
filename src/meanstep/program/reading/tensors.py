"""Tensors in safetensors, where they lie on the disk: the header is looked at before any of them. Never unpickles, knows no networks."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from meanstep.program.errors import UserError, shown
from meanstep.program.reading import files, trees

HEADER, AXES = 16 * files.MB, 32
"""Most bytes of a header, which takes some hundred for a tensor; most axes of a tensor."""
PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")
_NAMES = {
    **{f"F{8 * size}": f"float{8 * size}" for size in (2, 4, 8)},
    **{f"I{8 * size}": f"int{8 * size}" for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": f"uint{8 * size}" for size in (1, 2, 4, 8)},
    **{"BF16": "bfloat16", "BOOL": "bool", "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"},
}
TYPES: dict[str, torch.dtype] = {name: getattr(torch, dtype) for name, dtype in _NAMES.items()}
"""Types of numbers as safetensors names them, and as torch does."""
Place = tuple[torch.dtype, tuple[int, ...], int, int]
"""Type and shape of a tensor, and where its bytes begin and end."""


@dataclass(frozen=True, eq=False)
class File:
    """A file of tensors, open: its bytes are read from the disk when they are looked at, and once."""

    path: Path
    _bytes: Tensor = field(repr=False)

    @classmethod
    def open(cls, path: Path) -> "File":
        """`UserError` for what is no regular file, and for one too short to say what it holds."""
        path = path.expanduser()
        with files.opened(path) as file:
            head = file.read(8)
        if len(head) < 8:
            raise _refused(path, head, f"it has {len(head)} bytes")
        try:
            size = files.regular(path).st_size
            return cls(path, torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8))
        except (RuntimeError, UnicodeEncodeError, MemoryError) as error:
            raise UserError(f"cannot read {path}: {' '.join(str(error).split())[:160]}") from None

    def sha256(self) -> str:
        """The checksum of all its bytes, those that `tensors` shows."""
        return hashlib.sha256(self._bytes.numpy().data).hexdigest()

    def tensors(self) -> dict[str, Tensor]:
        """By name; `UserError` if the header is not one, or says of a tensor what the bytes cannot hold."""
        start, entries = self._header()
        body = self._bytes[start:]
        try:
            places = {name: _place(name, entry) for name, entry in entries.items() if name != "__metadata__"}
            _tiled(places, len(body))
            _told(entries)
        except ValueError as error:
            raise _refused(self.path, self._start(), str(error)) from None
        return {name: _tensor(body, place) for name, place in places.items()}

    def facts(self) -> dict[str, str]:
        """What is written beside the tensors, texts by name; `UserError` for anything else."""
        try:
            return _told(self._header()[1])
        except ValueError as error:
            raise _refused(self.path, self._start(), str(error)) from None

    def _header(self) -> tuple[int, dict[str, Any]]:
        """Where the numbers begin, and what the header says."""
        start, rest = self._start(), len(self._bytes) - 8
        length = int.from_bytes(start, "little")
        if length > min(rest, HEADER):
            what = f"its header would have {length:,} bytes, and " + (f"{rest:,} are there" if length > rest else f"{HEADER:,} are read")
            raise _refused(self.path, start, what)
        try:
            return 8 + length, trees.entries(self._bytes[8 : 8 + length].numpy().tobytes())
        except ValueError as error:
            raise _refused(self.path, start, f"its header: {error}") from None

    def _start(self) -> bytes:
        return self._bytes[:8].numpy().tobytes()


def _refused(path: Path, start: bytes, what: str) -> UserError:
    if start[:2] == b"PK" or (start[:1] == b"\x80" and start[1:2] < b"\x06" and start[2:3] > b"\0") or path.suffix.lower() in PICKLES:
        return UserError(f"{path} is a pickle, which can run code when it is read: convert it to safetensors")
    return UserError(f"cannot read {path}: {what}; it is cut short or no safetensors file")


def _told(entries: Mapping[str, Any]) -> dict[str, str]:
    found = entries.get("__metadata__", {})
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError(f"its metadata are no texts by name but {shown(found, 60)}")
    return found


def _place(name: str, entry: Any) -> Place:
    held: dict[str, Any] = entry if isinstance(entry, dict) else {}
    kind, shape, ends = held.get("dtype"), _counts(held.get("shape")), _counts(held.get("data_offsets"))
    if not isinstance(kind, str) or kind not in TYPES:
        raise ValueError(f"{shown(name)} is of type {shown(kind, 40)}, which is not read")
    size = TYPES[kind].itemsize
    if shape is None or len(shape) > AXES or ends is None or len(ends) != 2 or ends[1] - ends[0] != math.prod(shape) * size:
        said = f"shape {shown(held.get('shape'), 60)} cannot lie at bytes {shown(held.get('data_offsets'), 60)}"
        raise ValueError(f"{shown(name)} of type {kind} and {said}")
    return TYPES[kind], shape, ends[0], ends[1]


def _counts(numbers: Any) -> tuple[int, ...] | None:
    """A list of whole numbers from 0; None for anything else."""
    return tuple(numbers) if isinstance(numbers, list) and all(type(n) is int and n >= 0 for n in numbers) else None


def _tiled(places: Mapping[str, Place], size: int) -> None:
    """`ValueError` unless the tensors lie one after the other, without a hole, and end where the file does."""
    at = 0
    for name, (_, _, begin, end) in sorted(places.items(), key=lambda item: item[1][2:]):
        if begin != at:
            raise ValueError(f"{shown(name)} begins at byte {begin:,}, the one before ends at {at:,}")
        at = end
    if at != size:
        raise ValueError(f"its tensors have {at:,} bytes, and {size:,} are there")


def _tensor(body: Tensor, place: Place) -> Tensor:
    kind, shape, begin, end = place
    if begin == end:
        return torch.empty(shape, dtype=kind)
    part = body[begin:end]
    return (part if part.storage_offset() % kind.itemsize == 0 else part.clone()).view(kind).view(shape)


class NotFinite(UserError):
    """Weights with an entry that is infinite or no number."""


def finite(tensors: Mapping[str, Tensor], where: Path | str) -> None:
    """`NotFinite` names the first tensor with an entry that is infinite or no number."""
    for name, value in tensors.items():
        if (value.is_floating_point() or value.is_complex()) and not (value.float() if value.itemsize == 1 else value).isfinite().all():
            raise NotFinite(f"{where} holds weights that are not finite, e.g. {name}: the training had diverged, or the file is damaged")


def alike(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], where: Path | str) -> None:
    """`UserError` for a tensor of another kind of numbers than the network's own of that name: only floating types are rounded."""
    for name, value in own.items():
        kind = tensors[name].dtype if name in tensors else value.dtype
        if kind != value.dtype and not (kind.is_floating_point and value.dtype.is_floating_point):
            raise UserError(f"{where} is damaged: {name} is of {kind} there and of {value.dtype} in this network")
