"""Sources of images: folders, arrays, tar files, the hub; what is wrong with one is said in one line that names it."""

import io
import json
import os
import shutil
import struct
import sys
import tarfile
import types
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meanstep.program.console import UserError
from meanstep.program.data import Opened, Request, Source, arrays, make, open_source
from meanstep.program.data.files import expand
from meanstep.program.data.formats import decoded
from meanstep.program.data.pictures import Preparation

RANDOM = np.random.default_rng(0)


def pixels(h: int = 10, w: int = 12) -> np.ndarray:
    return RANDOM.integers(0, 256, (h, w, 3), dtype=np.uint8)


def encoded(x: np.ndarray, kind: str = "PNG") -> bytes:
    held = io.BytesIO()
    Image.fromarray(x).save(held, kind)
    return held.getvalue()


def picture(path: Path, x: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(pixels() if x is None else x))
    return path


def labels(source: Source) -> list[int]:
    return [source[i][1] for i in range(len(source))]


# Folders -----------------------------------------------------------------------------------------------------------------------------


def test_sub_folders_are_labels_and_a_split(tmp_path: Path):
    for name in ("cat/1.png", "cat/deep/2.PNG", "ant/3.png", "ant/.hidden.png", ".trash/4.png"):
        picture(tmp_path / "train" / name)
    picture(tmp_path / "val" / "cat" / "5.png")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    train, test = open_source(str(tmp_path)), open_source(str(tmp_path), "test")
    assert train.classes == ("ant", "cat") and labels(train) == [0, 1, 1] and len(test) == 1
    flat = open_source(str(tmp_path / "train" / "ant"))
    assert flat.classes == () and labels(flat) == [-1]


def test_the_digest_is_of_contents(tmp_path: Path):
    for name in ("a", "b"):
        picture(tmp_path / name / "x" / "1.png", np.zeros((4, 4, 3), np.uint8))
    one, two = (open_source(str(tmp_path / name)) for name in ("a", "b"))
    assert one.digest == two.digest
    picture(tmp_path / "b" / "x" / "1.png", np.ones((4, 4, 3), np.uint8))
    assert open_source(str(tmp_path / "b")).digest != one.digest


