"""The network under examination: a copy whose zeros are filled, how it is called, and rows to call it with.

Checks never see the network that was given: each takes a fresh copy of the copy.
"""

import copy
import gc
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from meanstep.keys import key
from meanstep.program.console import UserError, first_line
from meanstep.program.doctor.arguments import ROLES, Call, candidates, parameters, read, reading, signature, stated
from meanstep.program.doctor.trace import where_it_stops
from meanstep.program.wrapped import uncompiled
from meanstep.shapes import tree_map

Rows = tuple[Tensor, Tensor, Tensor, Any]
SMALL = 3_000_000  # parameters: below that, threads on eight rows mostly wait for each other


@dataclass(frozen=True)
class Examined:
    """`field`: the copy as `(z, r, t, y) -> u`; `call`: how it is called; `stated`: a user said so; `raw`: what it returned."""

    field: nn.Module
    call: Call
    stated: bool
    rows: Rows
    raw: Any

    def fresh(self) -> nn.Module:
        """A copy in train mode, to be spoilt."""
        return copy.deepcopy(self.field)

    def body(self, field: nn.Module) -> nn.Module:
        """The user's own network inside a copy of the field: its modules' names are the user's."""
        return field if self.call.native and self.call.output is None else field.net  # type: ignore[return-value]

    def u(self, field: nn.Module, **other: Any) -> Tensor:
        """The field on the rows, or on others, with the same random numbers in every call."""
        given = dict(zip("zrty", self.rows, strict=True)) | other
        seed(given["z"].device)
        out: Tensor = field(given["z"], given["r"], given["t"], given["y"])
        return out

    def double(self) -> tuple[nn.Module, Rows] | None:
        """A copy in double precision and its rows, or None if the network insists on another."""
        field = self.fresh().double()
        rows = tree_map(lambda p: p.double() if p.is_floating_point() else p, self.rows)
        try:
            with torch.no_grad():
                out = self.u(field, **dict(zip("zrty", rows, strict=True)))
        except Exception:  # a dtype written into their code: float32 will do
            return None
        return (field, rows) if out.dtype == torch.float64 else None


def seed(device: torch.device) -> None:
    """Start the random numbers of a call."""
    torch.default_generator.manual_seed(0)
    if device.type == "cuda":
        torch.cuda.manual_seed(0)


@contextmanager
def dispatch_kept() -> Iterator[None]:
    """torch dispatches as before afterwards: errors of forward mode and of tracing hold guards that change that whenever they are freed."""
    kept = torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set()
    with torch._C._ForceDispatchKeyGuard(*kept):
        try:
            yield
        finally:
            gc.collect()


@contextmanager
def undisturbed(device: torch.device, size: int) -> Iterator[None]:
    """Gradients on, warnings off, one thread for a network of few parameters; random states and threads are as before afterwards."""
    states, threads = (random.getstate(), np.random.get_state()), torch.get_num_threads()
    devices = [device] if device.type == "cuda" else []
    try:
        with dispatch_kept(), torch.random.fork_rng(devices), warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            torch.set_num_threads(1 if size < SMALL else threads)
            yield
    finally:
        torch.set_num_threads(threads)
        random.setstate(states[0])
        np.random.set_state(states[1])


# Admission ---------------------------------------------------------------------------------------------------------------------------


def admit(net: nn.Module, example: Any, batch: int, classes: int, order: str, device: torch.device) -> Examined:
    """Copy a network, find out how it is called and call it once; `UserError` if it runs on nothing that fits."""
    if not isinstance(net, nn.Module):
        raise UserError(f"the doctor examines a torch.nn.Module, got {type(net).__name__}: wrap a function by ms.as_field(function)")
    given = example if isinstance(example, Mapping) else {"z": example} if isinstance(example, Tensor) else {"shape": example}
    order = order or str(given.get("order", ""))
    try:
        theirs = uncompiled(copy.deepcopy(net).to(device).train())
    except Exception as error:
        reason = f"the network cannot be copied ({first_line(error)}), so it can have no EMA copy either"
        raise UserError(f"{reason}: hold no computed tensors in attributes") from error
    first, rows = stated(order) if order else read(theirs), _rows(theirs, given, batch, classes, device)
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in theirs.parameters()):  # lazy layers know their sizes afterwards
        _first_call(theirs, first, rows)
    _fill(theirs)
    call, out = _first_call(theirs, first, rows)
    call = Call(call.order, call.names, reading(out, rows[0]), call.native, call.known)
    return Examined(call.adapt(theirs), call, bool(order), rows, out)


