"""Bytes of regular files, up to a size: what is a pipe, a device, a folder or a link to nothing is never opened. Knows no format."""

import io
import os
import stat
from pathlib import Path

from meanstep.program.errors import UserError

MB = 1 << 20


def regular(path: Path) -> os.stat_result:
    """What is known of a regular file; `UserError` for anything else. Nothing is opened."""
    try:
        found = path.stat()
    except FileNotFoundError:
        what = "it is a link to nothing" if path.is_symlink() else "there is no such file"
        raise UserError(f"cannot read {path}: {what}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(found.st_mode):
        what = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or device"
        raise UserError(f"cannot read {path}: it is {what}, give a regular file")
    return found


def opened(path: Path) -> io.BufferedReader:
    """A regular file, opened without waiting for anybody; `UserError` for anything else."""
    regular(path)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):  # another one since
        os.close(handle)
        raise UserError(f"cannot read {path}: it is no regular file")
    return open(handle, "rb")


def content(path: Path, most: int = 16 * MB) -> bytes:
    """The bytes of a regular file; `UserError` for more than `most`."""
    with opened(path) as file:
        try:
            found = file.read(min(most, os.fstat(file.fileno()).st_size) + 1)  # a read of n bytes takes n bytes of memory at once
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None
    if len(found) > most:
        raise UserError(f"{path} has {regular(path).st_size:,} bytes, more than {most:,} are not read: is it the right file?")
    return found


def text(path: Path, most: int = 16 * MB) -> str:
    """The text of a file in UTF-8; `UserError` for another."""
    try:
        return content(path, most).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8: byte {error.start:,} is none of it; save it as UTF-8") from None
