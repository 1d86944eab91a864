"""Two gloo ranks: what docs/conventions.md says of DDP."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import meanstep as ms
from meanstep import recipes, velocities

RECIPES: dict[str, Any] = {
    "meanflow": recipes.meanflow,
    "coefficient": lambda: recipes.coefficient(1.0, velocities.own),
    "modular": lambda: recipes.modular_meanflow(1.0),
    "terminal": lambda: recipes.terminal_velocity(velocities.own),
}
RECORDED = {"modular", "terminal"}


class Owner(nn.Module):
    """A module that owns the network and calls the loss."""

    def __init__(self, net: nn.Module, recipe: recipes.Recipe) -> None:
        super().__init__()
        self.net, self.loss = net, ms.Loss(recipe)

    def forward(self, x: Tensor, rank: int, step: int) -> Tensor:
        return self.loss(self.net, x, generator=ms.key(0, rank, step)).loss


def train(rank: int, port: int, name: str, owner: bool, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    net, recipe = ms.MLP(2, 8, 1, generator=ms.key(0, "net")), RECIPES[name]()
    wrapped = DistributedDataParallel(Owner(net, recipe) if owner else net)
    loss = wrapped if owner else Owner(wrapped, recipe)
    optimiser, outcome = torch.optim.SGD(net.parameters(), 0.1), "ok"
    try:
        for step in range(3):
            optimiser.zero_grad()
            loss(torch.ones(16, 2), rank, step).backward()
            optimiser.step()
    except TypeError as error:
        outcome = str(error)
    torch.save([outcome, [p.detach() for p in net.parameters()]], Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("owner", [True, False], ids=["owner", "network"])
@pytest.mark.parametrize("name", RECIPES)
def test_ddp(name: str, owner: bool, tmp_path: Path):
    """Around the owner every recipe trains and the ranks agree; around the network a derivative is refused with the remedy, or right.

    A recorded derivative is always refused there; another one depends on the network's buffers, which DDP broadcasts.
    """
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    ranks = [subprocess.Popen([sys.executable, __file__, str(k), str(port), name, str(int(owner)), str(tmp_path)]) for k in range(2)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    (first, ours), (second, theirs) = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    if not owner and (name in RECORDED or first != "ok"):
        assert "wrap a module that owns the network" in first and "wrap a module that owns the network" in second
        return
    assert first == second == "ok"
    for p, q in zip(ours, theirs, strict=True):
        assert torch.equal(p, q)


if __name__ == "__main__":  # one rank
    train(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4] == "1", sys.argv[5])
