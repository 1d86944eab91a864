"""A user's own points: three kinds of file, every mistake in one line, and the law that they make."""

import builtins
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import meanstep as ms
from meanstep.program.console import UserError
from meanstep.program.reading import files, tables
from meanstep.program.reproduce.points.sets import Points, load

N = 120
GOOD = np.random.default_rng(0).normal(size=(N, 3)) * [1.0, 2.0, 0.5] + [5.0, -1.0, 0.0]
LINES = [",".join(repr(float(v)) for v in row) for row in GOOD]


def file(folder: Path, text: str | bytes, name: str = "points.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def npy(folder: Path, array: object) -> Path:
    np.save(folder / "points.npy", array)  # type: ignore[arg-type]
    return folder / "points.npy"


def parquet(folder: Path, **columns: object) -> Path:
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed (parquet extra)")
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), folder / "points.parquet")
    return folder / "points.parquet"


def complaint(path: Path) -> str:
    """The one line that loading ends with; it names the file."""
    with pytest.raises(UserError) as error:
        load(path)
    line = str(error.value)
    assert "\n" not in line and str(path) in line
    return line


def edited(row: int, cell: str, column: int = 1) -> list[str]:
    """The good lines with one cell of one of them changed."""
    cells = LINES[row].split(",")
    cells[column] = cell
    return [*LINES[:row], ",".join(cells), *LINES[row + 1 :]]


# --- what is read


