"""Training on a device, for benchmarks/gpu.py: the program's own commands, each as a user gives them, and what they left behind in numbers.

    python benchmarks/gpu_train.py pixels --seconds 60 --out runs/pixels --data FOLDER     # CIFAR-10 for a minute, then its distance
    python benchmarks/gpu_train.py latents --seconds 60 --out runs/latents --data FOLDER   # the same in latents of 4 x 4 x 4
    python benchmarks/gpu_train.py resume --seconds 60 --out runs/resume                   # stopped and resumed, against straight through
    python benchmarks/gpu_train.py ranks --parallel fsdp --seconds 60 --out runs/ranks     # one rank under torchrun, against none

Without --data the embedded digits are taken. The numbers lie in OUT/out.json.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from gpu import bound
from safetensors.torch import load_file

MEANSTEP = (sys.executable, "-m", "meanstep", "--quiet")
# what torchrun begins is in a session of its own, which no signal to this one's group reaches
BOUND = f"import sys, runpy; sys.path.insert(0, {str(Path(__file__).parent)!r}); import gpu; gpu.bound()"
WORKER = (sys.executable, "-c", f"{BOUND}; runpy.run_module('meanstep', run_name='__main__', alter_sys=True)", "--quiet")
SAFE = 180.0  # seconds that a run has for saving itself


def call(*words: str) -> None:
    code = subprocess.run(words, check=False, preexec_fn=bound).returncode
    if code:
        sys.exit(f"exit code {code}: {' '.join(words)}")


def train(asked: argparse.Namespace, out: Path, *flags: str, seconds: float | None = None, launcher: tuple[str, ...] = MEANSTEP) -> None:
    """A run to its end, or stopped as a scheduler stops it, so many seconds after its first record."""
    quiet = ("--evaluate-every", "0", "--sample-every", "0", "--save-every", str(10**9), "--log-every", "640")
    words = (*launcher, "train", "--out", str(out), "--device", asked.device, *quiet, *flags)
    if seconds is None:
        return call(*words)
    run = subprocess.Popen(words, preexec_fn=bound)  # noqa: PLW1509 (no threads)
    while run.poll() is None and not seen(out):
        time.sleep(0.1)
    try:
        code = run.wait(seconds)
    except subprocess.TimeoutExpired:
        run.send_signal(signal.SIGTERM)
        code = 0 if run.wait(SAFE) in (0, 128 + signal.SIGTERM, -signal.SIGTERM) else run.returncode
    if code:
        sys.exit(f"exit code {code}: {' '.join(words)}")


def timed(asked: argparse.Namespace, *flags: str) -> dict[str, Any]:
    """A run of so many seconds, and the distance of its samples from the data, by features that need no file: no FID."""
    out = asked.out / "run"
    precision = "bf16" if asked.device == "cuda" else "float32"
    train(asked, out, "--samples", str(10**9), "--precision", precision, *flags, seconds=asked.seconds)
    table = asked.out / "distances.json"
    call(*MEANSTEP, "evaluate", str(out), "--device", asked.device, "--count", "1000", "--extractor", "pixels", "--json", str(table))
    return {**rate(out), **distances(json.loads(table.read_text(encoding="utf-8")))}


def distances(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Of one-step samples with their interval, and of real rows."""
    cell, below = (next(row["values"] for row in rows if row["kind"] == kind) for kind in ("cell", "floor"))
    return {"frechet": cell["frechet"], "low": cell["frechet_low"], "high": cell["frechet_high"], "floor": below["frechet"]}


def pixels(asked: argparse.Namespace) -> dict[str, Any]:
    return timed(asked, *(("--preset", "cifar10-dit", "--data.source", str(asked.data / "cifar10_jpeg.npz")) if asked.data else ()))


def latents(asked: argparse.Namespace) -> dict[str, Any]:
    if not asked.data:
        return timed(asked)
    cache = asked.out / "cache"
    if not cache.exists():
        source, weights, new = asked.data / "cifar10_jpeg.npz", asked.data / "taesd.safetensors", asked.out / "cache.new"
        shutil.rmtree(new, ignore_errors=True)  # an earlier call was ended while it wrote
        call(*MEANSTEP, "cache", str(source), "--out", str(new), "--autoencoder", f"taesd:{weights}", "--device", asked.device)
        new.rename(cache)
    return timed(asked, "--preset", "cifar10-dit", "--data.source", str(cache), "--data.no-flips", "--network.patch", "1")


def resume(asked: argparse.Namespace) -> dict[str, Any]:
    """Stopped by a signal and resumed, against straight through."""
    straight, stopped = asked.out / "straight", asked.out / "stopped"
    train(asked, straight, "--samples", str(asked.samples))
    train(asked, stopped, "--samples", str(asked.samples), seconds=0.0)
    between = seen(stopped)
    train(asked, stopped, "--samples", str(asked.samples))
    return {"stopped_at": between, "samples": asked.samples, "largest_difference": difference(straight, stopped)}


def ranks(asked: argparse.Namespace) -> dict[str, Any]:
    """One rank under torchrun, which is NCCL on a GPU, against a plain process."""
    alone, launched = asked.out / "alone", asked.out / "launched"
    train(asked, alone, "--samples", str(asked.samples))
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "--no-python", *WORKER)
    train(asked, launched, "--samples", str(asked.samples), "--parallel", asked.parallel, launcher=torchrun)
    rates = {f"{name}_samples_per_second": rate(out)["samples_per_second"] for name, out in (("alone", alone), ("launched", launched))}
    return {**rates, "largest_difference": difference(alone, launched)}


def records(out: Path) -> list[dict[str, Any]]:
    file = out / "records.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def seen(out: Path) -> int:
    return max((r["seen"] for r in records(out) if r.get("kind") == "train"), default=0)


def rate(out: Path) -> dict[str, Any]:
    """Samples seen, and their rate between the first record and the last, or up to the only one."""
    rows = [{"seen": 0, "seconds": 0.0}, *(r for r in records(out) if r.get("kind") == "train")]
    first, last = rows[1 if len(rows) > 2 else 0], rows[-1]
    return {"samples": last["seen"], "samples_per_second": (last["seen"] - first["seen"]) / (last["seconds"] - first["seconds"])}


def difference(one: Path, other: Path) -> float:
    """The largest difference of two runs' weights, in units of the largest weight."""
    a, b = (load_file(max((out / "checkpoints").glob("[0-9]*/model.safetensors"), key=os.path.getmtime)) for out in (one, other))
    return max(float((a[k] - b[k]).abs().max() / a[k].abs().max().clamp(min=1e-30)) for k in a)


KINDS = {"pixels": pixels, "latents": latents, "resume": resume, "ranks": ranks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=list(KINDS))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to compute (default: cpu)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of training (default: 60)")
    parser.add_argument("--samples", type=int, default=12_800, help="of the runs that are compared with each other (default: 12800)")
    parser.add_argument("--parallel", choices=["ddp", "fsdp"], default="ddp", help="of one rank (default: ddp)")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="holds cifar10_jpeg.npz and taesd.safetensors")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the runs go, made anew")
    asked = parser.parse_args()
    for name in ("run", "straight", "stopped", "alone", "launched"):
        shutil.rmtree(asked.out / name, ignore_errors=True)
    asked.out.mkdir(parents=True, exist_ok=True)
    found = KINDS[asked.kind](asked)
    (asked.out / "out.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
