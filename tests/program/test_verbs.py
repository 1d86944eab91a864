"""The verbs from Python: a run is that of the command line to the bit, stops and goes on from either side, and changes no process."""

import itertools
import pickle
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import meanstep as ms
from meanstep.program.bar import listeners
from meanstep.program.console import chat, err
from meanstep.program.diagnose.runs import trained as diagnosed_run
from meanstep.program.runs.saved import found
from meanstep.program.verbs.rows import named, parts

SHORT: dict[str, Any] = {"samples": 128, "batch": 16, "log_every": 32, "save_every": 64, "evaluate_every": 0, "sample_every": 0}
SHORT |= {"averages_decays": (0.5,), "device": "cpu", "progress": False}
SMALL: dict[str, Any] = SHORT | {"net": "mlp", "network_width": 8, "network_depth": 1}
WORDS = "--samples 128 --batch 16 --log-every 32 --save-every 64 --evaluate-every 0 --sample-every 0 --averages.decays 0.5 --device cpu"


class Net(nn.Module):
    """A small field on rows of two numbers."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, width), nn.Linear(width, 2)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return self.last(torch.tanh(self.first(torch.cat([z, r[:, None], t[:, None]], -1))))


class Pruned(Exception):
    """What a trial raises."""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEANSTEP_CACHE", str(tmp_path / "cache"))


def rows(n: int = 96, seed: int = 0) -> Tensor:
    return torch.randn(n, 2, generator=ms.key(seed))


def drawn(seed: int = 0) -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Net()


def weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in found(folder)[-1].glob("*.safetensors")}


# One run, two ways -------------------------------------------------------------------------------------------------------------------


def test_a_run_from_python_is_that_of_the_command_line_to_the_bit(ran: Callable[..., int]):
    run = ms.train("digits", data=rows().numpy(), out="python", **SMALL)
    source = run.config.data.source
    words = ["--out", "shell", "--preset", "digits", "--data.source", source, "--network.name", "mlp", "--network.width", 8]
    assert ran("train", *words, "--network.depth", 1, *WORDS.split()) == 0
    assert weights(Path("python")) == weights(Path("shell")) != {}
    assert Path("python/config.yaml").read_text() == Path("shell/config.yaml").read_text()
    assert [r["kind"] for r in run.records] == [r["kind"] for r in ms.Run(Path("shell")).records]
    assert '"meanstep.train(...) in Python"' in Path("python/env.json").read_text()


@pytest.mark.parametrize("first", ["python", "shell"])
def test_a_run_goes_on_from_the_other_side(first: str, ran: Callable[..., int]):
    def shell(folder: str, samples: int, source: str) -> None:
        more = ["--network.name", "mlp", "--network.width", "8", "--network.depth", "1"]
        short = [word if word != "128" else str(samples) for word in WORDS.split()]
        assert ran("train", "--out", folder, "--preset", "digits", "--data.source", source, *more, *short) == 0

    straight = ms.train("digits", data=rows(), out="straight", **SMALL)
    source = straight.config.data.source
    if first == "python":
        assert not ms.train("digits", data=rows(), out="run", callback=lambda m: m.stop() if m.seen >= 64 else None, **SMALL).finished
        shell("run", 128, source)
    else:
        shell("run", 64, source)
        ms.train("digits", data=rows(), out="run", **SMALL)
    assert weights(Path("run")) == weights(straight.folder)


def test_what_layers_draw_is_of_the_seed_and_the_samples_seen_alone():
    """Dropout: whatever the random state of the process is, which stays as it was, a stopped run ends as if it had not been stopped."""

    drawn_by: dict[str, set[float]] = {}

    class Dropping(Net):
        def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
            if self.training:
                drawn_by.setdefault(place, set()).add(float(torch.rand(())))
            return self.last(nn.functional.dropout(torch.tanh(self.first(torch.cat([z, r[:, None], t[:, None]], -1))), 0.3, self.training))

    def run(out: str, state: int, **changed: Any) -> dict[str, bytes]:
        nonlocal place
        net, place = Dropping(), out
        net.load_state_dict(drawn().state_dict())
        torch.manual_seed(state)
        before = torch.get_rng_state()
        ms.train("digits", data=rows(), out=out, net=net, **SHORT | changed)
        assert torch.equal(torch.get_rng_state(), before)
        return weights(Path(out))

    place = ""
    straight = run("straight", 1)
    assert len(drawn_by["straight"]) >= 128 // 16, "each chunk has its own"
    run("run", 2, samples=64)
    assert run("run", 3) == straight != run("other", 1, seed=1)


def test_a_run_that_is_there_is_what_its_folder_says():
    ms.train("digits", data=rows(), out="run", **SMALL)
    longer = ms.train(out="run", samples=192, progress=False)
    assert longer.finished and longer.seen == 192 and longer.config.network.options["width"] == 8
    with pytest.raises(ms.UserError, match=r"holds a run with rate 0\.002, now 0\.1"):
        ms.train(out="run", rate=0.1, progress=False)


# Callbacks ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stop", "prune", "exit", "interrupt"])
def test_a_run_that_a_callback_ended_is_whole_and_goes_on_bit_by_bit(how: str):
    straight = ms.train("digits", data=rows(), out="straight", **SMALL)
    heard: list[ms.Moment] = []

    def callback(moment: ms.Moment) -> None:
        heard.append(moment)
        if moment.seen >= 32:  # at no checkpoint of the run's own
            if how == "stop":
                moment.stop()
            else:
                raise {"prune": Pruned("trial"), "exit": SystemExit(3), "interrupt": KeyboardInterrupt()}[how]

    if how == "stop":
        assert ms.train("digits", data=rows(), out="run", callback=callback, **SMALL).seen == 32
    else:
        with pytest.raises((Pruned, SystemExit, KeyboardInterrupt)):
            ms.train("digits", data=rows(), out="run", callback=callback, **SMALL)
    run = ms.Run(Path("run"))
    assert (run.seen, run.finished, run.records[-1]["kind"], run.records[-1]["by"]) == (32, False, "stop", "callback")
    assert [(m.kind, m.seen, m.samples) for m in heard] == [("train", 32, 128)] and heard[0].metrics["loss"] > 0
    assert run.sample(3).shape == (3, 2)
    assert ms.train("digits", data=rows(), out="run", **SMALL).finished and weights(run.folder) == weights(straight.folder)


def test_a_callback_hears_every_record_and_evaluation():
    heard: list[tuple[str, int, float]] = []
    asked = SMALL | {"evaluate_every": 64, "evaluate_count": 16}
    run = ms.train("digits", data=rows(), out="run", callback=lambda m: heard.append((m.kind, m.seen, m.progress)), **asked)
    kept = [(r["kind"], r["seen"], r["seen"] / 128) for r in run.records if r["kind"] in ("train", "evaluation")]
    assert heard == kept and {kind for kind, *_ in heard} == {"train", "evaluation"}


# The process -------------------------------------------------------------------------------------------------------------------------


def test_nothing_of_the_process_changes_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]):
    kinds = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]
    state: Callable[[], Any] = lambda: (  # noqa: E731
        [signal.getsignal(kind) for kind in kinds],
        torch.get_rng_state().tolist(),
        torch.get_num_threads(),
        np.random.get_state()[1].tolist(),
        (chat.quiet, err.quiet, len(listeners), threading.active_count()),
    )
    before, during = state(), list[Any]()
    run = ms.train("digits", data=rows(), out="run", callback=lambda m: during.append([signal.getsignal(k) for k in kinds]), **SMALL)
    run.evaluate(count=16, metrics="frechet", device="cpu", progress=False)
    ms.diagnose(run, budget=1, rows=16, device="cpu", progress=False)
    with pytest.raises(ms.UserError):
        ms.train("digits", data=rows(), out="run", rate=-1, progress=False)
    assert state() == before and all(handlers == before[0] for handlers in during)
    assert capfd.readouterr() == ("", "")
    ms.train("digits", data=rows(), out="second", **SMALL | {"progress": True})
    assert "128 of 128 samples" in capfd.readouterr().out


def test_two_runs_in_threads_are_those_of_one_after_the_other():
    for seed in (0, 1):
        ms.train("digits", data=rows(seed=seed), out=f"alone-{seed}", seed=seed, **SMALL)
    caught: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            ms.train("digits", data=rows(seed=seed), out=f"thread-{seed}", seed=seed, **SMALL | {"progress": bool(seed)})
        except BaseException as error:
            caught.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert caught == []
    assert all(weights(Path(f"thread-{seed}")) == weights(Path(f"alone-{seed}")) for seed in (0, 1))


# Networks and data -------------------------------------------------------------------------------------------------------------------


def test_a_module_is_trained_as_a_copy_and_opened_with_it():
    net = drawn()
    before = [p.clone() for p in net.parameters()]
    run = ms.train("digits", data=rows(), net=net, out="run", **SHORT)
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))
    assert run.config.network.name == f"given:{Net.__module__}.Net" and "give it again" in Path("run/config.yaml").read_text()
    sampled = run.sample(4)
    assert torch.equal(ms.load(run).sample(4), sampled), "the run holds its network"
    record = ms.export(run, to="torch", out="exported")
    assert record["difference"]["largest"] == 0
    assert torch.equal(ms.load(run, net=Net()).sample(4), sampled) and not torch.equal(sampled, ms.noise([0, 1, 2, 3], (2,)))
    assert torch.equal(ms.load("run", network=f"{__name__}:Net").sample(4), sampled)
    with pytest.raises(ms.UserError, match=r"give it again, in Python as net="):
        ms.load("run")
    again = ms.train("digits", data=rows(), net=drawn(), out="again", **SHORT)
    assert weights(again.folder) == weights(run.folder)


def test_a_run_of_a_module_goes_on_from_python_alone(ran: Callable[..., int], capsys: pytest.CaptureFixture[str]):
    straight = ms.train("digits", data=rows(), net=drawn(), out="straight", **SHORT)
    ms.train("digits", data=rows(), net=drawn(), out="run", callback=lambda m: m.stop(), **SHORT)
    assert ran("train", "--out", "run") == 2 and "came from Python as an object" in capsys.readouterr().err
    with pytest.raises(ms.UserError, match="give it again"):
        ms.train(out="run", progress=False)
    assert weights(ms.train(out="run", net=drawn(5), progress=False).folder) == weights(straight.folder)  # the checkpoint's weights hold


@pytest.mark.parametrize(
    ("data", "source", "shape", "given"),
    [
        (np.zeros((40, 3), np.float64) + np.arange(40)[:, None], None, (3,), {}),
        ({"x": torch.randn(40, 2, 5), "y": torch.arange(40) % 3}, None, (2, 5), {}),
        ({"x": torch.randn(40, 2), "labels": torch.arange(40) % 3}, None, (2,), {}),
        ({"x": torch.randn(40, 2), "speed": torch.randn(40), "kind": np.array(["a", "b"] * 20)}, None, (2,), {"speed": [], "kind": 2}),
    ],
)
def test_data_may_be_arrays_tensors_and_dicts(data: Any, source: Any, shape: tuple[int, ...], given: dict[str, Any]):
    run = ms.train("digits", data=data, out="run", **SMALL | {"samples": 16})
    model = run.load()
    assert model.shape == shape and dict(model.given) == given
    assert len(model.classes) == (3 if isinstance(data, dict) and data.keys() & {"y", "labels"} else 0)
    assert named(data).source == run.config.data.source, "the same rows are the same file"


def test_a_path_is_itself_and_other_rows_are_another_file(tmp_path: Path):
    np.save(tmp_path / "rows.npy", rows().numpy())
    assert named(tmp_path / "rows.npy").source == str(tmp_path / "rows.npy") and named("digits").source == "digits"
    assert named(rows()).source != named(rows(seed=1)).source
    assert parts({"images": np.zeros((3, 8, 8), np.uint8)})["x"].dtype == np.uint8


# Mistakes ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"sampls": 3}, "train has no option 'sampls': did you mean samples?"),
        ({"recipe": "meanflow"}, "did you mean method_recipe?"),
        ({"method": {"recip": "meanflow"}}, "method has no option 'recip': did you mean recipe?"),
        ({"method_recipe": "meanflw"}, "method_recipe"),
        ({"batch": 0}, "batch: at least 1"),
        ({"batch": "many"}, "batch: a whole number, got 'many'"),
        ({"method_options": {"beta": len}}, "as package.module:function"),
        ({"config": "digis"}, "config: there is no preset 'digis': did you mean digits?"),
        ({"config": 3}, "config is a preset's name"),
        ({"data": "nowhere.npz"}, "nowhere.npz does not exist"),
        ({"data": torch.arange(8)}, "data: rows are floats"),
        ({"data": torch.randn(8)}, "at least one axis after the first"),
        ({"data": {"rows": torch.randn(8, 2)}}, "a dict whose rows are called x"),
        ({"data": {"x": torch.randn(8, 2), "y": torch.randn(7)}}, r"data['y']: shape (7,) for 8 rows"),
        ({"data": object()}, "data: give an array or tensor"),
        ({"net": 3}, "net is a network's name"),
        ({"net": "dti"}, "net: "),
        ({"net": Net(), "network_width": 3}, "network_width: net is a module"),
        ({"net": {"name": "mlp", "breadth": 3}}, "breadth"),
        ({"data_source": "digits"}, "data_source is given as data="),
        ({"project": "flows"}, "project: none of the trackers has it"),
    ],
)
def test_a_mistake_is_an_error_in_the_words_of_python(given: dict[str, Any], words: str):
    with pytest.raises(ms.UserError) as told:
        ms.train(**{"config": "digits", "data": rows(), "out": "run", "progress": False, **given})
    assert words in str(told.value) and "--" not in str(told.value).replace("--loggers", "")
    assert not Path("run").exists()


def test_other_verbs_name_the_nearest_option():
    run = ms.train("digits", data=rows(), out="run", **SMALL)
    with pytest.raises(ms.UserError, match="evaluate has no option 'stepz': did you mean steps"):
        run.evaluate(stepz=3)
    with pytest.raises(ms.UserError, match="diagnose has no option 'bugdet': did you mean budget"):
        run.diagnose(bugdet=3)
    with pytest.raises(ms.UserError, match="data: give the rows that it is trained on"):
        ms.diagnose(Net())
    with pytest.raises(ms.UserError, match="options: the arguments of a factory, and the network is there already: leave them out"):
        ms.diagnose(Net(), rows(), options={"width": 9}, progress=False)
    with pytest.raises(ms.UserError, match="network: the network is given as an object: leave it out"):
        ms.diagnose(Net(), rows(), network="nets:build", progress=False)
    with pytest.raises(ms.UserError, match="nets:build: this network is mlp, one of ours: leave it out"):
        ms.load("run", network="nets:build")
    with pytest.raises(ms.UserError, match="holds no run"):
        ms.Run(Path("nowhere"))


# Values ------------------------------------------------------------------------------------------------------------------------------


def test_what_a_user_holds_is_readable_and_pickles():
    run = ms.train("digits", data=rows(), net=drawn(), out="run", **SHORT)
    assert repr(run) == f"Run('{Path('run').resolve()}': meanflow, 128 of 128 samples)" and pickle.loads(pickle.dumps(run)) == run
    model = run.load()
    assert torch.equal(pickle.loads(pickle.dumps(model)).sample(3), model.sample(3)) and repr(model).startswith("Model(Net, 58 parameters")
    table = run.evaluate(count=16, metrics="frechet", steps=(1, 2), device="cpu", progress=False)
    assert [row["steps"] for row in pickle.loads(pickle.dumps(table)).rows] == [1, 2] and "frechet" in repr(table)
    findings = ms.diagnose(run, budget=60, rows=32, device="cpu", progress=False, out="page")
    kept = pickle.loads(pickle.dumps(findings))
    assert kept.headline in repr(findings) and kept.report == Path("page/report.html") and kept.report.is_file()
    assert kept.measures["residual"].value > 0 and set(kept.record) >= {"verdicts", "measures"}


def test_a_network_and_rows_in_memory_are_diagnosed_as_from_files(tmp_path: Path):
    net, x = drawn(), rows(64)
    here = ms.diagnose(net, x, average=drawn(1), budget=60, rows=32, device="cpu", progress=False, center="ema")
    np.save("x.npy", x.numpy())
    there = ms.diagnose(net, "x.npy", average=drawn(1), budget=60, rows=32, device="cpu", progress=False, center="ema")
    assert here.record["measures"]["noise_0"] == there.record["measures"]["noise_0"]
    masked = ms.diagnose(net, {"x": x, "mask": torch.ones(64, 2)}, average=drawn(1), budget=60, rows=32, center="ema", progress=False)
    assert masked.record["measures"]["noise_0"] == here.record["measures"]["noise_0"]
    hidden = {"x": torch.where(torch.tensor([True, False]), x, 1e6), "mask": torch.tensor([True, False]).expand(64, 2)}
    zeros = {"x": x * torch.tensor([1.0, 0.0]), "mask": hidden["mask"]}
    of = lambda data: ms.diagnose(net, data, average=drawn(1), budget=60, rows=32, center="ema", progress=False)  # noqa: E731
    assert of(hidden).record["measures"]["noise_0"] == of(zeros).record["measures"]["noise_0"] != here.record["measures"]["noise_0"]


@pytest.mark.parametrize("coupling", ["pairs", "optimal-transport"])
def test_a_diagnosis_sees_the_noise_of_a_runs_coupling(coupling: str):
    x = rows(64)
    np.save("noise.npy", rows(64, seed=1).numpy())
    name = "pairs:noise.npy" if coupling == "pairs" else coupling
    run = ms.train("digits", data=x, out="run", method_coupling=name, **SMALL)
    trained = diagnosed_run(str(run.folder))
    assert trained is not None
    data, at = trained.data(None), torch.tensor([5, 0, 63, 7])
    b = data.paired(at, torch.float32, torch.device("cpu"), ms.key(0))
    assert b.noise is not None and not data.independent
    if coupling == "pairs":
        assert torch.equal(b.noise, rows(64, seed=1)[at])
    else:  # the least squared distance over all orders of the same draw
        fresh = torch.randn(4, 2, generator=ms.key(0))
        orders = [fresh[list(order)] for order in itertools.permutations(range(4))]
        assert torch.equal(b.noise, min(orders, key=lambda e: float((b.x.double() - e.double()).square().sum())))
    found = ms.diagnose(run, budget=60, rows=32, device="cpu", progress=False)
    assert found.record["center"] == "ema" and found.measures["noise_0"].value > 0
    with pytest.raises(ms.UserError, match="have a coupling"):
        ms.diagnose(run, budget=1, rows=16, center="posterior", device="cpu", progress=False)
    with pytest.raises(ms.UserError, match="the noise of other rows is independent of them"):
        ms.diagnose(run, x, budget=1, rows=16, device="cpu", progress=False)


def test_a_diagnosis_gives_a_network_all_of_its_conditions():
    given = {"x": rows(64), "speed": torch.randn(64, generator=ms.key(3)), "kind": np.array(["a", "b"] * 32)}
    run = ms.train("digits", data=given, out="run", **SMALL)
    trained = diagnosed_run(str(run.folder))
    assert trained is not None
    b = trained.data(None).rows(torch.tensor([3, 0]), torch.float32, torch.device("cpu"))
    speed = given["speed"]
    assert torch.equal(b.y["kind"], torch.tensor([1, 0]))
    assert torch.allclose(b.y["speed"], ((speed - speed.mean()) / speed.std(correction=0))[[3, 0]], atol=1e-5)
    assert ms.diagnose(run, budget=60, rows=32, device="cpu", progress=False).measures["noise_0"].value > 0
