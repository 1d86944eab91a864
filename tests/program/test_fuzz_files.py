"""Every file that is read, damaged by the grammar of `damages`: whoever reads it keeps the law of `fuzzing`.

A case is a number: `MEANSTEP_FUZZ=17 pytest tests/program/test_fuzz_files.py` runs case 17 alone, `MEANSTEP_FUZZ=0:500` a range. What a
case damaged is left in the folder `case` of the test's temporary folder if it is the last one.
"""

import importlib.util
import os
import random
import shutil
import sys
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy.io import wavfile

import meanstep as ms
from meanstep.program.console import UserError
from meanstep.program.data.tiny import Tiny

from .conftest import stay_home
from .damages import GRAMMAR, bruised, rubble, special
from .fuzzing import called, ran, shown

SEED, PLAIN, SLOW = 17, 30, 2000
TINY = "--device cpu --network.width 16 --network.depth 1 --network.heads 2 --batch 8 --warmup 0"
STUDY = "--measure.count 64 --measure.rows 64 --measure.rows-at 16 --measure.steps 1 --measure.times 2 --measure.references 64"
TOY = "reproduce toy --scale smoke --updates 2 --batch 8 --seeds 0 --sets two_moons --arms plain@1 --workers 1 --device cpu --out toy"
LATENTS = (
    f"reproduce latents --data.source images.npz --samples 16 --arms beta@0 --seeds 0 --workers 1 --moments 1 --out study {TINY} {STUDY}"
)
EVERY = "--sample-every 16 --save-every 16 --evaluate-every 16 --log-every 8 --evaluate-count 16"

SAMPLE = "sample run --seeds 0:2 --out new.png --device cpu"
EVALUATE = "evaluate run --count 16 --metrics frechet --device cpu"
RESUME = "train --out run --samples 24"
DIAGNOSE = "--budget 0.1 --rows 8 --device cpu --out new"
CACHE = "--out new --channels 1 --size 8 --enlarge --device cpu"
KEEP = "cache --out new --device cpu"
MLP = "--device cpu --network.name mlp --network.width 8 --network.depth 1 --batch 8 --extractor rows --warmup 0"
DRY = f"train --dry-run --out new --samples 16 {TINY}"


@dataclass(frozen=True)
class Target:
    """A file and who reads it. `file`: its place; `needs`: what is copied for a case; `lines`: the readers; `must`: those that cannot do
    without it, so that something else in its place does not end with exit code 0."""

    file: str
    kind: str
    needs: Sequence[str]
    lines: Sequence[str]
    must: Sequence[str] = ()


