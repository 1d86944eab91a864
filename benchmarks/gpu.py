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
process of its own, ended when the part's time is over or when this one is stopped, and its numbers lie in OUT as soon as they are there.
A job that is done is not made again, and one that was cut off goes on where it can, from OUT/gpu.json alone too. OUT/gpu.json holds
everything, OUT/gpu.md is the page; `python benchmarks/summarise.py` makes docs/performance.md from benchmarks/records/gpu.json, a copy of
the former.
"""

import argparse
import contextlib
import ctypes
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))

from meanstep.program.machine import environment  # noqa: E402

PARTS = ("tests", "step", "attention", "sweep", "train")
PROGRAM = ("numpy", "scipy", "tyro", "rich", "yaml", "safetensors", "PIL")
FILES = ("cifar10_jpeg.npz", "taesd.safetensors")
LEFT = 75  # a job's exit code that says: call again for the rest
TAIL = 2000  # characters of a failed job's output that are kept
WORTH = 5  # seconds left below which no job is begun
POLL = 0.05
STOP = threading.Event()
"""Set by a signal: the job at work is ended, what it had is kept, and no other begins."""
Result = dict[str, Any]
Found = dict[str, Result]


@dataclass(frozen=True)
class Job:
    """A process, and how its numbers are read. In the command `{out}` stands for the job's own folder, `{seconds}` for most
    of what is left, `{minute}` for a minute of training or what there is room for."""

    part: str
    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    read: Callable[[Path, str], Any] = lambda folder, output: json.loads((folder / "out.json").read_text(encoding="utf-8"))
    wants: str = ""

    @property
    def missing(self) -> str:
        """What this machine lacks for it, in words."""
        absent = [name for name in self.needs if not there(name)]
        return f"needs {', '.join(absent)}, not installed here" if absent else self.wants


def there(name: str) -> bool:
    """Whether a module can be found, without importing it."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


# The jobs ---------------------------------------------------------------------------------------------------------------------------


def jobs(device: str, data: Path | None, toy: bool) -> list[Job]:
    """In the order in which they are made."""
    return [*tests(device), *steps(device, toy), *attentions(device, toy), *sweeps(device, toy), *trainings(device, data, toy)]


def tests(device: str) -> Iterator[Job]:
    """The attention's last: its kernel is compiled for each of its cases."""
    together = ("-n", "8") if device != "cpu" and there("xdist") else ()
    for name in ("cuda", "sweep_cuda", "attention_cuda"):
        file = ROOT / "tests" / "gpu" / f"test_{name}.py"
        command = (sys.executable, "-m", "pytest", "-m", "gpu", "-v", "-p", "no:cacheprovider", *together, str(file))
        needs = ("pytest", "numpy", *(("rich", "yaml", "safetensors") if name == "sweep_cuda" else ()))
        yield Job("tests", file.stem, command, needs, read=verdicts)


def verdicts(folder: Path, output: str) -> Result:
    """How many tests passed, failed and were skipped so far, the names of those that failed, and the last word of pytest."""
    lines = re.findall(r"^(?:\[gw\d+\] \[ *\d+%\] )?(?:(\S+::.*?) )?(PASSED|FAILED|SKIPPED|ERROR)(?: (\S+::.*))?", output, re.MULTILINE)
    found = {(before or after).partition(" - ")[0].strip(): kind.lower() for before, kind, after in lines if before or after}
    if not found:
        raise ValueError("pytest said nothing of a test")
    counts = {kind: sum(k == kind for k in found.values()) for kind in ("passed", "failed", "skipped", "error")}
    return {**{k: n for k, n in counts.items() if n}, "names": [name for name, kind in found.items() if kind in ("failed", "error")]}


BATCHES = {"B/4": "256", "XL/2": "32", "S/4": "256"}


