"""What `Loss` reports, against values worked out by hand on rows made by hand; and laws of parts that only show in details."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import meanstep as ms
from meanstep import coefficients, recipes, samplers, velocities, weights
from meanstep.objectives import Eulerian, Matching
from meanstep.velocities import LabelDropout, Posterior

F = torch.float64


class Still(torch.nn.Module):
    """`u = c + a t` in every entry: its derivative along any tangent is `a`, so `(t - r) D_t u = a (t - r)`."""

    def __init__(self, c: float = 2.0, a: float = 3.0) -> None:
        super().__init__()
        self.c, self.a = torch.nn.Parameter(torch.tensor(c, dtype=F)), a

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return (self.c + self.a * t)[:, None].expand_as(z)

    def head(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return torch.zeros_like(z) * self.c


def fixed(r: list[float], t: list[float]):
    return lambda shape, g: (torch.tensor(r, dtype=F), torch.tensor(t, dtype=F))


ZEROS = {"x": torch.zeros(6, 2, dtype=F), "noise": torch.zeros(6, 2, dtype=F)}  # z = v = 0: the residual is the prediction
GAP, DIAGONAL = fixed([0.1, 0.1, 0.0], [0.2, 0.5, 0.9]), fixed([0.3, 0.5, 0.7], [0.3, 0.5, 0.7])
MOVING = [2 + 3 * t + 3 * (t - r) for r, t in ((0.1, 0.2), (0.1, 0.5), (0.0, 0.9))]  # 2.9, 4.7, 7.4
STILL = [2 + 3 * t for t in (0.3, 0.5, 0.7)]


def squares(*values: float) -> list[float]:
    return [value**2 for value in values]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_residuals_are_split_by_what_was_regressed_and_by_gap():
    recipe = (ms.Term(Eulerian(), GAP, share=0.5), ms.Term(Matching(), DIAGONAL, share=0.5))
    out = ms.Loss(recipe)(Still(), **ZEROS)
    expected = {
        "residual": mean(squares(*MOVING, *STILL)),
        "residual_diagonal": mean(squares(*STILL)),
        "residual_gap": mean(squares(*MOVING)),
        "residual_gap_0.25": MOVING[0] ** 2,
        "residual_gap_0.5": MOVING[1] ** 2,
        "residual_gap_0.75": math.nan,
        "residual_gap_1": MOVING[2] ** 2,
        "change_ratio": math.sqrt(mean(squares(0.3, 1.2, 2.7)) / mean(squares(2.6, 3.5, 4.7))),
        "tangent_rms": 0.0,
        "tangent_noise": 0.0,
        "saturated": 0.0,
        "effective_rows": sum([*MOVING, *STILL]) ** 2 / (6 * sum(squares(*MOVING, *STILL))),
    }
    assert set(out.metrics) == set(expected)
    for name, value in expected.items():
        assert out.metrics[name].item() == pytest.approx(value, rel=1e-12, nan_ok=True), name
    assert out.loss.item() == pytest.approx(mean(squares(*MOVING, *STILL)))


def test_the_tangents_size_is_its_root_mean_square_on_moving_rows():
    recipe = (ms.Term(Eulerian(), fixed([0.1, 0.5], [0.6, 0.5])),)
    data, noise = torch.tensor([[0.0, 0.0], [5.0, 5.0]], dtype=F), torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=F)
    assert ms.Loss(recipe)(Still(), data, noise=noise).metrics["tangent_rms"].item() == pytest.approx(math.sqrt(12.5))


def test_the_noise_that_a_proxy_keeps_out_is_the_conditional_velocitys_distance_from_it():
    """Row 1 does not move; row 0 has `v_c = (3, 4)` and the proxy says (1, 1)."""
    data, noise = torch.zeros(2, 2, dtype=F), torch.tensor([[3.0, 4.0], [9.0, 9.0]], dtype=F)
    for proxy, expected in ((lambda f, b: torch.ones_like(b.z), (2**2 + 3**2) / 2), (lambda f, b: b.v, 0.0)):
        recipe = (ms.Term(Eulerian(tangent=proxy), fixed([0.1, 0.5], [0.6, 0.5])),)
        assert ms.Loss(recipe)(Still(), data, noise=noise).metrics["tangent_noise"].item() == pytest.approx(expected)


def test_rows_near_the_diagonal_that_match_the_velocity_are_no_gap_rows():
    """The anchor and the head have `r < t` but regress on the velocity itself: they must not dilute the gap residual."""
    plain = (ms.Term(Eulerian(), GAP, share=0.5), ms.Term(Matching(), DIAGONAL, share=0.5))
    anchored = (*plain, ms.Term(Matching(), fixed([0.89, 0.79, 0.69], [0.9, 0.8, 0.7]), share=0.5, scale=0.5))
    headed = (*plain, ms.Term(Matching(read=velocities.auxiliary), None))
    base = ms.Loss(plain)(Still(), **ZEROS).metrics
    for recipe in (anchored, headed):
        found = ms.Loss(recipe)(Still(), **ZEROS).metrics
        for name in ("residual_gap", "residual_gap_0.25", "residual_gap_1"):
            assert found[name] == base[name]
    assert ms.Loss(anchored)(Still(), **ZEROS).metrics["residual_diagonal"].item() == pytest.approx(mean(squares(*STILL, 4.7, 4.4, 4.1)))
    assert ms.Loss(headed)(Still(), **ZEROS).metrics["residual_head"] == 0
    assert ms.Loss(headed)(Still(), **ZEROS).metrics["residual_diagonal"] == base["residual_diagonal"]


def test_saturation_counts_weights_below_a_tenth_of_their_largest():
    """`q / (q + c)` has slope `c / (q + c)` of its value at 0: below a tenth where `q > 9 c`."""
    for c, expected in ((2.9**2 / 8, 2 / 3), (2.9**2 / 10, 1.0), (1e3, 0.0)):
        recipe = (ms.Term(Eulerian(), GAP, weights.adaptive(1.0, c, "mean")),)
        data = {name: value[:3] for name, value in ZEROS.items()}
        assert ms.Loss(recipe)(Still(), **data).metrics["saturated"].item() == pytest.approx(expected), c


def test_effective_rows_see_what_a_term_counts_for():
    def effective(scale: float) -> float:
        recipe = (ms.Term(Matching(), DIAGONAL, share=0.5), ms.Term(Matching(), DIAGONAL, share=0.5, scale=scale))
        return ms.Loss(recipe)(Still(a=0.0), **ZEROS).metrics["effective_rows"].item()

    assert effective(0.5) == pytest.approx(1.0)  # as many rows, each counting like the others
    assert effective(1e6) == pytest.approx(0.5, rel=1e-5)  # half of the rows decide alone


def test_rows_without_an_entry_count_in_no_metric_and_no_loss():
    mask = torch.tensor([True, True, True, True, False, False])
    recipe = (ms.Term(Matching(), fixed([0.3] * 6, [0.3] * 6), weights.Cauchy().double()),)
    loss = ms.Loss(recipe)
    out = loss(Still(), **ZEROS, mask=mask)
    assert out.metrics["residual"].item() == pytest.approx(2.9**2)
    assert out.metrics["effective_rows"].item() == pytest.approx(1.0)
    empty = loss(Still(), **ZEROS, mask=torch.zeros(6, dtype=torch.bool))
    empty.loss.backward()
    assert empty.loss == 0 and all(p.grad is None or not p.grad.any() for p in loss.parameters())


def test_a_bad_row_is_named_by_its_place_in_the_batch():
    data = {**ZEROS, "x": torch.where(torch.arange(6)[:, None] == 4, math.nan, ZEROS["x"])}
    recipe = (ms.Term(Eulerian(), GAP, share=0.5), ms.Term(Matching(), DIAGONAL, share=0.5))
    with pytest.raises(FloatingPointError, match=r"term 1, row 4: r=0\.5, t=0\.5"):
        ms.Loss(recipe)(Still(), **data)


# --- details


def test_a_posterior_under_a_mask_compares_the_rows_own_entries():
    g = torch.Generator().manual_seed(0)
    x, e, references = (torch.randn(n, 5, 2, generator=g, dtype=F) for n in (4, 4, 9))
    t = torch.full((4,), 0.6, dtype=F)
    mask = torch.arange(5) < torch.tensor([5, 3, 2, 4])[:, None]
    x, bridge = torch.where(mask[..., None], x, 0.0), []
    z, v = 0.4 * x + 0.6 * e, e - x
    whole = Posterior(references)(None, ms.Bridge(z, v, t, t, mask=mask))  # type: ignore[arg-type]
    for i, length in enumerate((5, 3, 2, 4)):
        cut = (slice(i, i + 1), slice(length))
        bridge = ms.Bridge(z[cut], v[cut], t[:1], t[:1])
        alone = Posterior(references[:, :length])(None, bridge)  # type: ignore[arg-type]
        torch.testing.assert_close(whole[cut], alone, rtol=1e-10, atol=1e-10)


def test_a_posterior_in_float32_is_right_at_small_times():
    g = torch.Generator().manual_seed(1)
    x, e, references = (10 * torch.randn(64, 3, generator=g), torch.randn(64, 3, generator=g), 10 * torch.randn(500, 3, generator=g))
    t = torch.full((64,), 3e-3)
    z = 0.997 * x + 3e-3 * e

    def found(dtype: torch.dtype) -> Tensor:
        return Posterior(references.to(dtype))(None, ms.Bridge(z.to(dtype), (e - x).to(dtype), t.to(dtype), t.to(dtype)))  # type: ignore[arg-type]

    torch.testing.assert_close(found(torch.float32).double(), found(F), rtol=1e-3, atol=2e-2)


@pytest.mark.parametrize("basis", [None, torch.eye(3)])
def test_autocast_does_not_reach_a_posterior(basis: Tensor | None):
    g = torch.Generator().manual_seed(1)
    x, e, references = torch.randn(64, 3, generator=g), torch.randn(64, 3, generator=g), torch.randn(100, 3, generator=g)
    t = torch.full((64,), 0.1)
    b, velocity = ms.Bridge(0.9 * x + 0.1 * e, e - x, t, t), Posterior(references, dtype=torch.float32, basis=basis)
    plain = velocity(None, b)  # type: ignore[arg-type]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(velocity(None, b), plain)  # type: ignore[arg-type]


def test_autocast_does_not_reach_the_scale_of_the_cauchy_weight():
    weight, b = weights.Cauchy(), ms.Bridge(*torch.rand(2, 8, 2), *torch.rand(2, 8).sort(0).values)
    torch.nn.init.normal_(weight.log_scale.weight, generator=torch.Generator().manual_seed(0))
    plain = weight(torch.ones(8), b)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(weight(torch.ones(8), b), plain)


def test_a_posterior_with_labels_says_what_it_needs():
    recipe = recipes.flow_matching(velocity=Posterior(torch.zeros(5, 2), torch.zeros(5, dtype=torch.int64)))
    with pytest.raises(ValueError, match="call the loss with y=labels"):
        ms.Loss(recipe)(ms.MLP(2, 8, 1), torch.zeros(4, 2))


@pytest.mark.parametrize(("begin", "end"), [(0.0, 1.0), (0.5, 0.8)])
def test_the_sigmoid_curriculum_falls_between_its_ends(begin: float, end: float):
    schedule = coefficients.sigmoid(begin, end)

    def value(progress: float) -> float:
        z = torch.zeros(1, 1)
        return schedule(ms.Bridge(z, z, z[0], z[0], progress=progress))

    assert value(begin) == 1 and value(end) == 0 and value((begin + end) / 2) == pytest.approx(0.5)
    quarter = begin + 0.4 * (end - begin)
    assert value(quarter) == pytest.approx(1 / (1 + math.exp(25 * -0.1)), rel=1e-9)
    schedule = coefficients.sigmoid(begin, end, steepness=1e4)
    assert value(begin) == 1 and value(end) == 0 and value(quarter) == 1


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_the_flexible_scale_has_its_density(power: float):
    """Density `omega^-power` on [1, 8]: the distribution function at the scale drawn is the uniform it was drawn from."""
    u = torch.linspace(0, 1, 11, dtype=F)
    aux = torch.zeros(11, 4, dtype=F)
    aux[:, 1] = u
    z = torch.zeros(11, 1, dtype=F)
    omega = velocities.flexible_scale(8.0, power)(ms.Bridge(z, z, z[:, 0], z[:, 0] + 0.5, torch.zeros(11), aux=aux)).y.omega
    cdf = omega.log() / math.log(8) if power == 1 else (1 - omega ** (1 - power)) / (1 - 8 ** (1 - power))
    torch.testing.assert_close(cdf, u)


def test_couplings_take_32_steps_by_default():
    calls = []

    def field(z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        calls.append(t[0].item())
        return z

    samplers.couplings(field, torch.randn(2, 3, generator=torch.Generator().manual_seed(0)))
    assert len(calls) == 64  # Heun: two evaluations a step


def test_samplers_know_ensembles():
    net = ms.MLP(2, 8, 1, members=(3,), generator=ms.key(0, "net"))
    e = torch.randn(3, 16, 2, generator=ms.key(0, "noise"))
    whole = ms.walk(net, e, samplers.grid(2), batch_dims=2)
    single = ms.MLP(2, 8, 1)
    single.load_state_dict({name: value[1] for name, value in net.state_dict().items()})
    torch.testing.assert_close(whole[1], ms.walk(single, e[1], samplers.grid(2)))


# --- mistakes that a review found to be unclear


def loss(recipe: Any, net: Any = None, **given: Any) -> Any:
    return ms.Loss(recipe)(net or ms.MLP(2, 8, 1), torch.zeros(8, 2), **given)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: recipes.coefficient(1.0, ms.Gaussian(torch.zeros(2))), "pass velocities.of"),
        (lambda: recipes.terminal_velocity(lambda z, r, t, y: z), "pass velocities.of"),
        (lambda: recipes.shortcut(3), "half jumps.*got 3"),
        (lambda: recipes.improved_meanflow(guidance=4.0), "guidance is a velocities.LabelDropout"),
        (lambda: recipes.terminal_velocity(velocities.own, guidance=True), "guidance is a velocities.LabelDropout"),
        (lambda: recipes.coefficient("half", velocities.own), "beta is a number.*got 'half'"),
        (lambda: loss(recipes.alpha_flow(lambda b: b.gap - b.gap, diagonal_share=0.0)), "must be positive, got 0"),
        (lambda: recipes.split_meanflow(velocities.Guided(velocities.conditional, LabelDropout(3))), "use a guided teacher field"),
        (lambda: velocities.floored(velocities.Guided(velocities.conditional, LabelDropout(3))), "floor the velocity inside"),
        (lambda: ms.key(0, 0.25), "float"),
        (lambda: weights.times_factor(weights.Cauchy(), lambda b: 2.0), "its parameters are lost"),
        (lambda: ms.Loss((ms.Term(Matching(), None),)), "first term of a recipe must draw times"),
        (lambda: loss(recipes.coefficient(torch.zeros(3), velocities.own)), r"shape \(3,\) does not fit"),
        (lambda: loss(recipes.meanflow(), generator=0), "must be a torch.Generator such as"),
        (lambda: ms.Loss(recipes.meanflow())(ms.MLP(2), torch.zeros(8)), "leaves no event axis"),
        (lambda: ms.Loss(recipes.meanflow())(torch.zeros(8, 2), ms.MLP(2)), r"the call is loss\(field, x, y\)"),
        (lambda: loss(recipes.meanflow(), lambda z, r, t, y: z.add_(1.0)), "changes its input z in place"),
        (lambda: ms.walk(ms.MLP(2), torch.zeros(3, 2), 4), r"samplers.grid\(4\)"),
        (lambda: ms.noise(4, (2,)), r"noise\(range\(4\), shape\)"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(mistake: Any, message: str):
    with pytest.raises((TypeError, ValueError), match=message):
        mistake()


def test_an_ema_copy_of_a_network_with_other_arguments():
    class Theirs(torch.nn.Linear):
        def forward(self, x: Tensor, time: Tensor) -> Tensor:
            return super().forward(x) * time[:, None]

    from torch.optim.swa_utils import AveragedModel

    net = ms.as_field(Theirs(2, 2), ("z", "t"))
    assert loss(recipes.coefficient(1.0, AveragedModel(net)), net).loss.isfinite()
    with pytest.raises(TypeError, match=r"ms.Average\(ms.as_field\(net, ...\)\)"):
        loss(recipes.coefficient(1.0, AveragedModel(Theirs(2, 2))), net)


@pytest.mark.parametrize(
    "make",
    [
        lambda v: recipes.flow_matching(velocity=v),
        lambda v: recipes.meanflow(velocity=v),
        lambda v: recipes.coefficient(1.0, velocities.own, velocity=v),
        lambda v: recipes.improved_meanflow(velocities.own, velocity=v),
        lambda v: recipes.alpha_flow(0.4, velocity=v),
        lambda v: recipes.rectified_meanflow(velocity=v),
        lambda v: recipes.decoupled_meanflow(velocity=v),
        lambda v: recipes.solution_flow(0.1, velocity=v),
        lambda v: recipes.transition(target=v),
    ],
)
def test_guidance_hides_the_dropped_labels_by_itself(make: Any):
    seen = []

    class Seeing(ms.MLP):
        def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
            seen.append((torch.is_grad_enabled(), y))
            return super().forward(z, r, t, y)

    net, labels = Seeing(2, 8, 1, classes=3), torch.arange(200) % 3
    recipe = make(velocities.Guided(velocities.conditional, LabelDropout(3, 0.5), omega=2.0, kappa=0.0))
    ms.Loss(recipe)(net, torch.zeros(200, 2), labels, generator=ms.key(0, "drop"))
    with_gradient = torch.cat([y for grad, y in seen if grad])
    assert 0.35 < (with_gradient == 3).double().mean() < 0.65  # 200 rows at 0.5: four standard deviations are 0.14


def test_numpy_numbers_are_numbers():
    assert loss(recipes.coefficient(np.float32(0.5), velocities.own)).loss.isfinite()
    assert ms.key(0, np.int64(3)).initial_seed() == ms.key(0, 3).initial_seed()


@pytest.mark.parametrize("recipe", [recipes.flow_matching(), recipes.meanflow(), recipes.split_meanflow()])
def test_a_validation_loss_under_inference_mode(recipe: Any):
    net, x = ms.MLP(2, 8, 1), torch.ones(8, 2)
    with torch.inference_mode():
        found = ms.Loss(recipe)(net, x, generator=ms.key(0, "v"))
    expected = ms.Loss(recipe)(net, x, generator=ms.key(0, "v"))
    torch.testing.assert_close(found.loss, expected.loss.detach())
    assert found.metrics["residual"] == expected.metrics["residual"]


@pytest.mark.slow
def test_a_compiled_owner_needs_no_generator_for_any_number_of_rows():
    torch.manual_seed(0)
    net = ms.MLP(2, 8, 1)

    class Owner(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.loss = net, ms.Loss(recipes.meanflow(), check=False, measure=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.loss(self.net, x).loss

    owner = torch.compile(Owner(), backend="aot_eager", fullgraph=True)
    for n in (16, 32):
        owner(torch.zeros(n, 2)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
