"""The training program: averages, rates, checkpoints, resume, ranks, kills, and every mistake in one line."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import meanstep as ms
from meanstep.cli import main
from meanstep.program.console import UserError
from meanstep.program.data import Cache, Loader
from meanstep.program.runs.config import AveragesConfig, Config, MethodConfig, NetworkConfig, checked, chunk, from_yaml, to_yaml
from meanstep.program.runs.records import Records, load
from meanstep.program.runs.report.history import History
from meanstep.program.runs.saved import Saved, found
from meanstep.program.sampling.model import load as load_model
from meanstep.program.training import train as training
from meanstep.program.training.averages import Average, names
from meanstep.program.training.command import Train
from meanstep.program.training.folder import begin
from meanstep.program.training.loop import Failure, Step, batches
from meanstep.program.training.presets import PRESETS
from meanstep.program.training.ranks import Ranks
from meanstep.program.training.state import State, posterior
from meanstep.program.training.train import train

from .conftest import PLAIN
from .train_ranks import BATCH, METHODS, STEPS, configuration

ALONE = Ranks(0, 1, torch.device("cpu"))
COMMAND = [*PLAIN, "train"]
WORDS = "--device cpu --network.width 16 --network.depth 1 --network.heads 2 --batch 16 --evaluate-every 0 --save-every 32"
SHORT = WORDS.split()


def without(flag: str) -> list[str]:
    """`SHORT` but for one option."""
    at = SHORT.index(flag) if flag in SHORT else len(SHORT)
    return SHORT[:at] + SHORT[at + 2 :]


WORKER = Path(__file__).with_name("train_ranks.py")


def weights(folder: Path, seen: int = STEPS * BATCH) -> dict[str, bytes]:
    """The tensors of a checkpoint, byte by byte."""
    return {p.name: p.read_bytes() for p in (folder / "checkpoints" / f"{seen:012d}").glob("*.safetensors")}


# Averages and rates ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["0.5", "0.9", "power-0.05", "power-0.10", "power-0.25"])
def test_an_average_is_the_weighted_mean_of_the_weights_that_were(name: str):
    net = nn.Linear(1, 1, bias=False).double()
    average, path = Average(name, net), [net.weight.item()]
    for step in range(1, 40):
        net.weight.data.fill_(float(torch.randn((), generator=ms.key(0, step))))
        average.update(net, step)
        path.append(net.weight.item())
    if name.startswith("power"):  # t^power as weights: the profile whose relative width the name gives
        k = torch.arange(1, 40, dtype=torch.float64)
        g = average.power
        share = (k ** (g + 1) - (k - 1) ** (g + 1)) / 39 ** (g + 1)
        expected = float((share * torch.tensor(path[1:], dtype=torch.float64)).sum())
    else:
        expected = path[0]
        for step, value in enumerate(path[1:], 1):
            d = min(float(name), (1 + step) / (10 + step))
            expected = d * expected + (1 - d) * value
    assert average.module.weight.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("width", [0.05, 0.10, 0.25])
def test_a_power_function_average_has_the_width_of_its_name(width: float):
    """The relative standard deviation of the density `(g + 1) t^g` on [0, 1], by quadrature."""
    g = Average(f"power-{width:.2f}", nn.Linear(1, 1)).power
    t = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    density = (g + 1) * t**g
    mean = torch.trapezoid(density * t, t)
    deviation = torch.trapezoid(density * (t - mean) ** 2, t).sqrt()
    assert deviation.item() == pytest.approx(width, rel=1e-3)


def test_buffers_are_copied_and_not_averaged():
    net = nn.BatchNorm1d(2)
    average = Average("0.9", net)
    net(torch.randn(8, 2, generator=ms.key(0)))
    average.update(net, 1)
    assert torch.equal(average.module.running_mean, net.running_mean)
    assert average.module.num_batches_tracked == 1


def test_names_of_averages():
    assert names([0.9999, 0.999], [0.1]) == ("0.9999", "0.999", "power-0.10")
    assert names([0.99999999, 0], [0.055]) == ("0.99999999", "0", "power-0.055")
    with pytest.raises(UserError, match=r"decay lies in \[0, 1\), got 1"):
        names([1.0], [])
    with pytest.raises(UserError, match="relative width"):
        names([], [0.5])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_the_rate_rises_and_falls_as_the_schedule_says(schedule: str, cache: Cache):
    config = configuration("meanflow", steps=100)
    config = replace(config, optimiser=replace(config.optimiser, rate=2.0, warmup=10 * BATCH, schedule=schedule))
    step = Step(config, None, ALONE, nn.Identity(), BATCH)
    rates = [step.rate(seen) for seen in range(0, 100 * BATCH, BATCH)]
    assert rates[0] == pytest.approx(0.2) and rates[9] == pytest.approx(2.0)
    last = 1 - math.cos(math.pi / 90)  # 89 of 90 steps of the fall are done
    middle, end = {"constant": (2.0, 2.0), "linear": (1.0, 2 / 90), "cosine": (1.0, last)}[schedule]
    assert rates[55] == pytest.approx(middle)
    assert rates[99] == pytest.approx(end, abs=1e-6)


def test_memory_that_was_too_small_for_the_first_step_leaves_nothing(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """So that every remedy of the message can be tried; a run that has begun is told of those that it can still take."""

    def full(self: Step, chunks: Any) -> None:
        if self.state.step == steps[-1]:
            raise torch.OutOfMemoryError("no room")
        return step(self, chunks)

    step, folder, steps = Step.__call__, tmp_path / "run", [0]
    monkeypatch.setattr(Step, "__call__", full)
    words = ["--out", str(folder), *without("--save-every"), "--save-every", "16", "--samples", "64"]
    for at, precision, said, left in ((0, "float32", "--precision bf16", False), (2, "bf16", "try a smaller --chunk", True)):
        steps.append(at)
        with pytest.raises(SystemExit):
            main(["train", *words, "--precision", precision])
        told = " ".join(capsys.readouterr().err.split())
        assert (folder / "config.yaml").exists() == left and said in told and ("--precision" in told) != left


# Resume --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(METHODS))
def test_stop_and_resume_is_straight_through_bit_by_bit(name: str, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stopped_and_resumed(configuration(name), tmp_path, cache, monkeypatch)


def stopped_and_resumed(config: Config, folder: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> State:
    """One run straight through, another stopped after two steps: the same bytes in the end."""
    train(config, folder / "straight", cache, ALONE)
    observe = Step.observe

    def interrupt(self: Step, chunks: Any) -> None:
        observe(self, chunks)
        if self.state.step == 2:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Step, "observe", interrupt)
        state, number = train(config, folder / "stopped", cache, ALONE)
    assert (state.seen, number) == (2 * BATCH, signal.SIGTERM)
    state, number = train(config, folder / "stopped", cache, ALONE)
    assert (state.seen, number) == (STEPS * BATCH, None)
    assert weights(folder / "stopped") == weights(folder / "straight") != {}
    return state


def test_a_posterior_over_all_rows_counts_each_once_and_one_in_components_is_its_formula(cache: Cache):
    x, y = cache.rows(torch.arange(len(cache)))
    every = configuration("meanflow")
    every = replace(every, method=replace(every.method, references=4096))
    whole = posterior(every, x, y, whole=True)
    assert not whole.include_own and posterior(replace(every, data=replace(every.data, flips=True)), x, y, whole=True).include_own
    some = replace(every, method=replace(every.method, components=5))
    basis = posterior(some, x, y, whole=True).basis
    assert basis is not None and torch.allclose(basis.T @ basis, torch.eye(5).double())
    kept = (x.flatten(1).double() - x.flatten(1).double().mean(0)) @ basis
    assert float(kept.var(0).sum()) == pytest.approx(float(torch.linalg.eigvalsh(torch.cov(x.flatten(1).double().T))[-5:].sum()))
    with pytest.raises(UserError, match="components: less than the 64 entries"):
        posterior(replace(every, method=replace(every.method, components=64)), x, y, whole=True)


@pytest.mark.parametrize("beta", ["running", "climber", {"linear": [0.0, 1.0]}], ids=str)
def test_coefficients_that_move_are_resumed_too(beta: Any, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("meanstep.program.training.loop.OBSERVE_EVERY", 1)
    config = configuration("coefficient", evaluate_every=BATCH, evaluate_count=64)
    config = replace(config, method=replace(config.method, options={"beta": beta}))
    state = stopped_and_resumed(config, tmp_path, cache, monkeypatch)
    assert (state.owner.learner is not None) is isinstance(beta, str)


NETWORK = """
import torch