def steps(device: str, toy: bool) -> Iterator[Job]:
    """The large networks first, and of each what takes least time first."""
    kinds = ("eager", "blocks", "step")
    cases = [("toy", "eager")] if toy else [*((n, k) for k in kinds for n in ("B/4", "XL/2")), *(("S/4", k) for k in kinds)]
    size = ("--rounds", "3") if toy else ("--rounds", "25")
    for network, kind in cases:
        limits = ("--batch", BATCHES.get(network, "16"), "--seconds", "{seconds}", "--go-on", "--json", "{out}/out.json")
        command = script("step", "--device", device, "--networks", network, "--kinds", kind, *size, *limits)
        yield Job("step", f"{network.replace('/', '-')}-{kind}", command)


def attentions(device: str, toy: bool) -> Iterator[Job]:
    size = ("--lengths", "16", "--rounds", "1", "--seconds", "0.01") if toy else ()
    for head in ("64", "72"):
        command = script("attention", "--device", device, "--heads", head, *size, "--json", "{out}/out.json")
        yield Job("attention", f"head-{head}", command, () if toy else ("triton",))


def sweeps(device: str, toy: bool) -> Iterator[Job]:
    for models in (1, 8) if toy else (1, 8, 32, 128, 300, 512):
        size = ("--rounds", "1", "--seconds", "0.01") if toy else ()
        command = script("sweep", "--device", device, "--models", str(models), "--batches", "256", *size, "--json", "{out}/out.json")
        yield Job("sweep", f"{models}-models", command, ("numpy", "rich", "yaml"))


def trainings(device: str, data: Path | None, toy: bool) -> Iterator[Job]:
    """Each makes a run: two of CIFAR-10, the rest, and all of the toy, of the embedded digits."""
    size = ("--seconds", "1", "--samples", "1920") if toy else ("--seconds", "{minute}")

    def job(name: str, kind: str, *flags: str) -> Job:
        return Job("train", name, script("gpu_train", kind, "--device", device, *size, "--out", "{out}", *flags), (*PROGRAM, "sklearn"))

    for kind, files in (("pixels", FILES[:1]), ("latents", FILES)):
        absent = [name for name in files if not (data and (data / name).is_file())]
        wants = f"needs --data, the folder that holds {' and '.join(files)}" + (f": no {absent[0]} in {data}" if data and absent else "")
        command = script("gpu_train", kind, "--device", device, *size, "--out", "{out}", "--data", str(data))
        yield job(kind, kind) if toy else Job("train", kind, command, PROGRAM, wants=wants if absent else "")
    yield job("resume", "resume")
    yield job("one-rank", "ranks")
    yield job("one-rank-sharded", "ranks", "--parallel", "fsdp")


def script(name: str, *flags: str) -> tuple[str, ...]:
    return (sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *flags)


# Making them ------------------------------------------------------------------------------------------------------------------------


