"""Networks by name: typed options on the command line and in files, old files, networks of others, and what a run's folder says of them."""

import inspect
import json
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

import meanstep as ms
from meanstep.catalogue import Option
from meanstep.fields import DiT
from meanstep.program import registry
from meanstep.program.console import UserError
from meanstep.program.data import Cache
from meanstep.program.reproduce.images import rerun
from meanstep.program.reproduce.images.command import Latents
from meanstep.program.reproduce.images.results import Results
from meanstep.program.reproduce.images.settings import held_config
from meanstep.program.runs import networks
from meanstep.program.runs.config import Config, NetworkConfig, from_yaml, to_yaml
from meanstep.program.runs.options import SIZES, flat, resolved
from meanstep.program.sampling.model import load
from meanstep.program.training.command import Train
from meanstep.program.training.folder import begin
from meanstep.program.training.ranks import Ranks
from meanstep.program.training.train import train

from .train_ranks import configuration

ALONE = Ranks(0, 1, torch.device("cpu"))
TINY = {"patch": 4, "width": 16, "depth": 1, "heads": 2}
SHAPE = (1, 8, 8)
STUDIES = Path(__file__).parents[2] / "studies"
OWN = """
import torch
from meanstep.fields import DiT

def build(size, channels, classes, width=96, qk_norm=False):
    generator = torch.Generator().manual_seed(torch.initial_seed())
    return DiT(size, channels, 2, width, 2, 2, classes=classes, qk_norm=qk_norm, generator=generator)

def fixed(size, channels):
    return DiT(size, channels, 4, 16, 1, 2)

def free(**options):
    return DiT(options["size"], options["channels"], 4, options.get("width", 16), 1, 2, classes=options["classes"])
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's own in the current folder, of a name that no other test has imported."""
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return name


def made(network: NetworkConfig, classes: int = 3) -> torch.nn.Module:
    return networks.made(networks.described(network, SHAPE, classes), 0, network.name)


def same(one: torch.nn.Module, two: torch.nn.Module) -> bool:
    a, b = one.state_dict(), two.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# The table ---------------------------------------------------------------------------------------------------------------------------

WITHOUT_TORCH = """
import dataclasses, sys
from meanstep.program import registry
from meanstep.program.runs.config import NetworkConfig
from meanstep.program.runs.options import parsed

@dataclasses.dataclass(frozen=True)
class Command:
    network: NetworkConfig = NetworkConfig()

found = parsed(Command, "train", ["--network.width", "64", "--network.qk-norm", "--network.split", "2"], Command()).network
print("dit" in registry.NETWORKS, "kid" in registry.METRICS, "heun" in registry.SAMPLERS, registry.described(registry.METRICS) != "")
print(found.options["width"], found.options["qk_norm"], found.options["split"], found.options["depth"])
print("torch" in sys.modules)
"""


def test_names_options_and_flags_are_known_without_torch():
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:3] == ["True True True True", "64 True 2 6", "False"]


@pytest.mark.parametrize("name", list(registry.NETWORKS))
def test_every_network_of_the_table_has_typed_and_documented_options_and_is_a_field(name: str):
    options = registry.NETWORKS[name].options
    assert registry.NETWORKS[name].about and all(option.about and option.type and option.default is not None for option in options)
    kept = networks.family(NetworkConfig(name))
    assert {option.name: option.value for option in options} == vars(kept)
    net = made(networks.small(NetworkConfig(name), 8))
    z, t, y = torch.randn(5, *SHAPE, generator=ms.key(0)), torch.rand(5, generator=ms.key(1)), torch.arange(5) % 3
    assert net(z, t / 2, t, y).shape == z.shape


def test_every_option_of_the_dit_can_be_given():
    taken = set(inspect.signature(DiT).parameters) - {*SIZES, "generator"}
    assert {option.name for option in registry.NETWORKS["dit"].options} == taken | {"model", "patches"}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("int", int),
        ("float | None", float | None),
        ("tuple[float, float]", tuple[float, float]),
        ("tuple[int, ...]", tuple[int, ...]),
        ("Literal['a', 'b'] | None", Literal["a", "b"] | None),
    ],
)
def test_an_annotation_is_read_without_the_module(kind: str, expected: object):
    assert Option("x", kind, None).type == expected


@pytest.mark.parametrize("kind", ["list[int]", "Tensor", "int + 1", "dict[str, int]"])
def test_an_annotation_that_no_flag_can_have_is_refused(kind: str):
    with pytest.raises(TypeError, match="plain types"):
        _ = Option("x", kind, None).type


# Flags -------------------------------------------------------------------------------------------------------------------------------