class Net(torch.nn.Module):
    def __init__(self, size, channels, classes):
        super().__init__()
        self.first, self.idle = torch.nn.Linear(channels * size**2 + 2, channels * size**2), torch.nn.Linear(2, 2)

    def forward(self, z, r, t, y=None):
        assert y is None
        return self.first(torch.cat([z.flatten(1), r[:, None], t[:, None]], 1)).view_as(z)
"""


BFLOAT16 = """
import torch

class Net(torch.nn.Module):
    def __init__(self, size, channels, classes):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(channels * size**2 + 2, channels * size**2).bfloat16()

    def forward(self, z, r, t, y=None):
        inputs = torch.cat([z.flatten(1), r[:, None], t[:, None]], 1)
        return self.layer(inputs.bfloat16()).float().view_as(z)
"""


def test_a_network_whose_own_weights_are_bfloat16(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its average, moments and steps are float32 in checkpoints, a stop changes nothing, and an older, rounded checkpoint is read."""
    (tmp_path / "bfloat16_network.py").write_text(BFLOAT16)
    monkeypatch.chdir(tmp_path)
    config = configuration("meanflow")
    config = replace(config, network=NetworkConfig("bfloat16_network:Net"), data=replace(config.data, conditional=False))
    (tmp_path / "stopped").mkdir()
    begin(tmp_path / "stopped", config, cache, "cpu")
    state = stopped_and_resumed(config, tmp_path, cache, monkeypatch)
    saved = Saved.open(found(tmp_path / "stopped")[-1])
    average, rest = saved.tensors("ema_0.9"), saved.tensors("state")
    assert {x.dtype for x in average.values()} == {torch.float32}
    assert {x.dtype for name, x in rest.items() if name.startswith("optimiser.")} == {torch.float32}
    assert {x.dtype for x in saved.tensors("model").values()} == {torch.bfloat16}
    exact = dict(state.averages[0].exact.named_parameters())
    assert all(torch.equal(exact[name], x) for name, x in average.items())
    model = load_model(tmp_path / "stopped", network="bfloat16_network:Net", average="0.9")
    assert all(torch.equal(x, average[name].bfloat16()) for name, x in model.field.named_parameters())

    rounded = {name: {k: v.bfloat16() if v.dim() else v for k, v in saved.tensors(name).items()} for name in ("ema_0.9", "state")}
    rounded["state"] = {
        name: x for name, x in rounded["state"].items() if not name.endswith(".weight.weight") and ".bias.weight" not in name
    }
    old = replace(config, run=replace(config.run, samples=(STEPS + 1) * BATCH))
    monkeypatch.setattr(Saved, "tensors", lambda self, name, whole=Saved.tensors: rounded.get(name) or whole(self, name))
    state, _ = train(old, tmp_path / "stopped", cache, ALONE)
    assert state.seen == (STEPS + 1) * BATCH and state.averages[0].exact.layer.weight.dtype == torch.float32


