"""Everything a user holds: shown so that a person reads it, compared by what it is, copied and pickled without a change."""

import copy
import inspect
import pickle
import re
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import meanstep as ms
from meanstep import auxiliary, coefficients, probes, recipes, terms, times, velocities, weights
from meanstep.averages import exponential
from meanstep.catalogue import declared
from meanstep.fields import PLANAR
from meanstep.paths import linear, trigonometric
from meanstep.velocities import Guided, LabelDropout, Posterior, conditional


class Labelled(nn.Module):
    """An MLP under labels, which a `Condition` holds where guidance is an input."""

    def __init__(self) -> None:
        super().__init__()
        self.net = ms.MLP(2, width=8, head=True, classes=3, generator=torch.Generator().manual_seed(0)).double()

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return self.net(z, r, t, getattr(y, "label", y))

    def head(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return self.net.head(z, r, t, getattr(y, "label", y))


NET = Labelled()
DROP = LabelDropout(3)
GUIDED = Guided(conditional, DROP, 1.5, 0.25)


def posterior() -> Posterior:
    g = torch.Generator().manual_seed(1)
    return Posterior(torch.randn(16, 2, generator=g, dtype=torch.float64), torch.arange(16) % 3)


RECIPES = {
    "flow_matching": lambda: recipes.flow_matching(velocity=GUIDED),
    "meanflow": recipes.meanflow,
    "coefficient": lambda: recipes.coefficient(coefficients.linear(0.2, 0.8), velocities.own, target_beta=0.1, velocity=GUIDED),
    "coefficient-ema": lambda: recipes.coefficient(1.0, NET),
    "trace_weighted": lambda: recipes.trace_weighted("t2", True, NET, velocity=GUIDED),
    "posterior_meanflow": lambda: recipes.posterior_meanflow(posterior(), velocity=GUIDED),
    "improved_meanflow": lambda: recipes.improved_meanflow(guidance=None),
    "improved_meanflow-guided": lambda: recipes.improved_meanflow(velocities.own, guidance=DROP),
    "alpha_flow": recipes.alpha_flow,
    "modular_meanflow": recipes.modular_meanflow,
    "curriculum_meanflow": recipes.curriculum_meanflow,
    "terminal_velocity": lambda: recipes.terminal_velocity(velocities.own),
    "rectified_meanflow": recipes.rectified_meanflow,
    "decoupled_meanflow": recipes.decoupled_meanflow,
    "split_meanflow": recipes.split_meanflow,
    "solution_flow": recipes.solution_flow,
    "transition": recipes.transition,
    "discrete_meanflow": recipes.discrete_meanflow,
    "meanflow-faded": lambda: recipes.meanflow(velocity=velocities.faded(DROP)),
    "rectified_meanflow-guided": lambda: recipes.rectified_meanflow(velocity=velocities.randomly_guided(DROP)),
    "meanflow-beside": lambda: terms.beside(recipes.meanflow(), auxiliary.perceptual(auxiliary.distance_of(torch.sin))),
    "shortcut": lambda: recipes.shortcut(NET),
    "pixel_meanflow": lambda: recipes.pixel_meanflow(tangent=velocities.own),
}
PARTS = {
    "logit_normal": times.logit_normal,
    "logit_normal_pair": times.logit_normal_pair,
    "sorted_pair": times.sorted_pair,
    "separated": lambda: times.separated(times.uniform),
    "gap_first": times.gap_first,
    "u_shaped": times.u_shaped,
    "instants": times.instants,
    "diagonal": lambda: times.diagonal(times.uniform),
    "terminal": lambda: times.terminal(times.uniform),
    "anchor": lambda: times.anchor(times.uniform),
    "dyadic": lambda: times.dyadic(range(3)),
    "capped": lambda: times.capped(times.uniform, 0.5),
    "mixed": lambda: times.mixed(times.uniform, times.instants(), 0.1),
    "adaptive": weights.adaptive,
    "normed": weights.normed,
    "halving": coefficients.halving,
    "warmed": lambda: ms.rates.Warmed(ms.rates.Central(), coefficients.linear(0.0, 1.0)),
    "fading": velocities.fading,
    "directional": auxiliary.Directional,
    "trace": lambda: weights.trace("t2", of=weights.adaptive()),
    "times_factor": lambda: weights.times_factor(weights.constant, weights.min_snr()),
    "alpha": lambda: weights.alpha(0.5),
    "shrinking_gap": lambda: weights.shrinking_gap(1.3),
    "linear": lambda: coefficients.linear(0.0, 1.0),
    "constant": lambda: coefficients.constant(0.5),
    "cosine": lambda: coefficients.cosine(0.0, 1.0),
    "logistic": lambda: coefficients.logistic(0.0, 1.0),
    "over_t": lambda: coefficients.over_t(0.0, 1.0),
    "sigmoid": coefficients.sigmoid,
    "exponential": lambda: coefficients.exponential(0.1, 0.5),
    "binned": lambda: coefficients.binned(torch.linspace(0, 1, 3), torch.full((2, 2), 0.5)),
    "decay": lambda: exponential(0.9),
    "backward": lambda: ms.rates.Backward(0.5, 4.0),
    "central": lambda: ms.rates.Central(0.01),
    "exact": lambda: ms.rates.Exact(coefficients.linear(0.0, 1.0)),
    "semigroup": ms.objectives.Semigroup,
    "lagrangian": ms.objectives.Lagrangian,
    "guided": lambda: Guided(velocities.mix(conditional, velocities.own, 0.5), DROP, 1.5),
    "posterior": posterior,
    "floored": lambda: velocities.floored(conditional),
    "linear path": lambda: linear,
    "trigonometric path": lambda: trigonometric,
}


def loss_of(recipe: Any) -> Tensor:
    g = torch.Generator().manual_seed(5)
    x, y = torch.randn(32, 2, generator=g, dtype=torch.float64), torch.arange(32) % 3
    return ms.Loss(recipe, measure=False)(NET, x, y, progress=0.3, generator=g).loss


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("way", ["pickle", "deepcopy"])
def test_a_recipe_survives_and_gives_the_same_loss(name: str, way: str):
    recipe = RECIPES[name]()
    again = pickle.loads(pickle.dumps(recipe)) if way == "pickle" else copy.deepcopy(recipe)
    assert torch.equal(loss_of(recipe), loss_of(again))
    assert repr(again) == repr(recipe)
    assert type(again) is tuple


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_readable(name: str):
    for term in RECIPES[name]():
        assert "0x" not in repr(term)
        assert len(repr(term)) < 400, repr(term)
        assert repr(term).startswith("Term(")


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "decoupled_meanflow"])  # a weight that learns is itself only
def test_equal_recipes_are_equal(name: str):
    assert RECIPES[name]() == RECIPES[name]()
    assert len({*RECIPES[name](), *RECIPES[name]()}) == len(set(RECIPES[name]()))


