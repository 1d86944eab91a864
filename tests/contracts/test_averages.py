"""State that takes small steps: averages, moments and statistics are float32 or better, whatever the weights are."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import meanstep as ms
from meanstep import coefficients, recipes, velocities, weights
from meanstep.averages import Average
from meanstep.program.training import averages
from meanstep.program.training.optimiser import precise

LOW = (torch.bfloat16, torch.float16)


class Net(nn.Module):
    """Weights of one type, inside of which it computes; buffers of another."""

    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        generator = ms.key(0)
        self.weight = nn.Parameter(torch.randn(2, 2, generator=generator).to(kind))
        self.bias = nn.Parameter(torch.zeros(2))  # mixed: not all of it is of that type
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return (z.to(self.weight) @ self.weight).float() + self.bias


@pytest.mark.parametrize("kind", [*LOW, torch.float32, torch.float64])
@pytest.mark.parametrize("decay", [0.999, 0.9999])
def test_an_average_goes_its_share_of_the_way(kind: torch.dtype, decay: float):
    """Long after its start, towards weights that grew by 30 percent: `1 - decay^n`, in closed form."""
    net = Net(kind)
    average, start = Average(net, decay), net.weight.detach().double().clone()
    with torch.no_grad():
        net.weight.mul_(1.3)
    way = net.weight.detach().double() - start
    for step in range(100_000, 101_000):
        average.update(net, step)
    gone = (average.exact.weight.double() - start) / way
    torch.testing.assert_close(gone, torch.full_like(gone, 1 - decay**1000), rtol=2e-3, atol=1e-5)
    assert average.module.weight.dtype == kind and torch.equal(average.module.weight, average.exact.weight.to(kind))
    assert average.exact.weight.dtype == (torch.float64 if kind == torch.float64 else torch.float32)


@pytest.mark.parametrize("kind", LOW)
@pytest.mark.parametrize("name", ["0.999", "0.9999", "power-0.10"])
def test_the_programs_averages_are_those_of_float32_weights(kind: torch.dtype, name: str):
    """Weights whose every value both types hold, so that only the average's own precision counts."""
    low = Net(kind)
    high = copy.deepcopy(low)
    high.weight.data = high.weight.data.float()
    one, other = averages.Average(name, low), averages.Average(name, high)
    for step in range(1, 200):
        with torch.no_grad():
            low.weight.add_(0.01)
            high.weight.copy_(low.weight)
        one.update(low, step)
        other.update(high, step)
    assert torch.equal(one.exact.weight, other.module.weight)


def test_an_average_is_the_mean_with_its_weights_and_a_field():
    """Against torch's, which is right in float32 but for its start."""
    net = Net(torch.float32)
    average, torchs = Average(net, lambda step: 0.0 if step == 1 else 0.9), AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    z, t = torch.randn(5, 2, generator=ms.key(1)), torch.rand(5, generator=ms.key(2))
    for _ in range(10):
        with torch.no_grad():
            net.weight.add_(0.1)
            net.calls += 1
        average.update(net)
        torchs.update_parameters(net)
    assert average.steps == 10 and average.module.calls == 10
    torch.testing.assert_close(average(z, t, t), torchs(z, t, t))
    assert not any(p.requires_grad for p in average.parameters()) and not average.module.training


def test_a_fresh_average_follows_fast_at_first():
    """At most `(1 + step) / (10 + step)` is kept."""
    net = Net(torch.float32)
    average = Average(net, 0.9999)
    kept = net.weight.detach().double().clone()
    for step in range(1, 20):
        with torch.no_grad():
            net.weight.add_(1.0)
        average.update(net)
        d = (1 + step) / (10 + step)
        kept = d * kept + (1 - d) * net.weight.double()
    torch.testing.assert_close(average.module.weight.double(), kept)


@pytest.mark.parametrize("kind", LOW)
def test_an_average_is_restored_from_its_state_exactly(kind: torch.dtype):
    net = Net(kind)
    average = Average(net)
    for _ in range(5):
        with torch.no_grad():
            net.weight.add_(0.1)
        average.update(net)
    again = Average(Net(kind))
    again.load_state_dict(average.state_dict())
    for each in (average, again):
        each.update(net)
    assert torch.equal(average.exact.weight, again.exact.weight) and again.steps == 6


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan")])
def test_a_decay_out_of_range_is_refused(decay: float):
    with pytest.raises(ValueError, match=r"a decay lies in \[0, 1\), got"):
        Average(Net(torch.float32), decay)