def test_folders_that_do_not_do(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    picture(tmp_path / "mixed" / "1.png")
    picture(tmp_path / "mixed" / "cat" / "2.png")
    (tmp_path / "file.txt").write_text("x")
    for name in ("cat/3.png", "test/cat/4.png"):
        picture(tmp_path / "half" / name)
    cases = {
        "half": "half has test, and no train: put what is to be trained on into .*half/train",
        "empty": "empty holds no images",
        "absent": "absent does not exist",
        "mixed": r"images beside sub-folders of images \(1.png, cat/\)",
        "file.txt": "file.txt is no source: give digits, a folder",
    }
    for name, message in cases.items():
        with pytest.raises(UserError, match=message):
            open_source(str(tmp_path / name))
    with pytest.raises(UserError, match="has no split 'test'"):
        open_source(str(tmp_path / "mixed" / "cat"), "test")


def test_a_broken_image_is_named_or_counted(tmp_path: Path):
    for k in range(5):
        picture(tmp_path / "images" / f"{k}.png")
    whole = (tmp_path / "images" / "3.png").read_bytes()
    (tmp_path / "images" / "3.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "images" / "0.png").write_bytes(b"no image at all")
    spec = str(tmp_path / "images")
    with pytest.raises(UserError, match=r"cannot read .*0\.png: cannot identify image file"):
        Opened.of(Request(spec))
    cache = make(Opened.of(Request(spec, skip_broken=True)), tmp_path / "cache")
    assert len(cache) == 3 and cache.manifest.skipped == 2
    (tmp_path / "images" / "0.png").unlink()
    with pytest.raises(UserError, match=r"cannot read .*3\.png: .*"):
        make(Opened.of(Request(spec, shard=1)), tmp_path / "one")
    assert not (tmp_path / "one" / "manifest.json").exists()
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "x.png").write_bytes(b"x")
    with pytest.raises(UserError, match="none of the 1 images of none can be read"):
        Opened.of(Request(str(tmp_path / "none"), skip_broken=True))


def test_images_that_differ(tmp_path: Path):
    picture(tmp_path / "1.png")
    Image.fromarray(pixels()[..., 0]).save(tmp_path / "2.png")
    Image.fromarray(pixels()).convert("P").save(tmp_path / "3.png")
    Image.fromarray(pixels()).convert("CMYK").save(tmp_path / "4.jpg")
    assert make(Opened.of(Request(str(tmp_path))), tmp_path / "cache").shape == (3, 10, 12)
    with pytest.raises(UserError, match=r"1\.png is in colour: one channel \(--channels 1\) is for grey images"):
        Opened.of(Request(str(tmp_path), channels=1))
    picture(tmp_path / "5.png", pixels(9, 9))
    with pytest.raises(UserError, match=r"5\.png has 9 x 9 pixels, others 12 x 10: give --size"):
        make(Opened.of(Request(str(tmp_path))), tmp_path / "other")


# Pictures ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("crop", "resample"), [("center", "bicubic"), ("center", "box"), ("center", "lanczos"), ("adm", "bicubic")])
def test_a_crop_is_the_middle_at_the_size_asked(crop, resample):
    image = Image.fromarray(np.kron(np.array([[0, 255, 255, 0]], np.uint8).repeat(2, 0), np.ones((40, 40), np.uint8)))
    found = Preparation(1, 16, crop, resample)(image, "x")
    assert found.shape == (1, 16, 16) and found[..., 2:-2].min() >= 250 and found.min() >= 230  # the filters reach beyond the cut
    exact = Image.fromarray(pixels(16, 16))
    assert np.array_equal(Preparation(3, 16, crop, resample)(exact, "x"), np.asarray(exact).transpose(2, 0, 1))


def test_adm_halves_by_box_first():
    image = Image.fromarray(pixels(64, 70))
    found = Preparation(3, 20, "adm")(image, "x")
    half = image.resize((35, 32), Image.Resampling.BOX)
    small = half.resize((round(35 * 20 / 32), 20), Image.Resampling.BICUBIC)
    assert np.array_equal(found, np.asarray(small.crop((1, 0, 21, 20))).transpose(2, 0, 1))


def test_small_images_are_refused_or_enlarged():
    image = Image.fromarray(pixels())
    with pytest.raises(UserError, match="cat has 12 x 10 pixels, less than 16: give a smaller --size, or --enlarge"):
        Preparation(3, 16)(image, "cat")
    assert Preparation(3, 16, enlarge=True)(image, "cat").shape == (3, 16, 16)
    with pytest.raises(UserError, match="cat has 12 x 10 pixels, not 10 x 10"):
        Preparation(3, 10, "none")(image, "cat")


def test_modes_become_grey_or_colour():
    clear = np.zeros((4, 4, 4), np.uint8)
    clear[:2, :, 3] = 255
    found = Preparation()(Image.fromarray(clear, "RGBA"), "x")
    assert (found[:, :2] == 0).all() and (found[:, 2:] == 255).all()
    grey = pixels()[..., 0]
    assert np.array_equal(Preparation(1)(Image.fromarray(grey).convert("RGB"), "x")[0], grey)
    assert np.array_equal(Preparation(3)(Image.fromarray(grey), "x"), np.stack([grey] * 3))
    with pytest.raises(UserError, match="deep has pixels of mode I;16: convert it to 8 bits"):
        Preparation()(Image.fromarray(np.full((4, 4), 40_000, np.uint16)), "deep")
    for kind in ("PNG", "TIFF"):
        held = io.BytesIO()
        Image.fromarray(grey.astype(np.uint16) * 257).save(held, kind)
        assert np.array_equal(Preparation(1)(Image.open(held), "x")[0], grey)  # 16 bits that 8 bits hold exactly


def wide(x: np.ndarray, kind: str = "PNG") -> bytes:
    """Colours `[H, W, 2 (grey), 3 or 4]` of 16 bits: Pillow writes none."""
    h, w, c = x.shape
    if kind == "PPM":
        return f"P6 {w} {h} 65535\n".encode() + x.astype(">u2").tobytes()

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in x)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 16, {2: 4, 3: 2, 4: 6}[c], 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def test_colours_of_sixteen_bits_are_taken_where_eight_hold_them_and_refused_elsewhere():
    exact = RANDOM.integers(0, 256, (6, 5, 4)).astype(np.uint16)
    for c in (3, 4):
        found = decoded(wide(exact[..., :c] * 257))
        assert np.array_equal(np.asarray(found), exact[..., :c])
        other = exact[..., :c] * 257
        other[2, 3, 1] ^= 1  # one level of 65,536
        with pytest.raises(OSError, match="16 bits, of which 8 would be lost: convert it to 8 bits, or leave it out with --skip-broken"):
            decoded(wide(other))
    for data in (wide(exact[..., :3] * 257, "PPM"), wide(exact[..., :2] * 257)):  # whose lower bytes Pillow does not show
        with pytest.raises(OSError, match="16 bits"):
            decoded(data)
    for kind in ("PPM", "PNG", "TIFF", "TGA", "BMP"):
        assert np.array_equal(np.asarray(decoded(encoded(pixels(), kind))).shape, (10, 12, 3))


