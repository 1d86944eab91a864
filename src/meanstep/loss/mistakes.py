"""What to say when a step fails: the user's mistake behind a failure, and the rows that are not finite."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from meanstep.calls import no_tensor, wrong_shape
from meanstep.loss.rows import Rows, filled_rows
from meanstep.shapes import per_sample
from meanstep.types import Bridge, Field


def mistake_of(field: Field, b: Bridge) -> Exception | None:
    """The user's mistake behind a failure inside the field, if it is one of the common ones."""
    call = field.forward if isinstance(field, nn.Module) else field
    try:
        signature = inspect.signature(call)
    except (TypeError, ValueError):  # not a function, or a built-in one
        return None
    try:
        signature.bind(b.z, b.r, b.t, b.y)
    except TypeError:
        return TypeError(
            f"a field is called as field(z, r, t, y), and {type(field).__name__} takes {signature}: "
            'adapt it, e.g. ms.as_field(net, ("z", "t", "r")) or ms.as_field(net, ("z",), {"timestep": "t", "delta": "gap"})'
        )
    weights = next((p for p in field.parameters() if p.is_floating_point()), None) if isinstance(field, nn.Module) else None
    if weights is not None and weights.device != b.z.device:
        return ValueError(f"the network is on {weights.device} and the data on {b.z.device}: move one of them")
    if weights is not None and weights.dtype != b.z.dtype and not torch.is_autocast_enabled(b.z.device.type):
        return TypeError(f"the network's weights are {weights.dtype} and the data {b.z.dtype}: convert one, or use torch.autocast")
    try:
        with torch.no_grad():
            u: Any = field(b.z, b.r, b.t, b.y)
    except Exception:  # the network fails by itself: its own error is the best one
        return None
    if not isinstance(u, Tensor):
        return TypeError(no_tensor(u))
    return ValueError(wrong_shape(u.shape, b.z)) if u.shape != b.z.shape else None


def culprits(rows: list[Rows], starts: list[int]) -> str:
    """The complaint about a loss that is not finite, with the rows at fault."""
    found = []
    for k, (row, start) in enumerate(zip(rows, starts, strict=True)):
        b, bad = row.bridge, filled_rows(row) & ~(torch.isfinite(row.error) & torch.isfinite(row.weighted))
        tangent = row.regression.tangent
        norms = per_sample(tangent.square(), b.t, b.mask).sqrt() if tangent is not None else torch.full_like(b.t, float("nan"))
        for index in bad.nonzero()[:4]:
            i = tuple(index.tolist())
            place = (*i[:-1], i[-1] + start)
            name = f"term {k}, row {place if len(place) > 1 else place[0]}"
            found.append(f"{name}: r={b.r[i]:.6g}, t={b.t[i]:.6g}, error={row.error[i]:.3g}, tangent rms={norms[i]:.3g}{_weight(row, i)}")
    rows_named = "; ".join(found[:4]) or "no single row"
    return f"the loss is not finite. {rows_named}. Nothing was repaired: look at the data, the learning rate and metrics['change_ratio']"


def _weight(row: Rows, i: tuple[int, ...]) -> str:
    """That a row's weight is at fault, where it is."""
    return "" if torch.isfinite(row.weighted[i]) or not torch.isfinite(row.error[i]) else f", its weight gives {row.weighted[i]:.3g}"
