"""Everything that only a GPU can show, in parts that end in time and go on where they stopped.

    python benchmarks/gpu.py --out runs/gpu                              # all parts, five minutes each
    python benchmarks/gpu.py --out runs/gpu --part step --minutes 9      # one part, and goes on where it stopped
    python benchmarks/gpu.py --out runs/gpu --data FOLDER                # with the file that CIFAR-10 is read from
    python benchmarks/gpu.py --out runs/toy --toy                        # the same at toy size, on a CPU

tests       the tests that need a GPU
step        a training step of B/4, XL/2 and S/4 in bfloat16, eager and compiled, time and memory of each recipe, against flow matching
attention   attention with a tangent against fused attention without one
sweep       the sweep's engine, 1 to 512 models at once as one captured ensemble
train       CIFAR-10's pixels and latents for a fixed time with distances; resume; one rank under NCCL, plain and sharded

It runs from a bare copy: torch is needed, and what a job needs beside it is named where it is missing; the other jobs run. Each job is a
process of its own, ended when the part's time is over, and its numbers lie in OUT as soon as they are there. A job that is done is not
made again. OUT/gpu.json holds everything, OUT/gpu.md is the page; `python benchmarks/summarise.py` makes docs/performance.md from
benchmarks/records/gpu.json, a copy of the former.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))

from meanstep.program.machine import environment  # noqa: E402

PARTS = ("tests", "step", "attention", "sweep", "train")
PROGRAM = ("numpy", "scipy", "tyro", "rich", "yaml", "safetensors", "PIL")
TAIL = 2000  # characters of a failed job's output that are kept
WORTH = 5  # seconds left below which no job is begun
Result = dict[str, Any]
Found = dict[str, Result]


@dataclass(frozen=True)
class Job:
    """A process, and how its numbers are read. In the command `{out}` stands for the job's own folder, `{seconds}` for what is left."""

    part: str
    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    read: Callable[[Path, str], Any] = lambda folder, output: json.loads((folder / "out.json").read_text(encoding="utf-8"))
    wants: str = ""
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def missing(self) -> str:
        """What this machine lacks for it, in words."""
        absent = [name for name in self.needs if importlib.util.find_spec(name) is None]
        return f"needs {', '.join(absent)}, not installed here" if absent else self.wants


# The jobs ---------------------------------------------------------------------------------------------------------------------------


def jobs(device: str, data: Path | None, toy: bool) -> list[Job]:
    """In the order in which they are made."""
    return [*tests(), *steps(device, toy), *attentions(device, toy), *sweeps(device, toy), *trainings(device, data, toy)]