def parsed(*words: str) -> NetworkConfig:
    return Train.parse(["--preset", "digits", *words]).network


def test_flags_are_laid_over_what_the_preset_has():
    found = parsed("--network.width", "32", "--network.qk-norm", "--network.data-floor", "0.05", "--network.options", "{rms: true}")
    usual = {option.name: option.value for option in registry.NETWORKS["dit"].options}
    changed = {"width": 32, "qk_norm": True, "data_floor": 0.05, "rms": True}
    assert found.options == usual | {"patch": 2, "patches": [], "width": 64, "depth": 4, "heads": 4} | changed
    assert parsed("--network.no-qk-norm").options["qk_norm"] is False


def test_a_models_name_takes_the_place_of_the_presets_numbers():
    found = parsed("--network.model", "Nano/4")
    assert "width" not in found.options and found.options["model"] == "Nano/4"
    assert same(made(found), DiT.named("Nano/4", 8, 1, classes=3, generator=ms.key(0, "weights")))
    assert Train.parse(["--preset", "latents-dit-s4", "--network.model", "", "--network.width", "48"]).network.options["width"] == 48


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--network.wide", "3"], "--network.wide: the network dit has no option 'wide'; it takes model, patch, patches, width"),
        (["--network.options", "{wide: 3}"], "--network.options: the network dit has no option 'wide'; it takes model"),
        (["--network.options", "{width: much}"], "--network.width: a whole number, got 'much'"),
        (["--network.options", "{qk_norm: 1}"], "--network.qk-norm: true or false, got 1"),
        (["--network.width", "3", "--network.options", "{width: 4}"], "--network.width: --network.options says it too"),
        (["--network.model", "B/4", "--network.width", "8"], "--network.width: --network.model B/4 says it already"),
        (["--network.name", "dit2"], "--network.name: there is no network 'dit2' (did you mean dit?)"),
        (
            ["--network.name", "OWN:build", "--network.heads", "3"],
            "--network.heads: the network OWN:build has no option 'heads'; it takes width",
        ),
        (["--network.name", "OWN:fixed", "--network.heads", "3"], "has no option 'heads'; it takes none"),
        (["--network.name", "OWN:free", "--network.heads", "3"], "'heads'; it takes --network.options '{...}' as its factory says"),
    ],
)
def test_no_option_is_ignored(words: list[str], told: str, own: str):
    with pytest.raises(UserError) as mistake:
        parsed(*(word.replace("OWN", own) for word in words))
    assert told.replace("OWN", own) in str(mistake.value) and "\n" not in str(mistake.value)


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("build", {"wide": 3}, "the network OWN:build has no option 'wide'; it takes width, qk_norm"),
        ("fixed", {}, "OWN:fixed is called with size, channels and classes as keywords beside its --network.options"),
        ("none", {}, "has no 'none'"),
    ],
)
def test_a_factory_that_does_not_fit_is_one_line(name: str, options: dict[str, object], told: str, own: str):
    with pytest.raises(UserError) as mistake:
        made(NetworkConfig(f"{own}:{name}", options))
    assert told.replace("OWN", own) in str(mistake.value) and "\n" not in str(mistake.value)


def test_a_factory_with_any_keywords_is_given_them_all(own: str):
    assert made(NetworkConfig(f"{own}:free", {"width": 32})).patches.weight.shape[0] == 32


def test_another_network_starts_without_the_options_of_the_first(own: str):
    found = parsed("--network.name", f"{own}:build", "--network.options", "{width: 8}")
    assert found == NetworkConfig(f"{own}:build", {"width": 8})


# Files -------------------------------------------------------------------------------------------------------------------------------

OLD = "network:\n  name: {}\n  model: '{}'\n  patch: 4\n  width: 16\n  depth: 1\n  heads: 2\n  options: {}\n  start: ''\n"


def test_an_old_configuration_gives_the_same_network():
    found = from_yaml(OLD.format("dit", "", "{qk_norm: true}"), "old").network
    assert found.options == TINY | {"qk_norm": True}
    assert same(made(found), DiT(8, 1, 4, 16, 1, 2, classes=3, qk_norm=True, generator=ms.key(0, "weights")))
    named = from_yaml(OLD.format("dit", "Nano/4", "{}"), "old").network
    assert same(made(named), DiT.named("Nano/4", 8, 1, classes=3, generator=ms.key(0, "weights")))
    assert from_yaml(OLD.format("mine:build", "", "{a: 1}"), "old").network == NetworkConfig("mine:build", {"a": 1})


