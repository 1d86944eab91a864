"""Methods by name: every recipe of the package, from plain options; what it needs and lacks is said in one line."""

import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import meanstep as ms
from meanstep import recipes, velocities
from meanstep.cli import main
from meanstep.program import methods, registry
from meanstep.program.console import UserError
from meanstep.terms import Recipe, learns
from meanstep.times import uniform as at_uniform
from meanstep.types import Times, Weight
from meanstep.velocities import Posterior
from meanstep.weights import Adaptive, adaptive

NET = ms.MLP(2, 8, 1, head=True, generator=ms.key(0))
EMA = ms.MLP(2, 8, 1, generator=ms.key(1))
PLAIN = ms.MLP(2, 8, 1, generator=ms.key(0))


def built(name: str, **options: object) -> Recipe:
    return methods.build(name, NET, EMA, Posterior(torch.zeros(4, 2)), **options)


def needs(name: str, **options: object) -> frozenset[str]:
    return methods.needs(registry.METHODS[name], **options)


def test_the_table_holds_every_recipe_of_the_package():
    found = {n for n, f in vars(recipes).items() if inspect.isfunction(f) and hasattr(f, "facts")}
    assert set(registry.METHODS) == found
    assert all(method.about for method in registry.METHODS.values())


@pytest.mark.parametrize("name", list(registry.METHODS))
def test_what_is_read_off_the_source_is_what_is_imported(name: str):
    method = registry.METHODS[name]
    function = method.recipe()
    assert {k: getattr(method, k) for k in function.facts} == function.facts
    parameters = inspect.signature(function).parameters
    assert [option.name for option in method.arguments] == list(parameters)
    for option in method.arguments:
        default = parameters[option.name].default
        assert (option.default is None) == (default is inspect.Parameter.empty), option
        assert option.value in (None, default), option
    weight = parameters["weight"].default if "weight" in parameters else None
    if isinstance(weight, Adaptive):
        assert method.weighting == (weight.power, weight.c, weight.reduction)


def lettered(kind: str = "a", times: Times = at_uniform, weight: Weight = adaptive(0.0, 0.5)) -> Recipe:
    """A recipe of a user's own with an option that is a word, and a weight of power 0."""
    assert kind in ("a", "uniform")
    return recipes.meanflow(times, 0.5, weight)


def test_words_and_weights_of_a_recipe_of_ones_own():
    spec = f"{__name__}:lettered"
    assert registry.find(spec).weighting == (0.0, 0.5, "sum")
    moving = methods.build(spec, NET, kind="uniform", times="logit-normal", c=0.1)[
        0
    ]  # a word is a sampler of times only where one is meant
    assert moving.times is recipes.IMAGENET and moving.weight is ms.weights.constant


def test_power_and_constant_are_the_weights_also_beside_an_argument_of_that_name():
    x = torch.randn(64, 2, generator=ms.key(4))

    def value(recipe: Recipe) -> float:
        return ms.Loss(recipe)(NET, x, progress=0.5, generator=ms.key(5)).loss.item()

    for given, weight in (({"power": 0}, ms.weights.constant), ({"power": 0.5, "c": 1e-3}, adaptive(0.5, 1e-3))):
        assert value(built("curriculum_meanflow", **given)) == value(recipes.curriculum_meanflow(weight=weight))


@pytest.mark.parametrize("name", list(registry.METHODS))
def test_what_a_recipe_teaches_is_what_its_rows_say(name: str):
    field = ms.fields.DataPrediction(NET) if name == "pixel_meanflow" else NET
    assert learns(methods.build(name, field, EMA, Posterior(torch.zeros(4, 2)))) == registry.METHODS[name].learns


def test_what_a_recipe_teaches_follows_its_options():
    assert learns(recipes.meanflow(diagonal_share=1.0)) == registry.INSTANTANEOUS
    assert learns(recipes.coefficient(1.0, EMA, diagonal_share=1.0)) == registry.INSTANTANEOUS  # an anchor near t is no jump


