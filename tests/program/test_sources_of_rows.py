"""Rows from tables, named arrays, folders of arrays and of sounds: what they are, and what is refused with its place."""

import struct
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.io import wavfile

from meanstep.program.console import UserError
from meanstep.program.data import Opened, Request, make, open_source
from meanstep.program.data.sources import plain_shape
from meanstep.program.reading.sounds import wav

pytestmark = pytest.mark.usefixtures("here")

DRAW = np.random.default_rng(1)


def rows(spec: str, **how) -> np.ndarray:
    source = open_source(spec, **how)
    assert source.plain
    return np.stack([source[i][0] for i in range(len(source))])


def drawn(*shape: int) -> np.ndarray:
    return DRAW.normal(size=shape).astype(np.float32)


# What they are -----------------------------------------------------------------------------------------------------------------------


def test_named_arrays_and_tensors():
    x, other = drawn(5, 2, 3), drawn(5, 4)
    np.savez("a.npz", joints=x, more=other)
    save_file({"joints": torch.from_numpy(x).bfloat16(), "x": torch.from_numpy(other), "y": torch.arange(5)}, "a.safetensors")
    assert np.array_equal(rows("a.npz:joints"), x) and np.array_equal(rows("a.npz:more"), other)
    assert open_source("a.npz:joints").left_out == {"more": 5} and plain_shape("a.npz:joints") == (2, 3)
    assert np.array_equal(rows("a.safetensors:joints"), torch.from_numpy(x).bfloat16().float().numpy())
    labelled = open_source("a.safetensors")
    assert np.array_equal(rows("a.safetensors"), other) and labelled.classes == tuple("01234") and labelled.label(3) == 3


@pytest.mark.parametrize("more", [{}, {"classes": np.array(["a", "b", "c"]), "noise": np.zeros((6, 4))}], ids=["plain", "pairs"])
def test_labels_beside_rows_are_read_by_either_name(more: dict[str, np.ndarray]):
    for name in ("y", "labels"):
        np.savez("a.npz", x=drawn(6, 4), **{name: np.array([0, 1, 2] * 2)}, **more)
        source = open_source("a.npz")
        assert [source.label(i) for i in range(6)] == [0, 1, 2] * 2 and not source.left_out
        assert source.classes == tuple(more.get("classes", "012"))


def test_a_file_of_pictures_is_that_whatever_else_it_holds():
    pictures = np.zeros((6, 8, 8), np.uint8)
    np.savez("a.npz", images=pictures, x=drawn(6, 4), y=np.array([0, 1, 2] * 2))
    source = open_source("a.npz")
    assert not source.plain and source.left_out == {"x": 6, "y": 6}


def test_a_name_has_splits():
    train, held = drawn(5, 2), drawn(3, 2)
    np.savez("a.npz", joints_train=train, joints_test=held, kind_train=np.arange(5) % 2, kind_test=np.arange(3) % 2)
    for split, x in (("train", train), ("test", held)):
        source = open_source("a.npz:joints", split, conditions=("kind",))
        assert np.array_equal(np.stack([row for row, _ in source]), x) and source.label(1) == 1
    with pytest.raises(UserError, match="has no array 'joints': it has joints_train, joints_test"):
        open_source("a.npz:joints", "valid")


def test_a_table_is_a_row_of_numbers_a_row_whatever_its_file():
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    x = drawn(6, 3).astype(np.float64)
    Path("a.csv").write_text("h, w,long name\n\n" + "\n".join(", ".join(map(repr, row)) for row in x.tolist()) + "\n")
    Path("bare.csv").write_text("\n".join(",".join(map(repr, row)) for row in x.tolist()))
    pq.write_table(pa.table({"h": x[:, 0], "w": x[:, 1], "d": x[:, 2]}), "a.parquet")
    for spec in ("a.csv", "bare.csv", "a.parquet"):
        assert np.array_equal(rows(spec), x.astype(np.float32))
    cache = make(Opened.of(Request("a.csv")), Path("cache"))
    along = cache.rows(torch.arange(6))[0].double()
    assert cache.shape == (3,) and along.mean(0).abs().max() < 1e-6 and (along.std(0, correction=0) - 1).abs().max() < 1e-6


def test_a_folder_of_arrays_has_a_row_a_file_and_labels_are_its_sub_folders():
    x = drawn(4, 2, 5)
    for k in range(4):
        Path("f", "ba"[k % 2]).mkdir(parents=True, exist_ok=True)
        np.save(Path("f", "ba"[k % 2], f"{k}.npy"), x[k])
    Path("f", "notes.txt").write_text("x")
    source = open_source("f")
    assert np.array_equal(rows("f"), x[[1, 3, 0, 2]]) and source.classes == ("a", "b") and source.labels.tolist() == [0, 0, 1, 1]
    assert source.left_out == {".txt": 1} and plain_shape("f") == (2, 5)


