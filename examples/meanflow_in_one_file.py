"""MeanFlow in one file: the method alone, in plain PyTorch, on eight clouds in the plane (arXiv 2505.13447).

Shows: times, the derivative, the stopped gradient, one-step sampling. Needs: torch, matplotlib. Takes: half a minute; --quick seconds.
"""

import argparse
import math

import torch
from matplotlib.figure import Figure
from torch import nn


def clouds(n, g):  # the data: eight Gaussian clouds on a circle
    angle = torch.randint(8, (n,), generator=g) * math.pi / 4
    return 2 * torch.stack([angle.cos(), angle.sin()], 1) + 0.1 * torch.randn(n, 2, generator=g)


class Net(nn.Module):
    """u(z, r, t): the *average* velocity of the flow between the times r <= t; on the diagonal, r = t, the velocity itself."""

    def __init__(self, width=128):
        super().__init__()
        hidden = [nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()]
        self.layers = nn.Sequential(nn.Linear(10, width), *hidden, nn.Linear(width, 2))

    def forward(self, z, r, t):
        times = torch.stack([t, t - r], 1)  # in [0, 1], never times 1000: the derivative below is taken in them
        angles = math.pi * torch.cat([times, 2 * times], 1) / 2
        return self.layers(torch.cat([z, angles.sin(), angles.cos()], 1))


def draw_times(n, diagonal, g):  # two sorted uniforms; the first share of the rows gets r = t, and learns the plain velocity
    r, t = torch.rand(n, 2, generator=g).sort(dim=1).values.unbind(1)
    return torch.where(torch.arange(n) < diagonal * n, t, r), t


def meanflow_loss(net, x, e, r, t, power=0.5, c=1e-2):
    """The loss of data x [B, D] with noise e at the times r <= t [B]: data are at t = 0, noise is at t = 1."""
    z = (1 - t)[:, None] * x + t[:, None] * e  # a point of the straight path
    v = e - x  # the path's velocity: both the target and the direction of the derivative
    # The definition (t - r) u(z, r, t) = integral of v from r to t, differentiated along the flow, is the MeanFlow identity
    #     u = v - (t - r) du/dt   with the total derivative   du/dt = v d_z u + d_t u   (dz/dt = v, dr/dt = 0, dt/dt = 1),
    # a product of the Jacobian with the tangent (v, 0, 1): one forward-mode pass, no Jacobian is ever built.
    u, du_dt = torch.func.jvp(net, (z, r, t), (v, torch.zeros_like(r), torch.ones_like(t)))
    target = (v - (t - r)[:, None] * du_dt).detach()  # the gradient stops here: none flows through the derivative
    error = (u - target).square().sum(1)
    # The adaptive weight: 0 is the plain squared error, whose tails are heavy, and the paper's 1 loses modes where rows are few numbers.
    return (error / (error.detach() + c) ** power).mean()


@torch.no_grad()
def sample(net, e, steps=1):  # z_r = z_t - (t - r) u(z_t, r, t) from t = 1 to r = 0; one step: x = e - u(e, 0, 1)
    for k in range(steps, 0, -1):
        r, t = torch.full((len(e),), (k - 1) / steps), torch.full((len(e),), k / steps)
        e = e - net(e, r, t) / steps
    return e


def sliced_w1(a, b):  # sliced Wasserstein-1 distance: mean over directions of the distance of sorted projections
    angle = torch.arange(128) * math.pi / 128
    ways = torch.stack([angle.cos(), angle.sin()])
    return ((a @ ways).sort(0).values - (b @ ways).sort(0).values).abs().mean().item()


def main(argv=None):
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="a few steps only")
    options.add_argument("--out", default="meanflow_in_one_file.png", help="the picture")
    given = options.parse_args(argv)
    steps, g = 20 if given.quick else 3000, torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Net()
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        r, t = draw_times(256, 0.5, g)
        loss = meanflow_loss(net, clouds(256, g), torch.randn(256, 2, generator=g), r, t)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 1000 == 0:
            print(f"step {step}: loss {loss:.3f}", flush=True)

    data, noise = clouds(4096, g), torch.randn(4096, 2, generator=g)
    made = {"noise": noise, "1 step": sample(net, noise), "4 steps": sample(net, noise, 4), "data": data}
    print(", ".join(f"{k}: {sliced_w1(x, data):.3f}" for k, x in made.items() if k != "data"), end=", ")
    print(f"floor (data and data): {sliced_w1(clouds(4096, g), data):.3f}   [sliced W1]")
    figure = Figure((9, 2.4), layout="constrained")
    for axes, (name, x) in zip(figure.subplots(1, 4, sharex=True, sharey=True), made.items(), strict=True):
        axes.scatter(*x[:2000].T, s=1)
        axes.set(title=name, aspect="equal", xlim=(-3, 3), ylim=(-3, 3))
    figure.savefig(given.out, dpi=100)


if __name__ == "__main__":
    main()
