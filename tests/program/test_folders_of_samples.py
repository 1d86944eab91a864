"""`meanstep sample --out FOLDER`: whose files are in the folder, and that another call loses nothing and mixes nothing."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from meanstep.program import disk
from meanstep.program.console import UserError
from meanstep.program.sampling import folder

from .killing import Fate, Killed

LISTED = "file,seed\n000000.png,0\n"


def contents(here: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in here.iterdir() if p.is_file()}


def test_a_call_leaves_its_samples_alone_in_the_folder(exportable: Callable[..., Path], ran: Callable[..., int], tmp_path: Path):
    run, here = exportable(), tmp_path / "made"
    assert ran("sample", run, "--out", here, "--seeds", "0:6") == 0
    (here / "notes.txt").write_text("mine")
    assert ran("sample", run, "--out", here, "--seeds", "4:7", "--steps", "2") == 0
    assert {p.name for p in here.iterdir()} == {"preview.png", "samples.csv", "000004.png", "000005.png", "000006.png", "notes.txt"}
    with (here / "samples.csv").open(newline="") as file:
        assert [row["seed"] for row in csv.DictReader(file)] == ["4", "5", "6"]
    assert ran("sample", run, "--out", tmp_path / "alone", "--seeds", "4:7", "--steps", "2") == 0
    assert contents(here) == contents(tmp_path / "alone") | {"notes.txt": b"mine"}


@pytest.mark.parametrize(
    ("theirs", "named"),
    [
        ({"samples.csv": "a,b\n1,2\n"}, "samples.csv"),
        ({"samples.csv": "a,b\n1,2\n", "preview.png": "p", "000000.png": "0"}, "000000.png"),
        ({"preview.png": "p"}, "preview.png"),
        ({"notes.txt": "mine"}, "notes.txt"),
        ({"samples.csv": "file,seed\n../up.png,0\n"}, "samples.csv"),
        ({"samples.csv": LISTED, "preview.png": "p", "000000.png": "0", "000001.png": "theirs"}, "000001.png"),
    ],
)
def test_files_of_others_are_left_alone(
    theirs: dict[str, str],
    named: str,
    exportable: Callable[..., Path],
    ran: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    run, here = exportable(), tmp_path / "theirs"
    here.mkdir()
    for name, text in theirs.items():
        (here / name).write_text(text)
    before = contents(here)
    assert ran("sample", run, "--out", here, "--seeds", "0:2") == 2 and contents(here) == before
    said = capsys.readouterr().err
    assert said == f"meanstep: --out: {here} holds {named!r}, which is none of its samples: give a new or an empty folder\n"


def test_samples_of_rows_take_the_place_of_earlier_ones_beside_files_of_others(tmp_path: Path):
    folder.placed(tmp_path, OF_ROWS)
    for name in (".hidden", "notes.txt", "..samples.aside-abcd1234"):
        (tmp_path / name).write_text("mine")
    folder.checked(tmp_path, OF_ROWS)
    assert folder.own(tmp_path, OF_ROWS) == {*OF_ROWS}
    (tmp_path / "samples.npz").unlink()
    with pytest.raises(UserError, match=r"holds 'notes.txt'"):
        folder.checked(tmp_path, OF_ROWS)


OF_ROWS = {folder.PICTURE: b"new", "samples.npz": b"new"}
OF_PICTURES = {folder.PICTURE: b"new", "000001.png": b"new", "000002.png": b"new", folder.LIST: b"file,seed\n000001.png,1\n000002.png,2\n"}


@pytest.mark.parametrize("made", [OF_PICTURES, OF_ROWS])
@pytest.mark.parametrize(
    "before", [{}, {folder.PICTURE: b"p", "000000.png": b"0", "000001.png": b"1", folder.LIST: b"file,seed\n000000.png,0\n000001.png,1\n"}]
)
def test_a_kill_loses_nothing_and_the_next_call_leaves_its_own_alone(
    before: dict[str, bytes], made: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for at in range(100):
        here = tmp_path / str(at)
        here.mkdir()
        for name, data in before.items():
            (here / name).write_bytes(data)
        monkeypatch.setattr(disk, "before", fate := Fate(at))
        try:
            folder.placed(here, made)
        except Killed:
            monkeypatch.setattr(disk, "before", lambda operation, path: None)
            now = contents(here)
            assert all(data in (before.get(name), made.get(name)) for name, data in now.items()), fate.what
            assert before.keys() <= now.keys() or made.keys() <= now.keys(), "files go when all that take their place are there"
            folder.checked(here, made)
            folder.placed(here, made)
            assert contents(here) == made and len(list(here.iterdir())) == len(made)
        else:
            break
    assert contents(here) == made and at > len(made)


def test_a_full_disk_leaves_the_folder_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "preview.png").write_bytes(b"p")
    (tmp_path / "samples.npz").write_bytes(b"s")
    before = contents(tmp_path)

    def full(operation: str, path: Path) -> None:
        if operation == "write" and path.name == "samples.npz":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "before", full)
    with pytest.raises(UserError, match=r"cannot write into .*: No space left on device"):
        folder.placed(tmp_path, OF_ROWS)
    assert contents(tmp_path) == before and {p.name for p in tmp_path.iterdir()} == set(before)