WITHOUT_TORCH = """
import sys
from meanstep.program import registry
for table in (registry.METHODS, registry.SAMPLERS, registry.PATHS):
    assert len(table) >= 2 and all(entry.about for entry in table.values())
print([(o.name, o.kind) for o in registry.METHODS["coefficient"].arguments][:2])
registry.check_options(registry.find("meanflow"), {"times": "uniform", "diagonal_share": 0.5})
for call in (lambda: registry.find("meenflow"), lambda: registry.check_sampler("wlk"), lambda: registry.check_path("lin"),
             lambda: registry.check_options(registry.find("meanflow"), {"diagonal_share": "half"})):
    try:
        call()
    except registry.UserError as mistake:
        print(mistake)
print(sorted({"torch", "numpy", "scipy"} & set(sys.modules)))
"""


def test_names_and_options_are_known_without_torch():
    source = Path(ms.__file__).parents[1]
    code = f"import sys; sys.path.insert(0, {str(source)!r})" + WITHOUT_TORCH
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert done[0] == "[('beta', 'Coefficient'), ('proxy', 'Velocity | nn.Module | None')]"
    assert "did you mean meanflow?" in done[1] and "did you mean walk?" in done[2] and "linear, trigonometric" in done[3]
    assert "diagonal_share is a number, got 'half'" in done[4] and done[5] == "[]"


@pytest.mark.parametrize("name", list(registry.METHODS))
def test_every_recipe_trains_a_step(name: str):
    field = ms.fields.DataPrediction(NET) if name == "pixel_meanflow" else NET
    recipe = methods.build(name, field, EMA, Posterior(torch.zeros(4, 2)))
    out = ms.Loss(recipe)(field, torch.randn(64, 2, generator=ms.key(2)), progress=0.5, generator=ms.key(3))
    assert out.loss.isfinite()


@pytest.mark.parametrize("name", list(registry.METHODS))
def test_every_proxy_of_every_recipe_is_built(name: str):
    for proxy in registry.METHODS[name].proxies:
        assert built(name, proxy=proxy)


def test_a_posterior_in_both_roles_is_guided_and_hides_labels_as_it_is_asked():
    x, y = torch.randn(64, 2, generator=ms.key(4)), torch.arange(64) % 3
    net = ms.MLP(2, 8, 1, classes=4, generator=ms.key(0))
    posterior = Posterior(torch.randn(20, 2, generator=ms.key(6)), torch.arange(20) % 3)
    hidden = velocities.LabelDropout(3, 0.5)

    def value(recipe: Recipe) -> float:
        return ms.Loss(recipe)(net, x, y, generator=ms.key(5)).loss.item()

    guided = velocities.Guided(velocities.conditional, hidden, 0.7, 0.2)
    own = recipes.meanflow(ms.times.uniform, 0.5, ms.weights.constant, velocities.Guided(posterior, hidden, 0.7, 0.2))
    assert value(recipes.posterior_meanflow(posterior, velocity=guided)) == value(own)
    plain = velocities.Guided(velocities.conditional, hidden, 1.0, 0.0)
    same = {"anchor": 0.0, "times": ms.times.uniform, "diagonal_share": 0.5, "weight": ms.weights.constant, "velocity": plain}
    both = recipes.coefficient(1.0, posterior, target_beta=1.0, **same)
    assert value(recipes.posterior_meanflow(posterior, velocity=plain)) == pytest.approx(value(both))
    assert value(recipes.posterior_meanflow(posterior)) != pytest.approx(value(both))  # no label hidden


def test_plain_options_are_the_objects_they_stand_for():
    x = torch.randn(64, 2, generator=ms.key(4))

    def value(recipe: Recipe) -> float:
        return ms.Loss(recipe)(NET, x, generator=ms.key(5)).loss.item()

    asked = built("meanflow", times="uniform", power=0.5, c=1e-3, diagonal_share=0.25)
    weight = ms.weights.adaptive(0.5, 1e-3)
    assert value(asked) == value(recipes.meanflow(ms.times.uniform, 0.25, weight))
    assert value(built("coefficient", beta=0.5)) == value(recipes.coefficient(0.5, EMA))
    assert value(methods.build("coefficient", NET, beta=0)) == value(recipes.coefficient(0.0))
    assert value(built("meanflow", power=0)) == value(recipes.meanflow(weight=ms.weights.constant))


