"""A flow-matching network as a field: the gap `t - r` enters one of its layers, and changes nothing until it is trained."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor, nn

from meanstep.shapes import over
from meanstep.values import like

LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
FREQUENCIES, HIDDEN = 8, 64
ROLES = ("z", "t", "y")


class Embedding(nn.Module):
    """Features of a gap, `[*B] -> [*B, width]`: 0 at the gap 0 whatever is learned, and 0 everywhere at the start."""

    frequencies: Tensor

    def __init__(self, width: int, hidden: int = HIDDEN, generator: Generator | None = None) -> None:
        super().__init__()
        self.register_buffer("frequencies", math.pi * 2.0 ** torch.arange(FREQUENCIES).div(2) / 2, persistent=False)
        bound = (2 * FREQUENCIES) ** -0.5
        self.first = nn.Parameter(torch.empty(2 * FREQUENCIES, hidden).uniform_(-bound, bound, generator=generator))
        self.last = nn.Parameter(torch.zeros(hidden, width))

    def forward(self, gap: Tensor) -> Tensor:
        """The features of each row; no biases, and sine and one minus cosine of 0 are 0."""
        angle = gap[..., None] * self.frequencies
        waves = torch.cat([angle.sin(), 1 - angle.cos()], -1)
        return torch.matmul(nn.functional.silu(torch.matmul(waves, self.first)), self.last)


class Adding:
    """A forward hook that adds what it holds at the moment to a layer's output; without anything it changes nothing.

    `RuntimeError` in a backward pass that computes the layer again: by then there is nothing to add, so its gradient would be another's.
    """

    def __init__(self, last: bool) -> None:
        self.last, self.called, self.added = last, False, False
        self.held: Tensor | None = None

    def __call__(self, layer: nn.Module, given: Any, out: Tensor) -> Tensor | None:
        """The output with it, `[*B, C, ...]` of a convolution, `[*B, ..., C]` of others."""
        if not torch.compiler.is_compiling():
            if torch._C._current_graph_task_id() < 0:  # of the forward pass; a backward pass has a number
                self.added = self.held is not None
            elif self.added and self.held is None:
                what = f"the {type(layer).__name__} that the gap enters is computed again in the backward pass, without the gap"
                raise RuntimeError(f"{what}: name a layer outside the block that is checkpointed, with_gap(net, layer)")
        if self.held is None:
            return None
        self.called = True
        held = self.held if self.held.dtype == out.dtype else self.held.to(out.dtype)
        if self.last:
            return out + held.reshape((*held.shape[:-1], *(1,) * (out.ndim - held.ndim), held.shape[-1]))
        return out + over(held, out)


class Gapped(nn.Module):
    """A network `v(z, t, y)` and the embedding of the gap behind the signature `(z, r, t, y)`; made by `with_gap`.

    Arguments and errors are those of `with_gap`.
    """

    def __init__(
        self,
        net: nn.Module,
        layer: str | None,
        order: Sequence[str] | None,
        names: Mapping[str, str],
        output: Callable[[Any], Tensor] | None,
        scale: float,
        reverse: bool,
        generator: Generator | None,
    ) -> None:
        super().__init__()
        for role in (*(order or ()), *names.values()):
            if role not in ROLES:
                raise ValueError(f"an argument of a flow-matching network is one of {', '.join(ROLES)}, got {role!r}")
        if not math.isfinite(scale) or scale == 0:
            raise ValueError(f"scale is what the network's time is at t = 1, such as 1000, got {scale:g}")
        self.layer, inside, width, last = _found(net, layer)
        self.net, self.order, self.names, self.output, self.scale, self.reverse = net, order, dict(names), output, scale, reverse
        own = next((p for p in net.parameters() if p.is_floating_point()), torch.empty(0))
        self.gap = Embedding(width, generator=generator).to(own.device, own.dtype)
        self.adding = Adding(last)
        inside.register_forward_hook(self.adding)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        """The average velocity `[*B, *E]`; `RuntimeError` if the network does not call the layer that the gap enters."""
        time = (1 - t if self.reverse else t) * self.scale
        given = {"z": z, "t": time, "y": y}
        order = self.order if self.order is not None else ("z", "t") if y is None else ROLES
        self.adding.held, self.adding.called = self.gap(t - r), False
        try:
            out = self.net(*(given[role] for role in order), **{name: given[role] for name, role in self.names.items()})
        finally:
            self.adding.held = None
        if not self.adding.called:
            raise RuntimeError(f"{type(self.net).__name__} does not call its layer {self.layer!r}: name another, with_gap(net, layer)")
        v: Tensor = self.output(out) if self.output else out
        return -v if self.reverse else v

    if TYPE_CHECKING:

        @like(forward)
        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


def _found(net: nn.Module, name: str | None) -> tuple[str, nn.Module, int, bool]:
    """The layer that the gap enters, its width, and whether that is its output's last axis; `ValueError` where there is none."""
    if not isinstance(net, nn.Module):
        raise TypeError(f"the gap enters a layer of a torch module, got {type(net).__name__}")
    modules = dict(net.named_modules())
    if name is None:
        name = next((found for found, module in modules.items() if isinstance(module, LAYERS)), None)
        if name is None:
            raise ValueError(f"{type(net).__name__} has no linear layer and no convolution: name a layer, with_gap(net, layer)")
    if name not in modules:
        raise ValueError(f"{type(net).__name__} has no layer {name!r}; it has {', '.join([n for n in modules if n][:12])}")
    inside = [module for module in modules[name].modules() if isinstance(module, LAYERS)]
    if not inside:
        raise ValueError(f"the layer {name!r} holds no linear layer and no convolution, which tell how wide the embedding is")
    end = inside[-1]
    return (name, modules[name], end.out_features, True) if isinstance(end, nn.Linear) else (name, modules[name], end.out_channels, False)


def with_gap(
    net: nn.Module,
    layer: str | None = None,
    *,
    order: Sequence[str] | None = None,
    names: Mapping[str, str] | None = None,
    output: Callable[[Any], Tensor] | None = None,
    scale: float = 1.0,
    reverse: bool = False,
    generator: Generator | None = None,
) -> Gapped:
    """A field `u(z, r, t, y)` from a flow-matching network `v(z, t)` or `v(z, t, y)`, whose output it has at the start for every `r`.

    An embedding of the gap `t - r`, 0 at the start, is added to the output of `layer`: a module's name, best that of the time embedding;
    None takes the first linear layer or convolution. At `r = t` the field is the network for good. `order` and `names`: the network's
    arguments, as of `as_field`, among `z`, `t` and `y`; `output` picks the velocity from what it returns. `scale`: its time's, as 1000;
    `reverse`: it has noise at 0 and data at 1 and the velocity from noise to data. `net` itself is trained along, and called alone it is
    what it was. Raises `ValueError` for a layer that is not there or whose width is not to be known.

        with_gap(net)
        with_gap(unet, "time_embedding", names={"class_labels": "y"}, order=("z", "t"), output=lambda o: o.sample, scale=1000)
    """
    return Gapped(net, layer, order, names or {}, output, scale, reverse, generator)