def tests() -> Iterator[Job]:
    for file in sorted((ROOT / "tests" / "gpu").glob("test_*.py")):
        command = (sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", str(file))
        yield Job("tests", file.stem, command, ("pytest", "hypothesis"), read=verdicts)


def verdicts(folder: Path, output: str) -> Result:
    """Pytest's last line in numbers, and the names of what failed."""
    counts = {kind: int(n) for n, kind in re.findall(r"(\d+) (passed|failed|skipped|errors?|deselected)", output.strip().splitlines()[-1])}
    return {**counts, "names": re.findall(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)}


def steps(device: str, toy: bool) -> Iterator[Job]:
    cases = [("toy", "eager")] if toy else [(n, k) for k in ("eager", "blocks", "step") for n in ("B/4", "XL/2", "S/4")]
    size = ("--rounds", "3") if toy else ("--rounds", "25")
    for network, kind in cases:
        limits = ("--seconds", "{seconds}", "--json", "{out}/out.json")
        command = script("step", "--device", device, "--networks", network, "--kinds", kind, *size, *limits)
        yield Job("step", f"{network.replace('/', '-')}-{kind}", command, environment={"PYTORCH_ALLOC_CONF": "expandable_segments:True"})


def attentions(device: str, toy: bool) -> Iterator[Job]:
    size = ("--lengths", "16", "--rounds", "1", "--seconds", "0.01") if toy else ()
    for head in ("64", "72"):
        command = script("attention", "--device", device, "--heads", head, *size, "--json", "{out}/out.json")
        yield Job("attention", f"head-{head}", command, () if toy else ("triton",))


def sweeps(device: str, toy: bool) -> Iterator[Job]:
    for models in (1, 8) if toy else (1, 8, 32, 128, 300, 512):
        size = ("--rounds", "1", "--seconds", "0.01") if toy else ()
        command = script("sweep", "--device", device, "--models", str(models), "--batches", "256", *size, "--json", "{out}/out.json")
        yield Job("sweep", f"{models}-models", command, PROGRAM)


def trainings(device: str, data: Path | None, toy: bool) -> Iterator[Job]:
    """Each makes a run; the second of a pair goes on with the first one's folder."""
    wants = "" if data or toy else "needs --data, the folder that holds cifar10_jpeg.npz and taesd.safetensors"
    size = ("--seconds", "1", "--samples", "1920") if toy else ()

    def job(name: str, kind: str, *flags: str, needs: tuple[str, ...] = ()) -> Job:
        place = () if toy else ("--data", str(data))
        command = script("gpu_train", kind, "--device", device, *size, "--out", "{out}", *place, *flags)
        return Job("train", name, command, (*PROGRAM, *needs), wants=wants)

    yield job("pixels", "pixels")
    yield job("latents", "latents", needs=() if toy else ("diffusers",))
    yield job("resume", "resume")
    yield job("one-rank", "ranks")
    yield job("one-rank-sharded", "ranks", "--parallel", "fsdp")


def script(name: str, *flags: str) -> tuple[str, ...]:
    return (sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *flags)


# Making them ------------------------------------------------------------------------------------------------------------------------


def make(job: Job, out: Path, seconds: float) -> Result:
    """The job's result: `done` with its numbers, `late`, `failed` with the end of what it wrote, or `missing` with what it lacks."""
    if job.missing:
        return {"status": "missing", "why": job.missing}
    folder = out / job.part / job.name
    folder.mkdir(parents=True, exist_ok=True)
    words = {"{out}": str(folder), "{seconds}": str(max(1, round(0.6 * seconds)))}
    command = [next((part.replace(k, v) for k, v in words.items() if k in part), part) for part in job.command]
    paths = os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH"))))
    around = {**os.environ, **job.environment, "PYTHONPATH": paths}
    begin = time.monotonic()
    with open(folder / "log.txt", "w+", encoding="utf-8", errors="replace") as log:
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env=around, start_new_session=True)
        try:
            code: int | None = child.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # and what it began, a run that trains on
            child.wait()
        log.seek(0)
        output = log.read()
    taken = {"seconds": round(time.monotonic() - begin, 1), "log": f"{job.part}/{job.name}/log.txt"}
    try:
        numbers = job.read(folder, output)
    except (OSError, ValueError, IndexError):
        numbers = None
    if code == 0 and numbers is not None:
        return {"status": "done", **taken, "numbers": numbers}
    kept = {} if numbers is None else {"numbers": numbers}
    if code is None:
        return {"status": "late", "why": f"not done in the {seconds:.0f} s that were left", **taken, **kept}
    return {"status": "failed", "why": f"exit code {code}", **taken, **kept, "output": output[-TAIL:]}


def run(wanted: list[Job], out: Path, minutes: float, machine: Result) -> Found:
    """Makes the jobs of each part within its minutes, and writes after each."""
    found = load(out)
    for part in dict.fromkeys(job.part for job in wanted):
        end = time.monotonic() + 60 * minutes
        for job in (job for job in wanted if job.part == part):
            key, left = f"{part}/{job.name}", end - time.monotonic()
            if found.get(key, {}).get("status") == "done":
                say(f"{key}: done before")
                continue
            if left < WORTH and not job.missing:
                found.setdefault(key, {"status": "late", "why": "the part's time was over"})
            else:
                found[key] = {**make(job, out, left), "environment": machine}
            result = found[key]
            say(f"{key}: {result['status']}" + (f", {result['why']}" if "why" in result else f" in {result['seconds']} s"))
            write(out, found)
    write(out, found)
    return found


def say(line: str) -> None:
    print(line, flush=True)


def load(out: Path) -> Found:
    file = out / "gpu.json"
    try:
        return json.loads(file.read_text(encoding="utf-8"))["jobs"] if file.exists() else {}
    except (ValueError, KeyError, TypeError):
        aside = file.with_suffix(".json.unreadable")
        file.replace(aside)
        say(f"{file} could not be read and lies aside as {aside.name}: all jobs are made anew")
        return {}


def write(out: Path, found: Found) -> None:
    """Both files, each renamed into place when it is whole."""
    for name, text in (("gpu.json", json.dumps({"jobs": found}, indent=1) + "\n"), ("gpu.md", "\n".join(page(found)) + "\n")):
        new = out / f".{name}.new"
        new.write_text(text, encoding="utf-8")
        new.replace(out / name)


# The page ---------------------------------------------------------------------------------------------------------------------------