RUN = ("run", "images.npz", "user")
POINT = "run/checkpoints/000000000016"
TARGETS = (
    Target("run/config.yaml", "yaml", RUN, ("report run", "train --dry-run --out run", RESUME, f"diagnose run {DIAGNOSE}"), (RESUME,)),
    Target(f"{POINT}/state.json", "json", RUN, ("load", SAMPLE, RESUME, EVALUATE, "report run"), (RESUME,)),
    Target(f"{POINT}/network.json", "json", RUN, ("load", SAMPLE, RESUME, f"diagnose run {DIAGNOSE}"), ("load", SAMPLE)),
    Target("run/method.json", "json", RUN, ("load", SAMPLE, EVALUATE, f"diagnose run {DIAGNOSE}", RESUME)),
    Target("run/data.json", "json", RUN, ("load", SAMPLE, EVALUATE, RESUME, "report run"), ("load", SAMPLE)),
    Target("run/env.json", "json", RUN, ("report run", RESUME)),
    Target("run/records.jsonl", "jsonl", RUN, ("report run", RESUME)),
    Target("run/evaluations.jsonl", "jsonl", RUN, ("report run", EVALUATE, RESUME)),
    Target(f"{POINT}/model.safetensors", "safetensors", RUN, ("sample run --average raw --out new.png --device cpu", RESUME), (RESUME,)),
    Target(f"{POINT}/ema_0.999.safetensors", "safetensors", RUN, ("load", SAMPLE, EVALUATE, RESUME), ("load", SAMPLE)),
    Target(f"{POINT}/state.safetensors", "safetensors", RUN, (RESUME,), (RESUME,)),
    Target("run/samples/000000000016.png", "png", RUN, ("report run", RESUME)),
    Target("user/references/*.json", "json", RUN, (EVALUATE,)),
    Target("user/references/*.safetensors", "safetensors", RUN, (EVALUATE,)),
    Target("user/data/*/manifest.json", "json", RUN, (EVALUATE, RESUME, f"diagnose run {DIAGNOSE}")),
    Target("user/data/*/shard-00000.safetensors", "safetensors", RUN, (RESUME, f"diagnose run {DIAGNOSE}")),
    Target("made/manifest.json", "json", ("made", "run", "images.npz"), (f"{DRY} --data.source made", f"{EVALUATE} --reference made"), ()),
    Target(
        "made/shard-00000.safetensors",
        "safetensors",
        ("made",),
        (f"{DRY} --data.source made", f"diagnose nets:build --data made {DIAGNOSE}"),
    ),
    Target("part/unfinished.json", "json", ("part", "images.npz"), (f"cache images.npz {CACHE} --out part",)),
    Target("toy/sweep.json", "json", ("toy",), ("report toy", TOY)),
    Target("toy/records.jsonl", "jsonl", ("toy",), ("report toy", TOY)),
    Target("toy/samples/two_moons-0.npz", "npz", ("toy",), ("report toy",)),
    Target(
        "study/study.json", "json", ("study", "images.npz", "user"), ("report study", f"{LATENTS} --dry-run"), (f"{LATENTS} --dry-run",)
    ),
    Target("study/records.jsonl", "jsonl", ("study", "images.npz", "user"), ("report study", LATENTS)),
    Target("study/runs/beta@0-0/measures.jsonl", "jsonl", ("study", "images.npz", "user"), ("report study", LATENTS)),
    Target("study/runs/beta@0-0/config.yaml", "yaml", ("study", "images.npz", "user"), ("report study", LATENTS)),
    Target("study/samples/beta@0-0.png", "png", ("study", "images.npz", "user"), ("report study",)),
    *(
        Target(file, kind, (file.split("/")[0],), (f"cache {file.split('/')[0]} {CACHE}",), (f"cache {file}",) if "/" not in file else ())
        for file, kind in (("images.npz", "npz"), ("images.npy", "npy"), ("images.tar", "tar"), ("images.tar", "tar"))
    ),
    *(
        Target("pictures/a/1.png", "folder", ("pictures",), (f"cache pictures {CACHE}{words}",))
        for words in ("", " --skip-broken", " --dry-run")
    ),
    Target(
        "rows.npy",
        "npy",
        ("rows.npy",),
        (f"diagnose nets:build --data rows.npy {DIAGNOSE}",),
        (f"diagnose nets:build --data rows.npy {DIAGNOSE}",),
    ),
    Target("pairs.npz", "npz", ("pairs.npz",), (f"diagnose nets:build --data pairs.npz {DIAGNOSE}",)),
    Target(
        "rows.csv",
        "csv",
        ("rows.csv",),
        (f"diagnose nets:build --data rows.csv {DIAGNOSE}", TOY.replace("toy --", "toy --points rows.csv --", 1)),
    ),
    *(
        Target(file, kind, (file.split("/")[0],), (line,), (line,) if must else ())
        for file, kind, line, must in (
            ("mixed.csv", "csv", f"{KEEP} mixed.csv --table standard", True),
            ("mixed.csv", "csv", f"{KEEP} mixed.csv --table quantile --condition word", True),
            ("mixed.parquet", "bytes", f"{KEEP} mixed.parquet --table standard", True),
            ("sounds/1.wav", "bytes", f"{KEEP} sounds --ragged pad", False),
            ("sounds/1.wav", "bytes", f"{KEEP} sounds --ragged crop --skip-broken", False),
            ("arrays.safetensors", "safetensors", f"{KEEP} arrays.safetensors --ragged pad", True),
            ("ragged.npz", "npz", f"{KEEP} ragged.npz --ragged pad --pair pair", True),
            ("tabled/manifest.json", "json", f"train --dry-run --out new --samples 16 --data.source tabled {MLP}", True),
        )
    ),
    Target("labels.npy", "npy", ("labels.npy", "rows.npy"), (f"diagnose nets:build --data rows.npy --labels-file labels.npy {DIAGNOSE}",)),
    Target(
        "net.safetensors",
        "safetensors",
        ("rows.npy", "net.safetensors"),
        (f"diagnose nets:build --weights net.safetensors --data rows.npy {DIAGNOSE}",),
        (f"diagnose nets:build --weights net.safetensors --data rows.npy {DIAGNOSE}",),
    ),
    Target(
        "taesd.safetensors",
        "safetensors",
        ("taesd.safetensors", "images.npz"),
        (f"cache images.npz --autoencoder taesd:taesd.safetensors {CACHE}",),
    ),
    Target("config.yaml", "yaml", ("config.yaml", "images.npz", "user"), (f"{DRY} --data.source images.npz --config config.yaml",)),
    Target("config.yaml", "yaml", ("config.yaml", "images.npz", "user"), (f"{LATENTS} --dry-run --config config.yaml",)),
    Target("arms.yaml", "yaml", ("arms.yaml", "images.npz", "user"), (f"{LATENTS} --dry-run --arms-file arms.yaml",)),
    Target(f"{POINT}/ema_0.999.safetensors", "safetensors", RUN, (f"{DRY} --data.source images.npz --network.start run",)),
    Target(f"{POINT}/network.json", "json", RUN, (f"{DRY} --data.source images.npz --network.start run",)),
)


