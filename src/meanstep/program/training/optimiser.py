"""An optimiser whose moments and steps are float32 or better, whatever the weights are. Knows no files and no loop."""

from inspect import unwrap
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from meanstep.precise import low
from meanstep.program.runs.config import OptimiserConfig

EXACT = "weight"
"""The entry of an optimiser's state that holds a weight in float32, where the network has less."""


def made(config: OptimiserConfig, trained: list[nn.Parameter], fused: bool) -> Optimizer:
    """The optimiser of a configuration over the parameters."""
    adam: Any = {"betas": config.betas, "eps": config.eps}
    rate, decay = config.rate, config.weight_decay
    if config.optimiser == "radam":
        return torch.optim.RAdam(trained, rate, weight_decay=decay, decoupled_weight_decay=True, **adam)
    if config.optimiser == "muon":
        return Muon(trained, rate, decay, fused=fused, **adam)
    return AdamW(trained, rate, weight_decay=decay, fused=fused, **adam)


class AdamW(torch.optim.AdamW):
    """torch's own without the wrappers that keep its methods out of a compiled program, and import the compiler for it.

    That takes a second of every start, and no optimiser here is compiled. `test_starts.py` tells when torch no longer does it.
    """

    add_param_group = unwrap(Optimizer.add_param_group)
    zero_grad = unwrap(Optimizer.zero_grad)
    state_dict = unwrap(Optimizer.state_dict)
    load_state_dict = unwrap(Optimizer.load_state_dict)
    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))


class Muon(Optimizer):
    """torch's Muon for matrices, AdamW for all other parameters, under one rate and one decay; both keep their state here."""

    def __init__(
        self, trained: list[nn.Parameter], lr: float, weight_decay: float, betas: tuple[float, float], eps: float, fused: bool
    ) -> None:
        matrices, others = ([p for p in trained if (p.ndim == 2) is whether] for whether in (True, False))
        parts: list[Optimizer] = [torch.optim.Muon(matrices, lr, weight_decay)] if matrices else []
        parts += [AdamW(others, lr, betas, eps, weight_decay, fused=fused)] if others else []
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts = parts

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of each part on its own parameters."""
        for part, group in zip(self.parts, self.param_groups, strict=True):
            part.param_groups, part.state = [group], self.state  # a restored state is another object
            part.step()


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
