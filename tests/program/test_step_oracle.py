"""The training step against a loop written out: what `meanstep train` leaves behind is what docs/training.md says, to 1e-12 in float64.

The loop takes networks, recipes and the loss from the mathematics, and nothing from the program: rows, streams, rate, averages and
accumulation are written here as the documentation states them.
"""

import copy
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

import meanstep as ms
from meanstep.cli import main
from meanstep.fields import DiT
from meanstep.recipes import Recipe
from meanstep.times import uniform
from meanstep.velocities import Guided, LabelDropout, Posterior, conditional

N, SIDE, CLASSES = 37, 4, 3
SEED, BATCH, CHUNK, SAMPLES, STEPS = 5, 24, 8, 185, 8
"""37 rows: chunks reach from one epoch into the next. 185 samples: the last of 8 steps reaches beyond the end."""
RATE, DECAY, CLIP, KEEP = 0.02, 0.3, 0.05, (0.9, 0.3)
SIZES = {"size": SIDE, "channels": 1, "patch": 2, "width": 16, "depth": 1, "heads": 2}
SMALL = [f"--network.{name}={SIZES[name]}" for name in ("patch", "width", "depth", "heads")]


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Noise around a picture for each class."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, CLASSES, N)
    return (draw.integers(0, 200, (CLASSES, SIDE, SIDE))[labels] + draw.integers(0, 56, (N, SIDE, SIDE))).astype(np.uint8), labels


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The pictures in a file, and a folder of the test's own for their cache."""
    folder = tmp_path_factory.mktemp("data")
    images, labels = pictures()
    np.savez(folder / "pictures.npz", images=images, labels=labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEANSTEP_CACHE", str(folder / "cache"))
        yield folder / "pictures.npz"


def run(*words: str) -> None:
    """A command, in this process."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0


def trained(out: Path, source: Path, *words: str) -> Path:
    """The folder that `meanstep train` leaves behind."""
    given = {word.partition("=")[0] for word in words}
    quiet = [word for word in ("--device=cpu", "--sample-every=0", "--evaluate-every=0") if word.partition("=")[0] not in given]
    run("train", f"--out={out}", f"--data.source={source}", *SMALL, f"--seed={SEED}", f"--batch={BATCH}", *quiet, *words)
    return out


# The loop ------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """Words of the command line, and the same in the mathematics. `recipe`: of the proxy's network and the data."""

    method: dict[str, Any]
    recipe: Callable[[nn.Module, Tensor], Recipe]
    schedule: str
    warmup: int
    words: tuple[str, ...] = ()
    labelled: bool = True
    flips: bool = False
    transport: bool = False
    path: ms.paths.Path = ms.paths.linear


def hidden(share: float, omega: float = 1.0, kappa: float = 0.0, window: tuple[float, float] = (0.0, 1.0)) -> Guided:
    return Guided(conditional, LabelDropout(CLASSES, share), omega, kappa, window)


def progressed(b: Any) -> float:
    """The schedule `{linear: [0, 1]}`."""
    return float(b.progress)


def limited(shape: tuple[int, ...], g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two uniforms in order, the earlier at most 0.3 before the later."""
    r, t = uniform(shape, g)
    return torch.where(t - r > 0.3, t - 0.3, r), t


CASES = {
    "coefficient": Case(
        {
            "recipe": "coefficient",
            "options": {"beta": {"linear": [0, 1]}, "proxy": "ema", "anchor": 0.5, "times": "uniform", "diagonal_share": 0.5},
            "proxy_decay": 0.4,
            "dropout": 0.5,
        },
        lambda proxy, x: ms.recipes.coefficient(progressed, proxy, anchor=0.5, times=uniform, diagonal_share=0.5, velocity=hidden(0.5)),
        "linear",
        60,
    ),
    "guided": Case(
        {
            "recipe": "meanflow",
            "options": {"times": "uniform", "diagonal_share": 0.5},
            "dropout": 0.25,
            "omega": 1.5,
            "kappa": 0.3,
            "window": [0.2, 0.9],
        },
        lambda proxy, x: ms.recipes.meanflow(uniform, 0.5, velocity=hidden(0.25, 1.5, 0.3, (0.2, 0.9))),
        "cosine",
        50,
        ("--data.flips",),
        flips=True,
    ),
    "posterior": Case(
        {"recipe": "posterior_meanflow", "options": {}, "references": 20, "path": "trigonometric"},
        lambda proxy, x: ms.recipes.posterior_meanflow(
            Posterior(x[torch.randperm(N, generator=ms.key(SEED, "references"))[:20].sort().values])
        ),
        "constant",
        300,
        ("--data.no-conditional",),
        labelled=False,
        path=ms.paths.trigonometric,
    ),
    "trace weight": Case(
        {
            "recipe": "trace_weighted",
            "options": {"sigma": "t2", "diagonal_share": 0.5},
            "proxy_decay": 0.4,
            "dropout": 0.5,
            "largest_gap": 0.3,
        },
        lambda proxy, x: ms.recipes.trace_weighted("t2", False, proxy, times=limited, diagonal_share=0.5, velocity=hidden(0.5)),
        "constant",
        50,
    ),
    "transport": Case(
        {
            "recipe": "meanflow",
            "options": {"times": "uniform", "diagonal_share": 0.5},
            "coupling": "optimal-transport",
            "dropout": 0.25,
            "omega": 1.5,
        },
        lambda proxy, x: ms.recipes.meanflow(uniform, 0.5, velocity=hidden(0.25, 1.5)),
        "constant",
        50,
        ("--data.flips",),
        flips=True,
        transport=True,
    ),
    "transport without labels": Case(
        {"recipe": "flow_matching", "options": {}, "coupling": "optimal-transport"},
        lambda proxy, x: ms.recipes.flow_matching(),
        "constant",
        50,
        ("--data.no-conditional",),
        labelled=False,
        transport=True,
    ),
    "learned weight": Case(
        {"recipe": "decoupled_meanflow", "options": {}, "dropout": 0.5},
        lambda proxy, x: ms.recipes.decoupled_meanflow(velocity=hidden(0.5)),
        "cosine",
        0,
    ),
}


def rate(case: Case, seen: int) -> float:
    """It rises to `RATE` over the first `warmup` samples, counted with those of the step, and falls to 0 over the others."""
    warm = min(1.0, (seen + BATCH) / case.warmup) if case.warmup else 1.0
    done = max(0.0, seen - case.warmup) / max(1, SAMPLES - case.warmup)
    return RATE * warm * {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 + 0.5 * math.cos(math.pi * done)}[case.schedule]


def exponent(width: float) -> float:
    """Of the power function whose relative standard deviation is `width`, arXiv 2312.02696, by bisection."""
    low, high = 0.0, 1e4
    for _ in range(200):
        g = (low + high) / 2
        low, high = (g, high) if (g + 1) ** 0.5 / ((g + 2) * (g + 3) ** 0.5) > width else (low, g)
    return low


def kept(name: str, step: int) -> float:
    """The share that an average keeps at its `step`-th update, the first of which is 1."""
    if name.startswith("power"):
        return (1 - 1 / step) ** (exponent(float(name.removeprefix("power-"))) + 1)
    return min(float(name), (1 + step) / (10 + step))


def row(position: int, x: Tensor, flips: bool) -> tuple[int, Tensor]:
    """Which row is at a position, and the picture that is shown."""
    epoch, at = divmod(position, N)
    k = int(torch.randperm(N, generator=ms.key(SEED, "order", epoch))[at])
    coin = float(torch.rand(N, generator=ms.key(SEED, "flip", epoch))[at])
    return k, x[k].flip(-1) if flips and coin < 0.5 else x[k]


def transported(x: Tensor, y: Tensor | None, g: torch.Generator) -> Tensor:
    """The stream's first noise, that of each class in the order of greatest inner products; of equal rows as SciPy says."""
    e = torch.randn(x.shape, generator=g, dtype=x.dtype)
    made = torch.empty_like(e)
    for k in range(CLASSES) if y is not None else [0]:
        here = torch.ones(len(x), dtype=torch.bool) if y is None else y == k
        _, order = linear_sum_assignment(x[here].flatten(1) @ e[here].flatten(1).T, maximize=True)
        made[here] = e[here][order]
    return made


def written_out(case: Case) -> tuple[dict[str, dict[str, Tensor]], list[float]]:
    """Weights and averages after the last step, and the gradients' norms."""
    images, labels = pictures()
    x, y = (torch.from_numpy(images).float() / 127.5 - 1).double()[:, None], torch.from_numpy(labels)
    net = DiT(**SIZES, classes=CLASSES if case.labelled else 0, generator=ms.key(SEED, "weights")).double()
    proxy = str(case.method.get("proxy_decay", ""))
    averages = {name: copy.deepcopy(net) for name in (*map(str, KEEP), "power-0.10", *filter(None, [proxy]))}
    loss = ms.Loss(case.recipe(averages.get(proxy, net), x), case.path).double()
    weights = [*net.parameters(), *loss.parameters()]
    optimiser, norms = torch.optim.AdamW(weights, betas=(0.8, 0.95), weight_decay=DECAY), []
    for step in range(STEPS):
        seen = step * BATCH
        optimiser.zero_grad()
        for start in range(seen, seen + BATCH, CHUNK):
            at, shown = zip(*(row(start + k, x, case.flips) for k in range(CHUNK)), strict=True)
            label = y[list(at)] if case.labelled else None
            g = ms.key(SEED, "train", start)
            noise = transported(torch.stack(shown), label, g) if case.transport else None
            out = loss(net, torch.stack(shown), label, noise=noise, progress=seen / SAMPLES, generator=g)
            (out.loss * CHUNK / BATCH).backward()
        norms.append(float(nn.utils.clip_grad_norm_(weights, CLIP)))
        optimiser.param_groups[0]["lr"] = rate(case, seen)
        optimiser.step()
        for name, average in averages.items():
            for p, new in zip(average.parameters(), net.parameters(), strict=True):
                p.data = kept(name, step + 1) * p.data + (1 - kept(name, step + 1)) * new.data
    made = {"model": net, **{f"ema_{name}": average for name, average in averages.items()}}
    return {name: dict(module.state_dict()) for name, module in made.items()} | {"loss": dict(loss.state_dict())}, norms


@pytest.mark.parametrize("name", CASES)
def test_training_is_the_loop_of_the_documentation(name: str, data: Path, tmp_path: Path):
    case = CASES[name]
    (tmp_path / "more.yaml").write_text(yaml.safe_dump({"method": case.method}))
    words = [f"--config={tmp_path / 'more.yaml'}", "--precision=float64", f"--chunk={CHUNK}", f"--samples={SAMPLES}"]
    words += [f"--rate={RATE}", f"--warmup={case.warmup}", f"--schedule={case.schedule}"]
    words += [f"--weight-decay={DECAY}", f"--clip={CLIP}", "--adam-betas", "0.8", "0.95"]
    words += ["--averages.decays", *map(str, KEEP), "--averages.widths=0.10", *case.words]
    here = trained(tmp_path / "run", data, *words) / "checkpoints" / f"{STEPS * BATCH:012d}"
    expected, norms = written_out(case)
    assert min(norms) > 1.5 * CLIP and max(norms) > 1.5 * min(norms), "clipping changes every step, and each otherwise"
    learned = {k.removeprefix("loss."): v for k, v in load_file(here / "state.safetensors").items() if k.startswith("loss.")}
    found = {p.stem: load_file(p) for p in here.glob("*.safetensors") if p.stem != "state"} | {"loss": learned}
    assert found.keys() == expected.keys()
    for file, tensors in expected.items():
        for k, value in tensors.items():
            assert found[file][k].dtype == torch.float64
            torch.testing.assert_close(found[file][k], value, rtol=0, atol=1e-12, msg=lambda m, where=f"{file}, {k}": f"{where}: {m}")
    apart = [
        float((expected["model"]["last.out.weight"] - held["last.out.weight"]).abs().max()) for f, held in expected.items() if "ema" in f
    ]
    assert min(apart) > 1e-4, "the averages are not the weights"


# A run in float64 ----------------------------------------------------------------------------------------------------------------------

DOUBLE = ("--precision=float64", "--chunk=12", "--averages.decays=0.9", "--method.recipe=decoupled_meanflow")
DOUBLE = (*DOUBLE, "--warmup=0", "--schedule=constant")


def checkpoint(folder: Path, seen: int) -> Path:
    return folder / "checkpoints" / f"{seen:012d}"


@pytest.fixture(scope="module")
def double(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps in float64, of a recipe whose weight learns."""
    return trained(tmp_path_factory.mktemp("double") / "run", data, *DOUBLE, "--samples=48")


def test_a_run_in_float64_is_so_throughout_and_goes_on_as_one(double: Path, data: Path, tmp_path: Path):
    for file in checkpoint(double, 48).glob("*.safetensors"):
        assert all(v.dtype == torch.float64 for k, v in load_file(file).items() if not k.endswith(".step")), file.name
    assert json.loads((checkpoint(double, 48) / "network.json").read_text())["dtype"] == "float64"
    shutil.copytree(double, tmp_path / "run")
    trained(tmp_path / "run", data, "--samples=96")
    trained(tmp_path / "straight", data, *DOUBLE, "--samples=96")
    for file in checkpoint(tmp_path / "straight", 96).glob("*.safetensors"):
        assert file.read_bytes() == (checkpoint(tmp_path / "run", 96) / file.name).read_bytes(), file.name


def test_a_run_whose_weight_draws_goes_on_bit_by_bit(data: Path, tmp_path: Path):
    words = ("--method.recipe=trace_weighted", "--method.largest-gap=0.5", "--chunk=12", *DOUBLE[4:], "--averages.decays=0.9")
    trained(tmp_path / "run", data, *words, "--samples=48")
    trained(tmp_path / "run", data, "--samples=96")
    trained(tmp_path / "straight", data, *words, "--samples=96")
    for file in checkpoint(tmp_path / "straight", 96).glob("*.safetensors"):
        assert file.read_bytes() == (checkpoint(tmp_path / "run", 96) / file.name).read_bytes(), file.name
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["method"]["largest_gap"] == 0.5
    with pytest.raises(SystemExit) as ended:
        main(["train", f"--out={tmp_path / 'run'}", "--method.largest-gap=0.6", "--samples=144"])
    assert ended.value.code == 2


def test_a_model_of_float64_is_loaded_as_it_was_saved(double: Path):
    for name in ("raw", "0.9"):
        model = ms.load(double, average=name)
        held = load_file(checkpoint(double, 48) / f"{'model' if name == 'raw' else 'ema_0.9'}.safetensors")
        assert all(v.dtype == torch.float64 and torch.equal(v, held[k]) for k, v in model.field.state_dict().items())
    e, one = ms.noise(range(3), (1, SIDE, SIDE)).double(), torch.ones(3, dtype=torch.float64)
    u = model.field(e, 0 * one, one, torch.tensor([0, 1, 2]))
    torch.testing.assert_close(model.latents(3, labels=[0, 1, 2]), (e - u).float(), rtol=0, atol=0)


def test_what_reads_a_run_reads_one_in_float64(double: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    run("sample", str(double), "--seeds=0:6", "--guidance=2", "--steps=2")
    run("evaluate", str(double), "--count=12", "--average", "raw", "0.9", f"--json={tmp_path / 'rows.json'}")
    assert all(math.isfinite(found["frechet"]) for found in json.loads((tmp_path / "rows.json").read_text()) if "frechet" in found)
    run("diagnose", str(double), "--budget=1s", "--rows=64")


def test_a_run_starts_from_float64_and_a_precision_stays(double: Path, data: Path, tmp_path: Path):
    start = [f"--network.start={double}", "--samples=24", "--rate=1e-30", "--warmup=0"]
    held = load_file(checkpoint(double, 48) / "ema_0.9.safetensors")
    for precision, kind in (("float64", torch.float64), ("float32", torch.float32)):
        trained(tmp_path / precision, data, f"--precision={precision}", *start)
        made = load_file(checkpoint(tmp_path / precision, 24) / "model.safetensors")
        assert all(made[k].dtype == kind and torch.allclose(made[k], v.to(kind), rtol=0, atol=1e-20) for k, v in held.items())
    with pytest.raises(SystemExit) as ended:
        main(["train", f"--out={tmp_path / 'float32'}", "--precision=float64", "--samples=48"])
    assert ended.value.code == 2


# What samples are made with --------------------------------------------------------------------------------------------------------------


def by_hand(file: Path, seeds: range, steps: int) -> Tensor:
    """Pictures uint8 of the weights in a file, the classes in turn: jumps by the average velocity on equally spaced times."""
    tensors = load_file(file)
    net, y = DiT(**SIZES, classes=CLASSES).to(tensors["last.out.bias"].dtype), torch.tensor([seed % CLASSES for seed in seeds])
    net.load_state_dict(tensors)
    z = ms.noise(seeds, (1, SIDE, SIDE)).to(tensors["last.out.bias"])
    with torch.no_grad():
        for k in range(steps, 0, -1):
            t = torch.full((len(seeds),), k / steps).to(z)
            z = z - net(z, t - 1 / steps, t, y) / steps
    return ((z + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def distance(made: Tensor) -> float:
    """Of Gaussians with the moments of pixels in [-1, 1], to the data."""
    a, b = ((np.asarray(p, dtype=np.float64).reshape(len(p), -1) - 127.5) / 127.5 for p in (made, pictures()[0]))
    s, q = np.cov(a.T), np.cov(b.T)
    root = np.sqrt(np.linalg.eigvals(s @ q).astype(complex)).real.sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s) + np.trace(q) - 2 * root)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_samples_pictures_and_distances_are_those_of_the_first_average(precision: str, data: Path, tmp_path: Path):
    often = [f"--{what}-every=96" for what in ("sample", "evaluate", "save")]
    words = ["--samples=192", "--evaluate-count=70", "--averages.decays", "0.9", "0.1"]
    words += ["--rate=0.1", "--warmup=0", "--schedule=constant"]
    folder = trained(tmp_path, data, f"--precision={precision}", *words, *often)
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    told = {found["seen"]: found["steps"] for found in records if found["kind"] == "evaluation"}
    assert told.keys() == {96, 192}
    for seen, distances in told.items():
        first, raw, other = (checkpoint(folder, seen) / f"{name}.safetensors" for name in ("ema_0.9", "model", "ema_0.1"))
        apart = []
        for steps in (1, 2, 4):
            mine, wrong = (distance(by_hand(file, range(70), steps)) for file in (first, raw))
            assert distances[str(steps)] == pytest.approx(mine, rel=1e-5)
            apart.append(abs(mine / wrong - 1))
        assert max(apart) > 0.02
        expected = by_hand(first, range(8 * CLASSES), 1)
        model = ms.load(folder, checkpoint=seen)
        labels = [seed % CLASSES for seed in range(8 * CLASSES)]
        close(model.sample(8 * CLASSES, labels=labels), expected)
        close(shown(folder / "samples" / f"{seen:012d}.png", 8 * CLASSES), torch.stack([enlarged(image) for image in expected]))
        for file in (raw, other):
            assert float((by_hand(file, range(8 * CLASSES), 1).float() - expected.float()).abs().mean()) > 10
        close(ms.load(folder, average="raw", checkpoint=seen).sample(8 * CLASSES, labels=labels), by_hand(raw, range(8 * CLASSES), 1))


def close(images: Tensor, expected: Tensor) -> None:
    """To one level, which rounding can change."""
    assert images.shape == expected.shape and int((images.int() - expected.int()).abs().max()) <= 1


def enlarged(image: Tensor) -> Tensor:
    """Sixteen times as large."""
    return torch.from_numpy(np.array(Image.fromarray(image[0].numpy()).resize((64, 64), Image.Resampling.BICUBIC)))


def shown(path: Path, count: int) -> Tensor:
    """The pictures of a grid with a column a class and two pixels between."""
    whole = torch.from_numpy(np.array(Image.open(path)))
    corners = [(2 + 66 * (k // CLASSES), 2 + 66 * (k % CLASSES)) for k in range(count)]
    return torch.stack([whole[y : y + 64, x : x + 64] for y, x in corners])