# What is damaged ---------------------------------------------------------------------------------------------------------------------


def furnish(here: Path) -> None:
    """One good file of each kind, in the current folder."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (24, 8, 8, 1), dtype=np.uint8)
    np.savez("images.npz", images=images, labels=np.arange(24) % 3, classes=["a", "b", "c"])
    np.save("images.npy", images)
    rows = draw.normal(size=(64, 2)).astype(np.float32)
    np.save("rows.npy", rows)
    np.savez("pairs.npz", x=rows, y=np.arange(64) % 3)
    np.save("labels.npy", np.arange(64) % 3)
    np.savetxt("rows.csv", rows, delimiter=",")
    words = [f"{a:.4f},{k % 5},{'xyz'[k % 3]}" for k, a in enumerate(rows[:, 0].tolist())]
    Path("mixed.csv").write_text("a,whole,word\n" + "\n".join(words) + "\n", encoding="utf-8")
    if importlib.util.find_spec("pyarrow"):
        import pyarrow.csv
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.csv.read_csv("mixed.csv"), "mixed.parquet")
    else:  # what asks for it is refused with a line of its own
        Path("mixed.parquet").write_bytes(b"PAR1PAR1")
    lengths = np.arange(64) % 4 + 2
    padded = draw.normal(size=(64, 2, 5)).astype(np.float32)
    np.savez("ragged.npz", x=padded, lengths=lengths, pair=padded[:, :1])
    save_file({"x": torch.from_numpy(padded), "lengths": torch.from_numpy(lengths)}, "arrays.safetensors")
    Path("sounds").mkdir()
    for k in range(4):
        wavfile.write(f"sounds/{k}.wav", 8000, draw.normal(size=20 + k).astype(np.float32))
    Path("nets.py").write_text("import meanstep as ms\n\n\ndef build(width=8):\n    return ms.MLP(2, width, 1)\n", encoding="utf-8")
    save_file(ms.MLP(2, 8, 1, generator=ms.key(0)).state_dict(), "net.safetensors")
    save_file(Tiny(4, pooled=False).state_dict(), "taesd.safetensors")
    Path("config.yaml").write_text("run: {batch: 8, samples: 16}\nmethod: {recipe: coefficient, options: {beta: 0.5}}\n", encoding="utf-8")
    Path("arms.yaml").write_text("beta@0:\n  recipe: coefficient\n  options: {beta: 0.5, anchor: 0}\n", encoding="utf-8")
    with tarfile.open("images.tar", "w") as archive:
        for k, picture in enumerate(images[:6, ..., 0]):
            name = Path("pictures") / "abc"[k % 3] / f"{k}.png"
            name.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(name)
            archive.add(name, f"{k}.png")
            Path("one.cls").write_text(str(k % 3), encoding="utf-8")
            archive.add("one.cls", f"{k}.cls")
    shutil.move("pictures/b/1.png", "pictures/a/1.png")
    lines = (
        *(f"train --out run --data.source images.npz --samples 16 {EVERY} --averages.decays 0.999 {TINY}", EVALUATE),
        *("cache images.npz --out made", "cache mixed.csv --table quantile --out tabled", TOY, LATENTS),
    )
    for line in lines:
        outcome = called([*line.split(), "--quiet"], here, 300)
        assert outcome.code == 0, (line, outcome)
    shutil.copytree("made", "part")
    Path("part/manifest.json").unlink()
    Path("part/unfinished.json").write_text('{"asked": {}, "parts": []}', encoding="utf-8")


def settle(here: Path, patch: pytest.MonkeyPatch) -> Path:
    """Furnish a folder `good` there, and say so to everything that may ask; the folder."""
    (here / "good").mkdir()
    patch.chdir(here / "good")
    patch.setattr("tempfile.tempdir", str(here))
    patch.setenv("HF_HUB_OFFLINE", "1")
    patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(here / "inductor"))  # or torch sets it, for the whole process
    patch.setattr("os.fsync", lambda handle: None)  # a slow disk hangs no command
    for name in ("HOME", "XDG_CACHE_HOME", "TMPDIR"):
        patch.setenv(name, str(here))
    patch.setenv("MEANSTEP_CACHE", "user")  # of whichever folder is the current one
    patch.setattr(sys, "path", [*sys.path, str(here / "good")])
    stay_home(patch)
    furnish(here)
    return here


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Maker"]:
    here = tmp_path_factory.mktemp("files").resolve()
    with pytest.MonkeyPatch.context() as patch:
        yield Maker(settle(here, patch))


@dataclass(frozen=True)
class Case:
    """`damage` does what `told` says, in a fresh copy of what the target needs."""

    target: Target
    line: str
    seed: str
    form: str

    def damage(self, case: Path) -> str:
        """Damage the file; what was done."""
        draw = random.Random(self.seed)
        path = next(iter(sorted(case.glob(self.target.file))), case / self.target.file)
        return {"special": special, "rubble": rubble, "bruised": bruised}.get(self.form, GRAMMAR[self.target.kind])(path, draw)


class Maker:
    """Draws cases."""

    def __init__(self, here: Path) -> None:
        self.here = here

    def case(self, number: int) -> Case:
        """Case number `number`, always the same."""
        draw = random.Random(f"{SEED}/{number}")
        target = draw.choice(TARGETS)
        return Case(
            target, draw.choice(list(target.lines)), f"{SEED}/{number}/damage", draw.choice(["special", "rubble", "bruised", *["own"] * 5])
        )


def told(number: int, case: Case, here: Path) -> str:
    """What is wrong with a case, and how to see it again; empty if nothing is."""
    place = here / "case"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for name in case.target.needs:
        part = here / "good" / name
        if part.is_dir():
            shutil.copytree(part, place / name, symlinks=True)
        elif part.exists():
            shutil.copy(part, place / name)
    done = case.damage(place)
    before = Path.cwd()
    os.chdir(place)
    try:
        outcome = ran(_loaded, here) if case.line == "load" else called(case.line.split(), here)
    finally:
        os.chdir(before)
    wrong = case.form in ("special", "rubble") and case.line in case.target.must
    if not (article := outcome.broken(wrong)):
        return ""
    line = "ms.load('run')" if case.line == "load" else f"meanstep {shown(case.line.split())}"
    return f"case {number} (MEANSTEP_FUZZ={number}): {article}\n  {case.target.file}: {done}\n  {line}"


def _loaded() -> None:
    try:
        ms.load("run")
    except UserError as mistake:
        print(f"meanstep: {mistake}", file=sys.stderr)
        raise SystemExit(2) from None


def asked(numbers: range) -> range:
    """The cases: those that are asked for in the environment, or all of them."""
    first, colon, end = os.environ.get("MEANSTEP_FUZZ", "").partition(":")
    return range(int(first), int(end) if colon else int(first) + 1) if first else numbers


def test_damaged_files(maker: Maker):
    broken = [told(number, maker.case(number), maker.here) for number in asked(range(PLAIN))]
    assert not any(broken), "\n" + "\n".join(filter(None, broken))


@pytest.mark.slow
@pytest.mark.parametrize("start", range(PLAIN, PLAIN + SLOW, 100))
def test_two_thousand_damaged_files(start: int, maker: Maker):
    broken = [told(number, maker.case(number), maker.here) for number in range(start, start + 100)]
    assert not any(broken), "\n".join(filter(None, broken))
