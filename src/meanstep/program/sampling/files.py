"""Samples as files: a picture of them, arrays, a table, sound, or a folder with a file each. A new ending is an entry of `WRITERS`."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from meanstep.program.console import UserError
from meanstep.program.data import CODECS, previews, views, waves
from meanstep.program.data.codecs import pictured
from meanstep.program.data.columns import table
from meanstep.program.data.manifest import Manifest
from meanstep.program.disk import made, put
from meanstep.program.runs.spared import check_spared
from meanstep.program.sampling import folder

LENGTHS, MASK = "lengths", "mask"
"""The arrays that hold how long each row is, and where it is, as `--data.ragged` reads them."""


@dataclass(frozen=True)
class Made:
    """Samples in units of the data, with what they were asked for: `beside`, labels and conditions by name as people write them `[N, ...]`.

    `arrays`: the same as an archive holds it; `columns`: of a grid of them.
    """

    rows: Tensor
    seeds: tuple[int, ...]
    manifest: Manifest
    beside: Mapping[str, np.ndarray]
    arrays: Mapping[str, np.ndarray]
    columns: int | None = None

    @property
    def kind(self) -> str:
        """What they are: pictures, or the kind of a look."""
        return "pictures" if CODECS[self.manifest.codec].pictures else self.manifest.seen_as.kind

    @property
    def table(self) -> dict[str, np.ndarray]:
        """The columns that the data had, or one for each number, and those that were asked for."""
        columns = self.manifest.columns
        return table(columns, self.rows.numpy(), self.beside) if columns else views.named(self.rows, self.manifest.look) | dict(self.beside)


def _npy(made: Made) -> bytes:
    box = io.BytesIO()
    np.save(box, next(iter(CODECS[made.manifest.codec].named(made.rows).values())))
    return box.getvalue()


def _npz(made: Made) -> bytes:
    box = io.BytesIO()
    held: dict[str, Any] = {**CODECS[made.manifest.codec].named(made.rows), **made.arrays}
    np.savez_compressed(box, **held, seeds=np.array(made.seeds))
    return box.getvalue()


def _csv(made: Made) -> bytes:
    """The columns of the table, with those that it was asked for."""
    return _text(made.table)


def _parquet(made: Made) -> bytes:
    """The same with their types; `UserError` without pyarrow."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise UserError("writing .parquet needs pyarrow: pip install 'meanstep[parquet]', or give a name that ends in .csv") from None
    box = io.BytesIO()
    pq.write_table(pa.table({name: x.tolist() if x.dtype.kind == "U" else x for name, x in made.table.items() if x.ndim == 1}), box)
    return box.getvalue()


def _wav(made: Made) -> bytes:
    """All of them one after the other."""
    rate = made.manifest.seen_as.rate
    return waves.encoded(waves.in_turn(made.rows, rate), rate)


WRITERS: Mapping[str, Callable[[Made], bytes]] = {
    ".npz": _npz,
    ".npy": _npy,
    ".csv": _csv,
    ".parquet": _parquet,
    ".wav": _wav,
}
"""By ending, those that are no pictures."""


def _text(columns: Mapping[str, np.ndarray]) -> bytes:
    """Columns as comma-separated values, numbers in the shortest digits that float32 needs."""
    cells = [[str(np.float32(v)) for v in x] if x.dtype.kind == "f" else x.tolist() for x in columns.values() if x.ndim == 1]
    held = io.StringIO()
    writer = csv.writer(held, lineterminator="\n")
    writer.writerow(name for name, x in columns.items() if x.ndim == 1)
    writer.writerows(zip(*cells, strict=True))
    return held.getvalue().encode()


def preview(made: Made) -> Image.Image:
    """A picture of them."""
    return pictured(made.rows, made.manifest, made.columns)


def saved(path: Path, made: Made) -> list[Path]:
    """Write what the name's end says, or into a folder if it has none; numbers are also written beside a picture of them. The files."""
    end = path.suffix.lower()
    if not end:
        return _folder(path, made)
    if end in WRITERS:
        put(path, WRITERS[end](made))
        return [path]
    previews.save(path, preview(made))
    return [path, *(file for other in _beside(path, made.kind) for file in saved(other, made))]


def _beside(path: Path, kind: str) -> list[Path]:
    """The files that are written beside a picture of samples of this kind."""
    further = () if kind == "pictures" or not path.suffix or path.suffix.lower() in WRITERS else (".npz", *views.VIEWS[kind].ends)
    return [path.with_suffix(end) for end in further]


def _folder(path: Path, made_of: Made) -> list[Path]:
    """A picture of all, and a file for each picture and sound, by its seed, or one file of the rows."""
    here = made(path)
    names = _names(made_of.kind, made_of.seeds)
    files = {folder.PICTURE: previews.encoded(preview(made_of))}
    if made_of.kind in EACH:
        files |= {name: EACH[made_of.kind][1](row, made_of.manifest) for name, row in zip(names, made_of.rows, strict=True)}
        files[folder.LIST] = _text({"file": np.array(names), "seed": np.array(made_of.seeds)} | dict(made_of.beside))
    else:
        files |= {name: WRITERS[Path(name).suffix](made_of) for name in names}
    folder.placed(here, files)
    return [here]


def _names(kind: str, seeds: Sequence[int]) -> list[str]:
    """The files of a folder beside the picture of all: one each by its seed, or one of the rows."""
    if kind in EACH:
        return [f"{seed:06d}{EACH[kind][0]}" for seed in seeds]
    return [f"samples{end}" for end in views.VIEWS[kind].ends or (".npz",)]


def _one_picture(row: Tensor, manifest: Manifest) -> bytes:
    return previews.encoded(previews.picture(row))


def _one_sound(row: Tensor, manifest: Manifest) -> bytes:
    return waves.encoded(row, manifest.seen_as.rate)


EACH: Mapping[str, tuple[str, Callable[[Tensor, Manifest], bytes]]] = {"pictures": (".png", _one_picture), "sound": (".wav", _one_sound)}
"""Kinds of samples that a folder holds a file each of."""


def checked(path: Path, manifest: Manifest, run: Path, seeds: Sequence[int]) -> None:
    """`UserError` for an ending of sound or of tables where rows are something else, and for what may not be replaced.

    That is what the run was trained on, a file beside the picture that no picture of before came with, and what a folder holds of others.
    """
    end, kind = path.suffix.lower(), "pictures" if CODECS[manifest.codec].pictures else manifest.seen_as.kind
    if end == ".wav" and kind != "sound":
        remedy = "take .png or .npz" if kind == "pictures" else "say their samples a second with --preview sound:RATE, or take .npz"
        raise UserError(f"--out {path.name}: a .wav is of sound, and these are {kind}: {remedy}")
    if end in (".csv", ".parquet") and (kind == "pictures" or len(manifest.image) != 1):
        raise UserError(
            f"--out {path.name}: a {end} has one number a column, and a sample is {' x '.join(map(str, manifest.image))}: take .npz"
        )
    further = _beside(path, kind)
    check_spared(path, run, further if end else [path / f"samples{other}" for other in WRITERS])
    if not end:
        folder.checked(path, {folder.PICTURE, *([folder.LIST] if kind in EACH else []), *_names(kind, seeds)})
    if not path.exists() and (lost := next((file for file in further if file.exists()), None)):
        raise UserError(f"--out: {lost} would be written beside {path.name}, and is there already: give another name")
