"""Mistakes at the boundary: each is refused at once, by an exception that holds the offending value and says what to do."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import meanstep as ms
from meanstep import coefficients, objectives, recipes, weights
from meanstep.objectives import Eulerian, Lagrangian, Matching, Semigroup
from meanstep.rates import Backward, Central, Exact
from meanstep.terms import Term
from meanstep.velocities import Guided, LabelDropout, Posterior, conditional, mix, of, own

X = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
NET = ms.MLP(2, 8, 1, generator=torch.Generator().manual_seed(0))
MEANFLOW = recipes.meanflow()


def loss(recipe: Any = MEANFLOW, field: Any = NET, x: Any = X, y: Any = None, *, dims: int = 1, **given: Any) -> ms.Output:
    return ms.Loss(recipe, batch_dims=dims)(field, x, y, generator=torch.Generator().manual_seed(0), **given)


def refused(error: type[Exception], message: str, act: Callable[[], Any]) -> None:
    with pytest.raises(error, match=message) as found:
        act()
    assert type(found.value) is error


def test_the_setting_is_right_before_anything_is_made_wrong():
    assert loss().loss.isfinite()


# Coefficients ------------------------------------------------------------------------------------------------------------------------

HOLDERS = {
    "coefficient": (lambda c: recipes.coefficient(c, NET, anchor=0.0), "beta"),
    "coefficient's target": (lambda c: recipes.coefficient(0.0, NET, target_beta=c), "beta"),
    "mix": (lambda c: recipes.flow_matching(velocity=mix(conditional, own, c)), "beta"),
    "Exact": (lambda c: recipes.meanflow(rate=Exact(c)), "through"),
    "modular": (recipes.modular_meanflow, "through"),
    "Backward": (lambda c: recipes.meanflow(rate=Backward(c)), "ratio"),
    "alpha_flow": (recipes.alpha_flow, "ratio"),
    "solution_flow": (recipes.solution_flow, "ratio"),
    "Lagrangian": (lambda c: recipes.terminal_velocity(own, through=c), "through"),
    "Semigroup": (lambda c: (Term(Semigroup(c), MEANFLOW[0].times),), "split"),
}


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_a_number_outside_the_unit_interval(holder: str, value: float):
    make, name = HOLDERS[holder]
    refused(ValueError, rf"{name} must lie in \[0, 1\], got .*{value:g}", lambda: loss(make(value)))


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_number_is_refused_before_any_training(holder: str):
    refused(ValueError, "got 1.5", lambda: HOLDERS[holder][0](1.5))


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("value", [-0.25, 1.5, float("nan")])
def test_a_tensor_outside_the_unit_interval(holder: str, value: float):
    make, name = HOLDERS[holder]
    refused(ValueError, rf"{name} must lie in \[0, 1\], got a tensor that holds {value:g}", lambda: make(torch.tensor([0.5, value])))


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_function_with_a_value_outside_the_unit_interval(holder: str):
    make, name = HOLDERS[holder]
    refused(ValueError, rf"{name} must lie in \[0, 1\], got .*1\.7", lambda: loss(make(lambda b: 1.7)))
    refused(ValueError, rf"{name} must lie in \[0, 1\], got a tensor that holds 1\.7", lambda: loss(make(lambda b: b.t * 0 + 1.7)))


def test_schedules_and_weights_name_their_numbers():
    refused(ValueError, r"\(0, 1\], got 0", lambda: coefficients.linear(0, 1, until=0))
    refused(ValueError, r"the smaller one first, in \[0, 1\], got \(0.7, 0.2\)", lambda: coefficients.sigmoid(0.7, 0.2))
    refused(ValueError, r"the end of a geometric schedule is a positive number, got 0", lambda: coefficients.exponential(0.1, 0.0))
    refused(ValueError, r"c is a positive number, got 0", lambda: weights.adaptive(1.0, 0.0))
    refused(ValueError, r"power is a finite number of at least 0, got -1", lambda: weights.adaptive(-1.0))
    refused(ValueError, r"'sum' or 'mean', got 'median'", lambda: weights.adaptive(reduction="median"))
    refused(ValueError, r"dropped labels lies in \[0, 1\], got 1.2", lambda: LabelDropout(3, 1.2))


# Recipes -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [recipes.meanflow, MEANFLOW[0], (), None, (Eulerian(),), iter(MEANFLOW)])
def test_what_is_no_recipe(recipe: Any):
    refused(TypeError, r"a recipe is a non-empty tuple of Term, such as recipes\.meanflow\(\), got ", lambda: ms.Loss(recipe))


def test_a_list_of_terms_is_a_recipe():
    assert ms.Loss(list(MEANFLOW)).recipe == MEANFLOW


def test_shares():
    refused(ValueError, r"\(0, 1\], got 0", lambda: Term(Matching(), None, share=0))
    refused(ValueError, r"\(0, 1\], got 1.5", lambda: Term(Matching(), None, share=1.5))
    refused(ValueError, r"r = t rows lies in \[0, 1\], got 1.2", lambda: recipes.meanflow(diagonal_share=1.2))
    over = (Term(Matching(), MEANFLOW[1].times, share=0.7), Term(Matching(), MEANFLOW[1].times, share=0.7))
    refused(ValueError, r"term 1 \(share 0\.7\) runs over the end of the batch", lambda: loss(over))
    refused(ValueError, r"at least 0, got -1", lambda: recipes.coefficient(1.0, NET, anchor=-1))


@pytest.mark.parametrize("rows", [0, 1])
def test_a_batch_too_small_for_a_term(rows: int):
    refused(ValueError, rf"a batch of {rows} leaves term 0 \(share 0\.25\) without a row: use at least 4 rows", lambda: loss(x=X[:rows]))


def test_the_number_of_rows_that_is_named_is_enough():
    for recipe in (MEANFLOW, recipes.transition(), recipes.shortcut(NET), recipes.coefficient(1.0, NET, anchor_share=0.1)):
        with pytest.raises(ValueError, match="without a row") as found:
            loss(recipe, x=X[:0])
        named = max(-int(-1 // term.share) for term in recipe)
        assert "use at least" in str(found.value)
        for rows in range(named, named + 40):
            assert loss(recipe, x=torch.zeros(rows, 2)).loss.isfinite()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: recipes.coefficient(1.0), r"coefficient with beta > 0 needs a proxy velocity: pass the module \(an EMA copy"),
        (lambda: recipes.coefficient(lambda b: b.t), r"coefficient with beta > 0 needs a proxy"),
        (lambda: recipes.coefficient(torch.zeros(2)), r"coefficient with beta > 0 needs a proxy"),
        (lambda: recipes.coefficient(0.0, target_beta=0.5), r"coefficient with beta > 0 needs a proxy"),
        (recipes.terminal_velocity, r"terminal_velocity needs the velocity at the arrival point: pass the module \(an EMA copy"),
        (lambda: recipes.split_meanflow(None), r"split_meanflow needs a teacher: pass the module"),  # type: ignore[arg-type]
        (recipes.shortcut, r"shortcut needs the field that makes the half jumps: pass by=ema \(an EMA copy"),
    ],
)
def test_a_recipe_without_the_field_it_needs(make: Callable[[], Any], message: str):
    refused(ValueError, message, make)


def test_a_proxy_that_is_no_field():
    refused(TypeError, r"comes from a field \(z, r, t, y\) -> u such as an EMA copy of the network, got 3", lambda: of(3))  # type: ignore[arg-type]


@pytest.mark.parametrize("recipe", [recipes.improved_meanflow(), recipes.pixel_meanflow()])
@pytest.mark.parametrize("field", [NET, lambda z, r, t, y: z, ms.as_field(NET, ("z", "r", "t"))], ids=["MLP", "function", "Adapted"])
def test_a_recipe_without_the_head_it_needs(recipe: Any, field: Any):
    name = type(field).__name__
    refused(TypeError, rf"auxiliary velocity head, and {name} has no method head.*as_field\(net, head=", lambda: loss(recipe, field))


@pytest.mark.parametrize(
    "recipe",
    [
        recipes.alpha_flow(),
        recipes.modular_meanflow(),
        recipes.curriculum_meanflow(),
        recipes.solution_flow(),
        recipes.coefficient(coefficients.linear(0, 1), NET),
    ],
)
def test_a_schedule_without_progress(recipe: Any):
    refused(ValueError, r"follows a schedule: call the loss with progress=samples_seen / total_samples", lambda: loss(recipe))


@pytest.mark.parametrize("progress", [-0.1, 1.1, float("nan")])
def test_progress_outside_the_unit_interval(progress: float):
    refused(ValueError, rf"in \[0, 1\], got {progress:g}", lambda: loss(progress=progress))
    refused(ValueError, rf"in \[0, 1\], got {progress:g}", lambda: loss(progress=torch.tensor(progress)))


def test_progress_on_a_device_is_not_read_back():
    """The meta device has no number to read."""
    b = ms.Loss(recipes.meanflow(), check=False).draw(torch.zeros(8, 2, device="meta"), progress=torch.zeros((), device="meta"))[0][1]
    assert b.progress.is_meta


@pytest.mark.parametrize(
    "recipe",
    [
        recipes.meanflow(velocity=Guided(conditional, LabelDropout(3))),
        recipes.flow_matching(velocity=Guided(conditional, LabelDropout(3), omega=1.0, kappa=0.0)),
        recipes.improved_meanflow(own, LabelDropout(3)),
        recipes.terminal_velocity(own, LabelDropout(3)),
    ],
)
def test_guidance_without_labels(recipe: Any):
    refused(ValueError, r"need a condition: call the loss with y=", lambda: loss(recipe))


def test_randomness_without_uniforms():
    b = ms.Bridge(X, X, torch.zeros(8), torch.ones(8))
    refused(ValueError, r"aux=torch\.rand\(\*t\.shape, 4\) or draw it with Loss\.draw", lambda: Semigroup(objectives.random_split)(NET, b))


# Data --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.complex64, torch.bool])
def test_data_of_another_dtype(dtype: torch.dtype):
    refused(TypeError, rf"float32 or float64, got {dtype}: convert it, and use torch\.autocast", lambda: loss(x=X.to(dtype)))


@pytest.mark.parametrize("x", [X.numpy(), X.tolist(), None])
def test_data_that_are_no_tensor(x: Any):
    refused(TypeError, rf"data must be a torch tensor, got {type(x).__name__}", lambda: loss(x=x))


def test_data_without_batch_axes():
    refused(ValueError, r"data of shape \(8, 2\) leaves no event axis after batch_dims=3", lambda: loss(dims=3))
    refused(ValueError, r"at least one batch axis, got batch_dims=0", lambda: loss(dims=0))


def test_conditions_that_do_not_fit():
    refused(ValueError, r"condition of shape \(3,\) does not start with the batch shape \(8,\)", lambda: loss(y=torch.zeros(3)))
    refused(ValueError, r"condition of shape \(\) does not start", lambda: loss(y={"label": torch.tensor(1)}))
    refused(TypeError, r"a tensor, or a tuple, list or dict of tensors, got int 1", lambda: loss(y=[1] * 8))
    refused(TypeError, r"got str 'cat'", lambda: loss(y=["cat"] * 8))


def test_noise_that_does_not_match():
    refused(ValueError, r"match the data: \(8, 2\) torch.float32, got \(4, 2\) torch.float32", lambda: loss(noise=X[:4]))
    refused(ValueError, r"match the data: \(8, 2\) torch.float32, got \(8, 2\) torch.float64", lambda: loss(noise=X.double()))


def test_masks_that_do_not_match():
    message = r"mask must be boolean and cover leading axes of \(8, 2\), got "
    refused(ValueError, message + r"\(8,\) torch.float32", lambda: loss(mask=torch.ones(8)))
    refused(ValueError, message + r"\(4,\) torch.bool", lambda: loss(mask=torch.ones(4, dtype=torch.bool)))
    refused(ValueError, message + r"\(8, 2, 1\) torch.bool", lambda: loss(mask=torch.ones(8, 2, 1, dtype=torch.bool)))
    refused(ValueError, message + r"\(\) torch.bool", lambda: loss(mask=torch.tensor(True)))


@pytest.mark.parametrize(
    ("r", "t"), [(0.7, 0.3), (-0.1, 0.5), (0.5, 1.1), (float("nan"), 0.5), (0.5, float("nan"))], ids=["r > t", "r < 0", "t > 1", "r", "t"]
)
def test_times_out_of_order(r: float, t: float):
    def times(shape: tuple[int, ...], g: Any) -> tuple[Tensor, Tensor]:
        late, early = torch.full(shape, 0.9), torch.full(shape, 0.1)
        early[1], late[1] = r, t
        return early, late

    refused(ValueError, rf"0 <= r <= t <= 1, got r={r:g}, t={t:g} in row 1", lambda: loss(recipes.meanflow(times)))


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 1)], ids=str)
def test_times_of_another_shape(shape: tuple[int, ...]):
    """Shapes () and (1,) would broadcast: every row would get the same time."""
    refused(
        ValueError,
        rf"asked for shape \(2,\) and returned r \({', '.join(map(str, shape))},?\)",
        lambda: loss(recipes.meanflow(lambda _, g: (torch.zeros(shape), torch.ones(shape)))),
    )


def test_a_reference_of_another_shape():
    recipe = recipes.flow_matching(velocity=Posterior(torch.zeros(5, 3)))
    refused(ValueError, r"rows of shape \(3,\), the batch \(2,\)", lambda: loss(recipe))


def test_a_reference_without_rows():
    refused(ValueError, "at least one reference", lambda: Posterior(torch.empty(0, 2)))


# Velocities --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [Exact(), Exact(0.5), Backward(0.1), Central()], ids=str)
def test_a_tangent_of_another_shape(rate: Any):
    """It would broadcast in a difference."""
    term = Term(Eulerian(tangent=lambda f, b: b.v[:, :1], rate=rate), MEANFLOW[0].times)
    refused(ValueError, r"the tangent velocity has shape \(8, 1\) for samples of shape \(8, 2\)", lambda: loss((term,)))


@pytest.mark.parametrize(
    "make", [Matching, lambda v: Eulerian(target=v), lambda v: Lagrangian(arrival=v)], ids=["Matching", "Eulerian", "Lagrangian"]
)
def test_a_target_of_another_shape(make: Callable[..., Any]):
    """It would broadcast in the error."""
    term = Term(make(lambda f, b: torch.zeros(8, 1)), MEANFLOW[0].times)
    refused(ValueError, r"the target velocity has shape \(8, 1\) for samples of shape \(8, 2\)", lambda: loss((term,)))


# Fields ------------------------------------------------------------------------------------------------------------------------------

RECIPES = {
    "matching": recipes.flow_matching(),
    "eulerian": recipes.meanflow(),
    "recorded": recipes.meanflow(rate=Exact(1.0)),
    "difference": recipes.meanflow(rate=Central()),
    "lagrangian": recipes.terminal_velocity(own),
    "semigroup": recipes.split_meanflow(),
}
every_recipe = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


@every_recipe
@pytest.mark.parametrize(
    ("field", "shape"),
    [
        (lambda z, r, t, y: z[:, :1] * t[:, None], r"\(\d+, 1\)"),
        (lambda z, r, t, y: torch.cat([z, z], -1) * t[:, None], r"\(\d+, 4\)"),
        (lambda z, r, t, y: (z * t[:, None]).sum(-1), r"\(\d+,\)"),
        (lambda z, r, t, y: (z * t[:, None])[..., None], r"\(\d+, 2, 1\)"),
    ],
    ids=["one column", "both twice", "no column", "another axis"],
)
def test_a_field_that_returns_another_shape(recipe: Any, field: Any, shape: str):
    refused(
        ValueError, rf"returned shape {shape} for samples of shape \(\d+, 2\): .* one velocity per entry of z", lambda: loss(recipe, field)
    )


@every_recipe
@pytest.mark.parametrize("out", [lambda z: (z, z), lambda z: {"sample": z}, lambda z: None], ids=["tuple", "dict", "None"])
def test_a_field_that_returns_no_tensor(recipe: Any, out: Callable[[Tensor], Any]):
    name = type(out(X)).__name__
    refused(TypeError, rf"returned a {name}, not a tensor: .*as_field\(net, output=", lambda: loss(recipe, lambda z, r, t, y: out(z)))


class Wrong(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return self.layer(x) * timestep[:, None]


@every_recipe
def test_a_field_with_another_signature(recipe: Any):
    refused(
        TypeError, r"called as field\(z, r, t, y\), and Wrong takes \(x: .*timestep: .*ms\.as_field\(net, ", lambda: loss(recipe, Wrong())
    )
    refused(TypeError, r"and function takes \(z, r, t\): adapt it, e\.g\. ms\.as_field", lambda: loss(recipe, lambda z, r, t: z))


@every_recipe
def test_a_network_of_another_dtype(recipe: Any):
    net = ms.as_field(nn.Linear(2, 2).double(), ("z",))
    refused(TypeError, r"weights are torch.float64 and the data torch.float32: convert one", lambda: loss(recipe, net))
    half = ms.MLP(2, 8, 1).bfloat16()
    refused(
        TypeError, r"weights are torch.bfloat16 and the data torch.float32: convert one, or use torch.autocast", lambda: loss(recipe, half)
    )


@every_recipe
def test_a_network_that_fails_by_itself_keeps_its_own_error(recipe: Any):
    def field(z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        raise KeyError("mine")

    refused(KeyError, "mine", lambda: loss(recipe, field))

    def mismatched(z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return z @ torch.zeros(5, 2)

    refused(RuntimeError, "mat1 and mat2 shapes cannot be multiplied", lambda: loss(recipe, mismatched))


@every_recipe
@pytest.mark.parametrize("field", [3, torch.add], ids=["number", "built-in"])
def test_what_is_no_field_at_all(recipe: Any, field: Any):
    with pytest.raises(TypeError, match=r"not callable|arguments"):
        loss(recipe, field)


# Networks without forward mode -------------------------------------------------------------------------------------------------------


class Square(torch.autograd.Function):
    """An old-style function: a gradient and no forward mode."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * g * ctx.saved_tensors[0]