def test_a_dry_run_says_of_colours_of_sixteen_bits_what_the_run_says(
    tmp_path: Path, ran: Callable[..., int], capsys: pytest.CaptureFixture[str]
):
    for k in range(6):
        picture(tmp_path / "images" / f"{k}.png")
    (tmp_path / "images" / "4.png").write_bytes(wide(np.full((10, 12, 3), 40_000)))
    line = ("cache", str(tmp_path / "images"), "--out", str(tmp_path / "new"))
    for words in ((), ("--dry-run",)):
        assert ran(*line, *words) == 2
        assert "cannot read" in (said := capsys.readouterr().err) and "4.png: its colours have 16 bits" in said
    assert ran(*line, "--skip-broken") == 0 and "1 of 6 images" in capsys.readouterr().err


# What cannot be taken ----------------------------------------------------------------------------------------------------------------


def deep(path: Path, value: int = 40_000) -> None:
    Image.fromarray(np.full((10, 12), value, np.uint16)).save(path)


def test_all_that_cannot_be_taken_is_listed_once(tmp_path: Path):
    spec = tmp_path / "images"
    for k in range(20):
        picture(spec / f"{k:02d}.png")
    for k in (3, 7, 11, 12, 13, 19):
        deep(spec / f"{k:02d}.png")
    deep(spec / "05.png", 257 * 9)
    listed = r"03\.png has pixels of mode I;16.*\. 6 of 20 images cannot be taken: .*03\.png, .*12\.png, and 2 more; meanstep cache --skip"
    with pytest.raises(UserError, match=listed):
        make(Opened.of(Request(str(spec), shard=4)), tmp_path / "cache")
    deep(spec / "00.png")
    with pytest.raises(UserError, match=r"00\.png has pixels.* 7 of 20 images cannot be taken"):  # found before anything is written
        Opened.of(Request(str(spec)))
    picture(spec / "18.png", pixels(9, 9))
    with pytest.raises(UserError, match=r"18\.png has 9 x 9 pixels, others 12 x 10: give --size"):  # not broken: nothing leaves it out
        make(Opened.of(Request(str(spec), skip_broken=True)), tmp_path / "skipped")
    cache = make(Opened.of(Request(str(spec), skip_broken=True, size=8)), tmp_path / "sized")
    assert (len(cache), cache.manifest.skipped) == (13, 7)


def test_a_dry_run_finds_what_making_would(tmp_path: Path, ran: Callable[..., int], capsys: pytest.CaptureFixture[str]):
    spec = tmp_path / "images"
    for k in range(9):
        picture(spec / f"{k}.png")
    deep(spec / "4.png")
    (spec / "6.png").write_bytes((spec / "6.png").read_bytes()[:200])

    def called(*words: str) -> tuple[int, str]:
        code = ran("cache", str(spec), "--out", str(tmp_path / "cache"), *words)
        told = capsys.readouterr()
        return code, told.out + told.err

    refusals = [called("--dry-run"), called()]
    assert refusals[0] == refusals[1] and refusals[0][0] == 2
    assert "2 of 9 images cannot be taken: " in refusals[0][1]
    code, told = called("--dry-run", "--skip-broken")
    assert code == 0 and "7 images of images" in told and "left out as broken, 2 of 9 images: " in told
    code, made = called("--skip-broken")
    assert code == 0 and "left out as broken, 2 of 9 images: " in made and "4.png has pixels of mode I;16" in made


