"""An optimiser whose moments and steps are float32 or better, whatever the weights are. Knows no files and no loop."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from meanstep.precise import low

EXACT = "weight"
"""The entry of an optimiser's state that holds a weight in float32, where the network has less."""


def precise(optimiser: Optimizer) -> Optimizer:
    """The optimiser itself, which from now on steps on float32 copies of weights of less precision, kept in its state, and rounds them."""
    rounded: dict[Tensor, Tensor] = {}

    def before(*_: Any) -> None:
        for p in (p for group in optimiser.param_groups for p in group["params"] if low(p) and p.grad is not None):
            gradient, p.grad, rounded[p] = p.grad.float(), None, p.data
            p.data, p.grad = optimiser.state[p].pop(EXACT, p.data.float()), gradient

    @torch.no_grad()
    def after(*_: Any) -> None:
        for p, weight in rounded.items():
            exact, p.grad = p.data, None
            p.data = weight.copy_(exact)
            optimiser.state[p][EXACT] = exact
        rounded.clear()

    optimiser.register_step_pre_hook(before)
    optimiser.register_step_post_hook(after)
    return optimiser
