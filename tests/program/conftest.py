"""What the program's tests share: the digits' cache; torch-fidelity, or its arithmetic alone where torchvision cannot be imported."""

import functools
import hashlib
import html
import importlib
import importlib.util
import inspect
import io
import json
import os
import queue
import re
import shlex
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save

from meanstep.cli import main
from meanstep.keys import key
from meanstep.program import workers
from meanstep.program.data import Cache, Manifest, ensure
from meanstep.program.data.manifest import Shard
from meanstep.program.pages.form import drawn
from meanstep.program.runs import networks
from meanstep.program.runs.config import Config, DataConfig, RunConfig
from meanstep.program.runs.integrity import digest
from meanstep.program.runs.saved import text

DRAWN, SCALE = "meanstep.program.pages.form.drawn", "meanstep.program.pages.look.SCALE"


@pytest.fixture(scope="session", autouse=True)
def swift() -> Iterator[None]:
    """Nothing in this process waits for the disk, or reads the source of a class twice for the texts of its flags.

    A file's number is looked at where it would be written out, so that a closed one is found.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)
        patch.setattr(inspect, "getsource", functools.cache(inspect.getsource))
        yield


@pytest.fixture(scope="module", autouse=True)
def plain(request: pytest.FixtureRequest) -> Iterator[None]:
    """Pages that are written in this process have no figures, which take several times as long as a small training.

    But for a module with the mark `figures`, and a test that asks for the fixture of that name; they are drawn at a quarter of the size.
    """
    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("figures") is None:
            patch.setattr(DRAWN, lambda figures: {})
        else:
            patch.setattr(SCALE, 0.5)
        yield


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pages of this test have them."""
    monkeypatch.setattr(DRAWN, drawn)
    monkeypatch.setattr(SCALE, 0.5)


def unpainted(figure: Any) -> bytes:
    """A white picture of the figure's size: to paint one takes longer than all else of a page."""
    from PIL import Image

    from meanstep.program.pages import look

    width, height = (int(100 * look.SCALE * inches) for inches in figure.get_size_inches())
    box = io.BytesIO()
    Image.new("L", (width, height), 255).save(box, format="PNG")
    return box.getvalue()