# Arrays ------------------------------------------------------------------------------------------------------------------------------


def saved(path: Path, **arrays) -> str:
    np.savez(path, **arrays)
    return str(path)


@pytest.mark.parametrize("shape", [(6, 8, 8), (6, 8, 8, 1), (6, 8, 8, 3), (6, 3, 8, 8)])
def test_arrays_in_every_layout(tmp_path: Path, shape):
    x = RANDOM.integers(0, 256, shape, dtype=np.uint8)
    np.save(tmp_path / "x.npy", x)
    source = open_source(str(tmp_path / "x.npy"))
    first = np.asarray(source[0][0])
    assert len(source) == 6 and labels(source) == [-1] * 6
    assert np.array_equal(first, x[0].transpose(1, 2, 0) if shape[1] == 3 else x[0].squeeze())


def test_splits_of_arrays(tmp_path: Path):
    x = RANDOM.integers(0, 256, (6, 8, 8), dtype=np.uint8)
    spec = saved(tmp_path / "a.npz", x_train=x, y_train=np.arange(6), x_test=x[:2], y_test=np.arange(2))
    assert labels(open_source(spec)) == list(range(6)) and len(open_source(spec, "test")) == 2
    assert open_source(spec).classes == tuple("012345")
    with pytest.raises(UserError, match="no split 'valid'"):
        open_source(spec, "valid")


def blob(path: Path, **change) -> str:
    files = [encoded(pixels(), kind) for kind in ("PNG", "WEBP", "JPEG")]
    held = {
        "data": np.frombuffer(b"".join(files), np.uint8),
        "offsets": np.cumsum([0, *map(len, files)]),
        "labels": np.array([1, 0, 1], np.int16),
        "split": np.array([0, 1, 0], np.uint8),
        "names": np.array(["p", "q", "r"]),
        "classes": np.array(["no", "yes"]),
    }
    return saved(path, **{**held, **change})


def test_a_blob_has_splits_names_and_classes(tmp_path: Path):
    spec = blob(tmp_path / "b.npz")
    train, test = open_source(spec), open_source(spec, "test")
    assert (labels(train), labels(test), train.classes) == ([1, 1], [0], ("no", "yes"))
    assert train[0][0].size == (12, 10) and train.where(1) == "b.npz, image 2 (r)" and train.digest != test.digest


def test_arrays_that_do_not_do(tmp_path: Path):
    x = np.zeros((3, 8, 8), np.uint8)
    objects = np.empty(2, dtype=object)
    np.save(tmp_path / "o.npy", objects, allow_pickle=True)
    (tmp_path / "p.npz").write_bytes(b"\x80\x04]\x94.")
    (tmp_path / "t.npz").write_bytes(Path(blob(tmp_path / "b.npz")).read_bytes()[:300])
    cases = {
        saved(tmp_path / "1.npz", images=x.astype(np.float32)): "images of type float32: save uint8",
        saved(
            tmp_path / "2.npz", images=x, labels=np.array([0, 5, 1]), classes=["a", "b"]
        ): "2.npz, image 1 has the label 5; with 2 classes",
        saved(tmp_path / "3.npz", images=x, labels=np.array([0, -1, 1])): "image 1 has the label -1",
        saved(tmp_path / "4.npz", images=x, labels=np.zeros(2, int)): r"shape \(2,\) for 3 images",
        saved(tmp_path / "5.npz", pictures=x): "no array x_train, no images and no data with offsets; it holds pictures",
        saved(tmp_path / "6.npz", images=x[0]): r"array of shape \(8, 8\)",
        saved(tmp_path / "7.npz", images=x[:0]): "holds no images for the split 'train'",
        saved(tmp_path / "8.npz", images=objects): "pickled objects",
        blob(tmp_path / "9.npz", offsets=np.array([0, 9, 5, 7])): "offsets do not rise",
        str(tmp_path / "o.npy"): "pickled objects",
        str(tmp_path / "p.npz"): "pickled objects|cannot read",
        str(tmp_path / "t.npz"): "cannot read",
        str(tmp_path / "no.npz"): "there is no such file",
    }
    for spec, message in cases.items():
        with pytest.raises(UserError, match=message) as told:
            open_source(spec)
        assert "\n" not in str(told.value)