def test_a_network_of_others_without_labels_and_with_weights_that_nothing_uses(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "network_of_others.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    config = configuration("meanflow")
    config = replace(config, network=NetworkConfig("network_of_others:Net"), data=replace(config.data, conditional=False))
    (tmp_path / "stopped").mkdir()
    begin(tmp_path / "stopped", config, cache, "cpu")
    stopped_and_resumed(config, tmp_path, cache, monkeypatch)
    with pytest.raises(UserError, match="network_of_others:Net, code that would run: if you trust it, allow it"):
        load_model(tmp_path / "stopped")
    model = load_model(tmp_path / "stopped", network="network_of_others:Net")
    assert not model.conditional and model.sample(2).shape == (2, 1, 8, 8)


@pytest.mark.parametrize("command", ["sample", "evaluate", "diagnose"])
def test_code_that_a_folder_names_is_not_called(command: str, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = configuration("meanflow", steps=1)
    (tmp_path / "run").mkdir()
    begin(tmp_path / "run", config, cache, "cpu")
    train(config, tmp_path / "run", cache, ALONE)
    (found(tmp_path / "run")[-1] / "network.json").write_text('{"network": "os:mkdir", "options": {"path": "harm"}}')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([command, str(tmp_path / "run")])
    assert ended.value.code == 2 and not (tmp_path / "harm").exists()


def test_the_last_step_may_reach_beyond_the_end(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever is asked of the progress then is asked at 1."""
    monkeypatch.setattr("meanstep.program.training.loop.OBSERVE_EVERY", 1)
    config = configuration("coefficient")
    config = replace(config, method=replace(config.method, options={"beta": "running"}), run=replace(config.run, samples=BATCH + 1))
    assert train(config, tmp_path, cache, ALONE)[0].seen == 2 * BATCH


def test_draws_belong_to_chunks(cache: Cache, tmp_path: Path):
    """One chunk of all rows is another draw than several; with the same chunk ranks make the same steps, see below."""
    config = configuration("meanflow")
    a, _ = train(config, tmp_path / "a", cache, ALONE)
    b, _ = train(replace(config, run=replace(config.run, chunk=BATCH)), tmp_path / "b", cache, ALONE)
    assert not torch.equal(a.owner.net.patches.weight, b.owner.net.patches.weight)


def test_a_seed_is_a_run_and_another_seed_another(cache: Cache, tmp_path: Path):
    config = configuration("meanflow")
    before = torch.get_rng_state()
    for name, seed in {"a": 0, "b": 0, "c": 1}.items():
        train(replace(config, run=replace(config.run, seed=seed)), tmp_path / name, cache, ALONE)
    assert weights(tmp_path / "a") == weights(tmp_path / "b") != weights(tmp_path / "c")
    assert torch.equal(before, torch.get_rng_state()), "the global random state was touched"


# Ranks ---------------------------------------------------------------------------------------------------------------------------------


def launched(ranks: int, *words: str, cwd: Path) -> None:
    """By torchrun, but for one."""
    with_ranks = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--standalone"]
    done(*(with_ranks if ranks > 1 else [sys.executable]), str(WORKER), *words, cwd=cwd)


def done(*command: str, cwd: Path) -> None:
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, check=False, cwd=cwd, capture_output=True, text=True, timeout=300, env=env)
    assert ended.returncode == 0, ended.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_make_the_steps_of_one(parallel: str, cache: Cache, tmp_path: Path):
    launched(1, str(tmp_path), "ddp", *METHODS, cwd=tmp_path)
    launched(2, str(tmp_path), parallel, *METHODS, cwd=tmp_path)
    for name in METHODS:
        one, two = (load_file(tmp_path / f"{name}-{p}" / "weights.safetensors") for p in ("ddp-1", f"{parallel}-2"))
        assert one.keys() == two.keys()
        for k in one:
            torch.testing.assert_close(two[k], one[k], rtol=1e-5, atol=1e-6, msg=lambda m, k=k, name=name: f"{name}, {k}: {m}")


@pytest.mark.parametrize("parallel", [pytest.param("ddp", marks=pytest.mark.slow), "fsdp"])
def test_a_checkpoint_of_two_ranks_goes_on_in_one(parallel: str, cache: Cache, tmp_path: Path):
    name = "coefficient"
    done(sys.executable, str(WORKER), "--forked", str(tmp_path), parallel, name, cwd=tmp_path)
    folder = tmp_path / f"{name}-{parallel}-2"
    longer = configuration(name, steps=STEPS + 2)
    state, _ = train(longer, folder, cache, ALONE)
    straight, _ = train(longer, tmp_path / "straight", cache, ALONE)
    assert state.seen == (STEPS + 2) * BATCH
    for p, q in zip(state.owner.net.parameters(), straight.owner.net.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_a_batch_that_cannot_be_dealt():
    with pytest.raises(UserError, match="cannot be dealt to 2 ranks"):
        chunk(replace(configuration("meanflow").run, batch=33, chunk=0), 2)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the ranks in /proc")
def test_a_rank_that_dies_ends_the_run_and_leaves_the_last_checkpoint(cache: Cache, tmp_path: Path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "meanstep", "train"]
    words = ["--out", str(tmp_path), *SHORT, "--samples", "10000000"]
    with subprocess.Popen([*launcher, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        while run.poll() is None and not found(tmp_path):
            time.sleep(0.1)
        ranks = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        os.kill(int(ranks[-1]), signal.SIGKILL)
        began = time.monotonic()
        assert run.wait(timeout=60) != 0
        assert time.monotonic() - began < 60
    assert Saved.open(found(tmp_path)[-1]).tensors("model")


def unsummed(path: Path) -> None:
    """A checkpoint as one from before there were checksums."""
    about = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({k: v for k, v in about.items() if k not in ("version", "sha256", "digest", "data")}))


# Kills and files -----------------------------------------------------------------------------------------------------------------------


def started(out: Path, *words: str) -> subprocess.Popen[str]:
    command = [*COMMAND, "--out", str(out), *SHORT, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def killed(cache: Cache, out: Path, kills: int, samples: int) -> None:
    """Kill a run at random moments after its first checkpoint; every restart goes on from a complete one."""
    draw, words = random.Random(0), ("--samples", str(samples))
    for _ in range(kills):
        before = [int(p.name) for p in found(out)]
        run = started(out, *words)
        while run.poll() is None and [int(p.name) for p in found(out)] == before:
            time.sleep(0.01)
        time.sleep(draw.random() * 0.3)
        run.kill()
        run.communicate()
        for path in found(out):
            assert Saved.open(path).tensors("model")
        seen = [r["seen"] for r in load(out / "records.jsonl")]
        assert seen == sorted(seen)
    with pytest.raises(SystemExit) as ended:
        main(["train", "--out", str(out), *SHORT, *words])
    assert ended.value.code == 0
    assert not list((out / "checkpoints").glob(".*"))


@pytest.mark.slow
def test_thirty_kills_lose_nothing_but_the_work_since_the_last_checkpoint(cache: Cache, tmp_path: Path):
    killed(cache, tmp_path / "killed", 30, 16 * 2000)
    run = started(tmp_path / "straight", "--samples", str(16 * 2000))
    assert run.communicate(timeout=300) and run.returncode == 0
    assert weights(tmp_path / "killed", 16 * 2000) == weights(tmp_path / "straight", 16 * 2000) != {}


def test_a_kill(cache: Cache, tmp_path: Path):
    killed(cache, tmp_path / "run", 1, 16 * 40)


@contextmanager
def full(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No space on the device from now on."""

    def before(operation: str, path: Path) -> None:
        if operation == "write" and path.suffix == ".safetensors":
            raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("meanstep.program.disk.before", before)
        yield


def test_no_space_leaves_the_last_good_checkpoint(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = configuration("meanflow", steps=2)
    train(config, tmp_path, cache, ALONE)
    before = weights(tmp_path, 2 * BATCH)
    longer = replace(config, run=replace(config.run, samples=4 * BATCH))
    with full(tmp_path, monkeypatch), pytest.raises(UserError, match="No space left on device; the one before is untouched"):
        train(longer, tmp_path, cache, ALONE)
    assert [int(p.name) for p in found(tmp_path)] == [2 * BATCH]
    assert weights(tmp_path, 2 * BATCH) == before
    train(longer, tmp_path, cache, ALONE)
    assert [int(p.name) for p in found(tmp_path)] == [2 * BATCH, 4 * BATCH]


def test_the_last_are_kept(cache: Cache, tmp_path: Path):
    state, _ = train(configuration("meanflow", steps=6, save_every=BATCH), tmp_path, cache, ALONE)
    assert [int(p.name) for p in found(tmp_path)] == [5 * BATCH, 6 * BATCH]
    assert state.best_seen == -1


@pytest.mark.parametrize(("recipe", "by"), [("meanflow", "1"), ("flow_matching", "32")])
def test_the_best_is_kept_beside_the_last_after_a_stop_too(
    recipe: str, by: str, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    distances = {1: 3.0, 2: 1.0, 3: 2.0, 4: float("nan"), 5: 1.5, 6: 1.0}
    monkeypatch.setattr(training, "judge", lambda samples: lambda state: {"1": -state.step, "2": 0.0, by: distances[state.step]})
    config = replace(configuration("meanflow", steps=4, save_every=BATCH, evaluate_every=BATCH, keep=1), method=MethodConfig(recipe))
    for steps in (4, 6):
        state, _ = train(replace(config, run=replace(config.run, samples=steps * BATCH)), tmp_path, cache, ALONE)
        assert [int(p.name) for p in found(tmp_path)] == [2 * BATCH, steps * BATCH]
        assert (state.best, state.best_seen) == (1.0, 2 * BATCH)
        told = History(tmp_path, config, None, {}, load(tmp_path / "records.jsonl"), [])
        assert told.by == by and told.best is not None and told.best["seen"] == state.best_seen, (
            "the page names the checkpoint that is kept"
        )


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda p: (p / "model.safetensors").write_bytes(b"x" * 10), "model.safetensors has 10 bytes instead of"),
        (lambda p: (p / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda p: (p / "state.json").write_text("{"), "state.json is damaged"),
        (lambda p: (p / "network.json").unlink(), "has no network.json"),
    ],
)
def test_a_damaged_checkpoint_is_named(damage: Any, words: str, cache: Cache, tmp_path: Path):
    config = configuration("meanflow", steps=1)
    train(config, tmp_path, cache, ALONE)
    damage(found(tmp_path)[-1])
    with pytest.raises(UserError, match=words):
        train(replace(config, run=replace(config.run, samples=2 * BATCH)), tmp_path, cache, ALONE)


def test_another_architecture_is_named(cache: Cache, tmp_path: Path):
    config = configuration("meanflow", steps=1)
    train(config, tmp_path, cache, ALONE)
    wider = replace(
        config, network=replace(config.network, options=config.network.options | {"width": 32}), run=replace(config.run, samples=2 * BATCH)
    )
    with pytest.raises(UserError, match=r"holds another architecture: .* \(16, .*\) there and \(32, .*\) in this network"):
        train(wider, tmp_path, cache, ALONE)


def test_another_precision_is_named(cache: Cache, tmp_path: Path):
    config = configuration("meanflow", steps=1)
    train(config, tmp_path, cache, ALONE)
    wider = replace(config, run=replace(config.run, precision="float64", samples=2 * BATCH))
    with pytest.raises(UserError, match=r"is one of another --precision"):
        train(wider, tmp_path, cache, ALONE)
    path = found(tmp_path)[-1] / "network.json"
    path.write_text(path.read_text().replace("{", '{"dtype": "float16",', 1))
    unsummed(found(tmp_path)[-1])
    begin(tmp_path, config, cache, "cpu")
    with pytest.raises(UserError, match="dtype is float64 or left out, got 'float16'"):
        load_model(tmp_path)


def test_a_loss_that_is_not_finite_stops_and_names_the_rows(cache: Cache, tmp_path: Path):
    config = configuration("meanflow", steps=4)
    config = replace(config, optimiser=replace(config.optimiser, rate=999.0, clip=0.0), averages=AveragesConfig(()))
    config = replace(config, run=replace(config.run, samples=400 * BATCH, save_every=BATCH))
    with pytest.raises(Failure, match=r"after .* samples") as failure:
        train(
            replace(config, network=replace(config.network, options=config.network.options | {"data_floor": 1e-30})), tmp_path, cache, ALONE
        )
    assert "row" in str(failure.value) or "gradient" in str(failure.value)
    for path in found(tmp_path):
        assert all(torch.isfinite(v).all() for v in Saved.open(path).tensors("model").values())


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_gradient_that_is_not_finite_is_named_before_it_is_clipped(clip: float, cache: Cache, tmp_path: Path):
    config = configuration("meanflow")
    config = replace(config, optimiser=replace(config.optimiser, clip=clip))
    state = training.opened(config, cache, tmp_path, ALONE)
    state.owner.net.patches.weight.register_hook(lambda g: g * float("inf"))
    step = Step(config, state, ALONE, state.owner, BATCH // 4)
    before = state.owner.net.patches.bias.detach().clone()
    with pytest.raises(Failure, match=r"the gradient is not, in 1 of its tensors: net\.patches\.weight$"):
        step(next(batches(step, Loader(cache, 0), BATCH)))
    assert torch.equal(state.owner.net.patches.bias, before) and state.seen == 0


# Configuration -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_configuration_is_its_text(name: str):
    config = PRESETS[name].config
    assert from_yaml(to_yaml(config), "here") == checked(config)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("run: {smples: 3}", "there is no entry 'smples'; did you mean samples?"),
        ("optimizer: {rate: 3}", "did you mean optimiser?"),
        ("run: {samples: many}", "samples: a whole number, got 'many'"),
        ("run: {samples: 1.5}", "a whole number, got 1.5"),
        ("run: {compile: 1}", "true or false, got 1"),
        ("optimiser: {rate: [1]}", r"rate: a number, got \[1\]"),
        ("optimiser: {schedule: cosin}", "one of constant, cosine, linear, got 'cosin'"),
        ("optimiser: {betas: [0.9]}", "2 values, got"),
        ("method: {options: 3}", "entries such as"),
        ("- 3", "expected entries such as data"),
        ("a: [", "is no YAML"),
    ],
)
def test_a_mistake_in_a_file_is_one_line(text: str, words: str):
    with pytest.raises(UserError, match=words) as mistake:
        from_yaml(text, "here.yaml")
    assert "here.yaml" in str(mistake.value) and "\n" not in str(mistake.value)


def test_numbers_as_people_write_them():
    config = from_yaml("optimiser: {rate: 1e-3}\nrun: {samples: 2e6}\naverages: {decays: 0.5}", "here")
    assert (config.optimiser.rate, config.run.samples, config.averages.decays) == (1e-3, 2_000_000, (0.5,))


def test_a_command_line_is_preset_then_file_then_entries(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("run: {batch: 32}\nmethod: {recipe: coefficient, options: {beta: 0.25}}\n")
    made = Train.parse(["--preset", "digits", "--config", str(file), "--samples", "64", "--method.options", "{beta: 0.5, proxy: own}"])
    assert made.run_.batch == 32 and made.run_.samples == 64
    assert made.method == MethodConfig("coefficient", {"beta": 0.5, "proxy": "own"})
    assert made.optimiser == PRESETS["digits"].config.optimiser


def test_a_folder_goes_on_with_its_own_configuration(cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["--out", str(tmp_path), *SHORT, "--samples", "32", "--method.recipe", "flow_matching", "--method.options", "{}"]
    assert Train.parse(words).run() == 0
    again = Train.parse(["--out", str(tmp_path), "--samples", "64"])
    assert again.method.recipe == "flow_matching" and again.run() == 0
    assert [int(p.name) for p in found(tmp_path)][-1] == 64
    with pytest.raises(UserError, match=r"holds a run with --method.recipe flow_matching, now meanflow: choose another folder"):
        Train.parse(["--out", str(tmp_path), "--method.recipe", "meanflow"]).run()
    kinds = [r["kind"] for r in load(tmp_path / "records.jsonl")]
    assert kinds.count("start") == 2 and "train" in kinds and "picture" in kinds


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--method.recipe", "meanfow"], "there is no recipe 'meanfow'"),
        (["--method.recipe", "rectified_meanflow"], "needs pairs of data and noise"),
        (["--rate", "1000"], "--rate: more than 0 and less than 1000, got 1000"),
        (["--method.options", "{bta: 1}"], "has no option 'bta'"),
        (["--method.recipe", "coefficient", "--method.options", "{beta: often}"], "a number or one of"),
        (["--method.omega", "2", "--data.no-conditional"], "guidance needs labels"),
        (["--network.heads", "5"], "heads"),
        (["--network.options", "{wide: 3}"], "--network"),
        (["--data.source", "nowhere"], "nowhere"),
        (["--preset", "digit"], "there is no preset 'digit'"),
        (["--method.recipe", "terminal_velocity", "--method.options", "{}", "--compile"], "compiles no recorded derivative"),
        (["--method.recipe", "modular_meanflow", "--method.options", "{}", "--compile"], "compiles no recorded derivative"),
        (["--method.recipe", "coefficient", "--method.options", "{beta: running, target_beta: climber}"], "one coefficient can learn"),
        (["--evaluate-count", "1"], "--evaluate-count: at least 2, got 1"),
        (["--adam-betas", "0.9", "1"], "--adam-betas: at least 0 and less than 1, got 1"),
        (["--batch", "0"], "--batch: at least 1 and at most 1048576, got 0"),
        (["--loggers", "paper"], "--loggers"),
        (["--device", "gpu"], "--device"),
        (["--device", "mps", "--precision", "float64"], "--precision float64: mps has no such numbers, choose --device cpu"),
        (["--averages.decays", "1.5"], "decay"),
        (["--config", "none.yaml"], "cannot read none.yaml"),
        (["--network.start", "none"], "there is no folder or file none: give a run's, weights, or public ones as sit:FILE"),
    ],
)
def test_a_mistake_is_one_line_and_makes_nothing(
    words: list[str], told: str, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=told) as mistake:
        Train.parse(["--out", str(tmp_path / "run"), *without(words[0]), "--samples", "32", *words]).run()
    assert "\n" not in str(mistake.value)
    assert [p.name for p in (tmp_path / "run").glob("*")] in ([], [".lock"])


def test_a_file_of_entries_is_laid_over_the_run_that_is_there(tmp_path: Path):
    held = replace(PRESETS["digits"].config, method=MethodConfig("flow_matching"))
    (tmp_path / "config.yaml").write_text(to_yaml(held))
    (tmp_path / "more.yaml").write_text("run: {samples: 64}\n")
    made = Train.parse(["--out", str(tmp_path), "--config", str(tmp_path / "more.yaml")])
    assert made.method == held.method and made.run_.samples == 64


def test_a_folder_of_something_else_is_left_alone(cache: Cache, tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="is not empty and holds no run"):
        Train.parse(["--out", str(tmp_path), *SHORT]).run()
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_dry_run_writes_nothing(cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert Train.parse(["--out", str(tmp_path / "run"), *SHORT, "--dry-run"]).run() == 0
    said = capsys.readouterr().out
    assert "parameters" in said and "samples/s" in said and "recipe: meanflow" in said
    assert not (tmp_path / "run").exists()


def test_records_lose_a_cut_line_and_what_will_happen_again(tmp_path: Path):
    records = Records(tmp_path, 0)
    for seen in (1, 2, 3):
        records.add("train", seen, loss=float("nan"))
    with (tmp_path / "records.jsonl").open("a") as file:
        file.write('{"kind": "tra')
    assert [r["seen"] for r in load(tmp_path / "records.jsonl")] == [1, 2, 3]
    Records(tmp_path, 2)
    assert load(tmp_path / "records.jsonl") == [{"kind": "train", "seen": k, "loss": None} for k in (1, 2)]
    (tmp_path / "records.jsonl").write_text('{"kind"\n{"kind": "train", "seen": 1}\n')
    with pytest.raises(UserError, match="line 1 is damaged"):
        load(tmp_path / "records.jsonl")


# Samples -------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps, with all files."""
    folder = tmp_path_factory.mktemp("run")
    words = [*SHORT, "--samples", "64", "--averages.decays", "0.9", "0.5", "--method.recipe", "meanflow"]
    assert Train.parse(["--out", str(folder), *words]).run() == 0
    return folder


def test_a_sample_is_a_seed(trained: Path):
    model = load_model(trained)
    together = model.latents(range(10), steps=2)
    for batch in (1, 3):
        torch.testing.assert_close(model.latents(range(10), steps=2, batch=batch), together, rtol=0, atol=1e-5)
    torch.testing.assert_close(model.latents([7], steps=2)[0], together[7], rtol=0, atol=1e-5)


def test_what_is_loaded_is_what_was_saved(trained: Path):
    saved = Saved.open(found(trained)[-1])
    for name in ("raw", "0.9", "0.5"):
        model = load_model(trained, average=name)
        held = saved.tensors("model" if name == "raw" else f"ema_{name}")
        assert all(torch.equal(value, held[k]) for k, value in model.field.state_dict().items())
    assert load_model(trained).average == "0.9", "the first of the configuration"
    assert load_model(found(trained)[-1]).seen == 64


def test_one_step_is_the_noise_minus_the_average_velocity(trained: Path):
    model = load_model(trained)
    e = ms.noise([5], model.shape)
    y, one = torch.tensor([3]), torch.ones(1)
    expected = e - model.field(e, 0 * one, one, y)
    torch.testing.assert_close(model.latents([5], labels=3), expected)


@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_guidance_extrapolates_from_the_answer_without_a_label(trained: Path, scale: float):
    """On weights that are noise, so that labels matter: a run of a few steps hardly knows them."""
    model = load_model(trained)
    for k, p in enumerate(model.field.parameters()):
        p.copy_(0.3 * torch.randn(p.shape, generator=ms.key(0, "guidance", k)))
    labels, null = torch.tensor([3, 7]), torch.tensor([10, 10])
    z = ms.noise([5, 6], model.shape)
    for t, r in ((1.0, 0.5), (0.5, 0.0)):
        times = torch.full((2,), r), torch.full((2,), t)
        with_label, without = model.field(z, *times, labels), model.field(z, *times, null)
        assert float((with_label - without).abs().mean()) > 0.3
        z = z - (t - r) * (without + scale * (with_label - without))
    torch.testing.assert_close(model.latents([5, 6], steps=2, labels=labels, guidance=scale), z, rtol=1e-4, atol=1e-4)


def test_pictures_are_bytes(trained: Path):
    images = load_model(trained).sample(3)
    assert images.shape == (3, 1, 8, 8) and images.dtype == torch.uint8


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p: load_model(p / "none"), "there is no folder"),
        (lambda p: load_model(p / "samples"), "holds no checkpoint"),
        (lambda p: load_model(p, checkpoint=5), "has no checkpoint at 5 samples: there are"),
        (lambda p: load_model(p, average="0.7"), "has no average '0.7': choose among raw, 0.5, 0.9"),
        (lambda p: load_model(p).sample(2, labels=10), "labels lie in 0 to 9, got 10"),
        (lambda p: load_model(p).sample(2, labels=[1, 2, 3]), "one for each of the 2 seeds, got shape"),
    ],
)
def test_mistakes_of_loading_and_sampling(call: Any, words: str, trained: Path):
    with pytest.raises(UserError, match=words):
        call(trained)