def page(found: Found) -> Iterator[str]:
    """What was measured, a table for each part, and what was not and why."""
    places = dict.fromkeys(f"{e['device']}, torch {e['torch']}" for r in found.values() if (e := r.get("environment")))
    yield f"Measured on {'; '.join(places)} by `python benchmarks/gpu.py`." if places else "Nothing is measured yet."
    for part in PARTS:
        done = {k.partition("/")[2]: r["numbers"] for k, r in found.items() if k.startswith(f"{part}/") and "numbers" in r}
        if done:
            yield from ("", f"### {HEADINGS[part]}", "", *TABLES[part](done))
    rest = {k: r for k, r in found.items() if r["status"] != "done"}
    if rest:
        yield from ("", "### Not measured", "", *(f"- {k}: {r['status']}, {r.get('why', '')}" for k, r in rest.items()))


def rows(header: list[str], body: Iterator[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *body)]


def of_tests(done: Found) -> list[str]:
    kinds = ("passed", "failed", "skipped")
    body = ([name, *(str(n.get(kind, 0)) for kind in kinds), ", ".join(n["names"])] for name, n in done.items())
    return rows(["file", *kinds, "names"], body)


def of_steps(done: Found) -> list[str]:
    tables = ((title, name, row) for n in done.values() for title, run in n["runs"].items() for name, row in run["rows"].items())
    body = (
        [
            title,
            name,
            f"{1e3 * r['seconds']:.1f}",
            f"{r['ratio']:.2f}",
            f"{r['floor']:.2f}",
            f"{r['peak_mb']:.0f}",
            f"{r['peak_ratio']:.2f}",
        ]
        for title, name, r in tables
    )
    return rows(["network", "step", "ms", "to flow matching", "floor", "peak MB", "to flow matching"], body)


def of_attention(done: Found) -> list[str]:
    sizes = ((size, name, row) for n in done.values() for size in n["sizes"] for name, row in size["variants"].items())
    body = (
        [s["dtype"], str(s["head"]), str(s["length"]), name, f"{r['milliseconds']:.3f}", f"{r['of_fused_rate']:.2f}"]
        for s, name, r in sizes
    )
    return rows(["dtype", "head", "tokens", "way", "ms", "of the fused rate"], body)


def of_sweep(done: Found) -> list[str]:
    body = (
        [models, batch, name, f"{r['steps_per_second']:.0f}", f"{r['gflops']:.0f}"]
        for n in done.values()
        for models, batches in [(str(n["models"]), n["batches"])]
        for batch, table in batches.items()
        for name, r in table.items()
    )
    return rows(["models", "batch", "way", "model-steps/s", "GFLOP/s"], body)


def of_training(done: Found) -> list[str]:
    body = ([name, ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in n.items())] for name, n in done.items())
    return rows(["run", "numbers"], body)


HEADINGS = {
    "tests": "Tests",
    "step": "A training step",
    "attention": "Attention with a tangent",
    "sweep": "The sweep's engine",
    "train": "Training",
}
TABLES = {"tests": of_tests, "step": of_steps, "attention": of_attention, "sweep": of_sweep, "train": of_training}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where results go; what is done there is not made again")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS, help="which parts (default: all)")
    parser.add_argument("--minutes", type=float, default=5.0, help="of each part (default: 5)")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="with cifar10_jpeg.npz, taesd.safetensors (default: $MEANSTEP_DATA)")
    parser.add_argument("--toy", action="store_true", help="at toy size, on whatever is here")
    asked = parser.parse_args()
    place = asked.data or (Path(os.environ["MEANSTEP_DATA"]) if os.environ.get("MEANSTEP_DATA") else None)
    if place and not place.is_dir():
        parser.error(f"--data: the folder {place} does not exist")
    if not 0 < asked.minutes <= 600:
        parser.error(f"--minutes is above 0 and at most 600, got {asked.minutes:g}")
    if not (asked.toy or torch.cuda.is_available()):
        parser.error("there is no CUDA device here; --toy runs everything at toy size on the CPU")
    asked.data = place
    return asked


def main() -> int:
    asked = arguments()
    asked.out.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    wanted = [job for job in jobs(device, asked.data, asked.toy) if job.part in asked.part]
    found = run(wanted, asked.out.resolve(), asked.minutes, {**environment(device), "toy": asked.toy})
    say(f"{asked.out / 'gpu.md'}: {sum(r['status'] == 'done' for r in found.values())} of {len(found)} jobs are done")
    return int(any(r["status"] == "failed" for r in found.values()))


if __name__ == "__main__":
    sys.exit(main())