# Tar files ---------------------------------------------------------------------------------------------------------------------------


def packed(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as held:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            held.addfile(info, io.BytesIO(data))


def test_tar_files_one_after_the_other(tmp_path: Path):
    x = [pixels() for _ in range(4)]
    packed(tmp_path / "s-00.tar", {"a/0.png": encoded(x[0]), "a/0.cls": b"2", "a/1.cls": b"0", "a/1.png": encoded(x[1])})
    packed(
        tmp_path / "s-01.tar", {"2.seg.png": encoded(x[2]), "2.json": b'{"label": 1}', "3.PNG": encoded(x[3]), "3.json": b'{"label": 2}'}
    )
    for spec in ("s-{00..01}.tar", "s-*.tar"):
        source = open_source(str(tmp_path / spec))
        assert labels(source) == [2, 0, 1, 2] and source.classes == ("0", "1", "2")
        assert all(np.array_equal(np.asarray(source[i][0]), x[i]) for i in range(4))
    assert expand("a-{008..010}.tar") == ["a-008.tar", "a-009.tar", "a-010.tar"]


def test_tar_files_that_do_not_do(tmp_path: Path):
    image = encoded(pixels())
    packed(tmp_path / "half.tar", {"0.png": image, "0.cls": b"1", "1.png": image})
    packed(tmp_path / "word.tar", {"0.png": image, "0.cls": b"cat"})
    packed(tmp_path / "none.tar", {"0.txt": b"x"})
    (tmp_path / "bad.tar").write_bytes(b"x" * 2000)
    cases = {"half": "1.png has no label, others have one", "word": "word.tar, 0: its label is no whole number", "none": "holds no images"}
    cases |= {"bad": "cut short, compressed or no tar file", "absent": "no such file", "absent-*": "no file fits"}
    for name, message in cases.items():
        with pytest.raises(UserError, match=message):
            open_source(str(tmp_path / f"{name}.tar"))


# Others ------------------------------------------------------------------------------------------------------------------------------


class Rows:
    """What `datasets.load_dataset` returns, as far as it is used."""

    _fingerprint = "f00d"

    def __init__(self) -> None:
        self.features = {"img": None, "kind": types.SimpleNamespace(names=["cat", "dog"])}
        self.held = [{"img": Image.fromarray(pixels()), "kind": k} for k in (1, 0, 1)]

    def __len__(self) -> int:
        return len(self.held)

    def __getitem__(self, at):
        return [row[at] for row in self.held] if isinstance(at, str) else self.held[at]


def test_the_hub_through_its_library(monkeypatch: pytest.MonkeyPatch):
    asked: list = []

    def load_dataset(name, config, split):
        asked.append((name, config, split))
        return Rows()

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    source = open_source("hub:owner/name:small", "valid", image="img", label="kind")
    assert asked == [("owner/name", "small", "valid")] and source.classes == ("cat", "dog") and labels(source) == [1, 0, 1]
    with pytest.raises(UserError, match="has no column 'image': it has img, kind; give --image"):
        open_source("hub:owner/name")
    for wrong in ([0.2, 1.9, 0.7], ["cat", "dog", "cat"], [0, None, 1]):
        monkeypatch.setattr(Rows, "__getitem__", lambda self, at, given=wrong: given if isinstance(at, str) else self.held[at])
        with pytest.raises(UserError, match=r"column kind: labels are whole numbers, and these are not: name it as a condition"):
            open_source("hub:owner/name", image="img", label="kind")


@pytest.mark.parametrize("odd", [-1, 2, None])
def test_a_row_of_no_class_is_not_one_of_the_last(odd: int | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=lambda name, config, split: Rows()))
    assert open_source("hub:o/n", image="img", conditions=["kind"]).classes == ("cat", "dog")
    monkeypatch.setattr(Rows, "__getitem__", lambda self, at: [0, odd, 1] if isinstance(at, str) else self.held[at])
    with pytest.raises(UserError, match=f"hub:o/n, row 1, column kind: {odd} is none of its 2 classes: drop the row, or name another"):
        open_source("hub:o/n", image="img", conditions=["kind"])


@pytest.mark.parametrize(("module", "spec", "extra"), [("datasets", "hub:o/n", "hub"), ("sklearn", "digits", "digits")])
def test_an_absent_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, module, spec, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"pip install 'meanstep\[{extra}\]'"):
        open_source(spec)


