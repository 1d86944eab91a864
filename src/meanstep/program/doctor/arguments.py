"""How a network wants to be called: read from the names of its arguments, then tried. Knows no checks."""

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from meanstep.fields import Adapted, as_field
from meanstep.program.console import UserError
from meanstep.program.wrapped import unwrapped

NAMES = {
    "z": "z x zt xt z_t x_t sample samples hidden_states input inputs img image images noisy latent latents audio wav action actions",
    "r": "r s timestep_r r_timestep timestep_next t_next next t_start start r_time target_time target_timestep",
    "t": "t time times timestep timesteps tau t_end end t_cur sigma noise_level",
    "gap": "gap h d dt delta delta_t dt_base step step_size duration interval span t_minus_r",
    "y": "y c cond condition conditions context label labels class_label class_labels classes cls obs observation observations "
    "encoder_hidden_states text prompt global_cond",
}
ROLES = {name: role for role, names in NAMES.items() for name in names.split()}
FIELD = ("z", "r", "t", "y")


@dataclass(frozen=True)
class Call:
    """Positional `order`, keyword `names`, and `output`: how to read the velocity, as text and as a function.

    `native`: the network is a field as it is. `known`: the names of its arguments say so, or its user.
    """

    order: tuple[str, ...] = FIELD
    names: dict[str, str] = field(default_factory=dict)
    output: tuple[str, Callable[[Any], Tensor]] | None = None
    native: bool = False
    known: bool = True

    def adapt(self, net: nn.Module) -> nn.Module:
        """The network as a field."""
        if self.native and self.output is None:
            return net
        return as_field(net, self.order, self.names, output=self.output[1] if self.output else None)

    @property
    def line(self) -> str:
        """What a user writes to get that field."""
        if self.native and self.output is None:
            return "net"
        parts = ["net", "(" + ", ".join(f'"{role}"' for role in self.order) + ("," if len(self.order) == 1 else "") + ")"]
        if self.names:
            parts.append("{" + ", ".join(f'"{name}": "{role}"' for name, role in self.names.items()) + "}")
        if self.output:
            parts.append(f"output={self.output[0]}")
        return f"ms.as_field({', '.join(parts)})"

    @property
    def roles(self) -> set[str]:
        """What it is given."""
        return {*self.order, *self.names.values()}


def stated(text: str) -> Call:
    """A user's order: `z,t,r`, keywords as `z,timestep=t,delta=gap`; `UserError` for what is no role."""
    order, names = [], {}
    for part in filter(None, (part.strip() for part in re.split(r"[,\s]+", text))):
        name, sign, role = part.partition("=")
        role = role if sign else name
        if role not in NAMES:
            raise UserError(f"--order is made of z, r, t, gap and y, such as z,t,r or z,timestep=t,delta=gap; got {part!r}")
        if sign:
            names[name] = role
        else:
            order.append(role)
    if [*order, *names.values()].count("z") != 1:
        raise UserError(f"--order must name z once, got {text!r}")
    call = Call(tuple(order), names)
    return Call(native=True) if call == Call() else call


def parameters(net: nn.Module) -> list[inspect.Parameter]:
    """The arguments of a network's forward."""
    forward = unwrapped(net).forward
    if schema := getattr(forward, "schema", None):  # TorchScript's
        return [inspect.Parameter(a.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=_default(a)) for a in schema.arguments[1:]]
    try:
        return list(inspect.signature(forward).parameters.values())
    except (TypeError, ValueError):
        return []


def _default(argument: Any) -> Any:
    return argument.default_value if argument.has_default_value() else inspect.Parameter.empty


def signature(net: nn.Module) -> str:
    """`forward(x, t, r)`."""
    return f"forward({', '.join(p.name for p in parameters(net))})"


def read(net: nn.Module) -> Call:
    """How the names of its arguments say that a network is called."""
    given = parameters(net)
    places = [p for p in given if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    open_ended = any(p.kind is p.VAR_POSITIONAL for p in given)
    if isinstance(net, Adapted):
        return Call(native=True)
    order, names = _roles(given, places)
    unread = [p for p in places[1:] if p.default is p.empty and p.name not in ROLES]
    if unread or open_ended or len({*order, *names.values()} & {"r", "t", "gap"}) == 0:
        return Call(native=len(places) >= 4 or open_ended, order=FIELD[: max(1, min(4, len(places)))], known=False)
    takes_y = order == FIELD or (order == FIELD[:3] and len(places) > 3)
    return Call(native=True) if takes_y and not names else Call(order, names)


def _roles(given: list[inspect.Parameter], places: list[inspect.Parameter]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Leading arguments by their place as far as their names are known, the others by keyword."""
    order: list[str] = []
    names: dict[str, str] = {}
    for p in places:
        role = ROLES.get(p.name, "z" if not order else "")
        if role and role not in order and not names and len(order) == places.index(p):
            order.append(role)
        elif role and role not in (*order, *names.values()):
            names[p.name] = role
    for p in given:
        role = ROLES.get(p.name, "")
        if p.kind is p.KEYWORD_ONLY and role and role not in (*order, *names.values()):
            names[p.name] = role
    return tuple(order), names


def candidates(net: nn.Module, first: Call) -> Iterator[Call]:
    """What to try, likeliest first: other places only where names say nothing."""
    yield first
    if first.known:
        return
    for order in (FIELD, FIELD[:3], ("r", "t", "z"), ("z", "t"), ("t", "z"), ("z",)):
        if len(order) != len(first.order) or order != first.order:
            yield Call(order, native=order == FIELD, known=False)


def reading(out: Any, z: Tensor) -> tuple[str, Callable[[Any], Tensor]] | None:
    """How to get a velocity of `z`'s shape from what a network returned, or None if it is one."""
    if isinstance(out, Tensor):
        return _half(out, z)
    for name in ("sample", "logits", "last_hidden_state", "velocity", "u", "prediction", "x", "out"):
        if isinstance(getattr(out, name, None), Tensor):
            return f"lambda out: out.{name}", lambda out, name=name: getattr(out, name)
    items = out.items() if isinstance(out, dict) else enumerate(out) if isinstance(out, (tuple, list)) else ()
    tensors = [(k, v) for k, v in items if isinstance(v, Tensor)]
    for k, _ in sorted(tensors, key=lambda item: item[1].shape != z.shape):
        return f"lambda out: out[{k!r}]", lambda out, k=k: out[k]
    return None


def _half(out: Tensor, z: Tensor) -> tuple[str, Callable[[Any], Tensor]] | None:
    """One of two velocities side by side."""
    for axis in range(1, z.ndim):
        doubled = tuple(2 * n if k == axis else n for k, n in enumerate(z.shape))
        if tuple(out.shape) == doubled:
            return f"lambda out: out.chunk(2, {axis})[0]", lambda out, axis=axis: out.chunk(2, axis)[0]
    return None
