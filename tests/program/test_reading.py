"""Files and texts of others, read within limits: each that is no such thing ends in one line with a remedy, at once."""

import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meanstep.program.errors import UserError, printable, shown
from meanstep.program.evaluation import rows
from meanstep.program.reading import arrays, files, images, trees
from meanstep.program.runs import records
from meanstep.program.runs.integrity import entries

NINE = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))


# What is echoed ----------------------------------------------------------------------------------------------------------------------


def test_a_message_is_one_short_line_that_no_terminal_obeys():
    told = str(UserError(f"--out: {'x' * 100_000} \x1b[31m a\nb \udcff \x9b: give another name"))
    assert len(told) < 500 and told.isprintable() and told.endswith("give another name") and "\\x1b[31m" in told
    assert len(printable("x " * 100_000)) < 3200
    assert len(shown(["x"] * 10_000)) < 130 and "too large" in shown(10**6000)


# YAML and JSON -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        *(NINE, "a: &a [*a]", "a: &a {x: *a}", "a: !!int abc", "1" * 6000, "[" * 5000, "{a: " * 3000, "a: \x07", "a: !!timestamp x"),
        *(
            "a: !!binary e",
            "a: !!python/name:os.system",
            "{? [a] : b}",
            "{<<: 3}",
            "a: !!bool x",
            "a: !!float ''",
            "x" * 1_000_000,
            "a: *b",
        ),
        *("[" * 80 + "]" * 80, "1" * 30, '"\\ud800"'),
    ],
    ids=lambda text: text[:20],
)
def test_yaml_that_is_none(text: str):
    with pytest.raises(UserError, match=r"^f.yaml is no YAML") as told:
        trees.from_yaml(text, "f.yaml")
    assert len(str(told.value)) < 250


def test_yaml_that_is_some():
    assert trees.from_yaml("a: &x {b: 1e-3}\nc: {<<: *x, d: [*x, *x]}\ne: 2020-99-99", "") == {
        "a": {"b": 1e-3},
        "c": {"b": 1e-3, "d": [{"b": 1e-3}] * 2},
        "e": "2020-99-99",
    }
    assert trees.from_yaml("", "") is None
    for _ in range(2):  # a text is read once, and each reader has a tree of its own
        tree = trees.from_yaml("a: [1, {b: 2}]", "")
        assert tree == {"a": [1, {"b": 2}]}
        tree["a"].append(tree["a"][1].pop("b"))


@pytest.mark.parametrize(
    "text", ["[" * 50_000, '{"a":' * 50_000, "NaN", "[Infinity]", "1e999", "1" * 30, "1" * 5000, '"\\ud800"', "", b"\xff\xfe\x00", b"\x80"]
)
def test_json_that_is_none(text: str | bytes):
    with pytest.raises(ValueError, match=r"^.{5,140}$"):
        trees.from_json(text)


def test_lines_skip_a_cut_end_and_name_another_damaged_one():
    good = b'{"seen": 1}\n{"seen": NaN}\n\n'
    assert trees.lines(good + b'{"se', lambda tree: tree["seen"], "f", "x") == [1, None]
    for bad in (b"[[[", b"{}", b"3", b"\xff", b"[" * 50_000):
        with pytest.raises(UserError, match="f, line 2 is damaged: delete it"):
            trees.lines(b'{"seen": 1}\n' + bad + b"\n", lambda tree: tree["seen"], "f", "delete it")


EVALUATION = {"kind": "evaluation", "seen": 16, "average": "raw", "extractor": "pixels", "count": 2, "steps": {"1": 0.5, "2": None}}


@pytest.mark.parametrize(
    "change",
    [
        {"steps": None},
        {"steps": {"x": 1}},
        {"steps": {"1": "far"}},
        {"steps": 3},
        {"seen": 1e308},
        {"seen": -1},
        {"seen": None},
        {"count": "x"},
        {"by": "4"},
        {"by": ["1"]},
    ],
)
def test_records_of_another_form_are_damaged(change: dict, tmp_path: Path):
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps(EVALUATION) + "\n")
    assert records.load(path) == [EVALUATION]
    path.write_text(json.dumps(EVALUATION | change) + "\n")
    with pytest.raises(UserError, match=r"line 1 is damaged: repair or delete that line"):
        records.load(path)


@pytest.mark.parametrize(
    "change", [{"metrics": float("-inf")}, {"values": "x"}, {"kind": 3}, {"seen": []}, {"extractor": None}, {"metrics": [3]}]
)
def test_rows_of_another_form_are_damaged(change: dict, tmp_path: Path):
    row = {"kind": "cell", "seen": 1, "average": "raw", "steps": 1, "guidance": 1.0, "count": 2, "distance": "FD", "metrics": ["frechet"]}
    row |= {"extractor": "pixels", "reference": "digits", "values": {"frechet": 1.0}}
    (tmp_path / rows.NAME).write_text(json.dumps(row) + "\n")
    assert rows.load(tmp_path) == [rows.MISSING | row]
    (tmp_path / rows.NAME).write_text(json.dumps(row | change) + "\n")
    with pytest.raises(UserError, match="line 1 is damaged: delete that line"):
        rows.load(tmp_path)


@pytest.mark.parametrize("text", ["{}x", "[]", "3", "[" * 50_000, '{"seen": Infinity}', ""])
def test_a_checkpoints_entries_of_another_form(text: str, tmp_path: Path):
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(UserError, match=r"state.json is damaged: .*; delete "):
        entries(tmp_path / "state.json")


# Files -------------------------------------------------------------------------------------------------------------------------------