def make(job: Job, out: Path, seconds: float, before: Any = None) -> Result:
    """The job's result: `done` with its numbers, `late`, `failed` with the end of what it wrote, or `missing` with what it lacks.

    `before`: the numbers of an earlier call, with which a job goes on whose folder did not come along.
    """
    if job.missing:
        return {"status": "missing", "why": job.missing}
    folder = out / job.part / job.name
    folder.mkdir(parents=True, exist_ok=True)
    if "--go-on" not in job.command:
        (folder / "out.json").unlink(missing_ok=True)  # an earlier call's, whose numbers are not this one's
    elif before is not None and not (folder / "out.json").exists():
        (folder / "out.json").write_text(json.dumps(before), encoding="utf-8")
    words = {"{out}": str(folder), "{seconds}": str(max(1, round(0.6 * seconds))), "{minute}": str(max(1, min(60, round(0.35 * seconds))))}
    command = [next((part.replace(k, v) for k, v in words.items() if k in part), part) for part in job.command]
    paths = os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH"))))
    around = {**os.environ, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"}
    begin = time.monotonic()
    with open(folder / "log.txt", "w+", encoding="utf-8", errors="replace") as log:
        pipes: Any = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
        # not a session of its own: what ends a terminal's or a container's session ends the job too
        child = subprocess.Popen(command, cwd=ROOT, env=around, process_group=0, preexec_fn=bound, **pipes)  # noqa: PLW1509 (no threads)
        try:
            while child.poll() is None and time.monotonic() < begin + seconds and not STOP.is_set():
                time.sleep(POLL)
        finally:
            code = child.poll()
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
    if code is None and STOP.is_set():
        return {"status": "late", "why": "stopped by a signal", **taken, **kept}
    if code is None or (code == LEFT and numbers is not None):
        return {"status": "late", "why": f"not done in the {seconds:.0f} s that were left", **taken, **kept}
    return {"status": "failed", "why": f"exit code {code}", **taken, **kept, "output": output[-TAIL:]}


def bound() -> None:
    """Called in a new process: it ends when the one that began it is gone, however that ended. On Linux alone."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def run(wanted: list[Job], out: Path, minutes: float, machine: Result) -> Found:
    """Makes the jobs of each part within its minutes, and writes after each."""
    found = load(out)
    for part in dict.fromkeys(job.part for job in wanted):
        end = time.monotonic() + 60 * minutes
        for job in (job for job in wanted if job.part == part):
            key, left = f"{part}/{job.name}", end - time.monotonic()
            old = found.get(key, {})
            if STOP.is_set():
                break
            if old.get("status") == "done":
                say(f"{key}: done before")
                continue
            if left < WORTH and not job.missing:
                found.setdefault(key, {"status": "late", "why": "the part's time was over"})
            else:
                new = {**make(job, out, left, old.get("numbers")), "environment": machine}
                # an attempt that came to nothing does not take an earlier one's numbers away
                found[key] = {
                    **new,
                    **({k: old[k] for k in ("numbers", "environment")} if "numbers" in old and "numbers" not in new else {}),
                }
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
    kinds = ("passed", "failed", "skipped", "error")
    body = ([name, *(str(n.get(kind, 0)) for kind in kinds), ", ".join(n["names"])] for name, n in done.items())
    return rows(["file", *kinds, "names"], body)


def of_steps(done: Found) -> list[str]:
    tables = ((title, name, row) for n in done.values() for title, run in n["runs"].items() for name, row in run["rows"].items())
    body = ([title, name, *(of_step(row) if "ratio" in row else [row["why"], *[""] * 6])] for title, name, row in tables)
    return rows(
        ["network", "step", "ms", "to flow matching", "half of the rounds", "floor", "peak MB", "to flow matching", "start, s"], body
    )


def of_step(row: Result) -> list[str]:
    half = f"{row['ratio_low']:.2f} to {row['ratio_high']:.2f}"
    memory = [f"{row['peak_mb']:.0f}", f"{row['peak_ratio']:.2f}"] if row["peak_ratio"] else ["", ""]
    return [f"{1e3 * row['seconds']:.1f}", f"{row['ratio']:.2f}", half, f"{row['floor']:.2f}", *memory, f"{row['first_three_steps_s']:.0f}"]


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
    if asked.out.exists() and not asked.out.is_dir():
        parser.error(f"--out: {asked.out} is no folder")
    if not 0 < asked.minutes <= 600:
        parser.error(f"--minutes is above 0 and at most 600, got {asked.minutes:g}")
    if not (asked.toy or torch.cuda.is_available()):
        parser.error("there is no CUDA device here; --toy runs everything at toy size on the CPU")
    if any(r.get("environment", {}).get("toy", asked.toy) != asked.toy for r in load(asked.out).values()):
        parser.error(f"--out: {asked.out} holds results {'of full' if asked.toy else 'at toy'} size: name another folder")
    asked.data = place and place.resolve()  # a job's own folder is another
    return asked


def main() -> int:
    asked = arguments()
    for kind in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(kind, lambda *_: STOP.set())
    asked.out.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    wanted = [job for job in jobs(device, asked.data, asked.toy) if job.part in asked.part]
    found = run(wanted, asked.out.resolve(), asked.minutes, {**environment(device), "toy": asked.toy})
    say(f"{asked.out / 'gpu.md'}: {sum(r['status'] == 'done' for r in found.values())} of {len(found)} jobs are done")
    return 128 + signal.SIGTERM if STOP.is_set() else int(any(r["status"] == "failed" for r in found.values()))


if __name__ == "__main__":
    sys.exit(main())
