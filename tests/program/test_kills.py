"""Kills, links, lost terminals and damaged files: the same command goes on, nothing that is not ours is touched, nothing wrong is read."""

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import meanstep as ms
from meanstep.cli import main
from meanstep.program import disk
from meanstep.program.console import UserError, quiet
from meanstep.program.data import Cache
from meanstep.program.pages.page import published
from meanstep.program.runs.config import Config
from meanstep.program.runs.records import load
from meanstep.program.runs.saved import held
from meanstep.program.training import session
from meanstep.program.training.command import Train, parts
from meanstep.program.training.ranks import Ranks

from .conftest import PLAIN
from .killing import Fate, Killed
from .quadratic.study import Quadratic

NET = "--device cpu --network.width 8 --network.depth 1 --network.heads 1 --batch 8 --warmup 0 --averages.decays 0.9 --keep 1"
RUN = "--samples 16 --log-every 8 --save-every 8 --sample-every 16 --evaluate-every 16 --evaluate-count 8"
WORDS = [*NET.split(), *RUN.split()]
CHANGING = ("time", "seconds", "samples_per_second")


def call(*words: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(words)
    return int(stop.value.code or 0)


def trained(out: Path, *more: str) -> int:
    kept = [word for flag, value in zip(WORDS[::2], WORDS[1::2], strict=True) if flag not in more for word in (flag, value)]
    return call("train", "--quiet", "--out", str(out), *kept, *more)


@pytest.fixture(scope="module")
def straight(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    out = tmp_path_factory.mktemp("straight") / "run"
    assert trained(out) == 0
    return out


@pytest.fixture
def run(straight: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(straight, tmp_path / "run"))


def files(out: Path) -> dict[str, bytes]:
    """What a run holds, but for what has times in it."""
    timed = {"records.jsonl", "report.html", "env.json"}
    return {str(p.relative_to(out)): b"" if p.name in timed else p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def notes(out: Path) -> list[dict[str, Any]]:
    """A run's records, but for times, starts and stops."""
    kept = [r for r in load(out / "records.jsonl") if r["kind"] not in ("start", "stop", "output")]
    return [{k: v for k, v in r.items() if k not in CHANGING} for r in kept]


def last(out: Path) -> Path:
    return max((out / "checkpoints").iterdir())


# Kills -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_a_run_killed_at_every_operation_on_a_file_goes_on_and_ends_as_if_it_had_not_been(
    stride: int, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked, alone = Train.parse(WORDS), Ranks(0, 1, torch.device("cpu"))
    config = Config(**parts(asked), run=asked.run_)

    def begun(out: Path) -> None:
        with quiet(True):
            assert session.run(config, out, alone, None) == 0

    monkeypatch.setattr(
        "meanstep.program.runs.report.page.wanted", lambda folder: str(published("report", folder))
    )  # figures take long, and are in no file
    begun(tmp_path / "first")  # which keeps the statistics of the data, in the user's folder
    count = Fate(2**30)
    monkeypatch.setattr(disk, "before", count)
    begun(tmp_path / "straight")
    expected, records = files(tmp_path / "straight"), notes(tmp_path / "straight")
    assert count.done > 60 and records[-1]["kind"] == "checkpoint"
    out, kills = tmp_path / "run", set()
    for at in range(0, count.done, stride):
        fate = Fate(at)
        shutil.rmtree(out, ignore_errors=True)
        with monkeypatch.context() as patch:
            patch.setattr(disk, "before", fate)
            with pytest.raises(Killed):
                begun(out)
        kills.add(fate.what.split()[0])
        begun(out)
        assert files(out) == expected, fate.what
        assert notes(out) == records, fate.what
    every = {"make", "lock", "create", "write", "sync", "rename", "append", "remove"}
    assert len(kills & every) > 4 and (stride > 1 or kills >= every)


@pytest.mark.slow
def test_a_run_killed_for_real_at_random_moments_ends_as_if_it_had_not_been(straight: Path, cache: Cache, tmp_path: Path):
    draw, out = random.Random(1), tmp_path / "run"
    for _ in range(25):
        process = subprocess.Popen(
            [*COMMAND, "--out", str(out), *WORDS], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()
        )
        time.sleep(draw.random() * 8)
        process.kill()
        process.wait()
    assert trained(out) == 0
    assert files(out) == files(straight) and notes(out) == notes(straight)


COMMAND = [*PLAIN, "train"]


def environment() -> dict[str, str]:
    """That of a process of its own: the fixtures' cache, one thread."""
    return os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("stride", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_a_cache_killed_at_every_operation_goes_on(stride: int, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    count = Fate(2**30)
    monkeypatch.setattr(disk, "before", count)
    assert call("cache", "digits", "--quiet", "--out", str(tmp_path / "straight")) == 0
    for at in range(0, count.done, stride):
        with monkeypatch.context() as patch:
            patch.setattr(disk, "before", Fate(at))
            with pytest.raises(Killed):
                main(["cache", "digits", "--quiet", "--out", str(tmp_path / "made")])
        assert call("cache", "digits", "--quiet", "--out", str(tmp_path / "made")) == 0
        assert files(tmp_path / "made") == files(tmp_path / "straight")
        shutil.rmtree(tmp_path / "made")


@pytest.mark.parametrize("name", [".config.yaml.abcd1234", ".data.json.abcd1234"])
def test_what_a_kill_left_of_the_first_files_locks_no_one_out(name: str, straight: Path, cache: Cache, tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("{")
    assert trained(tmp_path / "run") == 0
    assert set(files(tmp_path / "run")) == set(files(straight))


def test_leftovers_go_and_files_of_others_stay(run: Path, cache: Cache):
    (run / ".config.yaml.abcd1234").write_text("half")
    (run / ".bashrc.abcd1234").write_text("mine")
    (run / "checkpoints" / ".notes").mkdir()
    left = [run / "checkpoints" / name for name in (".000000000008.aside", ".000000000008.aside-abcd1234", ".000000000008.old")]
    for path in left:
        path.mkdir()
    assert trained(run) == 0
    assert not (run / ".config.yaml.abcd1234").exists() and not any(path.exists() for path in left)
    assert (run / ".bashrc.abcd1234").read_text() == "mine" and (run / "checkpoints" / ".notes").is_dir()


def test_a_picture_that_a_kill_took_is_made_again(run: Path, straight: Path, cache: Cache):
    (run / "samples" / "000000000016.png").unlink()
    lines = (run / "records.jsonl").read_text().splitlines(keepends=True)
    (run / "records.jsonl").write_text("".join(x for x in lines if not ('"picture"' in x and '"seen": 16' in x)))
    assert trained(run) == 0
    assert (run / "samples" / "000000000016.png").read_bytes() == (straight / "samples" / "000000000016.png").read_bytes()
    assert [r["seen"] for r in load(run / "records.jsonl") if r["kind"] == "picture"] == [16]


# The last checkpoint -----------------------------------------------------------------------------------------------------------------


def test_a_last_checkpoint_that_is_not_complete_is_made_anew_and_kept(straight: Path, cache: Cache, tmp_path: Path):
    out = tmp_path / "run"
    assert trained(out, "--keep", "3") == 0
    wanted = {p.name: p.read_bytes() for p in last(out).iterdir()}
    (last(out) / "state.json").unlink()
    assert trained(out, "--keep", "3") == 0
    again = out / "checkpoints" / "000000000016"
    assert {p.name: p.read_bytes() for p in again.iterdir()} == wanted
    assert (out / "checkpoints" / "000000000016.incomplete" / "model.safetensors").exists()


def test_checkpoints_without_any_state_are_not_trained_over(run: Path, cache: Cache, capsys: pytest.CaptureFixture[str]):
    for path in run.glob("checkpoints/*/state.*"):
        path.unlink()
    before = files(run)
    assert trained(run) == 2 and "nothing to go on from" in capsys.readouterr().err
    assert {k: v for k, v in files(run).items() if "checkpoints" in k} == {k: v for k, v in before.items() if "checkpoints" in k}


# Damaged files -----------------------------------------------------------------------------------------------------------------------


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 64
    path.write_bytes(data)


def told(path: Path, **values: Any) -> None:
    """state.json of a version without checksums, with other values; None takes one away."""
    about = json.loads(path.read_text())
    for name in ("version", "sha256", "digest", "data"):
        about.pop(name, None)
    path.write_text(json.dumps({k: v for k, v in (about | values).items() if v is not None}))


def moments(path: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    tensors = load_file(path / "state.safetensors")
    name = next(k for k in tensors if k.endswith("exp_avg"))
    save_file(tensors | {name: change(tensors[name])}, path / "state.safetensors")
    sizes = json.loads((path / "state.json").read_text())["sizes"]
    told(path / "state.json", sizes=sizes | {"state.safetensors": (path / "state.safetensors").stat().st_size})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda p: flipped(last(p) / "model.safetensors"), "the bytes of model.safetensors are not those that were written"),
        (lambda p: flipped(last(p) / "ema_0.9.safetensors"), "the bytes of ema_0.9.safetensors"),
        (lambda p: flipped(last(p) / "state.safetensors"), "the bytes of state.safetensors"),
        (lambda p: (last(p) / "network.json").write_text((last(p) / "network.json").read_text() + " "), "the bytes of network.json"),
        (lambda p: told(last(p) / "state.json", sizes=None), "does not say the sizes"),
        (lambda p: told(last(p) / "state.json", seen=-5), "says seen: -5"),
        (lambda p: told(last(p) / "state.json", seen=True), "says seen: True"),
        (lambda p: told(last(p) / "state.json", seen=24), "not the folder's name"),
        (lambda p: told(last(p) / "state.json", step=None), "says step: None"),
        (lambda p: told(last(p) / "state.json", version=3), "of version 3"),
        (
            lambda p: (last(p) / "state.json").write_text((last(p) / "state.json").read_text().replace('"step": 2', '"step": 3')),
            "not what was",
        ),
        (lambda p: moments(last(p), lambda x: x[..., :1].clone()), "the optimiser's exp_avg of"),
        (lambda p: moments(last(p), lambda x: x > 0), "the optimiser's exp_avg of"),
        (lambda p: (p / "config.yaml").write_text(""), "is empty or cut"),
        (lambda p: (p / "config.yaml").write_text((p / "config.yaml").read_text().removesuffix("# end\n")), "is empty or cut"),
        (lambda p: (p / "config.yaml").write_text((p / "config.yaml").read_text()[:300].rpartition("\n")[0]), "is empty or cut"),
        (lambda p: (p / "method.json").write_text('{"recipe": "meanflow", "learns": "x"}'), None),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(
    damage: Callable[[Path], object], words: str | None, run: Path, cache: Cache, capsys: pytest.CaptureFixture[str]
):
    damage(run)
    if words is None:
        with pytest.raises(UserError, match="is damaged"):
            ms.load(run)
        return
    more = ("--samples", "24")
    assert call("train", "--quiet", "--out", str(run), *more) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.complex64])
def test_weights_of_another_kind_are_not_cast(dtype: torch.dtype, run: Path):
    path = last(run) / "ema_0.9.safetensors"
    tensors = load_file(path)
    name = next(iter(tensors))
    save_file(tensors | {name: tensors[name].to(dtype)}, path)
    sizes = json.loads((last(run) / "state.json").read_text())["sizes"]
    told(last(run) / "state.json", sizes=sizes | {path.name: path.stat().st_size})
    with pytest.raises(UserError, match=r"is damaged: .* is of torch"):
        ms.load(run)


def test_flipped_weights_make_no_picture(run: Path):
    flipped(last(run) / "ema_0.9.safetensors")
    with pytest.raises(UserError, match=r"the bytes of ema_0\.9\.safetensors are not those"):
        ms.load(run)
    assert ms.load(run, average="raw").sample(1).shape[0] == 1  # only what is needed is looked at


def test_another_datas_description_is_refused(run: Path):
    (run / "data.json").write_text((run / "data.json").read_text().replace('"classes": [\n  "0"', '"classes": [\n  "zero"'))
    with pytest.raises(UserError, match="was trained on other data"):
        ms.load(run)


def test_a_run_from_before_there_were_checksums_is_read_and_goes_on(run: Path, straight: Path, cache: Cache):
    told(last(run) / "state.json")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text("".join(x for x in text.splitlines(keepends=True) if not x.startswith("#")))
    assert torch.equal(ms.load(run).sample(2), ms.load(straight).sample(2)) and held(run) == held(straight)
    assert call("train", "--quiet", "--out", str(run), "--samples", "24") == 0
    assert json.loads((run / "checkpoints" / "000000000024" / "state.json").read_text())["version"] == 2


# Slim copies -------------------------------------------------------------------------------------------------------------------------


def test_weights_configuration_and_data_are_enough_to_sample_evaluate_and_report(run: Path, straight: Path, cache: Cache, tmp_path: Path):
    wanted = ms.load(straight).sample(3)
    (last(run) / "state.safetensors").unlink()
    assert torch.equal(ms.load(run).sample(3), wanted)
    (last(run) / "state.json").unlink()
    assert torch.equal(ms.load(run).sample(3), wanted) and ms.load(run).seen == 16
    assert call("sample", str(run), "--seeds", "0:2", "--quiet", "--out", str(tmp_path / "x.png")) == 0
    assert call("evaluate", str(run), "--quiet", "--extractor", "pixels", "--count", "16", "--steps", "1") == 0
    assert call("report", str(run), "--quiet") == 0
    (last(run) / "model.safetensors").unlink()
    assert torch.equal(ms.load(last(run)).sample(3), wanted)


def test_a_copied_checkpoint_needs_what_describes_its_run(straight: Path, tmp_path: Path):
    one = Path(shutil.copytree(last(straight), tmp_path / "a" / "mine"))
    with pytest.raises(UserError, match=r"copy the run's data\.json and config\.yaml there"):
        ms.load(one)
    for name in ("data.json", "config.yaml"):
        shutil.copy(straight / name, one)
    assert torch.equal(ms.load(one).sample(3), ms.load(straight).sample(3))


# Links -------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def precious(tmp_path: Path) -> Iterator[Path]:
    """A file of the user's, to which links in a folder point."""
    file = tmp_path / "precious"
    file.write_text("mine")
    yield file
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    "name", [".lock", "config.yaml", "env.json", "records.jsonl", "method.json", "report.html", "samples/000000000016.png"]
)
def test_training_follows_no_link(name: str, run: Path, precious: Path, cache: Cache):
    held = (run / name).read_text(errors="replace") if name in ("config.yaml",) else ""
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(precious)
    if held:  # what it reads through a link it does not write through it
        precious.write_text(held)
    trained(run)
    if held:
        assert precious.read_text() == held
        precious.write_text("mine")


@pytest.mark.parametrize("name", ["samples", "checkpoints"])
def test_training_follows_no_link_to_a_folder(name: str, cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    other, out = tmp_path / "other", tmp_path / "run"
    other.mkdir()
    assert trained(out, "--samples", "8") == 0
    shutil.rmtree(out / name)
    (out / name).symlink_to(other)
    assert call("train", "--quiet", "--out", str(out), "--samples", "16") == 2
    assert "is a link, which is not followed" in capsys.readouterr().err and not list(other.iterdir())


def test_the_users_own_link_to_a_folder_is_followed(cache: Cache, tmp_path: Path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    assert trained(tmp_path / "run") == 0 and (tmp_path / "disk" / "config.yaml").exists() and (tmp_path / "run").is_symlink()


def _cached(here: Path) -> None:
    call("cache", "digits", "--quiet", "--out", str(here))


def _appended(here: Path) -> None:
    from meanstep.program.evaluation import rows

    rows.append(here, {"kind": "cell", "metrics": []})


def _collected(here: Path) -> None:
    from meanstep.program.reproduce import records

    with records.alone(here):
        pass


LOCKS = {".lock": _cached, "shard-00000.safetensors": _cached, ".evaluations.jsonl.lock": _appended, ".report.lock": _collected}


@pytest.mark.parametrize("name", list(LOCKS))
def test_no_lock_or_shard_empties_what_a_link_points_at(name: str, precious: Path, cache: Cache, tmp_path: Path):
    here = tmp_path / "folder"
    here.mkdir()
    (here / name).symlink_to(precious)
    try:
        LOCKS[name](here)
    except UserError as error:
        assert "is a link" in str(error)


def test_a_study_follows_no_lock(precious: Path, tmp_path: Path):
    from meanstep.program.reproduce.folder import claimed

    (tmp_path / "here").mkdir()
    (tmp_path / "here" / ".lock").symlink_to(precious)
    with pytest.raises(UserError, match="is a link"), claimed(tmp_path / "here", Quadratic((0,))):
        pass


# Terminals ---------------------------------------------------------------------------------------------------------------------------

LONG = [*NET.split(), *["--log-every", "8", "--save-every", "4000", "--sample-every", "4000", "--evaluate-every", "0"]]


def begun(out: Path, samples: int = 4000, **streams: Any) -> subprocess.Popen[str]:
    return subprocess.Popen([*COMMAND, "--out", str(out), *LONG, "--samples", str(samples)], text=True, env=environment(), **streams)


def seen(out: Path) -> int:
    return max((r["seen"] for r in load(out / "records.jsonl")), default=0)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_terminal_that_hangs_up_saves_the_run(cache: Cache, tmp_path: Path):
    out = tmp_path / "run"
    process = begun(out, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: seen(out) > 0)
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 129 and "saved at" in err and "Traceback" not in err
    stop = load(out / "records.jsonl")[-1]
    assert (stop["kind"], stop["signal"], stop["folder"]) == ("stop", 1, str(out)) and int(last(out).name) == stop["seen"]


def test_training_goes_on_without_a_reader_and_says_so(cache: Cache, tmp_path: Path):
    out = tmp_path / "run"
    process = begun(out, 800, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()  # | head -1
    err = process.stderr.read()
    assert process.wait(timeout=60) == 0 and seen(out) == 800
    assert "standard output is gone: the work goes on" in err and "Traceback" not in err
    assert [r["lost"] for r in load(out / "records.jsonl") if r["kind"] == "output"] == ["standard output"]
    process.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the device that is always full")
@pytest.mark.slow
@pytest.mark.parametrize("where", ["> /dev/full", ">&-", ">&- 2>&-"])
def test_training_needs_no_standard_output(where: str, cache: Cache, tmp_path: Path):
    words = shlex.join([*COMMAND, "--out", str(tmp_path / "run"), *WORDS])
    done = subprocess.run(["sh", "-c", f"exec {words} {where}"], env=environment(), check=False, capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert seen(tmp_path / "run") == 16 and (tmp_path / "run" / "report.html").exists()


def test_folders_of_one_name_are_written_side_by_side(tmp_path: Path):
    """Each is whole, the last one has the name, and what a kill left goes; what is being written stays."""
    for name in (".made.aside", ".made.aside-abcd1234"):
        (tmp_path / name).mkdir()
    (tmp_path / ".made.aside-original").touch()
    waiting, go = threading.Barrier(4), [b"a" * 100_000, b"b" * 100_000]

    def files(k: int) -> Iterator[tuple[str, bytes]]:
        waiting.wait(timeout=60)
        yield from ((f"{part}/{n}", bytes([k]) + data) for part in "xy" for n, data in enumerate(go))

    with ThreadPoolExecutor(4) as pool:
        for job in [pool.submit(disk.tree, tmp_path / "made", files(k)) for k in range(4)]:
            job.result()
    folders = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert sorted(path.name for path in folders) == ["made", "made.incomplete", "made.incomplete1", "made.incomplete2"]
    for folder in folders:
        assert len({path.read_bytes()[0] for path in folder.rglob("*") if path.is_file()}) == 1 and len(list(folder.glob("*/*"))) == 4
    assert (tmp_path / ".made.aside-original").exists() and (tmp_path / "made").stat().st_mode == (tmp_path / "made" / "x").stat().st_mode


def test_a_file_in_a_folder_that_takes_none_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Also one that may itself be written: it is replaced, by one that is written aside."""
    (tmp_path / "there.json").touch()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path.resolve() and access(path, mode))
    for name in ("there.json", "new.json"):
        with pytest.raises(UserError, match="permission denied"):
            disk.writable(tmp_path / name)


def test_a_disk_that_is_full_at_a_record_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*records.jsonl: No space left on device"):
        disk.append(tmp_path / "records.jsonl", "{}\n", sync=True)
