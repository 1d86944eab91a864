"""Damaged and hostile files, made of good ones by a seeded grammar: what a kill, a bad disk, another program or an enemy leaves."""

import io
import json
import os
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

Draw = random.Random
HUGE, DIGITS, DEEP = 1 << 63, int("1" * 30), 50_000
VALUES: tuple[Any, ...] = (
    *(None, {}, [], "", "x", True, -1, 0, 1.5, 1e308, float("inf"), float("-inf"), float("nan"), HUGE, -HUGE, DIGITS, 10**12),
    *("../../x", "/dev/zero", "a\0b", "\ud800", "x" * 100_000, [[[[]]]], {"x": 1}, ["x"] * 1000, "2020-99-99", "nan", "[bold]\x1b[31m"),
)
ALIASES = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
BOMB = "{" + ALIASES.strip().replace("\n", ", ") + "}"
"""Two billion words, told in nine lines; in a line."""


# Any file ----------------------------------------------------------------------------------------------------------------------------


def special(path: Path, draw: Draw) -> str:
    """Something else in the file's place."""
    path.unlink()
    match draw.choice(["folder", "pipe", "dangling", "loop", "device", "missing", "zero"]):
        case "folder":
            path.mkdir()
            return "a folder"
        case "pipe":
            os.mkfifo(path)
            return "a pipe"
        case "dangling":
            path.symlink_to("nowhere-at-all")
            return "a link to nothing"
        case "loop":
            path.symlink_to(path.name)
            return "a link to itself"
        case "device":
            path.symlink_to("/dev/null")
            return "a link to /dev/null"
        case "zero":
            path.symlink_to("/dev/zero")
            return "a link to /dev/zero"
    return "missing"


def rubble(path: Path, draw: Draw) -> str:
    """Bytes that are no such file."""
    data = path.read_bytes()
    form = draw.choice(["empty", "noise", "zeros", "text", "utf-16"])
    made = {
        "empty": b"",
        "noise": draw.randbytes(draw.choice([1, 7, 200, 5000])),
        "zeros": bytes(len(data)),
        "text": b"hello\n",
        "utf-16": data[:400].decode("latin-1").encode("utf-16"),
    }[form]
    path.write_bytes(made)
    return f"{form}, {len(made)} bytes"


def bruised(path: Path, draw: Draw) -> str:
    """Cut short, or with other bytes here and there: what is left may be a good file."""
    data = bytearray(path.read_bytes())
    if draw.random() < 0.5:
        end = draw.randrange(len(data) or 1)
        path.write_bytes(bytes(data[:end]))
        return f"cut at {end} of {len(data)} bytes"
    places = sorted({draw.randrange(len(data)) for _ in range(draw.choice([1, 2, 8]))}) if data else []
    for place in places:
        data[place] ^= 1 << draw.randrange(8)
    path.write_bytes(bytes(data))
    return f"flipped a bit at {places}"


# Trees: JSON, YAML, lines of JSON ----------------------------------------------------------------------------------------------------


def _nodes(tree: Any) -> list[tuple[Any, Any]]:
    """Every place in a tree: what holds it, and its name there."""
    found = []
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        found += [(tree, key), *_nodes(tree[key])]
    return found


def _changed(tree: Any, draw: Draw) -> tuple[Any, str]:
    """A tree with one entry gone, added or of another value."""
    nodes = _nodes(tree)
    if not nodes:
        return draw.choice(VALUES), "another value"
    holder, key = draw.choice(nodes)
    form = draw.choice(["value", "value", "value", "gone", "more", "text"])
    if form == "gone":
        del holder[key]
        return tree, f"{key!r} is gone"
    if form == "more":
        if isinstance(holder, dict):
            holder["nosuch"] = 1
        else:
            holder.append(holder[key])
        return tree, f"one more beside {key!r}"
    value = str(holder[key]) if form == "text" else draw.choice(VALUES)
    holder[key] = value
    return tree, f"{key!r} is {value!r:.60}"


def _json_whole(draw: Draw) -> str:
    return draw.choice(
        [
            *("{}", "[]", "null", "3", '"x"', "NaN", "Infinity", "true", "{", "[" * DEEP, '{"a":' * DEEP, "[" * DEEP + "]" * DEEP),
            *("9" * 10_000, '{"a": 1, "a": 2}', '{"\\ud800": 1}', "\ufeff{}", "-", "1e999999", "[1,]"),
        ]
    )