class Cube(torch.autograd.Function):
    """A new-style function, without forward mode as well."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**3

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 3 * g * ctx.saved_tensors[0] ** 2


class Layer(nn.Module):
    def __init__(self, f: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x)


class Buffered(nn.Module):
    """Writes what it sees into a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.last.copy_(x.mean(0))
        return x - self.last


def network(layer: nn.Module) -> nn.Module:
    body = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.SiLU(), layer), nn.Linear(4, 2))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body

        def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
            return self.body(torch.cat([z, t[:, None]], -1))

    return Net()


LAYERS = {
    "BatchNorm1d": lambda: nn.BatchNorm1d(4),
    "SyncBatchNorm free running": lambda: nn.BatchNorm1d(4, track_running_stats=True, momentum=None),
    "old autograd.Function": lambda: Layer(Square.apply),
    "new autograd.Function": lambda: Layer(Cube.apply),
    "numpy": lambda: Layer(lambda x: x + torch.from_numpy(x.detach().numpy())),
    "reentrant checkpoint": lambda: Layer(lambda x: checkpoint(nn.functional.silu, x, use_reentrant=True)),
    "buffer": Buffered,
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", ["eulerian", "recorded", "lagrangian"])
def test_a_layer_without_forward_mode_is_named_with_the_remedy(layer: str, name: str):
    made = LAYERS[layer]()
    message = (
        rf"no derivative in body\.1\.1 \({type(made).__name__}\): .*(GroupNorm|plain operations).*rate=Central\(\) or Backward\(0\.1\)"
    )
    refused(TypeError, message, lambda: loss(RECIPES[name], network(made)))


@pytest.mark.parametrize("layer", [name for name in LAYERS if name not in ("numpy", "reentrant checkpoint")])
@pytest.mark.parametrize("rate", [Central(), Backward(0.1)], ids=str)
def test_the_remedy_works(layer: str, rate: Any):
    out = loss(recipes.meanflow(rate=rate), network(LAYERS[layer]()))
    out.loss.backward()
    assert out.loss.isfinite()


def test_batch_norm_in_eval_mode_has_a_derivative():
    assert loss(field=network(nn.BatchNorm1d(4)).eval()).loss.isfinite()


def test_a_function_without_forward_mode_is_refused_too():
    refused(TypeError, r"no derivative in the network: .*rate=Central", lambda: loss(field=lambda z, r, t, y: Cube.apply(z)))


def test_the_diagnosis_leaves_the_network_as_it_was():
    net = network(Layer(Cube.apply))
    refused(TypeError, "no derivative", lambda: loss(field=net))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert torch.backends.mha.get_fastpath_enabled()


# Numbers that are not finite ---------------------------------------------------------------------------------------------------------


class Exploding(nn.Module):
    """Not finite on long jumps."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value, self.scale = value, nn.Parameter(torch.ones(()))

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return torch.where((t - r > 0.3)[:, None], self.value, self.scale * z)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_that_is_not_finite_is_caught_with_its_rows(value: float):
    def times(shape: tuple[int, ...], g: Any) -> tuple[Tensor, Tensor]:
        return torch.tensor([0.5, 0.125]), torch.tensor([0.625, 0.875])

    with pytest.raises(FloatingPointError) as found:
        loss(recipes.meanflow(times, diagonal_share=0.0), Exploding(value), X[:2])
    message = str(found.value)
    assert "the loss is not finite" in message and "term 0, row 1: r=0.125, t=0.875" in message
    assert "row 0" not in message and "tangent rms=" in message
    assert "look at the data, the learning rate and metrics['change_ratio']" in message


def test_rows_of_an_ensemble_are_named_by_member_and_row():
    x = torch.zeros(3, 4, 2)
    x[2, 1] = float("nan")
    net = ms.MLP(2, 8, 1, members=(3,))
    refused(FloatingPointError, r"row \(2, 1\): r=0\.\d+, t=0\.\d+", lambda: loss(recipes.flow_matching(), net, x, dims=2))


def test_at_most_four_rows_are_named():
    with pytest.raises(FloatingPointError) as found:
        loss(x=X * float("nan"))
    assert str(found.value).count(", row ") == 4


def test_a_weight_that_is_not_finite():
    recipe = recipes.flow_matching(weight=lambda error, b: error / 0)
    refused(FloatingPointError, r"term 0, row 0: .*, its weight gives inf", lambda: loss(recipe))


def test_without_the_check_nothing_is_repaired():
    out = ms.Loss(MEANFLOW, check=False)(NET, X * float("nan"))
    assert out.loss.isnan()
