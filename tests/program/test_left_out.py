"""Whatever a source holds is read, or said to be left out, or refused: nothing is dropped in silence."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, features

from meanstep.cli import main
from meanstep.program.console import UserError
from meanstep.program.data import Cache, Opened, Request, make, open_source

RANDOM = np.random.default_rng(0)


def pixels(side: int = 16) -> np.ndarray:
    return RANDOM.integers(1, 255, (side, side, 3), dtype=np.uint8)


def png(x: np.ndarray) -> bytes:
    held = io.BytesIO()
    Image.fromarray(x).save(held, "PNG")
    return held.getvalue()


def packed(path: Path, members: list[tuple[str, bytes]]) -> str:
    with tarfile.open(path, "w") as held:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            held.addfile(info, io.BytesIO(data))
    return str(path)


def cached(spec: str, folder: Path, **asked) -> Cache:
    return make(Opened.of(Request(spec, **asked)), folder)


def run(*args: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, args)))
    return int(stop.value.code or 0)


# Webdataset --------------------------------------------------------------------------------------------------------------------------


def test_dots_in_names_do_not_drop_images(tmp_path: Path):
    spec = packed(tmp_path / "dots.tar", [(f"frame_0.{k:02d}.png", png(pixels())) for k in range(8)])
    with pytest.raises(UserError, match=r"frame_0: 8 images under one key \(\.00\.png, \.01\.png, \.02\.png \.\.\.\)") as told:
        open_source(spec)
    assert "rename" in str(told.value) and "\n" not in str(told.value)


def test_a_mask_beside_an_image_is_not_taken_for_it(tmp_path: Path):
    images, masks = [pixels() for _ in range(4)], [np.full((16, 16, 3), 255 * (k % 2), np.uint8) for k in range(4)]
    members = [(f"{k:04d}{end}", png(x[k])) for k in range(4) for end, x in ((".mask.png", masks), (".png", images))]
    spec = packed(tmp_path / "masks.tar", members)
    with pytest.raises(UserError, match=r"0000: 2 images under one key .*--image-column png"):
        open_source(spec)
    for chosen, truth, rest in (("png", images, ".mask.png"), ("mask.png", masks, ".png")):
        cache = cached(spec, tmp_path / chosen, image=chosen)
        assert np.array_equal(cache.stored(np_range(4)).numpy(), np.stack(truth).transpose(0, 3, 1, 2))
        assert cache.manifest.left_out == {rest: 4}
    assert open_source(spec, image="png").digest != open_source(spec, image="mask.png").digest
    with pytest.raises(UserError, match=r"holds no images .*left out: 4 \.mask\.png, 4 \.png"):
        open_source(spec, image="depth.png")


def np_range(n: int):
    import torch

    return torch.arange(n)


def test_members_of_a_key_need_not_lie_side_by_side(tmp_path: Path):
    images = [(f"{k}.png", png(pixels())) for k in range(3)]
    source = open_source(packed(tmp_path / "a.tar", images + [(f"{k}.cls", str(k % 2).encode()) for k in range(3)]))
    assert [source.label(i) for i in range(3)] == [0, 1, 0] and source.left_out == {}
    with pytest.raises(UserError, match=r"holds 0\.png twice"):
        open_source(packed(tmp_path / "b.tar", [*images, images[0]]))


def test_members_that_are_not_read_are_counted(tmp_path: Path):
    members = [
        ("0.png", png(pixels())),
        ("0.txt", b"a cat"),
        ("1.cls", b"1"),
        ("._0.png", b"x"),
        ("README", b"x"),
        ("0.json", b'{"kind": 1}'),
    ]
    source = open_source(packed(tmp_path / "a.tar", members))
    assert len(source) == 1 and source.left_out == {".txt": 1, ".cls": 1, "hidden": 1, "no ending": 1, ".json": 1}
    named = open_source(str(tmp_path / "a.tar"), label="kind")
    assert named.label(0) == 1 and named.left_out == {".txt": 1, ".cls": 1, "hidden": 1, "no ending": 1}
    both = packed(tmp_path / "b.tar", [("0.png", png(pixels())), ("0.cls", b"0"), ("0.json", b'{"kind": 1}')])
    assert open_source(both).label(0) == 0 and open_source(both, label="kind").label(0) == 1
    with pytest.raises(UserError, match=r"no \.json has the key 'sort'"):
        open_source(both, label="sort")
    with pytest.raises(UserError, match=r"no \.json has the key 'sort'"):
        open_source(str(tmp_path / "a.tar"), label="sort")


def test_another_label_of_a_webdataset_is_another_source(tmp_path: Path):
    spec = packed(tmp_path / "a.tar", [("0.png", png(pixels())), ("0.json", b'{"label": 0, "other": 0}')])
    assert open_source(spec).digest != open_source(spec, label="other").digest


# Folders -----------------------------------------------------------------------------------------------------------------------------

KINDS = {"png": "PNG", "jfif": "JPEG", "jpe": "JPEG", "avif": "AVIF", "jp2": "JPEG2000", "j2k": "JPEG2000", "tga": "TGA", "pcx": "PCX"}
KINDS |= {"webp": "WEBP", "bmp": "BMP", "dib": "DIB", "pbm": "PPM", "pnm": "PPM", "sgi": "SGI", "dds": "DDS", "gif": "GIF", "apng": "PNG"}
CODECS = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}


@pytest.mark.parametrize("end", KINDS)
def test_every_ending_of_a_picture_is_read(end: str, tmp_path: Path):
    kind = KINDS[end]
    if kind in CODECS and not features.check(CODECS[kind]):
        pytest.skip(f"this pillow has no {kind}")
    for k in range(2):
        Image.fromarray(pixels()).save(tmp_path / f"{k}.{end if k else end.upper()}", kind)
    source = open_source(str(tmp_path))
    assert len(source) == 2 and source[0][0].size == (16, 16) and source.left_out == {}


def test_what_a_folder_holds_beside_images_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    photos = tmp_path / "photos"
    photos.mkdir()
    for k in range(3):
        (photos / f"{k}.png").write_bytes(png(pixels()))
    for name in ("a.heic", "b.HEIC", "c.txt", "noend", "d.très long", ".DS_Store"):
        (photos / name).write_bytes(b"x")
    (photos / ".trash").mkdir()
    words = "2 .heic, 2 hidden, 1 .txt, 1 no ending, 1 odd ending"
    assert run("cache", photos, "--out", tmp_path / "cache", "--dry-run") == 0
    assert f"left out, not read: {words}" in capsys.readouterr().out
    assert run("cache", photos, "--out", tmp_path / "cache") == 0
    assert f"left out, not read: {words}" in "".join(capsys.readouterr())
    held = json.loads((tmp_path / "cache" / "manifest.json").read_text())
    assert held["left_out"] == {".heic": 2, ".txt": 1, "hidden": 2, "no ending": 1, "odd ending": 1} and held["count"] == 3
    before = Cache.open(tmp_path / "cache").digest
    (photos / "e.heic").write_bytes(b"x")
    assert cached(str(photos), tmp_path / "again").digest == before  # what is not read is no part of the data


def test_what_lies_beside_the_splits_or_is_linked_twice_is_counted(tmp_path: Path):
    for name in ("train/a/0.png", "test/a/1.png", "2.png", "more/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png(pixels()))
    (tmp_path / "train" / "b").symlink_to(tmp_path / "train" / "a")
    assert open_source(str(tmp_path)).left_out == {".png": 1, "folder beside the splits": 1, "folder linked to again": 1}
    assert open_source(str(tmp_path), "test").left_out == {".png": 1, "folder beside the splits": 1}


def test_a_program_in_an_image_s_clothes_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Pillow hands PostScript to another program, whatever the file is called."""
    ran = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **how: ran.append(args) or Image.new("RGB", (8, 8)).im)
    (tmp_path / "0.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n")
    with pytest.raises(UserError, match=r"cannot read .*0\.png"):
        open_source(str(tmp_path))[0]
    assert ran == []


