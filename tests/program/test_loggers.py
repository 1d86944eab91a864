"""Trackers beside the records: a run is its own, whatever other folders are called, and goes on as itself."""

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meanstep.program.data import Cache
from meanstep.program.training import loggers

WORDS = "--device cpu --network.width 8 --network.depth 1 --network.heads 1 --batch 16 --averages.decays 0.5 --log-every 16"
NEVER = "--evaluate-every 0 --sample-every 0"


class Fake(types.ModuleType):
    """A tracker that keeps what it is told: runs by what tells them apart, as the package itself does."""

    def __init__(self, name: str, told_apart_by: str) -> None:
        super().__init__(name)
        self.runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self.asked: list[dict[str, Any]] = []
        self.apart = told_apart_by

    def init(self, **asked: Any) -> None:
        self.asked.append(asked)
        self.here = self.runs.setdefault((asked["project"], asked[self.apart]), [])

    def log(self, values: dict[str, Any]) -> None:
        self.here.append(values)

    def finish(self) -> None:
        del self.here


@pytest.mark.parametrize(("name", "apart"), [("wandb", "id"), ("trackio", "name")])
def test_runs_of_equal_folder_names_stay_apart_and_go_on_as_themselves(
    name: str, apart: str, cache: Cache, tmp_path: Path, ran: Callable[..., int], monkeypatch: pytest.MonkeyPatch
):
    fake = Fake(name, apart)
    monkeypatch.setitem(sys.modules, name, fake)
    folders = [tmp_path / part / "run" for part in "ab"]
    for folder in folders:
        for samples in (32, 64):
            command = [
                "train",
                "--out",
                folder,
                "--data.source",
                cache.path,
                *f"{WORDS} {NEVER}".split(),
                "--samples",
                samples,
                "--loggers",
                name,
            ]
            assert ran(*command) == 0
    assert [sorted({v["seen"] for v in values}) for values in fake.runs.values()] == [[16, 32, 48, 64]] * 2  # each run whole, in one place
    assert all(asked["resume"] == "allow" and asked["config"] for asked in fake.asked)
    assert [asked["name"].startswith("run") for asked in fake.asked] == [True] * 4
    assert not hasattr(fake, "here")


def test_the_project_is_the_trackers_own_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fake = Fake("wandb", "id")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for project, expected in ((None, "meanstep"), ("flows", "flows")):
        monkeypatch.delenv("WANDB_PROJECT", raising=False)
        if project:
            monkeypatch.setenv("WANDB_PROJECT", project)
        loggers.opened(("wandb",), loggers.Place(tmp_path, {"a": 1}))
        assert fake.asked[-1]["project"] == expected and "tags" not in fake.asked[-1]  # WANDB_TAGS holds where none are passed
    assert fake.asked[0]["id"] == fake.asked[1]["id"] == (tmp_path / "wandb.txt").read_text()


def test_project_and_tags_of_the_command_line_go_before_the_trackers_own(
    cache: Cache, tmp_path: Path, ran: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    fake = Fake("wandb", "id")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("WANDB_PROJECT", "other")
    words = ["train", "--out", tmp_path / "run", "--data.source", cache.path, *f"{WORDS} {NEVER} --samples 16 --project flows".split()]
    assert ran(*words, "--loggers", "wandb", "--tags", "a", "b") == 0
    assert (fake.asked[0]["project"], fake.asked[0]["tags"]) == ("flows", ["a", "b"])
    assert ran(*words, "--loggers", "tensorboard") == 2
    assert "--project: none of the trackers has it (tensorboard): give --loggers wandb or mlflow or trackio" in capsys.readouterr().err


def test_tags_of_mlflow_are_names_with_values(tmp_path: Path):
    told: dict[str, Any] = {}
    module = types.SimpleNamespace(set_experiment=lambda name: told.update(experiment=name), log_metrics=None, end_run=None)
    module.start_run = lambda **how: told.update(how) or types.SimpleNamespace(info=types.SimpleNamespace(run_id="7"))
    loggers._mlflow(module, loggers.Place(tmp_path, {}, "flows", ("a=b=c", "alone")))
    assert told["experiment"] == "flows" and told["tags"] == {"a": "b=c", "alone": ""} and (tmp_path / "mlflow.txt").read_text() == "7"