def test_every_recipe_is_here():
    assert {name.split("-")[0] for name in RECIPES} == set(declared("meanstep.recipes", "method"))


@pytest.mark.parametrize("name", PARTS)
def test_a_part_is_a_value(name: str):
    part = PARTS[name]()
    again = pickle.loads(pickle.dumps(part))
    assert again == part == copy.deepcopy(part) == PARTS[name]()
    assert hash(again) == hash(part)
    assert repr(again) == repr(part)
    assert "0x" not in repr(part)
    assert len(repr(part)) < 400


def test_a_repr_is_what_was_written():
    assert repr(times.logit_normal(-0.4, 1.0)) == "logit_normal(-0.4, 1.0)"
    assert repr(recipes.meanflow()[0]) == "Term(Eulerian(), logit_normal(-0.4, 1.0), weight=adaptive(1.0, 0.01, 'sum'), share=0.25)"
    names = {
        **vars(times),
        **vars(weights),
        **vars(coefficients),
        **vars(ms.objectives),
        **vars(ms.rates),
        **vars(velocities),
        "Term": ms.Term,
        "Directional": auxiliary.Directional,
    }
    for name in ("meanflow", "alpha_flow", "curriculum_meanflow", "transition"):
        recipe = RECIPES[name]()
        assert eval(repr(recipe), names) == recipe