def test_digits_have_one_split():
    pytest.importorskip("sklearn")
    source = open_source("digits")
    assert len(source) == 1797 and source.channels == 1 and source[0][0].mode == "L" and json.dumps(source.classes)
    with pytest.raises(UserError, match="digits has no split 'test'"):
        open_source("digits", "test")


def test_digits_are_scikit_learns_with_and_without_the_file_of_its_package(tmp_path: Path):
    held = pytest.importorskip("sklearn.datasets").load_digits()
    package = Path(sys.modules["sklearn"].__file__ or "").parent
    for file in (package / "datasets" / "data" / "digits.csv.gz", tmp_path / "absent"):
        levels, labels = arrays._digits(file)
        assert np.array_equal(levels, held.data) and np.array_equal(labels, held.target)
    assert (package / "datasets" / "data" / "digits.csv.gz").exists(), "every start imports the package again"


HOSTILE_LABELS = (b"9" * 30, b"1000000000000", b"-1", b"", b"1.5", b"true", b"\xff", b"9" * 5000, b"1" * (1 << 20))


@pytest.mark.parametrize("label", HOSTILE_LABELS, ids=lambda label: f"{label[:12]!r} of {len(label)}")
@pytest.mark.parametrize("kind", ["cls", "json"])
def test_a_label_of_a_tar_file_that_numbers_no_class(kind: str, label: bytes, tmp_path: Path):
    packed(tmp_path / "a.tar", {"0.png": encoded(pixels()), f"0.{kind}": label if kind == "cls" else b'{"label": ' + label + b"}"})
    with pytest.raises(UserError, match=r"a\.tar, 0: its label is no whole number from 0 below 1,048,576"):
        open_source(str(tmp_path / "a.tar"))


@pytest.mark.parametrize("size", [1 << 80, 1 << 62, (1 << 33) + 1])
def test_a_member_of_a_tar_file_that_is_larger_than_the_file(size: int, tmp_path: Path):
    packed(tmp_path / "a.tar", {"0.png": encoded(pixels())})
    data = bytearray((tmp_path / "a.tar").read_bytes())
    data[124:136] = b"\x80" + size.to_bytes(11, "big")
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    (tmp_path / "a.tar").write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"a\.tar is damaged: 0\.png has \d+ bytes|cannot read .*a\.tar"):
        open_source(str(tmp_path / "a.tar"))


def test_a_range_of_names_has_an_end():
    for spec in ("a-{0..99999999999}.tar", f"a-{{0..{'9' * 6000}}}.tar"):
        with pytest.raises(UserError, match="a range of more than 100,000 files: name fewer") as told:
            expand(spec)
        assert len(str(told.value)) < 400


# Names and kinds of files ------------------------------------------------------------------------------------------------------------


def test_pipes_devices_and_links_that_are_called_pictures_are_counted_and_never_opened(tmp_path: Path):
    picture(tmp_path / "images" / "0.png")
    os.mkfifo(tmp_path / "images" / "pipe.png")
    (tmp_path / "images" / "device.png").symlink_to("/dev/zero")
    (tmp_path / "images" / "nothing.png").symlink_to("nowhere")
    (tmp_path / "images" / "loop.png").symlink_to("loop.png")
    source = open_source(str(tmp_path / "images"))
    assert len(source) == 1 and source.left_out == {"no regular file": 4}


def test_names_that_are_no_utf_8(tmp_path: Path):
    """Those of files do not matter; those of classes are written into manifests."""
    images = os.fsencode(tmp_path / "images")
    picture(tmp_path / "images" / "0.png")
    shutil.copy(tmp_path / "images" / "0.png", os.path.join(images, b"\xff\xfe.png"))
    cache = make(Opened.of(Request(str(tmp_path / "images"))), tmp_path / "cache")
    assert len(cache) == 2 and len(open_source(str(tmp_path / "images")).digest) == 64
    os.makedirs(os.path.join(images, b"two", b"\xff"))
    os.rename(images, os.path.join(os.fsencode(tmp_path), b"\xfe"))
    with pytest.raises(UserError, match=r"\\udcfe: a source and its classes have names in UTF-8, which this is not: rename it"):
        open_source(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"\xfe")))
