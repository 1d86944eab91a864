"""The pieces of a generator as modules that can be traced: guidance, a step, the decoding, and all of it as one. Knows no files."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from meanstep import samplers
from meanstep.conditions import hidden
from meanstep.program.console import UserError
from meanstep.program.data import beside
from meanstep.shapes import over, tree_map
from meanstep.velocities import at_scale


class Guided(nn.Module):
    """A field at a fixed scale of classifier-free guidance: `u(null) + scale (u(y) - u(null))`, both in one pass; scale 1 asks once.

    `null`: the label that means none; `label`: the one that is always meant, None if it is an argument.
    """

    def __init__(self, net: nn.Module, scale: float, null: int, label: int | None = None) -> None:
        super().__init__()
        self.net, self.scale, self.null, self.label = net, scale, null, label

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """The velocity `[B, *E]` of `z` `[B, *E]`, times `[B]` and labels int64 `[B]`."""
        if self.label is not None:
            y = torch.full_like(t, self.label, dtype=torch.int64)
        if y is None or self.scale == 1:
            return self.net(z, r, t, y)
        both = torch.cat([y, torch.full_like(y, self.null)])
        twice = self.net(torch.cat([z, z]), torch.cat([r, r]), torch.cat([t, t]), both)
        labelled, without = twice.unflatten(0, (2, z.shape[0])).unbind(0)
        return torch.lerp(without, labelled, self.scale)


class Asked(nn.Module):
    """A network that takes its guidance scale as an input, as a field of `{"label", "guidance"}`; of the scale alone at a fixed `label`."""

    def __init__(self, net: nn.Module, label: int | None = None) -> None:
        super().__init__()
        self.net, self.label = net, label

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Mapping[str, Tensor]) -> Tensor:
        """The velocity `[B, *E]` of `z` `[B, *E]`, times `[B]`, labels int64 `[B]` and scales `[B]`."""
        label = y["label"] if self.label is None else torch.full_like(t, self.label, dtype=torch.int64)
        found: Tensor = self.net(z, r, t, at_scale(label, y["guidance"], trained=None))
        return found


class Told(nn.Module):
    """A field at a scale of guidance whose conditions come by name and in units of the data; those that are fixed are constants.

    `conditions`: all that the network takes, in its order; `fixed`: one row `[*shape]` of some of them; `null`: what hides them.
    """

    def __init__(
        self, net: nn.Module, conditions: Sequence[beside.Condition], fixed: Mapping[str, Tensor], scale: float, null: Any
    ) -> None:
        super().__init__()
        self.net, self.conditions, self.scale, self.null = net, tuple(conditions), scale, null
        self.constants = {name: f"constant_{k}" for k, name in enumerate(fixed)}
        for name, value in fixed.items():
            self.register_buffer(self.constants[name], value.clone())

    def around(self, net: nn.Module) -> "Told":
        """The same with another network."""
        fixed = {name: getattr(self, constant) for name, constant in self.constants.items()}
        return Told(net, self.conditions, fixed, self.scale, self.null)

    def tree(self, y: Mapping[str, Tensor] | None, count: int) -> Any:
        """What the network is given of `count` rows of the conditions that are not fixed: one tensor, several by name, None for none."""
        parts = {}
        for c in self.conditions:
            constant = self.constants.get(c.name)
            parts[c.name] = c.seen((y or {})[c.name] if constant is None else getattr(self, constant).expand(count, *c.shape))
        return next(iter(parts.values())) if len(parts) == 1 else parts or None

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Mapping[str, Tensor] | None = None) -> Tensor:
        """The velocity `[B, *E]` of `z` `[B, *E]`, times `[B]` and conditions `[B, *shape]` by name."""
        known = self.tree(y, z.shape[0])
        if known is None or self.scale == 1:
            return self.net(z, r, t, known)
        both = tree_map(lambda a, b: torch.cat([a, b]), known, hidden(self.null, known))
        twice = self.net(torch.cat([z, z]), torch.cat([r, r]), torch.cat([t, t]), both)
        told, without = twice.unflatten(0, (2, z.shape[0])).unbind(0)
        return torch.lerp(without, told, self.scale)


class Scaled(nn.Module):
    """The moments of the data, which broadcast to an event."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)


class Begun(Scaled):
    """From rows of the data, where a flow starts, to rows as the network sees them: `(x - mean) / std`."""

    def forward(self, x: Tensor) -> Tensor:
        """Rows `[B, *E]`."""
        return (x - self.mean) / self.std