# Arrays and the hub ------------------------------------------------------------------------------------------------------------------


def test_arrays_that_are_not_read_are_counted(tmp_path: Path):
    x = np.zeros((6, 8, 8), np.uint8)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=np.arange(6), x_test=x[:2], x_valid=x[:3], labels=np.arange(6))
    assert open_source(str(tmp_path / "a.npz")).left_out == {"x_valid": 3, "labels": 6}
    files = [png(pixels()) for _ in range(5)]
    marks = np.array([0, 1, 2, 2, 0], np.uint8)
    np.savez(tmp_path / "b.npz", data=np.frombuffer(b"".join(files), np.uint8), offsets=np.cumsum([0, *map(len, files)]), split=marks)
    source = open_source(str(tmp_path / "b.npz"))
    assert len(source) == 2 and source.left_out == {"marked 2": 2}


def test_a_training_run_that_makes_its_cache_says_what_is_left_out(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]):
    from meanstep.program.data import ensure

    monkeypatch.setenv("MEANSTEP_CACHE", str(tmp_path / "user"))
    (tmp_path / "photos").mkdir()
    for name in ("0.png", "1.svg"):
        (tmp_path / "photos" / name).write_bytes(png(pixels()))
    ensure(str(tmp_path / "photos"))
    assert "left out: 1 .svg" in "".join(capsys.readouterr())