@pytest.fixture
def white(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures of this test's pages are white: of the words alone."""
    monkeypatch.setattr("meanstep.program.pages.look.png", unpainted)


PLAIN = [sys.executable, "-c", f"import {DRAWN[:-6]} as form; form.drawn = lambda f: {{}}; from meanstep.cli import main; main()"]
"""The command in a process of its own whose pages have none either."""


class AtOnce(Executor):
    """Does what is submitted before it answers."""

    def submit(self, work: Callable[..., Any], /, *given: Any, **named: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(work(*given, **named))
        except Exception as error:
            done.set_exception(error)
        return done


def stay_home(patch: pytest.MonkeyPatch) -> None:
    """A study's worker is this process, where a process of its own, which takes seconds to start, is not what is tested."""

    def hired(devices: Sequence[str]) -> tuple[Executor, Any, Any]:
        messages, stop = queue.Queue[Any](), threading.Event()
        for name, value in {"_messages": messages, "_stop": stop, "_device": devices[0]}.items():
            patch.setattr(workers, name, value)
        return AtOnce(), messages, stop

    patch.setattr(workers, "_hired", hired)


@pytest.fixture
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """`stay_home` for a test."""
    stay_home(monkeypatch)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cache]:
    """The embedded digits, cached in a folder of the test's own."""
    pytest.importorskip("sklearn", reason="the embedded digits need the extra digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEANSTEP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield ensure("digits")


TORCHVISION = ["torchvision", *(f"torchvision.{part}" for part in ("datasets", "models", "transforms", "transforms.functional"))]


class Anything(ModuleType):
    """Stands for torchvision, which torch-fidelity imports and its arithmetic does not use."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return sys.modules.get(f"{self.__name__}.{name}", type(name, (), {}))


@pytest.fixture
def fidelity(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """torch-fidelity's modules `fid`, `kid`, `isc`, `prc` and `inception`; nothing that was imported for them stays."""
    if importlib.util.find_spec("torch_fidelity") is None:
        pytest.skip("torch-fidelity is not installed: pip install 'meanstep[fidelity]'")
    before = set(sys.modules)
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):  # absent, or built for another torch
        for name in TORCHVISION:
            monkeypatch.setitem(sys.modules, name, Anything(name))
    modules = {part: f"metric_{part}" for part in ("fid", "kid", "isc", "prc")} | {"inception": "feature_extractor_inceptionv3"}
    try:
        yield SimpleNamespace(**{part: importlib.import_module(f"torch_fidelity.{name}") for part, name in modules.items()})
    finally:
        for name in set(sys.modules) - before:
            if name.split(".")[0] in {"torch_fidelity", "torchvision"}:
                sys.modules.pop(name, None)


TINY = {"size": 8, "channels": 1, "patch": 4, "width": 16, "depth": 1, "heads": 2}


@pytest.fixture(scope="session")
def exportable(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes the folder of a finished run of a small network that nothing trained, whose every weight counts.

    `classes`: 0 for none; `learns`: the velocity that it knows; `samples`: that it was to see, of which it saw 128; `description`: of
    another network, `manifest`: entries of another description of its data, with `autoencoder`, a file of its own.
    """
    return lambda **how: _exportable(tmp_path_factory.mktemp("exported") / "tiny", **how)


def _exportable(
    run: Path,
    classes: int = 3,
    learns: str = "average",
    samples: int = 128,
    description: dict[str, Any] | None = None,
    manifest: dict[str, Any] | None = None,
    autoencoder: Path | None = None,
) -> Path:
    description = description or {"network": "dit", "options": {**TINY, "classes": classes}}
    here = run / "checkpoints" / "000000000128"
    here.mkdir(parents=True)
    net = networks.made(description, 0, str(description["network"]))
    weights = {k: x + 0.1 * torch.randn(x.shape, generator=key(0, k)) for k, x in net.state_dict().items()}
    data = {name: save({k: 0.99 * x if name.startswith("ema") else x for k, x in weights.items()}) for name in WEIGHTS}
    data["network.json"] = json.dumps(description).encode()
    plain = Manifest(
        "shapes", "0" * 64, "train", 0, 30, 0, (1, 8, 8), (1, 8, 8), "none", "none", False, "none", CLASSES[:classes], **IDENTITY
    )
    stated = replace(plain, **manifest or {})
    sums = {name: hashlib.sha256(part).hexdigest() for name, part in data.items()}
    about = {"version": 2, "seen": 128, "step": 1, "best_seen": -1, "chosen": "0.9", "data": stated.digest, "sha256": sums}
    about["sizes"] = {name: len(part) for name, part in data.items() if name != "network.json"}
    data["state.json"] = json.dumps(about | {"digest": digest(about)}).encode()
    for name, part in data.items():
        (here / name).write_bytes(part)
    (run / "data.json").write_text(stated.text())
    (run / "config.yaml").write_text(text(Config(data=DataConfig(source=str(run / "data")), run=RunConfig(samples=samples))))
    (run / "method.json").write_text(json.dumps({"recipe": "meanflow", "learns": learns, "path": "linear"}))
    if autoencoder:
        (run / "autoencoder.safetensors").write_bytes(autoencoder.read_bytes())
    return run


WEIGHTS, CLASSES = ("model.safetensors", "ema_0.9.safetensors"), ("cat", "dog", "fox")
IDENTITY: dict[str, Any] = {"autoencoder": "identity", "autoencoder_digest": hashlib.sha256(b"identity").hexdigest(), "scaling": 1.0}
IDENTITY |= {"shift": 0.0, "dtype": "uint8", "mean": (0.0,), "std": (1.0,), "statistics": "none", "shards": (Shard("a", 30, 1, "0"),)}


def code(*args: object) -> int:
    """Runs a command line; its exit code."""
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, args)))
    return int(stop.value.code or 0)


def printed(page: Path) -> list[str]:
    """The commands on a page, in their order."""
    text = page.read_text(encoding="utf-8")
    return [html.unescape(re.sub("<[^>]*>", "", found)) for found in re.findall(r"<pre>(.*?)</pre>", text, re.DOTALL)]


def asked_again(command: str, kind: type, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the program makes of a command line of this kind; nothing is run."""
    found: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(kind, "run", lambda self: found.append(self) or 0)
        assert code(*shlex.split(command)[1:]) == 0
    return found[0]


@pytest.fixture(scope="session")
def ran() -> Callable[..., int]:
    """`code`, for files that take it as a fixture."""
    return code


def run(*words: str, code: int = 0) -> None:
    """A command line that ends with this exit code."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == code


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the test's own, which is the current one and holds the user's caches."""
    monkeypatch.setenv("MEANSTEP_CACHE", str(tmp_path / "user"))
    monkeypatch.chdir(tmp_path)
    return tmp_path