def tree_json(path: Path, draw: Draw) -> str:
    """A JSON file of other values."""
    if draw.random() < 0.3:
        text = _json_whole(draw)
        path.write_text(text, encoding="utf-8")
        return f"{text[:20]} ({len(text)} characters)"
    tree, told = _changed(json.loads(path.read_text(encoding="utf-8")), draw)
    path.write_text(json.dumps(tree), encoding="utf-8")
    return told


def lines_json(path: Path, draw: Draw) -> str:
    """Lines of JSON, one of them of other values, gone, twice or cut."""
    lines = path.read_text(encoding="utf-8").splitlines() or ["{}"]
    at = draw.randrange(len(lines))
    form, told = draw.choice(["tree", "tree", "tree", "whole", "gone", "twice", "cut"]), ""
    if form == "tree":
        tree, told = _changed(json.loads(lines[at]), draw)
        lines[at] = json.dumps(tree)
    elif form == "whole":
        lines[at] = _json_whole(draw)
        told = f"is {lines[at][:20]}"
    elif form == "gone":
        del lines[at]
    else:
        lines.insert(at, lines[at] if form == "twice" else lines[at][: len(lines[at]) // 2])
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"line {at + 1} {form} {told}"


YAMLS = (
    *(
        f"run: {{batch: {BOMB}}}\n",
        f"run: {BOMB}\n",
        f"run: {{loggers: [{BOMB}]}}\n",
        f"data: {{source: {BOMB}}}\n",
        f"network: {{options: {BOMB}}}\n",
    ),
    *(
        f"method: {{options: {{beta: {BOMB}}}}}\n",
        f"averages: {{decays: [{BOMB}]}}\n",
        f"beta@0: {{recipe: coefficient, options: {{beta: {BOMB}}}}}\n",
    ),
    *("run: {loggers: &a [*a]}\n", "method: {options: &a {beta: *a}}\n", "beta@0: &a {recipe: coefficient, options: {beta: *a}}\n"),
    *(
        "beta@0: {recipe: coefficient, options: 3}\n",
        "beta@0: [1]\n",
        "beta@0: {about: 2020-99-99}\n",
        "1: {recipe: coefficient}\n",
        "beta@0:\n",
    ),
    *(ALIASES, "a: &a [*a]\n", "&a {a: *a}\n", "a: 2020-99-99\n", "a: !!int abc\n", f"a: {'1' * 6000}\n", "a: !!binary é\n"),
    *("a: !!timestamp x\n", "a: !!python/object/apply:os.getcwd []\n", "? [a]\n: b\n", "<<: 3\n", "a: 1\na: 2\n", "a: b: c\n", "\t- a\n"),
    *(
        "--- 1\n--- 2\n",
        "[" * 5000,
        "{a: " * 3000,
        "- a\n" * 100,
        "3\n",
        "null\n",
        "a\n",
        'run: "\\0"\n',
        "%YAML 9.9\n---\na: 1\n",
        "a: !!float x\n",
    ),
    *(
        "run: &r\n  batch: *r\n",
        "run: [batch]\n",
        "run: {batch: 8, batch: 9}\n",
        "{run: {batch: .inf}}\n",
        "1: 2\n",
        "~: 1\n",
        "run:\n",
        "!!set {a}\n",
    ),
    *(
        "a: 1:60:99999999999999999999\n",
        "&a !!map [*a]\n",
        "run: {samples: 2020-01-01}\n",
        "data: {source: 12}\n",
        "data: {source: !!null x}\n",
    ),
)


def tree_yaml(path: Path, draw: Draw) -> str:
    """A YAML file of other values, or one that is made to be read for long."""
    if draw.random() < 0.5:
        text = draw.choice(YAMLS)
        if draw.random() < 0.3:  # beside what is right
            text = path.read_text(encoding="utf-8") + "\n" + text
        path.write_text(text, encoding="utf-8")
        return f"{text[-40:]!r}"
    tree, told = _changed(yaml.safe_load(path.read_text(encoding="utf-8")), draw)
    try:
        path.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8", errors="replace")
    except yaml.YAMLError:  # a value that YAML does not write
        path.write_text("x: \ufffe\n", encoding="utf-8")
    return told


# Safetensors -------------------------------------------------------------------------------------------------------------------------


def tensors(path: Path, draw: Draw) -> str:
    """A safetensors file whose header says other things."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    head, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    names = [name for name in head if name != "__metadata__"]
    name = draw.choice(names)
    entry = head[name]
    form = draw.choice(["length", "deep", "dtype", "shape", "offsets", "gone", "more", "name", "values", "meta", "cast", "turned"])
    told = ""
    if form == "length":
        value = draw.choice([0, 1, length + 1, 1 << 40, HUGE, (1 << 64) - 1])
        path.write_bytes(struct.pack("<Q", value) + data[8:])
        return f"a header of {value} bytes"
    if form == "deep":
        return _sealed(path, b"[" * DEEP, body, "a deep header")
    if form == "dtype":
        told = entry["dtype"] = draw.choice(["F16", "BF16", "F64", "I64", "I8", "U8", "BOOL", "F8_E4M3", "C64", "X", ""])
    elif form == "shape":
        told = entry["shape"] = draw.choice([[], [0], [-1], [HUGE], [10**12], [1] * 70, [1.5], "x", [*entry["shape"], 1]])
    elif form == "offsets":
        told = entry["data_offsets"] = draw.choice([[0, 0], [4, 0], [0, HUGE], [0, len(body) + 1], [-1, 4], [0], "x"])
    elif form == "gone":
        del head[name]
    elif form == "more":
        head["nosuch.weight"] = {"dtype": "F32", "shape": [0], "data_offsets": [len(body), len(body)]}
    elif form == "name":
        head[draw.choice(["", "x" * 10_000, "a.b", "__metadata__", "\x1b[31m"])] = head.pop(name)
    elif form == "meta":
        told = head["__metadata__"] = draw.choice([{}, {"x": "y"}, {"a": 1}, [], "x", {"sha256": "x"}])
    elif form == "turned":
        entry["shape"] = entry["shape"][::-1]
    elif form == "cast":
        return _cast(path, head, body, draw)
    else:
        begin, end = entry["data_offsets"]
        told = draw.choice(["nan", "inf", "1e38", "-1"])
        count = (end - begin) // 4
        body = body[:begin] + np.full(count, float(told), np.float32).tobytes() + bytes((end - begin) % 4) + body[end:]
    return _sealed(path, json.dumps(head).encode(), body, f"{form} of {name}: {told!r:.50}")


def _sealed(path: Path, head: bytes, body: bytes, told: str) -> str:
    path.write_bytes(struct.pack("<Q", len(head)) + head + body)
    return told


def _cast(path: Path, head: dict[str, Any], body: bytes, draw: Draw) -> str:
    """The same tensors as numbers of another type, in a file that is in order."""
    name, kind = draw.choice([("F16", "<f2"), ("F64", "<f8"), ("I64", "<i8"), ("I8", "i1"), ("BOOL", "?"), ("U8", "u1")])
    made, out = {}, b""
    for key, entry in head.items():
        if key == "__metadata__" or entry["dtype"] != "F32":
            continue
        begin, end = entry["data_offsets"]
        with np.errstate(all="ignore"):
            part = np.frombuffer(body[begin:end], "<f4").astype(kind).tobytes()
        made[key] = {"dtype": name, "shape": entry["shape"], "data_offsets": [len(out), len(out) + len(part)]}
        out += part
    return _sealed(path, json.dumps(made).encode(), out, f"all as {name}")


# Arrays ------------------------------------------------------------------------------------------------------------------------------


def _header(descr: str, shape: str, order: str = "False") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"
    text += " " * (64 - (10 + len(text) + 1) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode("latin-1")


def _npy(draw: Draw, good: np.ndarray) -> tuple[bytes, str]:
    """An array file of an odd type or shape, or one that says that it is."""
    n = len(good)
    odd: list[Any] = [
        *(good[:0], good[:1], good[..., None], good[0], np.float32(3), good.astype(np.float16), good.astype(np.complex64), good > 0),
        *(good.astype(">f8"), good.astype(str), good.astype(np.int64) * 10**12, np.asfortranarray(good), np.full_like(good, 255)),
        *(
            np.zeros((n, 0)),
            np.zeros((n, 2), "M8[s]"),
            np.zeros(n, [("a", "f4")]),
            np.full(good.shape, np.nan),
            np.full(good.shape, np.inf),
        ),
        *(
            np.zeros((2, 20_000, 1, 1), np.uint8),
            np.zeros((2, 8, 8, 5), np.uint8),
            good.astype(np.float64) * 1e300,
            np.zeros((n, 1), np.float32),
        ),
    ]
    lies = [
        *(_header("'|u1'", "(1000000000000, 8, 8, 1)"), _header("'|u1'", "(-1, 8, 8, 1)"), _header("'<f4'", f"({HUGE}, 2)")),
        *(_header("'|O'", "(3,)") + b"\x80\x04N.", _header("'|u1'", "(1, 0, 0)"), _header("'<f9'", "(1,)"), _header("[]", "(1,)")),
        *(
            _header("'|u1'", "(8, (8, 8))"),
            _header("'|u1'", "x"),
            _header("'|S0'", "(5,)"),
            _header("'|u1'", "(" * 300),
            b"\x93NUMPY\x09\x09",
        ),
        *(_header("'|u1'", "(4000000, 64, 64, 3)"), _header("'<f8'", "(1.5,)"), _header("'|u1'", "(True, 8, 8)")),
    ]
    if draw.random() < 0.5:
        lie = draw.choice(lies)
        return lie + good.tobytes(), f"a header of {lie[10:110]!r}"
    array = draw.choice(odd)
    held = io.BytesIO()
    np.save(held, array, allow_pickle=True)
    return held.getvalue(), f"an array {np.asarray(array).dtype} {np.shape(array)}"


def npy(path: Path, draw: Draw) -> str:
    """An .npy of an odd array."""
    data, told = _npy(draw, np.load(path))
    path.write_bytes(data)
    return told


def npz(path: Path, draw: Draw) -> str:
    """An .npz of odd arrays, or an odd archive."""
    with np.load(path) as held:
        parts = {name: held[name] for name in held.files}
    form = draw.choice(["array", "array", "labels", "labels", "gone", "method", "crypt", "size", "pickle", "more", "classes", "twice"])
    name = draw.choice(list(parts))
    if form == "labels" and "labels" in parts:
        n = len(parts["labels"])
        labels: list[Any] = [
            *(
                np.arange(n - 1),
                np.arange(n + 1),
                -np.ones(n, int),
                np.full(n, 10**12),
                np.full(n, 1.5),
                np.full(n, np.nan),
                np.zeros((n, 2)),
            ),
            *(
                np.array(["a"] * n),
                np.zeros(n, complex),
                np.full(n, HUGE, np.uint64),
                np.zeros(n, bool),
                np.arange(n) * 1000,
                np.zeros((n, 1), int),
            ),
        ]
        parts["labels"] = draw.choice(labels)
        np.savez(path, **parts)
        return f"labels {parts['labels'].dtype} {parts['labels'].shape}, the first {parts['labels'].flat[0]}"
    if form == "classes" and "classes" in parts:
        classes = draw.choice(
            [
                np.array(["a"]),
                np.array([]),
                np.array(["a"] * 3),
                np.arange(3),
                np.array("x"),
                np.array([["a", "b"]]),
                np.array(["x" * 9999] * 3),
            ]
        )
        np.savez(path, **parts | {"classes": classes})
        return f"classes {classes.dtype} {classes.shape}"
    if form == "gone":
        np.savez(path, **{k: v for k, v in parts.items() if k != name})
        return f"{name} is gone"
    if form == "more":
        np.savez(path, **parts | {"nosuch": np.zeros(3), "x_train": np.zeros(3)})
        return "two arrays more"
    if form == "pickle":
        np.savez(path, **parts | {name: np.array([None, {}], object)})
        return f"{name} is pickled"
    if form == "array" or form in ("labels", "classes"):
        data, told = _npy(draw, parts[name] if parts[name].ndim and parts[name].dtype.kind in "uif" else parts["images"])
        with zipfile.ZipFile(path, "w") as archive:
            for key, value in parts.items():
                held_ = io.BytesIO()
                np.save(held_, value)
                archive.writestr(f"{key}.npy", data if key == name else held_.getvalue())
        return f"{name} is {told}"
    return _archive(path, form, draw)


def _archive(path: Path, form: str, draw: Draw) -> str:
    """A zip whose directory says other things of its first member."""
    if form == "twice":
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("../../evil.npy", b"x")
        return "a member of an absolute name"
    data = bytearray(path.read_bytes())
    for mark, flag_at, method_at, size_at in ((b"PK\x03\x04", 6, 8, 22), (b"PK\x01\x02", 8, 10, 24)):
        at = data.find(mark)
        if form == "crypt":
            data[at + flag_at] |= 1
        elif form == "method":
            data[at + method_at : at + method_at + 2] = struct.pack("<H", draw.choice([1, 9, 12, 14, 93, 99]))
        else:
            data[at + size_at : at + size_at + 4] = struct.pack("<I", 0xFFFFFFF0)
    path.write_bytes(bytes(data))
    return f"an archive of another {form}"


# Pictures ----------------------------------------------------------------------------------------------------------------------------


def _png(width: int, height: int, depth: int = 8, colour: int = 0, data: bytes | None = None) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data or b"\0" * 100)) + chunk(b"IEND", b"")


def _encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    held = io.BytesIO()
    image.save(held, kind, **options)
    return held.getvalue()


def picture(path: Path, draw: Draw) -> str:
    """A picture of an odd size, mode or format, or a file that says that it is one."""
    made: dict[str, Callable[[], bytes]] = {
        "a bomb": lambda: _png(100_000, 100_000),
        "a larger bomb": lambda: _png((1 << 31) - 1, (1 << 31) - 1),
        "a bomb below the limit": lambda: _png(12_000, 12_000),
        "no pixels": lambda: _png(0, 0),
        "20,000 x 1": lambda: _encoded(Image.new("L", (20_000, 1))),
        "1 x 1": lambda: _encoded(Image.new("RGB", (1, 1))),
        "16 bits": lambda: _encoded(Image.fromarray(np.full((8, 8), 40_000, np.uint16))),
        "32 bits": lambda: _encoded(Image.fromarray(np.full((8, 8), 1e30, np.float32)), "TIFF"),
        "1 bit": lambda: _encoded(Image.new("1", (8, 8))),
        "a palette": lambda: _encoded(Image.new("P", (8, 8))),
        "CMYK": lambda: _encoded(Image.new("CMYK", (8, 8)), "JPEG"),
        "transparent": lambda: _encoded(Image.new("RGBA", (8, 8))),
        "an animation": lambda: _encoded(Image.new("L", (8, 8)), "GIF", save_all=True, append_images=[Image.new("L", (8, 8), 9)] * 3),
        "another size": lambda: _encoded(Image.new("L", (9, 7))),
        "bad depth": lambda: _png(8, 8, depth=3),
        "no data": lambda: _png(8, 8, data=b"\0"),
        "PostScript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n",
        "SVG": lambda: b"<svg/>",
        "text": lambda: b"x",
        "huge text": lambda: b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 0x7FFFFFFF) + b"tEXt" + b"x" * 100,
    }
    name = draw.choice(list(made))
    path.write_bytes(made[name]())
    return name


def folder(path: Path, draw: Draw) -> str:
    """A folder of pictures with an odd one in it; `path` is one of the pictures."""
    form = draw.choice(["picture", "picture", "picture", "special", "rubble", "bruised", "name", "deep", "class"])
    if form == "name":
        odd = os.path.join(
            os.fsencode(path.parent), draw.choice([b"\xff\xfe.png", b"a\nb.png", b" .png", b"x" * 240 + b".png", b"[bold].png"])
        )
        with open(odd, "wb") as file:
            file.write(path.read_bytes())
        return f"one more of the name {os.path.basename(odd)[:20]!r}"
    if form == "deep":
        deep = path.parent.joinpath(*["d"] * 60)
        deep.mkdir(parents=True)
        (deep / "x.png").write_bytes(path.read_bytes())
        return "one sixty folders deep"
    if form == "class":
        (path.parent.parent / draw.choice(["empty", "é\x01", " "])).mkdir()
        return "an empty class"
    return {"picture": picture, "special": special, "rubble": rubble, "bruised": bruised}[form](path, draw)


# Tar files ---------------------------------------------------------------------------------------------------------------------------


def _packed(members: list[tuple[tarfile.TarInfo, bytes]], **options: Any) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w", **options) as archive:
        for info, data in members:
            if info.isfile():
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return held.getvalue()


def _patched(data: bytes, at: int, field: slice, value: bytes) -> bytes:
    """A tar with a field of a header changed, and a sum that fits."""
    head = bytearray(data[at : at + 512])
    head[field] = value
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return data[:at] + bytes(head) + data[at + 512 :]


def webdataset(path: Path, draw: Draw) -> str:
    """A tar of pictures and labels with an odd member."""
    with tarfile.open(path) as archive:
        members = [(info, archive.extractfile(info).read()) for info in archive if info.isfile()]  # type: ignore[union-attr]
    form = draw.choice(["size", "label", "label", "json", "kind", "name", "twice", "gzip", "pax", "picture", "cut", "field"])
    if form == "size":
        size = draw.choice([1 << 80, 1 << 62, HUGE - 1, -1])
        path.write_bytes(
            _patched(path.read_bytes(), 0, slice(124, 136), (b"\x80" if size >= 0 else b"\xff") + (size % (1 << 88)).to_bytes(11, "big"))
        )
        return f"a member of {size} bytes"
    if form == "field":
        field, value = draw.choice(
            [
                (slice(124, 136), b"x" * 12),
                (slice(100, 108), b"z" * 8),
                (slice(136, 148), b"\x80" + b"\xff" * 11),
                (slice(156, 157), draw.randbytes(1)),
            ]
        )
        path.write_bytes(_patched(path.read_bytes(), 0, field, value))
        return f"a header with {value!r}"
    if form in ("label", "json"):
        text = draw.choice(
            [
                b"9" * 30,
                b"1000000000000",
                b"-1",
                b"",
                b"x",
                b"1.5",
                b"nan",
                b" 2 ",
                b"9" * 5000,
                b"\xff",
                b"0x2",
                b"1" * (1 << 20),
                b"\xd9\xa3",
            ]
        )
        if form == "json":
            text = draw.choice(
                [
                    b'{"label": ' + (text or b"null") + b"}",
                    b"[" * DEEP,
                    b"[]",
                    b"null",
                    b'{"label": Infinity}',
                    b'{"label": {}}',
                    b'{"label": true}',
                ]
            )
        members = [(info, data) for info, data in members if not info.name.startswith("0.") or info.name.endswith(".png")]
        members.append((tarfile.TarInfo("0.cls" if form == "label" else "0.json"), text))
        path.write_bytes(_packed(members))
        return f"a {form} of {text[:30]!r} ({len(text)} bytes)"
    if form == "kind":
        info = tarfile.TarInfo("0.png")
        info.type = draw.choice(
            [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.GNUTYPE_SPARSE, b"Z"]
        )
        info.linkname = "../../../etc/passwd"
        path.write_bytes(_packed([(info, b""), *members[1:]]))
        return f"a member of type {info.type!r}"
    if form == "name":
        name = draw.choice(["../../x.png", "/x.png", "\udcff.png", "x" * 5000 + ".png", ".png", "a/", "a\nb.png", " ", "", "0"])
        path.write_bytes(_packed([*members, (tarfile.TarInfo(name), members[0][1])], format=tarfile.GNU_FORMAT, errors="surrogateescape"))
        return f"a member of the name {name[:20]!r}"
    if form == "pax":
        info = tarfile.TarInfo("z.png")
        info.pax_headers = draw.choice(
            [
                {"size": "x"},
                {"size": "-5"},
                {"size": "9" * 30},
                {"path": "a\0b"},
                {"mtime": "nan"},
                {"GNU.sparse.map": "x"},
                {"hdrcharset": "x"},
            ]
        )
        path.write_bytes(_packed([*members, (info, members[0][1])], format=tarfile.PAX_FORMAT))
        return f"a member with {info.pax_headers}"
    if form == "twice":
        path.write_bytes(_packed([*members, members[0]]))
        return "a member twice"
    if form == "gzip":
        path.write_bytes(zlib.compress(path.read_bytes()))
        return "compressed"
    if form == "picture":
        inner = path.with_name("one.png")
        told = picture(inner, draw)
        path.write_bytes(_packed([(members[0][0], inner.read_bytes()), *members[1:]]))
        inner.unlink()
        return told
    return bruised(path, draw)


def table(path: Path, draw: Draw) -> str:
    """A table of numbers with odd cells."""
    text = path.read_text(encoding="utf-8").splitlines()
    at = draw.randrange(len(text))
    text[at] = draw.choice(
        [
            "nan,1",
            "inf,1",
            "x,y",
            "1",
            "1,2,3",
            "",
            ",",
            "1e999,1",
            '"1,2',
            "1" * 10_000 + ",1",
            "1;2",
            "é,1",
            "0x1,2",
            "1e308,-1e308",
            "\0,1",
        ]
    )
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return f"line {at + 1} is {text[at][:30]!r}"


GRAMMAR: dict[str, Callable[[Path, Draw], str]] = {
    "json": tree_json,
    "jsonl": lines_json,
    "yaml": tree_yaml,
    "safetensors": tensors,
    "npy": npy,
    "npz": npz,
    "png": picture,
    "folder": folder,
    "tar": webdataset,
    "csv": table,
    "bytes": bruised,
}
"""What is done to a file of each kind beside `special`, `rubble` and `bruised`."""
