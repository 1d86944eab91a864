"""What only an accelerator can show: devices of noise and generators, dropout aligned between passes, bf16 under CUDA's kernels."""

import pytest
import torch
from torch import Tensor, nn

import meanstep as ms
from meanstep import recipes, velocities
from meanstep.fields import DiT
from meanstep.tangents import carried, separate

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]


class Net(nn.Module):
    """Fused attention and dropout."""

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.inside, self.outside, self.drop = nn.Linear(10, 64), nn.Linear(64, 8), nn.Dropout(rate)
        self.attend = nn.MultiheadAttention(64, 4, batch_first=True)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: object = None) -> Tensor:
        times = torch.stack([t, t - r], -1)[:, None].expand(-1, z.shape[1], -1)
        h = self.inside(torch.cat([z, times], -1))
        h = h + self.drop(self.attend(h, h, h, need_weights=False)[0])
        return self.outside(h)


@pytest.mark.parametrize("where", ["cpu", "cuda", None])
def test_every_recipe_runs_with_a_generator_anywhere(where: str | None):
    net = Net().cuda()
    for recipe in (
        recipes.meanflow(),
        recipes.coefficient(1.0, velocities.own),
        recipes.alpha_flow(0.4),
        recipes.terminal_velocity(velocities.own),
    ):
        generator = None if where is None else ms.key(0, "cuda", device=where)
        out = ms.Loss(recipe).cuda()(net, torch.randn(32, 16, 8, device="cuda"), generator=generator)
        out.loss.backward()
        assert out.loss.isfinite() and out.loss.device.type == "cuda"


def test_the_same_noise_from_a_cpu_generator_gives_the_cpus_loss():
    net, x = Net(), torch.randn(32, 16, 8, generator=torch.Generator().manual_seed(0))
    here = ms.Loss(recipes.meanflow())(net, x, generator=ms.key(0, "same")).loss
    there = ms.Loss(recipes.meanflow())(net.cuda(), x.cuda(), generator=ms.key(0, "same")).loss
    torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-5)


def test_both_passes_see_the_same_dropout():
    net, x = Net(0.5).cuda(), torch.randn(8, 16, 8, device="cuda")
    r, t = torch.zeros(8, device="cuda"), torch.ones(8, device="cuda")
    b = ms.Bridge(x, torch.zeros_like(x), r, t)
    torch.manual_seed(0)
    u, change = ms.rates.Exact()(net, b, b.v)
    torch.manual_seed(0)
    expected, du = ms.rates.Exact(through=1.0)(net, b, b.v)
    torch.testing.assert_close(u, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(change, du, rtol=1e-3, atol=1e-4)


def test_bf16_autocast_is_close_to_float32():
    net, x = Net().cuda(), torch.randn(64, 16, 8, device="cuda")
    full = ms.Loss(recipes.meanflow())(net, x, generator=ms.key(0, "bf16")).metrics["residual"]
    with torch.autocast("cuda", torch.bfloat16):
        half = ms.Loss(recipes.meanflow())(net, x, generator=ms.key(0, "bf16")).metrics["residual"]
    torch.testing.assert_close(half, full, rtol=0.03, atol=0)


class Owner(nn.Module):
    """Owns a DiT whose gates are open, and calls the loss."""

    def __init__(self, recipe: recipes.Recipe) -> None:
        super().__init__()
        self.net, self.loss = DiT(16, 4, 2, 144, 3, 2, generator=ms.key(0)), ms.Loss(recipe, check=False, measure=False)
        for p in self.net.parameters():
            p.data.add_(0.05 * torch.randn(p.shape, generator=ms.key(1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.loss(self.net, x).loss


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
def test_carried_tangents_are_those_of_forward_mode(half: bool):
    """Heads of size 72, which the published kernels lack."""
    net = Owner(recipes.meanflow()).net.cuda()
    z, v = torch.randn(2, 8, 4, 16, 16, device="cuda").unbind()
    r, t, along = torch.zeros(8, device="cuda"), torch.ones(8, device="cuda"), (v[:3], None, torch.ones(3, device="cuda"))
    with torch.autocast("cuda", torch.bfloat16, enabled=half):
        u, du = carried(net, z, r, t, None, along)
    expected, slope = separate(net, z, r, t, None, along)
    assert (u - expected).norm() < (0.02 if half else 1e-4) * expected.norm()
    assert (du - slope).norm() < (0.05 if half else 1e-3) * slope.norm()


@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
def test_a_compiled_step_is_compiled_once(mode: str | None):
    torch._dynamo.reset()
    owner = Owner(recipes.coefficient(1.0, velocities.own, anchor_share=0.25)).cuda()
    step, graphs = torch.compile(owner, fullgraph=True, mode=mode), torch._dynamo.utils.counters["stats"]
    before, inductor = graphs["unique_graphs"], torch._dynamo.utils.counters["inductor"]
    left_out = inductor["cudagraph_skips"]
    for _ in range(20):
        with torch.autocast("cuda", torch.bfloat16):
            loss = step(torch.randn(16, 4, 16, 16, device="cuda"))
        loss.backward()
    assert graphs["unique_graphs"] - before == 1 and loss.isfinite() and inductor["cudagraph_skips"] == left_out


def test_a_step_holds_hardly_more_than_flow_matching():
    def peak(recipe: recipes.Recipe) -> int:
        owner = Owner(recipe).cuda()
        for _ in range(2):
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            owner(torch.randn(64, 4, 16, 16, device="cuda")).backward()
            owner.zero_grad()
        return torch.cuda.max_memory_allocated() - before

    assert peak(recipes.meanflow()) < 1.05 * peak(recipes.flow_matching())
