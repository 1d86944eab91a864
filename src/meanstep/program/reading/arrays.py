"""Arrays in .npy and .npz: headers that say what is there, before any of it is held. Knows no names of arrays."""

import math
import os
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from meanstep.program.errors import UserError, first_line, shown
from meanstep.program.reading import files
from meanstep.program.reading.archives import DAMAGED, FAULTS

EXPANDS = 1100
"""Most bytes that one of deflate can stand for."""
ONE = "; where a row is one number, save x[:, None]"
"""The remedy for an array [N], which may be N rows or one."""


def memory() -> int:
    """Bytes of half the machine's memory, which one file's arrays may fill."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def header(file: IO[bytes], size: int, name: str) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Shape, type and Fortran's order of the array that follows, `size` bytes with its header; `UserError` if it cannot be there."""
    from tokenize import TokenError

    try:
        start = file.tell()
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, kind = read(file, max_header_size=10_000)
        rest = size - (file.tell() - start)
    except DAMAGED:  # of the archive that the array is in
        raise
    except (*FAULTS, TokenError) as error:
        raise UserError(f"cannot read {name}: it holds no plain array: {first_line(error)}") from None
    if kind.hasobject:
        raise UserError(f"cannot read {name}: it holds pickled objects, which are not read: save plain arrays of numbers with numpy.savez")
    if not all(type(side) is int and side >= 0 for side in shape) or len(shape) > 32:
        raise UserError(f"cannot read {name}: it is damaged: its shape is {shown(shape)}")
    if math.prod(shape) * kind.itemsize != rest:
        wanted = math.prod(shape) * kind.itemsize
        raise UserError(
            f"cannot read {name}: it is damaged: an array {shown(shape)} of {kind} has {wanted:,} bytes, and {max(rest, 0):,} are there"
        )
    return shape, kind, fortran


def mapped(path: Path) -> "np.ndarray[Any, Any]":
    """The array of a .npy on the disk, in the machine's own order of bytes; `UserError` for anything else."""
    with files.opened(path) as file:
        header(file, files.regular(path).st_size, str(path))
    return native(np.load(path, mmap_mode="r", allow_pickle=False))


def whole(file: IO[bytes], size: int, name: str) -> "np.ndarray[Any, Any]":
    """The array of a .npy of `size` bytes, read into memory; `UserError` for anything else."""
    shape, kind, fortran = header(file, size, name)
    data = np.frombuffer(bytearray(file.read()), kind)
    return native(data.reshape(shape, order="F" if fortran else "C"))


def native(array: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """The array with its bytes in this machine's order."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def archive(path: Path, most: int | None = None) -> "dict[str, np.ndarray[Any, Any]]":
    """The arrays of an .npz by name; `UserError` names the one that is damaged, encrypted, or larger than the machine's memory takes."""
    most = most or memory()
    try:
        with files.opened(path) as file, zipfile.ZipFile(file) as held:
            infos = [info for info in held.infolist() if info.filename.endswith(".npy")]
            if sum(info.file_size for info in infos) > most:
                raise UserError(f"{path} says that its arrays have more than {most:,} bytes: give them as .npy, which stays on the disk")
            return {info.filename.removesuffix(".npy"): _member(held, info, f"{path}, {info.filename}") for info in infos}
    except FAULTS as error:
        raise UserError(f"cannot read {path}: it is no complete .npz: {first_line(error)}; write it with numpy.savez") from None


def _member(held: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> "np.ndarray[Any, Any]":
    if info.flag_bits & 1:
        raise UserError(f"cannot read {name}: it is encrypted: write the file with numpy.savez")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(f"cannot read {name}: it is compressed in a way that NumPy does not use: write the file with numpy.savez")
    if info.file_size > EXPANDS * info.compress_size + 1024:
        raise UserError(f"cannot read {name}: it is damaged: {info.compress_size:,} bytes cannot stand for {info.file_size:,}")
    with held.open(info) as file:
        return whole(file, info.file_size, name)