def spoken(path: str, samples: bytes, channels: int = 1, width: int = 2, rate: int = 8000) -> None:
    """As the standard library writes it."""
    with wave.open(path, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(samples)


def test_sounds_are_channels_by_samples_from_minus_one_to_one():
    for name in ("mono", "stereo", "bytes", "deep", "floats"):
        Path(name).mkdir()
    spoken("mono/0.wav", struct.pack("<4h", -32768, 0, 16384, 32767))
    spoken("stereo/0.wav", struct.pack("<4h", -32768, 0, 16384, 8192), channels=2)
    spoken("bytes/0.wav", bytes([0, 128, 192]), width=1)
    spoken("deep/0.wav", b"\x00\x00\x80" + b"\x00\x00\x40", width=3)
    wavfile.write("floats/0.wav", 8000, np.array([[-0.5, 0.25], [1.0, 0.0]], np.float32))
    assert rows("mono").tolist() == [[[-1.0, 0.0, 0.5, 32767 / 32768]]]
    assert rows("stereo").tolist() == [[[-1.0, 0.5], [0.0, 0.25]]]
    assert rows("bytes").tolist() == [[[-1.0, 0.0, 0.5]]]
    assert rows("deep").tolist() == [[[-1.0, 0.5]]]
    assert rows("floats").tolist() == [[[-0.5, 1.0], [0.25, 0.0]]]


# What is refused, with its place and a remedy -----------------------------------------------------------------------------------------


def test_what_is_wrong_in_a_table_is_named_by_row_and_column():
    tables = {
        "text": ("a,b\n1,2\n3,old\n", r"text\.csv, row 3, column b: 'old' is no number: correct the row, drop .*--data\.condition"),
        "short": ("a,b\n1,2\n3\n", "short.csv, row 3 has 1 cells where 2 are expected"),
        "twice": ("a,a\n1,2\n", "two columns 'a': give each a name of its own"),
        "empty": ("a,b\n", "has no rows"),
        "python": ("a,b\n1_000,2\n", "row 2, column a: '1_000' is no number"),
    }
    for name, (text, message) in tables.items():
        Path(f"{name}.csv").write_text(text)
        with pytest.raises(UserError, match=message) as told:
            open_source(f"{name}.csv")
        assert "\n" not in str(told.value)
    Path("hole.csv").write_text("a,b\n1,2\n3,\n5,nan\n7,8\n")
    with pytest.raises(UserError, match=r"hole\.csv, row 3, column b: nan is no finite number .*--skip-broken"):
        make(Opened.of(Request("hole.csv")), Path("cache"))
    assert len(make(Opened.of(Request("hole.csv", skip_broken=True)), Path("cache"))) == 2
    Path("bad.csv").write_bytes(b"\xff\xfe\x00,1\n")
    Path("bad.parquet").write_bytes(b"PAR1" + bytes(20))
    for name in ("bad.csv", "bad.parquet"):
        with pytest.raises(UserError, match=r"no text in UTF-8|cannot read bad\.parquet"):
            open_source(name)


def test_columns_of_a_parquet_that_are_no_numbers_are_named():
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"a": [1.0, 2.0], "kind": ["x", "y"]}), "words.parquet")
    pq.write_table(pa.table({"a": [1.0, None]}), "none.parquet")
    pq.write_table(pa.table({"a": [[1.0], [2.0]]}), "lists.parquet")
    for name, message in {"words": "row 1, column kind: 'x' is no number", "lists": "column a: list.* is neither number nor text"}.items():
        with pytest.raises(UserError, match=message):
            open_source(f"{name}.parquet")
    with pytest.raises(UserError, match="row 2, column a: nan is no finite number"):
        open_source("none.parquet")[1]


def test_arrays_by_name_that_are_not_there():
    np.savez("a.npz", joints=drawn(5, 2))
    with pytest.raises(UserError, match=r"has no array 'hands': it has joints"):
        open_source("a.npz:hands")
    with pytest.raises(UserError, match=r"it holds joints; rows of numbers are named x, or a\.npz:NAME"):
        open_source("a.npz")
    with pytest.raises(UserError, match="has no split 'test'"):
        open_source("a.npz:joints", "test")


def test_files_of_a_folder_that_are_not_alike_are_named():
    for name in ("arrays", "lengths", "rates", "whole"):
        Path(name).mkdir()
    for k, shape in enumerate([(2, 5), (2, 5), (2, 6)]):
        np.save(f"arrays/{k}.npy", drawn(*shape))
    spoken("lengths/0.wav", bytes(8)), spoken("lengths/1.wav", bytes(12))
    spoken("rates/0.wav", bytes(8)), spoken("rates/1.wav", bytes(8), rate=16000)
    np.save("whole/0.npy", np.arange(4))
    cases = {
        "arrays": r"arrays/2\.npy is 2 x 6, 0\.npy 2 x 5: cut or pad them to one shape",
        "lengths": r"lengths/1\.wav is 1 x 6, 0\.wav 1 x 4: cut or pad",
        "rates": r"rates/1\.wav has 16,000 samples a second, 0\.wav 8,000: resample them to one rate",
        "whole": r"whole/0\.npy holds numbers of type int64: save float32",
    }
    for spec, message in cases.items():
        with pytest.raises(UserError, match=message):
            make(Opened.of(Request(spec)), Path("cache"))
    np.save("arrays/2.npy", np.full((2, 5), np.nan))
    Path("arrays", "1.npy").write_bytes(b"junk")
    with pytest.raises(UserError, match=r"1\.npy: it holds no plain array.* 2 of 3 rows cannot be taken"):
        make(Opened.of(Request("arrays")), Path("cache"))
    assert len(make(Opened.of(Request("arrays", skip_broken=True, normalise=False)), Path("cache"))) == 1
    for name, data in {"cut": b"RIFF\x24\0\0\0WAVEfmt ", "none": b"", "text": b"hello"}.items():
        Path(f"{name}-sounds").mkdir()
        Path(f"{name}-sounds", "0.wav").write_bytes(data)
        with pytest.raises(UserError, match=r"0\.wav: "):
            Opened.of(Request(f"{name}-sounds"))
        with pytest.raises(UserError, match=r"0\.wav: .*; it is damaged or no \.wav: save it anew"):
            wav(Path(f"{name}-sounds", "0.wav"))