def test_a_start_from_another_path_is_said(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = [*SHORT, "--samples", "16", "--network.start", str(trained), "--method.path", "trigonometric"]
    assert Train.parse(["--out", str(tmp_path), *words]).run() == 0
    assert "velocity of the path linear, and this run trains on trigonometric" in " ".join(capsys.readouterr().err.split())


def test_a_run_starts_from_another(trained: Path, cache: Cache, tmp_path: Path):
    words = [*SHORT, "--samples", "16", "--averages.decays", "0.9", "--network.start", str(trained), "--rate", "1e-12"]
    assert Train.parse(["--out", str(tmp_path), *words]).run() == 0
    mine, theirs = Saved.open(found(tmp_path)[-1]).tensors("model"), Saved.open(found(trained)[-1]).tensors("ema_0.9")
    assert all(torch.allclose(mine[k], theirs[k], atol=1e-6) for k in mine)
    other = ["--out", str(tmp_path / "b"), *without("--network.width"), "--network.width", "32", "--network.start", str(trained)]
    with pytest.raises(UserError, match="holds another architecture"):
        Train.parse(other).run()


def test_every_configuration_is_typed():
    assert all(isinstance(preset.config, Config) and preset.about for preset in PRESETS.values())


def test_another_recipe_drops_the_presets_options():
    made = Train.parse(["--preset", "digits", "--method.recipe", "flow_matching"])
    assert made.method.options == {} and made.method.recipe == "flow_matching"
    kept = Train.parse(["--preset", "digits", "--method.recipe", "meanflow"])
    assert kept.method == PRESETS["digits"].config.method


def test_a_network_with_its_arguments_in_another_order_is_refused(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "swapped_net.py").write_text(NETWORK.replace("self, z, r, t, y=None", "self, x, t, r, y=None").replace("z.fl", "x.fl"))
    monkeypatch.chdir(tmp_path)
    config = replace(configuration("meanflow"), network=NetworkConfig("swapped_net:Net"))
    with pytest.raises(UserError, match=r"arguments are in another order: return ms\.as_field\(net"):
        train(config, tmp_path / "run", cache, ALONE)


def test_weights_that_are_no_numbers_make_no_picture(trained: Path, tmp_path: Path):
    shutil.copytree(trained, tmp_path / "run")
    path = found(tmp_path / "run")[-1] / "ema_0.9.safetensors"
    save_file({k: torch.full_like(v, torch.nan) for k, v in load_file(path).items()}, path)
    unsummed(path.parent)
    with pytest.raises(UserError, match=r"000000000064 holds weights that are not finite, e\.g\. .*: the training had diverged"):
        load_model(tmp_path / "run").sample(2)


def test_mirror_images_of_a_cache_are_shown(cache: Cache):
    config = configuration("meanflow")
    assert not training.mirrored(config, cache)
    assert training.mirrored(config, replace(cache, manifest=replace(cache.manifest, flips="read")))
