"""A policy: observations in, a chunk of actions out, in one evaluation of the network. There are two right ways around an obstacle.

Shows: a network of your own whose condition is a dict, the loss on it, and many action chunks for one observation.
Needs: pip install meanstep matplotlib. Takes: a minute of one core; --quick seconds.
"""

import argparse

import torch
from matplotlib.figure import Figure
from torch import nn

import meanstep as ms
from meanstep.samplers import sample

TIME = torch.linspace(0, 1, 16)[:, None]  # a chunk is 16 positions in the plane


def demonstrations(n, g):
    """Paths from the left to a goal on the right, above or below an obstacle; robot 1 goes wider: actions [n, 16, 2] and observations."""
    obstacle, goal = 0.3 * torch.randn(n, 2, generator=g), torch.tensor([2.0, 0.0]) + torch.randn(n, 2, generator=g) * 0.3
    robot, start = torch.randint(2, (n,), generator=g), torch.tensor([-2.0, 0.0])
    way = torch.randint(2, (n,), generator=g) * 2.0 - 1
    width = obstacle[:, 1] + way * (0.6 + 0.3 * robot + 0.05 * torch.randn(n, generator=g))
    bend = torch.exp(-(((TIME - 0.5 - obstacle[:, :1].T / 4) / 0.2) ** 2)).T  # [n, 16], widest where the obstacle is
    path = start + TIME * (goal[:, None] - start)
    path[..., 1] = path[..., 1] * (1 - bend) + width[:, None] * bend
    return path, {"place": torch.stack([obstacle, goal], 1), "robot": robot}


class Policy(nn.Module):
    """u(z, r, t, y) for chunks [B, 16, 2] and y = {"place": [B, 2, 2], "robot": [B]}. Any network with these arguments will do."""

    def __init__(self, width=192):
        super().__init__()
        self.robot = nn.Embedding(2, 8)
        first, layers = nn.Linear(32 + 4 + 4 + 8, width), [nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)]
        self.layers = nn.Sequential(first, *layers, nn.SiLU(), nn.Linear(width, 32))

    def forward(self, z, r, t, y):
        times = torch.stack([t, t - r, t.sin(), (t - r).sin()], 1)
        h = torch.cat([z.flatten(1), times, y["place"].flatten(1), self.robot(y["robot"])], 1)
        return self.layers(h).unflatten(1, (16, 2))


def main(argv=None):
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="a few steps only")
    options.add_argument("--out", default="policy.png", help="the picture")
    given = options.parse_args(argv)
    steps, count = (10, 64) if given.quick else (5000, 4096)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Policy()
    # The plain squared error: the papers' adaptive weight, p = 1, gives one of two ways a few percent of the chunks where half is right.
    loss = ms.Loss(ms.recipes.meanflow(times=ms.times.uniform, diagonal_share=0.5, weight=ms.weights.constant))
    average, optimiser = ms.Average(net, 0.999), torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0)
    schedule, g = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps), ms.key(0, "train")
    for step in range(steps):
        actions, observation = demonstrations(256, g)
        out = loss(net, actions, observation, generator=g)
        optimiser.zero_grad()
        out.loss.backward()
        optimiser.step()
        schedule.step()
        average.update(net)
        if step % 2000 == 0:
            print(f"step {step}: residual {out.metrics['residual']:.3f}", flush=True)

    data, observation = demonstrations(count, ms.key(0, "test"))
    ways = ms.metrics.directions(32, generator=ms.key(0, "directions"))
    distance = ms.metrics.Sliced(data.flatten(1), ways)
    chunks = {n: ms.walk(average, ms.noise(range(count), (16, 2)), ms.samplers.grid(n), observation) for n in (1, 4)}
    floor = distance(demonstrations(count, ms.key(0, "floor"))[0].flatten(1))
    print({f"{n} steps": round(distance(x.flatten(1)), 4) for n, x in chunks.items()}, f"floor {floor:.4f}   [sliced W1]")

    figure = Figure((9, 2.6), layout="constrained")
    for k, axes in enumerate(figure.subplots(1, 4, sharex=True, sharey=True)):
        one = {name: part[k] for name, part in observation.items()}  # one observation, no batch axis
        x = sample(average, (16, 2), one, 64)  # 64 chunks for it, one evaluation each
        above = (x[:, 7:9, 1].mean(1) > one["place"][0, 1]).float().mean()
        axes.plot(*x.permute(2, 1, 0), color="tab:blue", alpha=0.2)
        axes.plot(*one["place"][0], "ko", *one["place"][1], "g*", ms=9)
        axes.set(title=f"robot {one['robot']}, {above:.0%} above", aspect="equal")
    figure.savefig(given.out, dpi=100)


if __name__ == "__main__":
    main()