def _jump(field: nn.Module, z: Tensor, r: Tensor, t: Tensor, y: Any) -> Tensor:
    return z - over(t - r, z) * field(z, r, t, y)


def _euler(field: nn.Module, z: Tensor, r: Tensor, t: Tensor, y: Any) -> Tensor:
    return z - over(t - r, z) * field(z, t, t, y)


def _heun(field: nn.Module, z: Tensor, r: Tensor, t: Tensor, y: Any) -> Tensor:
    v = field(z, t, t, y)
    return z - over(t - r, z) / 2 * (v + field(z - over(t - r, z) * v, r, r, y))


STEPS: Mapping[Callable[..., Tensor], Callable[..., Tensor]] = {samplers.walk: _jump, samplers.euler: _euler, samplers.heun: _heun}
"""One step from the times `t` `[B]` to `r` `[B]`, of those samplers that draw nothing on their way."""


class Step(nn.Module):
    """One step of a sampler, whose times are inputs: one graph serves any number of steps."""

    def __init__(self, field: nn.Module, sampler: Callable[..., Tensor]) -> None:
        super().__init__()
        self.field, self.way = field, STEPS[sampler]

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """The sample at time `r` `[B]` of `z` at time `t` `[B]`."""
        return self.way(self.field, z, r, t, y)


class Pictures(nn.Module):
    """From what a network makes to `(values, images)`: pictures as floats, where -1 is black and 1 is white, and their bytes.

    `mean`, `std` `[C, 1, 1]`: of the latents that the network sees; `inner`: the decoder, None for pictures themselves; its input is
    divided by `scaling` and shifted; `channels`: 1 makes colours grey.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor, inner: nn.Module | None, scaling: float, shift: float, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.inner, self.scaling, self.shift, self.channels = inner, scaling, shift, channels

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Float32 and uint8 `[B, C, H, W]` of `x` `[B, c, h, w]`."""
        values = x if self.inner is None else self.inner((x * self.std + self.mean) / self.scaling + self.shift)
        levels = ((values + 1) * 127.5).round().clamp(0, 255)
        if levels.shape[1] != self.channels:
            levels = levels.mean(1, keepdim=True).round()
        return values, levels.to(torch.uint8)


class Plain(Scaled):
    """From what a network makes to `(values,)` in the units of the data, `[B, *E]`: `x * std + mean`, which broadcast to an event."""

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """The values of `x` `[B, *E]`."""
        return (x * self.std + self.mean,)


class Whole(nn.Module):
    """From noise (and a label) to what is wanted: all steps, guidance and decoding inside; `begin`: what is done to where it starts."""

    def __init__(
        self, field: nn.Module, sampler: Callable[..., Tensor], times: Sequence[float], decode: nn.Module, begin: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.field, self.sampler, self.times, self.decode, self.begin = field, sampler, tuple(times), decode, begin

    def forward(self, noise: Tensor, label: Any = None) -> tuple[Tensor, ...]:
        """What `decode` returns, of `noise` `[B, *E]` and `label` int64 `[B]`, or conditions `[B, *shape]` by name."""
        z = noise if self.begin is None else self.begin(noise)
        return self.decode(self.sampler(self.field, z, times=self.times, y=label))


def named(condition: Any) -> dict[str, Tensor]:
    """The tensors of a tree by their path in it, `"style"` or `"text.mask"`; `"condition"` for one alone. `UserError` for other leaves."""
    found = {}
    for path, part in pytree.tree_flatten_with_path(condition)[0] if condition is not None else []:
        name = ".".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path) or "condition"
        if not isinstance(part, Tensor):
            raise UserError(f"condition: a tree of tensors, and {name} is {type(part).__name__}")
        if name == "noise":
            raise UserError("condition: a part cannot be called noise, which is an input already")
        found[name] = part
    return found


class Several(nn.Module):
    """A module whose last argument, a tree, is given as its tensors one by one."""

    def __init__(self, inner: nn.Module, tree: Any) -> None:
        super().__init__()
        leaves, self.form = pytree.tree_flatten(tree)
        self.inner, self.count = inner, len(leaves)

    def forward(self, *given: Tensor) -> Any:
        """What the module returns of the first arguments and the tree of the others."""
        return self.inner(*given[: -self.count], pytree.tree_unflatten(list(given[-self.count :]), self.form))