def test_what_a_method_needs_depends_on_its_options():
    assert needs("meanflow") == set()
    assert needs("coefficient") == {registry.EMA}
    assert needs("coefficient", beta=0.0) == set()
    assert needs("coefficient", beta=0.5, proxy="posterior") == {registry.POSTERIOR}
    assert needs("improved_meanflow", proxy="own") == set()
    assert needs("pixel_meanflow") == {registry.HEAD, registry.PREDICTION}
    assert needs("decoupled_meanflow") == {registry.LEARNED}
    assert all(need in registry.NEEDS for name in registry.METHODS for need in needs(name))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("meenflow", {}, "(did you mean meanflow?): choose among flow_matching, meanflow"),
        ("meanflow", {"beta": 1}, "no option 'beta': it takes times, diagonal_share"),
        ("coefficient", {}, "proxy=ema needs an EMA copy of the network: ema = ms.Average"),
        ("coefficient", {"proxy": "head"}, "proxy is one of ema, own, posterior, got 'head'"),
        ("coefficient", {"proxy": "own", "beta": 2}, "beta"),
        ("coefficient", {"proxy": "posterior"}, "velocities.Posterior"),
        ("improved_meanflow", {}, "DiT(head=True)"),
        ("meanflow", {"times": "sometimes"}, "times is one of uniform, logit-normal, {logit-normal: [mean, std]}"),
        ("meanflow", {"power": 9}, "power is a number in [0, 4], got 9"),
        ("meanflow", {"c": 0}, "c is a positive number, got 0"),
        ("meanflow", {"diagonal_share": 2}, "lies in [0, 1], got 2"),
        ("meanflow", {"velocity": "conditional"}, "velocity is no word"),
        ("meanflow", {"power": 1, "weight": ms.weights.constant}, "not both"),
    ],
)
def test_a_mistake_is_one_line(name: str, options: dict[str, object], words: str):
    with pytest.raises(UserError) as mistake:
        methods.build(name, PLAIN, **options)  # type: ignore[arg-type]
    assert words in str(mistake.value) and "\n" not in str(mistake.value)


@pytest.mark.parametrize("flag", ["--method.path", "--path"])
def test_a_path_that_cannot_be_imported_is_blamed_on_its_option(flag: str):
    with pytest.raises(UserError, match=rf"^{flag}: cannot import nowhere_at_all: there is no module"):
        methods.path("nowhere_at_all:f", flag)


def code(*words: str) -> object:
    """What a command ends with."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    return ended.value.code


@pytest.mark.parametrize("option", ["--method.recipe", "--method.path", "--network.name"])
def test_going_on_with_a_run_imports_no_code_that_its_folder_alone_names(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The folder may come from somebody else; whoever trusts the name says it, on the command line, in a file or from Python."""
    (tmp_path / "trap.py").write_text(
        "from pathlib import Path\n\nimport meanstep as ms\n\nPath('sprung').touch()\n\n\n"
        "def recipe():\n    return ms.recipes.meanflow()\n\n\n"
        "def net(shape, **given):\n    return ms.MLP(2, 8, 1)\n\n\npath = ms.paths.linear\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("trap", None)
    np.save("x.npy", np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32))
    name = "trap:" + {"--method.recipe": "recipe", "--method.path": "path", "--network.name": "net"}[option]
    words = ["train", "--out", "run", "--data.source", "x.npy", "--batch", "16", "--evaluate-every", "0", "--quiet"]
    own = [] if option == "--network.name" else ["--network.name", "mlp", "--network.width", "8"]
    assert code(*words, *own, option, name, "--samples", "32") == 0
    Path("sprung").unlink()
    del sys.modules["trap"]
    capsys.readouterr()
    for more in ([], ["--dry-run"]):
        assert code("train", "--out", "run", "--samples", "64", *more) == 2
        assert f"if you trust it, say so, {option} {name}" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(UserError, match="code that would run"):
        ms.train(out="run", samples=64)
    assert not Path("sprung").exists()
    section, entry = option.removeprefix("--").split(".")
    Path("mine.yaml").write_text(f"{section}: {{{entry}: '{name}'}}\n")
    assert code("train", "--out", "run", "--samples", "64", "--config", "mine.yaml", "--quiet") == 0
    assert code("train", "--out", "run", "--samples", "96", option, name, "--quiet") == 0
    said = {"net": name} if section == "network" else {f"{section}_{entry}": name}
    assert ms.train(out="run", samples=128, **said, progress=False).seen == 128 and Path("sprung").exists()