def test_different_values_differ():
    assert times.logit_normal() != times.logit_normal(0.0)
    assert times.logit_normal() != times.instants(-0.4, 1.0)
    assert posterior() != Posterior(torch.zeros(16, 2, dtype=torch.float64))
    assert ms.rates.Exact() != ms.rates.Central()
    assert recipes.meanflow()[0] != recipes.meanflow(diagonal_share=0.5)[0]


def test_losses_averages_laws_and_results_are_values():
    torch.manual_seed(0)
    loss = ms.Loss(recipes.meanflow())
    x = torch.randn(16, 2)
    b = loss.draw(x)[0][1]
    net = ms.MLP(2, width=8)
    table = probes.moments(net, b, velocities.own)
    held = [
        loss,
        ms.Average(net),
        ms.as_field(net),
        b,
        table,
        probes.matrix(table),
        probes.curve(table),
        coefficients.Running(),
        coefficients.Climber(),
    ]
    held += [law() for law in PLANAR.values()]
    held += [ms.Gaussian(torch.zeros(2), 1.0), ms.Mixture(torch.zeros(2, 2))]
    for value in held:
        again = pickle.loads(pickle.dumps(value))
        assert repr(again) == repr(copy.deepcopy(value)) == repr(value)
        assert "0x" not in repr(value)
        assert len(repr(value)) < 1500, repr(value)
    assert repr(loss).splitlines()[0] == "Loss("
    out = loss(net, x)
    assert repr(out).startswith("Output(loss=")
    assert pickle.loads(pickle.dumps(loss))(net, x, generator=ms.key(0)).loss == loss(net, x, generator=ms.key(0)).loss


def test_a_law_draws_the_same_after_a_round_trip():
    for law in (make() for make in PLANAR.values()):
        again = pickle.loads(pickle.dumps(law))
        assert torch.equal(again.sample(8, ms.key(0)), law.sample(8, ms.key(0)))


def _spawned(rank: int, recipe: Any, out: str) -> None:
    torch.save(loss_of(recipe), out)


@pytest.mark.slow
def test_a_recipe_goes_to_another_process(tmp_path: Path):
    recipe = recipes.alpha_flow()
    torch.multiprocessing.spawn(_spawned, (recipe, str(tmp_path / "loss.pt")), nprocs=1)
    assert torch.equal(torch.load(tmp_path / "loss.pt"), loss_of(recipe))


def test_a_learned_null_of_terminal_velocity_is_a_parameter_of_the_loss():
    guidance = LabelDropout(nn.Parameter(torch.zeros(4)))
    assert len(list(ms.Loss(recipes.terminal_velocity(velocities.own, guidance)).parameters())) == 1


# Names -------------------------------------------------------------------------------------------------------------------------------


def test_the_package_lists_its_public_names_only():
    assert sorted(dir(ms)) == sorted(ms.__all__)
    found: dict[str, Any] = {}
    exec("from meanstep import *", found)
    assert set(found) - {"__builtins__"} == set(ms.__all__)


# Types -------------------------------------------------------------------------------------------------------------------------------

SNIPPET = """
import torch
import meanstep as ms
loss, net, x = ms.Loss(ms.recipes.meanflow()), ms.MLP(2), torch.randn(8, 2)
reveal_type(loss(net, x))
reveal_type(net(x, x[:, 0], x[:, 0]))
reveal_type(ms.jump(net, x))
reveal_type(ms.recipes.meanflow())
reveal_type(ms.Average(net)(x, x[:, 0], x[:, 0]))
reveal_type(ms.load("run").sample(3))
"""
REVEALED = ("criterion.Output", "Tensor", "Tensor", "terms.Term, ...", "Tensor", "Tensor")


