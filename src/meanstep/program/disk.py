"""All that this software writes: aside, synced, renamed, and the next start removes what a crash left. Needs no torch.

A folder of results may come from somebody else, so nothing in one is written through a link: `write`, `append`, `lock`, `folder` and
`tree` replace a link or refuse it. Only `put` follows one: its file is named by the user on the command line, as with cp or tee.
`before` is called ahead of every operation; a test that raises there stops the program as a kill at that moment would.
"""

import contextlib
import errno
import fcntl
import glob
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

from meanstep.program.errors import UserError

ASIDE = re.compile(r"\.(.+)\.[a-z0-9_]{8}")
"""Names of files that are written aside: `.NAME.` and what `tempfile` draws."""


def before(operation: str, path: Path) -> None:
    """Called before an operation on a file is done."""


def write(path: Path, content: str | bytes) -> None:
    """Write a file so that a crash leaves the old one or the new one. `UserError` if that cannot be done.

    Text becomes UTF-8. A link of that name is replaced by the file, what it points at is left alone.
    """
    try:
        if path.is_dir() and not path.is_symlink():
            raise UserError(f"{path} is a folder: a file is to be written there")
        _replace(path, _bytes(content))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def put(path: Path, content: str | bytes) -> None:
    """Write a file that the user named: as `write`, but a link is followed, and a device or pipe is written to as it is."""
    path = writable(path)
    if not path.exists() or path.is_file():
        write(path, content)
        return
    try:
        path.write_bytes(_bytes(content))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def writable(path: Path) -> Path:
    """The path with links followed, or `UserError` if no file can be written there; nothing is touched."""
    try:
        path = path.expanduser()
        if path.exists() and not path.is_file() and not path.is_dir():
            return path
        path = path.resolve()
        folder = path.is_dir()
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"cannot write {path}: {error}") from error
    if folder:
        raise UserError(f"{path} is a folder: give the name of a file")
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: the folder {path.parent} does not exist")
    replaced = os.access(path.parent, os.W_OK | os.X_OK)  # by a file that is written aside, in the same folder
    if not replaced or (path.exists() and not os.access(path, os.W_OK)):
        raise UserError(f"cannot write {path}: permission denied")
    return path


def append(path: Path, text: str, *, sync: bool = False) -> None:
    """Add to the end of a file; a kill leaves at most a part of it there. `UserError` if that cannot be done."""
    before("append", path)
    handle = _opened(path, os.O_WRONLY | os.O_APPEND)
    try:
        with os.fdopen(handle, "ab") as file:
            file.write(text.encode())
            file.flush()
            if sync:
                before("sync", path)
                os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


@contextlib.contextmanager
def lock(path: Path, busy: UserError | None = None) -> Iterator[None]:
    """Hold a lock on a file, whose content is left alone; `busy` is raised if another process holds it, without one it is waited for."""
    before("lock", path)
    with os.fdopen(_opened(path, os.O_RDWR), "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except OSError:
            raise busy or UserError(f"cannot lock {path}") from None
        yield


def folder(path: Path) -> None:
    """Make a folder inside a folder of results if it is not there; `UserError` for a link, also to a folder."""
    if path.is_symlink():
        raise UserError(f"{path} is a link, which is not followed there: remove it, or choose another folder")
    if path.is_dir():
        return
    before("make", path)
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {path}: {error.strerror}") from error


def made(path: Path) -> Path:
    """A folder that the user named, with links followed and made with its parents if it is not there. `UserError` if it cannot be."""
    try:
        path = path.expanduser().resolve()
        if not path.is_dir():
            before("make", path)
            path.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        raise UserError(f"cannot make the folder {path}: {getattr(error, 'strerror', error)}") from error
    if not os.access(path, os.W_OK):
        raise UserError(f"cannot write into {path}: permission denied")
    return path


def _opened(path: Path, flags: int) -> int:
    """A regular file opened without following a link or waiting for a pipe's other end; made if it is not there."""
    try:
        handle = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"{path} is a link, which is not followed there: remove it") from None
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UserError(f"{path} is no regular file: remove it")
    return handle


