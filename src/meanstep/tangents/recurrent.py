"""Recurrent layers: fused kernels for the value, and the derivative step by step on the rows that have a tangent."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from meanstep.tangents.dual import WHOLE, Several, Unsupported, joined, rule, several
from meanstep.tangents.rules import alone

State = tuple[Tensor, ...]
Cell = Callable[[Tensor, State, Tensor, Tensor | None, Tensor | None], State]


def _plain(activation: Callable[[Tensor], Tensor]) -> Cell:
    def cell(x: Tensor, state: State, inner: Tensor, bias: Tensor | None, out: Tensor | None) -> State:
        return (activation(x + F.linear(state[0], inner, bias)),)

    return cell


def _gru(x: Tensor, state: State, inner: Tensor, bias: Tensor | None, out: Tensor | None) -> State:
    (r, z, n), (hr, hz, hn) = x.chunk(3, -1), F.linear(state[0], inner, bias).chunk(3, -1)
    z, new = torch.sigmoid(z + hz), torch.tanh(n + torch.sigmoid(r + hr) * hn)
    return ((1 - z) * new + z * state[0],)


def _lstm(x: Tensor, state: State, inner: Tensor, bias: Tensor | None, out: Tensor | None) -> State:
    i, f, g, o = (x + F.linear(state[0], inner, bias)).chunk(4, -1)
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    return (h if out is None else F.linear(h, out)), c


CELLS: dict[str, Cell] = {"gru": _gru, "lstm": _lstm, "rnn_tanh": _plain(torch.tanh), "rnn_relu": _plain(torch.relu)}
UNROLLED: dict[Callable[..., Any], Callable[..., Any]] = {}
"""torch's function -> the same in plain operations, which forward mode differentiates."""


def _unroll(
    cell: Cell, x: Tensor, hx: Any, params: Sequence[Tensor], biases: bool, layers: int, both: bool, batch_first: bool
) -> tuple[Tensor, ...]:
    """The outputs of all times, `[T, B, H]` or `[B, T, H]`, and the last states `[layers x directions, B, H]`."""
    start = tuple(hx) if isinstance(hx, (list, tuple)) else (hx,)
    parts, ends = len(params) // (layers * (1 + both)), []
    h = x.transpose(0, 1) if batch_first else x
    for layer in range(layers):
        ways = []
        for way in range(1 + both):
            k = layer * (1 + both) + way
            into, inner, *rest = params[k * parts : (k + 1) * parts]
            bias_in, bias, *out = rest if biases else (None, None, *rest)
            given, state, found = F.linear(h, into, bias_in), tuple(s[k] for s in start), []
            for now in (given.flip(0) if way else given).unbind(0):
                state = cell(now, state, inner, bias, out[0] if out else None)
                found.append(state[0])
            ends.append(state)
            ways.append(torch.stack(found[::-1] if way else found))
        h = torch.cat(ways, -1)
    return (h.transpose(0, 1) if batch_first else h, *(torch.stack(part) for part in zip(*ends, strict=True)))


def _register(name: str, cell: Cell) -> None:
    function = getattr(torch, name)

    def unrolled(
        x: Any, hx: Any, params: Any, biases: bool, layers: int, dropout: float, train: bool, both: bool, batch_first: bool
    ) -> Any:
        if dropout and train and layers > 1:
            raise Unsupported("dropout between the layers of a recurrent network")
        return _unroll(cell, x, hx, params, biases, layers, both, batch_first)

    def carried(x: Any, hx: Any, params: Any, *rest: Any) -> Any:
        if not isinstance(params, (list, tuple)) or len(rest) != 6 or x.dim() != 3:
            raise Unsupported(f"{name} of a packed or a single sequence")
        alone("the first state or a weight of a recurrent network", *(hx if isinstance(hx, (list, tuple)) else (hx,)), *params)
        if x.axis != (-3 if rest[-1] else -2):
            raise Unsupported("a recurrent network along the batch axis")
        values, n = function(x.primal, hx, params, *rest), x.tangent.shape[x.axis]
        cut = tuple(h.narrow(1, 0, n) for h in hx) if isinstance(hx, (list, tuple)) else hx.narrow(1, 0, n)
        directions = x.tangents if isinstance(x, Several) else (x.tangent,)
        with torch.set_grad_enabled(x.recorded and x.graded):
            slopes = [
                None
                if d is None
                else torch.func.jvp(lambda rows: unrolled(rows, cut, params, *rest), (x.rows.contiguous(),), (d.contiguous(),))[1]
                for d in directions
            ]
        axes = (x.axis, *(-2 for _ in values[1:]))
        if not isinstance(x, Several):
            return tuple(joined(v, d, axis, x.graded, x.recorded) for v, d, axis in zip(values, slopes[0] or (), axes, strict=True))
        return tuple(several(v, [None if d is None else d[k] for d in slopes], axes[k], x.graded) for k, v in enumerate(values))

    rule(name, table=UNROLLED, places=(torch,))(unrolled)
    rule(name, table=WHOLE, places=(torch,))(carried)


for _name, _cell in CELLS.items():
    _register(_name, _cell)