@pytest.mark.slow
def test_a_type_checker_knows_what_is_returned(tmp_path: Path):
    (tmp_path / "snippet.py").write_text(SNIPPET)
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), str(tmp_path / "snippet.py")]
    told = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], env={"MYPYPATH": "src"}, check=False)
    found = re.findall(r'Revealed type is "(.*)"', told.stdout)
    assert len(found) == len(REVEALED), told.stdout + told.stderr
    assert all(want in line for want, line in zip(REVEALED, found, strict=True)), found


def test_what_is_called_says_what_it_returns():
    returns = {
        f: typing.get_type_hints(f)["return"] for f in (ms.Loss.forward, ms.MLP.forward, ms.Average.forward, ms.jump, ms.walk, ms.noise)
    }
    assert returns.pop(ms.Loss.forward) is ms.Output
    assert set(returns.values()) == {Tensor}
    assert all(typing.get_type_hints(recipe.load())["return"] == ms.Recipe for recipe in declared("meanstep.recipes", "method").values())


# Docstrings of recipes ---------------------------------------------------------------------------------------------------------------

ARGUMENT = re.compile(r"^- `(\w+)` \((.*?)\)[.:]? ?", re.M | re.S)


@pytest.mark.parametrize("name", declared("meanstep.recipes", "method"))
def test_a_recipe_documents_each_argument_with_its_range_and_source(name: str):
    function = getattr(recipes, name)
    items = re.split(r"^- ", inspect.getdoc(function) or "", flags=re.M)[1:]
    told = {item.split("`")[1]: item for item in items}
    assert list(told) == list(inspect.signature(function).parameters)
    for argument, item in told.items():
        facts = item[item.index("(") :].split(";")
        assert len(facts) >= 3, f"{argument}: range or unit; default; published or ours"
        assert re.search(r"published|ours", ";".join(facts[2:])), argument


def test_a_new_module_is_not_needed_to_see_a_mistake():
    for call in (lambda: ms.jump(NET, 16), lambda: ms.samplers.couplings(NET, 16)):
        with pytest.raises(TypeError, match=r"z must be a torch tensor.*got int 16: ms\.noise"):
            call()
    with pytest.raises(ValueError, match=r"z of shape \(4,\) leaves no event axis after batch_dims=1: use z\[\.\.\., None\]"):
        ms.jump(NET, torch.randn(4))
    for call in (lambda: ms.jump(ms.MLP(2), torch.randn(4, 3)), lambda: ms.Loss(recipes.meanflow())(ms.MLP(2), torch.randn(16, 3))):
        with pytest.raises(ValueError, match=r"this MLP takes points of 2 numbers"):
            call()
    with pytest.raises(RuntimeError) as failed:
        ms.jump(ms.as_field(nn.Bilinear(2, 2, 2), ("z", "z")), torch.randn(4, 3))
    assert "with z [4, 3] float32, r [4] float32" in failed.value.__notes__[0]
    with pytest.raises(TypeError, match="a probe is given a Bridge"):
        probes.moments(NET, torch.randn(4, 2), velocities.own)  # type: ignore[arg-type]


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.jit.script(nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 2)))

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return self.net(torch.cat([z, t[:, None], r[:, None]], 1))


@pytest.mark.filterwarnings("ignore:`torch.jit.script`", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_scripted_module_is_refused_with_the_remedy_at_every_step():
    net = Scripted()
    for _ in range(3):
        with pytest.raises(TypeError, match=r"net is a TorchScript module.*pass the module before torch\.jit\.script"):
            ms.Loss(recipes.meanflow())(net, torch.randn(16, 2))
    assert ms.Loss(recipes.meanflow(rate=ms.rates.Central()))(net, torch.randn(16, 2)).loss.isfinite()