def _replace(path: Path, data: bytes) -> None:
    before("create", path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # never an existing file, never through a link
    aside = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            with contextlib.suppress(OSError):  # some file systems have no locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # `clean` leaves it alone meanwhile
            _filled(file.fileno(), path, data)
            old = path.lstat() if path.exists() else None
            os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode) if old and stat.S_ISREG(old.st_mode) else 0o666 & ~_umask())
            before("rename", path)
            aside.replace(path)
        before("sync folder", path.parent)
        _sync_folder(path.parent)
    finally:
        remove(aside)


def _filled(handle: int, path: Path, data: bytes) -> None:
    before("write", path)
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]
    before("sync", path)
    os.fsync(handle)


def _bytes(content: str | bytes) -> bytes:
    """Text becomes UTF-8; half characters, which names of files may have, are written as escapes."""
    return content.encode(errors="backslashreplace") if isinstance(content, str) else content


def _sync_folder(path: Path) -> None:
    with _open(path, os.O_RDONLY | os.O_DIRECTORY) as handle:
        os.fsync(handle)


@contextlib.contextmanager
def _open(path: Path, flags: int) -> Iterator[int]:
    handle = os.open(path, flags | os.O_CLOEXEC, 0o666)
    try:
        yield handle
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def tree(target: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Write a folder so that it is there with all its files or not at all; `OSError` if that cannot be done.

    A name may be one in a folder, `part/file`. What is there under its name is moved aside, to NAME.incomplete: it is for the caller to
    know that it is not good.
    """
    folder(target.parent)
    with contextlib.ExitStack() as mine:
        with _locked(target.parent):  # or what another has made and not locked yet would be taken for a leftover
            for path in target.parent.glob(f".{glob.escape(target.name)}.aside*"):  # what a kill left
                if path.is_dir() and not path.is_symlink() and not _in_use(path):
                    remove(path)
            before("make", target)
            aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.aside-"))  # of this process alone
            mine.callback(remove, aside)
            handle = mine.enter_context(_locked(aside))
        for name, data in files:
            before("create", aside / name)
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            with _open(aside / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW) as file:
                _filled(file, aside / name, data)
        aside.chmod(0o777 & ~_umask())
        os.fsync(handle)
        _placed(aside, target)
    before("sync folder", target.parent)
    _sync_folder(target.parent)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    """A folder, with its lock where the file system has locks; waits for another's."""
    with _open(path, os.O_RDONLY | os.O_DIRECTORY) as handle:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle


def _placed(aside: Path, target: Path) -> None:
    """Give a folder its name; one that is there is moved aside, and once more where another process was quicker."""
    while True:
        try:
            if target.exists() or target.is_symlink():
                gone = next(p for k in range(2**30) if not (p := target.with_name(f"{target.name}.incomplete{k or ''}")).exists())
                before("rename", gone)
                target.rename(gone)
            before("rename", target)
            aside.rename(target)
            return
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST) or not aside.exists():
                raise


def drop(path: Path) -> None:
    """Remove a folder and what is in it; a kill meanwhile leaves nothing under its name."""
    before("rename", path)
    remove(path.rename(path.with_name(f".{path.name}.old")))


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with what is in it, if it is there."""
    if not path.exists() and not path.is_symlink():
        return
    before("remove", path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def foreign(where: Path, own: Collection[str]) -> list[str]:
    """The names in a folder that are neither among the `own` patterns nor what a crash left of such a file."""
    return sorted(p.name for p in where.iterdir() if not _is(p.name, own) and not _is(_meant(p.name), own))


def clean(where: Path, own: Collection[str]) -> None:
    """Remove what a crash left of files with these names, as patterns; what somebody writes at this moment stays."""
    for path in where.iterdir() if where.is_dir() and not where.is_symlink() else ():
        if _is(_meant(path.name), own) and path.is_file() and not path.is_symlink() and not _in_use(path):
            remove(path)


def _meant(name: str) -> str:
    """The name that a file written aside was to have, empty for another."""
    found = ASIDE.fullmatch(name)
    return found.group(1) if found else ""


def _is(name: str, patterns: Collection[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _in_use(path: Path) -> bool:
    try:
        with _open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK) as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