@pytest.mark.parametrize("start", ["", "x,y,z\n", "\ufeffx,y,z\r\n", "\n\n"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_csv(tmp_path: Path, start: str, end: str):
    points = load(file(tmp_path, start + end.join(LINES) + end))
    assert points.dtype == torch.float32
    np.testing.assert_array_equal(points.numpy(), GOOD.astype(np.float32))


@pytest.mark.parametrize("kind", ["f8", "f4", ">f8", "f2", "i4"])
def test_npy(tmp_path: Path, kind: str):
    array = (10 * GOOD).astype(kind)
    np.testing.assert_array_equal(load(npy(tmp_path, array)).numpy(), array.astype(np.float32))
    np.testing.assert_array_equal(load(npy(tmp_path, np.asfortranarray(array))).numpy(), array.astype(np.float32))


def test_parquet(tmp_path: Path):
    path = parquet(tmp_path, x=GOOD[:, 0], y=GOOD[:, 1].astype(np.float32), k=np.arange(N))
    expected = np.stack([GOOD[:, 0], GOOD[:, 1], np.arange(N)], -1).astype(np.float32)
    np.testing.assert_array_equal(load(path).numpy(), expected)


def test_what_is_missing_of_a_parquet_is_nan_whatever_its_type(tmp_path: Path):
    held = {"whole": [1, None, 3], "truth": [True, None, False], "number": [0.5, None, 1.5]}
    columns = tables.read_parquet(parquet(tmp_path, **held)).columns
    for name, values in held.items():
        assert columns[name].dtype == np.float64
        np.testing.assert_array_equal(columns[name], [np.nan if value is None else float(value) for value in values])
    truth = tables.read_parquet(parquet(tmp_path, truth=[True, False])).columns["truth"]
    assert truth.dtype == np.int64 and truth.tolist() == [1, 0]


def test_a_path_may_be_text_and_its_ending_in_capitals(tmp_path: Path):
    assert load(str(file(tmp_path, "\n".join(LINES), "POINTS.CSV"))).shape == (N, 3)


# --- mistakes

CSV: dict[str, tuple[str, str]] = {
    "word": ("\n".join(edited(4, "tall")), "row 5, column 2: 'tall' is no number"),
    "word under a header": ("x,y,z\n" + "\n".join(edited(4, "tall")), "row 6, column y: 'tall' is no number"),
    "word after a blank line": ("\n" + "\n".join(edited(4, "tall")), "row 6, column 2: 'tall' is no number"),
    "empty cell": ("\n".join(edited(7, "")), "row 8, column 2: '' is no number"),
    "half a header": ("\n".join(["x,1,2", *LINES]), "row 1, column 1: 'x' is no number"),
    "underscore": ("\n".join(edited(0, "1_0")), "row 1, column 2: '1_0' is no number"),
    "nan": ("\n".join(edited(9, "nan")), "row 10, column 2: nan is no finite"),
    "nan under a header": ("x,y,z\n" + "\n".join(edited(9, "nan", 2)), "row 11, column z: nan is no finite"),
    "inf": ("\n".join(edited(2, "-inf")), "row 3, column 2: -inf is no finite"),
    "too large": ("\n".join(edited(2, "1e300")), "row 3, column 2: 1e+300 is no finite float32"),
    "long row": ("\n".join([*LINES[:3], LINES[3] + ",1", *LINES[4:]]), "row 4 has 4 cells where 3 are expected"),
    "short row": ("x,y,z\n" + "\n".join([*LINES[:3], "1,2", *LINES[4:]]), "row 5 has 2 cells where 3 are expected"),
    "one column": ("\n".join(str(k) for k in range(N)), "1 column of numbers; give at least 2"),
    "semicolons": ("\n".join(LINES).replace(",", ";"), "(in a .csv separated by commas)"),
    "few": ("\n".join(LINES[:99]), "99 rows of numbers; give at least 100"),
    "equal": ("1,2\n" * N, "all 120 points are equal"),
    "lost": ("".join(f"{1e9 + k},0\n" for k in range(N)), "is lost in float32; subtract the mean"),
    "empty": ("", "is empty; give at least 100"),
    "blank": ("\n\n \n", "has no row of numbers"),
    "header only": ("x,y\n", "has no row of numbers"),
}


@pytest.mark.parametrize("name", CSV)
def test_a_wrong_csv(tmp_path: Path, name: str):
    text, expected = CSV[name]
    assert expected in complaint(file(tmp_path, text))


def test_a_csv_that_is_no_text(tmp_path: Path):
    assert "no text in UTF-8" in complaint(file(tmp_path, b"\xff\xfe1\x00,\x002\x00"))
    assert "save it as CSV again" in complaint(file(tmp_path, b"1,2\n" * N + b'"' + b"1" * 200_000 + b'",2\n'))


NPY: dict[str, tuple[Callable[[], object], str]] = {
    "one axis": (lambda: GOOD[:, 0], "an array of shape (120,); save points as rows"),
    "three axes": (lambda: GOOD[None], "an array of shape (1, 120, 3)"),
    "no axis": (lambda: np.float64(3), "an array of shape ()"),
    "one column": (lambda: GOOD[:, :1], "1 column of numbers"),
    "no column": (lambda: GOOD[:, :0], "0 column of numbers"),
    "no row": (lambda: GOOD[:0], "0 rows of numbers"),
    "complex": (lambda: GOOD + 1j, "entries of type complex128"),
    "bool": (lambda: GOOD > 0, "entries of type bool"),
    "text": (lambda: GOOD.astype(str), "entries of type <U"),
    "record": (lambda: np.zeros(N, dtype=[("x", float), ("y", float)]), "save real numbers"),
    "object": (lambda: GOOD.astype(object), "pickled objects, which are not read"),
    "nan": (lambda: np.where(np.arange(N)[:, None] == 6, np.nan, GOOD), "row 7, column 1: nan is no finite"),
    "equal": (lambda: np.ones((N, 2)), "all 120 points are equal"),
}


@pytest.mark.parametrize("name", NPY)
def test_a_wrong_npy(tmp_path: Path, name: str):
    make, expected = NPY[name]
    assert expected in complaint(npy(tmp_path, make()))


def test_a_damaged_npy(tmp_path: Path):
    whole = npy(tmp_path, GOOD).read_bytes()
    for kept in (3, 60, 128, 500, len(whole) - 1):
        assert "save a whole array of numbers" in complaint(file(tmp_path, whole[:kept], "points.npy"))
    assert "save a whole array of numbers" in complaint(file(tmp_path, b"1,2\n3,4\n", "points.npy"))
    assert "is empty" in complaint(file(tmp_path, b"", "points.npy"))
    np.savez(tmp_path / "several.npz", a=GOOD)
    assert "several arrays" in complaint((tmp_path / "several.npz").rename(tmp_path / "several.npy"))


def test_a_wrong_parquet(tmp_path: Path):
    x = GOOD[:, 0]
    assert "column name: string is no number" in complaint(parquet(tmp_path, x=x, name=["a"] * N))
    assert "row 3, column y: nan is no finite" in complaint(parquet(tmp_path, x=x, y=[1.0, 2.0, None, *x[3:]]))
    assert "row 2, column k: nan is no finite" in complaint(parquet(tmp_path, x=x, k=[1, None, *range(2, N)]))
    assert "1 column of numbers" in complaint(parquet(tmp_path, x=x))
    assert "99 rows of numbers" in complaint(parquet(tmp_path, x=x[:99], y=x[1:100]))
    whole = parquet(tmp_path, x=x, y=x).read_bytes()
    for damaged in (whole[:200], b"1,2\n" * 40):
        assert "write it again as parquet" in complaint(file(tmp_path, damaged, "points.parquet"))


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def absent(name: str, *args, real=builtins.__import__, **kwargs):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    assert complaint(file(tmp_path, b"PAR1", "points.parquet")).endswith("pip install pyarrow")


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert "there is no such file" in complaint(tmp_path / "none.csv")
    assert "unknown kind of file '.txt'" in complaint(file(tmp_path, "1,2", "points.txt"))
    assert "unknown kind of file ''" in complaint(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    assert "it is a folder, give a regular file" in complaint(tmp_path / "folder.csv")
    path = file(tmp_path, "\n".join(LINES))

    def denied(*args: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.os, "open", denied)  # a superuser reads everything, so the mode of the file would not do
    assert "points.csv: Permission denied" in complaint(path)


# --- the law


def cloud(n: int = 1001) -> Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, 3, generator=g) * torch.tensor([1.0, 20.0, 0.5]) + torch.tensor([500.0, -1.0, 0.0])


def test_points_are_scaled_and_split():
    x, law = cloud(), Points(cloud())
    assert (law.dim, law.training.shape, law.held_out.shape) == (3, (501, 3), (500, 3))
    both = torch.cat([law.training, law.held_out])
    torch.testing.assert_close(both.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    assert both.var(0, correction=0).mean().item() == pytest.approx(1, rel=1e-5)
    back = law.original(both)
    assert back.dtype == both.dtype == torch.float32
    order = [q[:, 1].argsort() for q in (back, x)]  # every point is in one of the halves, once
    torch.testing.assert_close(back[order[0]], x[order[1]], rtol=1e-5, atol=1e-4)


def test_the_split_is_the_seeds():
    state = torch.get_rng_state()
    a, b, c = (Points(cloud(), seed) for seed in (0, 0, 1))
    assert torch.equal(a.training, b.training) and not torch.equal(a.training, c.training)
    assert torch.equal(state, torch.get_rng_state())


def test_samples_are_rows_of_their_half():
    law = Points(cloud())
    for sample, half, other in (
        (law.sample, law.training, law.held_out),
        (law.held_out_sample, law.held_out, law.training),
    ):
        x = sample(4000, torch.Generator().manual_seed(0))
        assert torch.equal(x, sample(4000, torch.Generator().manual_seed(0)))
        assert {*map(tuple, x.tolist())} <= {*map(tuple, half.tolist())} - {*map(tuple, other.tolist())}
        assert len(x.unique(dim=0)) > 0.99 * len(half)


def test_points_without_a_scale_are_an_error():
    with pytest.raises(ValueError, match="no scale"):
        Points(torch.ones(100, 2))


def test_the_velocity_is_the_posterior_mean_of_the_training_half():
    law = Points(torch.randn(300, 3, generator=ms.key(0)))
    z, t = torch.randn(50, 3, generator=ms.key(1)), torch.linspace(0.2, 0.9, 50)
    x = law.training.double()
    logits = -((z.double()[:, None] - (1 - t.double())[:, None, None] * x) ** 2).sum(-1) / (2 * t.double()[:, None] ** 2)
    expected = (z - logits.softmax(1) @ x) / t[:, None]
    torch.testing.assert_close(law.velocity(z, t).double(), expected, rtol=1e-5, atol=1e-5)


def test_a_table_that_says_it_is_larger_than_memory_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"x": [0.0] * 200, "y": [1.0] * 200}), tmp_path / "bomb.parquet")
    monkeypatch.setattr(tables, "memory", lambda: 1000)
    assert "3,200 bytes of numbers, more than half of this machine's memory" in complaint(tmp_path / "bomb.parquet")
