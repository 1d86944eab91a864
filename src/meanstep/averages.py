"""Averages of a network's weights that are fields like the network itself. Knows no loss and no files."""

import copy
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from meanstep.precise import Precise, low
from meanstep.values import like, told, value


class Average(Precise):
    """A copy of a network, in eval mode, whose weights follow it: call `update(net)` after every step, and the copy like the network.

    `decay`: the share that is kept, in [0, 1), at most `(1 + step) / (10 + step)` at the `step`-th update, counted from 1; or a function of
    the step. Weights in less than float32 are averaged in float32 (`precise`) and rounded into the copy: a bfloat16 average would stand
    still, since `0.001` of the way is less than half a digit. `ValueError` for a decay out of range.
    """

    steps: Tensor

    def __init__(self, net: nn.Module, decay: float | Callable[[int], float] = 0.999) -> None:
        super().__init__()
        self.module = copy.deepcopy(net).requires_grad_(False).eval()
        self.precise = _raised(self.module) if any(map(low, self.module.parameters())) else None
        self.decay = decay if callable(decay) else exponential(decay)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def extra_repr(self) -> str:
        """The decay and the number of updates."""
        return f"decay={told(self.decay)}, steps={told(self.steps)}"

    @property
    def exact(self) -> nn.Module:
        """The copy that holds the average as it is, in float32 or better."""
        return self.module if self.precise is None else self.precise

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: object = None) -> Tensor:
        """The copy's velocity, `[*B, *E]`."""
        u: Tensor = self.module(z, r, t, y)
        return u

    if TYPE_CHECKING:

        @like(forward)
        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    @torch.no_grad()
    def update(self, net: nn.Module, step: int | None = None) -> None:
        """Move towards the weights that the network has after its `step`-th step (None: one more than before). Buffers are copied."""
        self.steps.add_(1) if step is None else self.steps.fill_(step)
        mine, theirs = local(self.exact.parameters()), local(net.parameters())
        if any(map(low, mine)):
            raise ValueError("an average steps in float32 or better, and its weights were converted: convert a copy of it")
        torch._foreach_lerp_(mine, [q.to(p.dtype) for p, q in zip(mine, theirs, strict=True)], 1 - self.decay(step or int(self.steps)))
        for copied in {self.module, self.exact}:
            for kept, new in zip(copied.buffers(), net.buffers(), strict=True):
                kept.copy_(new)
        self.settle()

    @torch.no_grad()
    def settle(self) -> None:
        """Round the average into the copy that is called, where that is another."""
        if self.precise is not None:
            for rounded, exact in zip(local(self.module.parameters()), local(self.precise.parameters()), strict=True):
                rounded.copy_(exact)


@value
def exponential(decay: float) -> Callable[[int], float]:
    """The decay of every step, at most `(1 + step) / (10 + step)`. `decay`: in [0, 1), `ValueError` otherwise."""
    if not 0 <= decay < 1:
        raise ValueError(f"a decay lies in [0, 1), got {decay:g}")
    return lambda step: min(decay, (1 + step) / (10 + step))


def local(tensors: Iterable[Tensor]) -> list[Tensor]:
    """What this rank holds of each of the `tensors`: a distributed tensor's own part, detached."""
    return [p.to_local() if hasattr(p, "to_local") else p.detach() for p in tensors]  # a DTensor, whose module takes long to import


def _raised(net: nn.Module) -> nn.Module:
    """A copy whose weights are float32 or better; its buffers stay as they are."""
    net = copy.deepcopy(net)
    for p in net.parameters():
        p.data = p.data.float() if low(p) else p.data
    return net
