"""What the program's tests share: the digits' cache; torch-fidelity, or its arithmetic alone where torchvision cannot be imported."""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace

import pytest

from meanstep.program.data import Cache, ensure


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