def test_only_regular_files_are_opened(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe.png", "dangling", "loop", "zero", "nowhere", ".", "a\0b", "x" * 5000):
        with pytest.raises(UserError, match="cannot read "):
            files.content(tmp_path / name)


def test_files_have_a_limit_and_an_encoding(tmp_path: Path):
    (tmp_path / "large").write_bytes(bytes(101))
    with pytest.raises(UserError, match="has 101 bytes, more than 100 are not read"):
        files.content(tmp_path / "large", 100)
    (tmp_path / "latin").write_bytes(b"\xe9")
    with pytest.raises(UserError, match="no text in UTF-8"):
        files.text(tmp_path / "latin")


# Arrays ------------------------------------------------------------------------------------------------------------------------------


def npy(header: bytes, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


HEADERS = [
    b"{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776, 1099511627776), }\n",
    b"{'descr': '|u1', 'fortran_order': False, 'shape': (True, 8), }\n",
    b"{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 8), }\n",
    b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n",
    b"{'descr': '|u1', 'fortran_order': False, 'shape': " + b"(" * 200 + b"\n",
    b"{'descr': 'zz', 'fortran_order': False, 'shape': (1,), }\n",
    b"{}\n",
    b"\xff\xfe\n",
    b"",
]


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: header[40:60])
def test_an_array_that_is_none(header: bytes, tmp_path: Path):
    (tmp_path / "a.npy").write_bytes(npy(header, b"x" * 8))
    with pytest.raises(UserError, match=r"a\.npy: it (is|holds)"):
        arrays.mapped(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("a.npy", npy(header, b"x" * 8))
    with pytest.raises(UserError, match=r"a\.npz, a\.npy: it (is|holds)"):
        arrays.archive(tmp_path / "a.npz")


def _flagged(data: bytes) -> bytes:
    at = data.index(b"PK\x01\x02") + 8
    return data[:at] + b"\x01" + data[at + 1 :]


def _grown(data: bytes) -> bytes:
    at = data.index(b"PK\x01\x02") + 24
    return data[:at] + struct.pack("<I", 4_000_000_000) + data[at + 4 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "encrypted": _flagged,
    "grown": _grown,
    "cut": lambda data: data[: len(data) // 2],
    "noise": lambda data: bytes(100),
    "bruised": lambda data: data[:150] + b"\0\0\0\0" + data[154:],
}


@pytest.mark.parametrize("name", DAMAGES)
def test_an_archive_that_is_none(name: str, tmp_path: Path):
    held = io.BytesIO()
    np.savez(held, a=np.arange(100))
    (tmp_path / "a.npz").write_bytes(DAMAGES[name](held.getvalue()))
    with pytest.raises(UserError, match=r"a\.npz.* (is|says)"):
        arrays.archive(tmp_path / "a.npz", 1 << 24)


@pytest.mark.parametrize("at", [60, 200, 2000])
def test_a_compressed_array_that_is_damaged(at: int, tmp_path: Path):
    """Bytes of what is compressed, in the array's header and behind it, which zlib tells by an error of its own."""
    np.savez_compressed(tmp_path / "a.npz", a=np.random.default_rng(0).normal(size=2000))
    data = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(data[:at] + b"\xff" * 8 + data[at + 8 :])
    with pytest.raises(UserError, match=r"a\.npz: it is no complete \.npz"):
        arrays.archive(tmp_path / "a.npz")


def test_odd_compression_and_bombs(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_LZMA) as file:
        file.writestr("a.npy", npy(HEADERS[0]))
    with pytest.raises(UserError, match="compressed in a way"):
        arrays.archive(tmp_path / "a.npz")
    np.savez_compressed(tmp_path / "b.npz", a=np.zeros(1 << 20, np.uint8))
    with pytest.raises(UserError, match=r"more than 1,000 bytes: give them as \.npy"):
        arrays.archive(tmp_path / "b.npz", 1000)


def test_arrays_that_are_some(tmp_path: Path):
    wanted = {"a": np.arange(6.0).reshape(2, 3), "b": np.asfortranarray(np.arange(6, dtype=">i4").reshape(3, 2)), "c": np.zeros((0, 4))}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **wanted)
        found = arrays.archive(tmp_path / "a.npz")
        assert all(np.array_equal(found[name], array) and found[name].dtype.isnative for name, array in wanted.items())
    for name, array in wanted.items():
        np.save(tmp_path / f"{name}.npy", array)
        found_one = arrays.mapped(tmp_path / f"{name}.npy")
        assert np.array_equal(found_one, array) and found_one.dtype.isnative


# Pictures ----------------------------------------------------------------------------------------------------------------------------


def png(width: int, height: int, data: bytes = b"") -> bytes:
    def chunk(name: bytes, inside: bytes) -> bytes:
        return struct.pack(">I", len(inside)) + name + inside + struct.pack(">I", zlib.crc32(name + inside))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (png(60_000, 60_000), "more than"),
        (png(2**31 - 1, 2**31 - 1), "a.png"),
        (png(20_000, 1), "strip"),
        (png(8, 8, zlib.compress(b"")[:4]), "damaged"),
        (b"", "no picture"),
        (b"hello", "no picture"),
    ],
)
def test_pictures_that_are_none(data: bytes, said: str):
    with pytest.raises(UserError, match=said), images.picture(data, "a.png") as found:
        found.load()


def test_a_picture_that_is_some(tmp_path: Path):
    Image.new("I;16", (8, 8)).save(tmp_path / "a.png")
    with images.picture(tmp_path / "a.png") as found:
        assert found.size == (8, 8)


def test_a_network_that_no_memory_holds_is_refused_before_it_is_made():
    from meanstep.program.runs.networks import made

    with pytest.raises(UserError, match=r"--network.depth: about .* GB .*: choose a smaller --network.depth"):
        made({"network": "dit", "options": {"size": 8, "channels": 1, "classes": 0, "depth": 10**7, "width": 16, "heads": 2}})