def test_an_average_that_was_converted_is_refused():
    average = Average(Net(torch.float32))
    average.module.bfloat16()
    with pytest.raises(ValueError, match="an average steps in float32 or better"):
        average.update(Net(torch.float32))


@pytest.mark.parametrize("kind", LOW)
def test_torchs_average_of_weights_that_it_would_round_is_refused(kind: torch.dtype):
    """It stands still, as measured here: when torch mends it, this test and the refusal can go."""
    net = Net(kind)
    torchs, start = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9999)), net.weight.detach().clone()
    torchs.update_parameters(net)
    with torch.no_grad():
        net.weight.mul_(1.3)
    for _ in range(1000):
        torchs.update_parameters(net)
    assert torch.equal(torchs.module.weight, start)
    with pytest.raises(ValueError, match=r"AveragedModel averages in .* and stands still: give an ms.Average"):
        recipes.coefficient(1.0, torchs)
    assert callable(velocities.of(Average(net)))


STATES = {
    "running": lambda: coefficients.Running(2),
    "climber": coefficients.Climber,
    "cauchy": weights.Cauchy,
    "average": lambda: Average(Net(torch.float32)),
}


@pytest.mark.parametrize("kind", [*LOW, torch.float32, torch.float64])
@pytest.mark.parametrize("state", STATES)
def test_state_is_never_rounded_by_what_owns_it(state: str, kind: torch.dtype):
    """And it is raised: a run in float64 needs learned weights in float64."""
    made = STATES[state]()
    owner = nn.ModuleList([made, nn.Linear(2, 2)])
    before = {name: x.clone() for name, x in made.state_dict().items()}
    owner.to(kind)
    assert owner[1].weight.dtype == kind
    for name, x in made.state_dict().items():
        expected = torch.promote_types(before[name].dtype, kind) if x.is_floating_point() else before[name].dtype
        assert x.dtype == (torch.float32 if expected in LOW else expected)
        assert torch.equal(x.to(before[name].dtype), before[name]) or x.isnan().all()


def test_a_running_coefficient_of_a_converted_owner_still_learns():
    run = coefficients.Running(2, keep=1.0)
    nn.ModuleList([run]).bfloat16()
    b = ms.Loss(recipes.meanflow(diagonal_share=0.0)).draw(torch.randn(64, 2, generator=ms.key(3)), generator=ms.key(4))[0][1]
    for _ in range(40):
        run.observe(ms.MLP(2, 8, 1, generator=ms.key(5)), b, velocities.oracle(lambda z, t: z))
    assert run.seen.dtype == torch.float64 and run.seen.sum() == 40 * 32


@pytest.mark.parametrize("kind", LOW)
def test_an_optimiser_steps_in_float32(kind: torch.dtype):
    """The same gradients to weights of little precision and to float32 ones: the same moments and, rounded, the same weights."""
    start = torch.randn(50, generator=ms.key(6)).to(kind)
    low, high = nn.Parameter(start.clone()), nn.Parameter(start.float())
    given: Any = {"lr": 1e-5, "weight_decay": 0.1, "fused": True}
    ours, plain = precise(torch.optim.AdamW([low], **given)), torch.optim.AdamW([high], **given)
    for step in range(300):
        low.grad = torch.randn(50, generator=ms.key(7, step)).add(0.5).to(kind)
        high.grad = low.grad.float()
        ours.step()
        plain.step()
        ours.zero_grad()
    assert low.dtype == kind and torch.equal(low, high.to(kind))
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(ours.state[low][name], plain.state[high][name])
    assert torch.equal(ours.state[low]["weight"], high) and (high - start.float()).abs().max() > 1e-3


def test_an_optimiser_of_float32_weights_is_as_it_was():
    one, other = (nn.Linear(3, 3) for _ in range(2))
    other.load_state_dict(one.state_dict())
    optimisers = precise(torch.optim.AdamW(one.parameters())), torch.optim.AdamW(other.parameters())
    for net, optimiser in zip((one, other), optimisers, strict=True):
        net(torch.ones(2, 3)).sum().backward()
        optimiser.step()
    assert torch.equal(one.weight, other.weight) and set(optimisers[0].state[one.weight]) == set(optimisers[1].state[other.weight])