@torch.no_grad()
def _fill(net: nn.Module) -> None:
    """Noise in place of zeros and of weights next to zero: a network that starts at u = 0 shows nothing of itself."""
    for p in net.parameters():
        if p.is_floating_point() and p.numel():
            size = 0.5 * p[0].numel() ** -0.5 if p.ndim > 1 else 0.1
            noise = size * torch.randn(p.shape, generator=key(0, "fill"), dtype=torch.float32).to(p)
            tiny = p.abs().max() < 1e-2
            p.copy_(noise if tiny else torch.where(p == 0, noise, p))


def _rows(net: nn.Module, given: Mapping[str, Any], batch: int, classes: int, device: torch.device) -> Rows:
    """Distinct rows with 0 < r < t < 1."""
    z = given.get("z")
    shape = _event(net, given.get("shape")) if z is None else tuple(z.shape[1:])
    batch = batch if z is None else z.shape[0]
    if batch < 2 or any(n < 1 for n in shape):
        raise UserError(f"the doctor needs at least two rows of a non-empty shape, got a batch of {batch} and the shape {shape}")
    kind = next((p.dtype for p in net.parameters() if p.is_floating_point()), torch.float32)
    kind = kind if kind in (torch.float32, torch.float64) else torch.float32
    g = key(0, "doctor")
    z = torch.randn(batch, *shape, generator=g, dtype=kind) if z is None else z.detach().to(kind)
    t = torch.linspace(0.4, 0.8, batch, dtype=kind)
    r = t * torch.linspace(0.6, 0.3, batch, dtype=kind)
    y = None if classes else given.get("y")  # what the caller says goes before the example
    if y is None and (n := classes or int(given.get("classes", 0))):
        y = torch.randint(n, (batch,), generator=g)
    rows: Rows = tree_map(lambda p: p.to(device), (z, given.get("r", r), given.get("t", t), y))
    return rows


def _event(net: nn.Module, shape: Sequence[int] | None) -> tuple[int, ...]:
    """The shape of one sample: the user's, or what the network says of itself."""
    if shape is not None:
        try:
            return tuple(int(n) for n in shape)
        except (TypeError, ValueError):
            raise UserError(f"an example is a tensor, a shape such as (4, 32, 32) or a dict of z, r, t, y; got {shape!r}") from None
    config: Any = getattr(net, "config", net)
    size, channels = (getattr(config, a, getattr(config, b, None)) for a, b in (("sample_size", "size"), ("in_channels", "channels")))
    if isinstance(size, int) and isinstance(channels, int):
        return channels, size, size
    if isinstance(dim := getattr(net, "dim", None), int):
        return (dim,)
    raise UserError("the network does not say which shape its samples have: give --shape, e.g. 4,32,32 for images or 2 for points")


def _first_call(net: nn.Module, first: Call, rows: Rows) -> tuple[Call, Any]:
    complaints = []
    for call in candidates(net, first):
        field = call.adapt(net)

        def run(field: nn.Module = field) -> Any:
            with torch.no_grad():
                seed(rows[0].device)
                return field(*tree_map(lambda p: p.clone(), rows))

        try:
            return call, run()
        except Exception as error:  # the next order may do
            where = where_it_stops(net, run)
            complaints.append(f"{f'in {where}, ' if where else ''}{first_line(error, 200)}")
    z, _, t, y = rows
    given = f"z {list(z.shape)}, r and t {list(t.shape)}, {'no y' if y is None else 'y'}"
    if y is None and (wants := _label(first, net)):
        remedy = "give --classes N (in Python classes=N, or y in the example)"
        raise UserError(f"{type(net).__name__}.{signature(net)} is conditional and does not run without its {wants}: {remedy}")
    hint = "check --shape, --order and --classes" if y is None else "check --shape and --order"
    raise UserError(f"{type(net).__name__}.{signature(net)} does not run on {given}: {complaints[0]}. Look at that, or {hint}")


def _label(call: Call, net: nn.Module) -> str:
    """The name of the argument that takes the condition, if it must be given or the network holds a table of labels."""
    given = [q for q in parameters(net) if ROLES.get(q.name) == "y"]
    table = any(isinstance(m, (nn.Embedding, nn.EmbeddingBag)) for m in net.modules())
    named = next((q.name for q in given if q.default is q.empty or table), "")
    return named or ("labels" if table and "y" in call.roles else "")