def test_a_new_configuration_is_name_options_and_start_and_is_read_back():
    config = Config(network=resolved(NetworkConfig(options=TINY)))
    text = to_yaml(config)
    assert "network:\n  name: dit\n  options:\n    model: ''\n    patch: 4\n" in text
    assert from_yaml(text, "here") == config


def test_a_file_is_laid_over_the_options_of_the_same_network():
    base = Config(network=NetworkConfig(options=TINY))
    for text in ("network: {width: 32}", "network: {options: {width: 32}}"):
        assert from_yaml(text, "more", base).network.options == TINY | {"width": 32}
    assert from_yaml("network: {options: {model: Nano/4, rms: true}}", "more", base).network.options == {"model": "Nano/4", "rms": True}
    assert from_yaml("network: {name: 'mine:build'}", "more", base).network == NetworkConfig("mine:build")


def test_an_old_description_gives_the_same_network():
    old = {"network": "dit", "options": {"size": 8, "channels": 1, "classes": 3, **TINY, "head": True}}
    assert same(networks.made(old, 5), DiT(8, 1, 4, 16, 1, 2, classes=3, head=True, generator=ms.key(5, "weights")))
    named = {"network": "dit", "options": {"model": "Nano/4", "size": 8, "channels": 1, "classes": 3}}
    assert same(networks.made(named, 5), DiT.named("Nano/4", 8, 1, classes=3, generator=ms.key(5, "weights")))
    with pytest.raises(UserError, match=r"--network\.wide: "):
        networks.made({"network": "dit", "options": {"size": 8, "channels": 1, "classes": 0, "wide": 1}})


def test_a_run_of_an_old_configuration_goes_on(tmp_path: Path, cache: Cache):
    """What its folder says is compared with what is asked for, entry by entry."""
    network = NetworkConfig(options=TINY)
    config = replace(configuration("meanflow"), network=resolved(network))
    begin(tmp_path, config, cache, "cpu")
    text = (tmp_path / "config.yaml").read_text()
    start, end = text.index("network:"), text.index("method:")
    (tmp_path / "config.yaml").write_text(text[:start] + OLD.format("dit", "", "{}") + text[end:])
    begin(tmp_path, config, cache, "cpu")
    with pytest.raises(UserError, match=r"holds a run with --network.width 16, now 32"):
        begin(tmp_path, replace(config, network=NetworkConfig(options=TINY | {"width": 32})), cache, "cpu")
    with pytest.raises(UserError, match=r"--network.model , now Nano/4"):
        begin(tmp_path, replace(config, network=NetworkConfig(options={"model": "Nano/4"})), cache, "cpu")
    with pytest.raises(UserError, match=r"--method.largest-gap none, now 0.5"):
        begin(tmp_path, replace(config, method=replace(config.method, largest_gap=0.5)), cache, "cpu")


@pytest.mark.parametrize("name", ["cifar", "digits", "squared"])
def test_the_records_of_a_study_are_read_and_its_commands_give_its_configuration(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    about = json.loads((STUDIES / "latents" / "records" / name / "study.json").read_text())
    assert "patch" in about["config"]["network"], "the records are of the old form"
    (tmp_path / "study.json").write_text(json.dumps(about))
    config = held_config(about)
    assert {key: config.network.options[key] for key in TINY} == {key: about["config"]["network"][key] for key in TINY}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rerun, "FILE", "nowhere")
    command = shlex.split(rerun.commands(Results.read(tmp_path))[0])[3:]
    words = command[command.index("--moments") :]
    made = Latents.parse(words)
    config_again = Config(made.data, made.network, made.method, made.optimiser, made.averages, made.run_)
    assert flat(config_again) == flat(config)


# A network of others -----------------------------------------------------------------------------------------------------------------


def test_a_factory_of_ones_own_trains_and_samples_like_its_shipped_twin(own: str, tmp_path: Path, cache: Cache):
    shipped = replace(configuration("meanflow"), network=NetworkConfig(options={"width": 16, "depth": 2, "heads": 2, "qk_norm": True}))
    mine = replace(shipped, network=NetworkConfig(f"{own}:build", {"width": 16, "qk_norm": True}))
    pictures = []
    for name, config in (("shipped", shipped), ("mine", mine)):
        (tmp_path / name).mkdir()
        begin(tmp_path / name, config, cache, "cpu")
        state, _ = train(config, tmp_path / name, cache, ALONE)
        pictures.append((state.owner.net, load(tmp_path / name, network=config.network.name).sample(2)))
    (one, first), (two, second) = pictures
    assert same(one, two) and torch.equal(first, second)
    with pytest.raises(UserError, match=f"{own}:build, code that would run"):
        load(tmp_path / "mine")
