"""The tangent of each torch function that networks are made of: `(result, *arguments) -> (tangent, batch axis)`. Knows no networks.

A rule runs with gradients on where its tangent is to have a graph, and is then made of what torch can differentiate.

LayerNorm without its weight, softmax and elementwise functions have symmetric Jacobians, so their tangent is the fused backward kernel
with the tangent in place of the incoming gradient.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from meanstep.attention import followed
from meanstep.tangents.curved import Gelu, along_gelu
from meanstep.tangents.dual import PAIRS, Dual, Unsupported, duals, operator, rule, this_pass

aten = torch.ops.aten
WIDE = (torch.float32, torch.float64)


def alone(what: str, *others: Any) -> None:
    """`Unsupported` if an argument that is taken for a constant has a tangent."""
    if any(isinstance(other, Dual) for other in others):
        raise Unsupported(f"no tangent rule for {what} that depends on the inputs")


def shared_axis(found: Sequence[Dual]) -> int:
    """The batch axis of all arguments; `Unsupported` if they disagree."""
    axes = {d.axis for d in found}
    if len(axes) != 1:
        raise Unsupported(f"arguments whose batches lie at different axes {sorted(axes)}")
    return axes.pop()


def outside(x: Dual, *dims: int) -> None:
    """`Unsupported` if a function works along the batch."""
    if any(dim % x.ndim == x.axis % x.ndim for dim in dims):
        raise Unsupported("a function along the batch axis mixes the rows")


def kept(inplace: bool, d: Tensor) -> Tensor:
    """`d`, or `Unsupported` if the function overwrites its argument, which others may still read."""
    if inplace:
        raise Unsupported("a function in place")
    return d


def paired(*parts: Any) -> bool:
    """Whether all of them are of one type, and all their rows have one tangent with a graph."""
    return (
        all(type(x) is Dual and x.recorded and x.graded for x in parts)
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and all(x.tangent.shape == x.primal.shape for x in parts)
        and len({x.dtype for x in parts}) == 1
    )


def plain(x: Any) -> bool:
    """Whether it has one tangent without a graph, made under the same gradient mode, in no earlier backward pass."""
    return type(x) is Dual and not x.recorded and x.graded == torch.is_grad_enabled() and x.backward == this_pass()


# Elementwise -------------------------------------------------------------------------------------------------------------------------


def _elementwise(names: str, slope: Callable[..., Tensor]) -> None:
    """`slope(tangent, x, y, *arguments)` of a function `y = f(x, *arguments)`."""

    def tangent(out: Tensor, x: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, int]:
        if not isinstance(x, Dual):
            raise Unsupported(f"{names} of a constant to a power or bounds that depend on the inputs")
        alone(f"an argument of {names}", *args, *kwargs.values())
        return slope(x.tangent, x.rows, x.first(out), *args, **kwargs), x.axis

    rule(*names.split())(tangent)


_elementwise("silu", lambda d, x, y, inplace=False: _silu(kept(inplace, d), x))
_elementwise("gelu", lambda d, x, y, approximate="none": _gelu(d, x, approximate))
_elementwise("mish", lambda d, x, y, inplace=False: _mish(kept(inplace, d), x))
_elementwise("relu", lambda d, x, y, inplace=False: aten.threshold_backward(kept(inplace, d), y, 0))
_elementwise("leaky_relu", lambda d, x, y, negative_slope=0.01, inplace=False: torch.where(x > 0, kept(inplace, d), negative_slope * d))
_elementwise("softplus", lambda d, x, y, beta=1, threshold=20: aten.softplus_backward(d, x, beta, threshold))
_elementwise("sigmoid", lambda d, x, y: aten.sigmoid_backward(d, y))
_elementwise("tanh", lambda d, x, y: aten.tanh_backward(d, y))
_elementwise("sin", lambda d, x, y: d * x.cos())
_elementwise("cos", lambda d, x, y: -d * x.sin())
_elementwise("exp", lambda d, x, y: d * y)
_elementwise("log", lambda d, x, y: d / x)
_elementwise("sqrt", lambda d, x, y: d / (2 * y))
_elementwise("rsqrt", lambda d, x, y: -0.5 * d * y**3)
_elementwise("square", lambda d, x, y: 2 * x * d)
_elementwise("reciprocal", lambda d, x, y: -d * y * y)
_elementwise("neg", lambda d, x, y: -d)
_elementwise("abs", lambda d, x, y: d * x.sign())
_elementwise("clamp clip", lambda d, x, y, min=None, max=None: torch.where((x == y), d, 0.0))
_elementwise("clone contiguous", lambda d, x, y, memory_format=None: d)


def _silu(d: Tensor, x: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        found: Tensor = aten.silu_backward(d, x)
        return found
    s = x.sigmoid()
    return d * s * (1 + x * (1 - s))


def _mish(d: Tensor, x: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        found: Tensor = aten.mish_backward(d, x)
        return found
    inner = F.softplus(x).tanh()
    return d * (inner + x * (1 - inner.square()) * x.sigmoid())


def _gelu(d: Tensor, x: Tensor, approximate: str) -> Tensor:
    found: Tensor
    if torch.is_grad_enabled():
        _, found = Gelu.apply(x, d, approximate)  # type: ignore[no-untyped-call]
    elif approximate == "tanh" and x.device.type == "cpu" and x.dtype == d.dtype in WIDE and not (followed(x) or followed(d)):
        found = along_gelu(d, x)
    else:
        found = aten.gelu_backward(d, x, approximate=approximate)
    return found


@rule("gelu", table=PAIRS, places=(F,))
def _gelu_pair(x: Any, approximate: str = "none") -> Dual | None:
    return pair(Gelu.apply(x.primal, x.tangent, approximate), x.axis) if paired(x) else None  # type: ignore[no-untyped-call]


def pair(made: tuple[Tensor, Tensor], axis: int) -> Dual:
    """A value with a tangent that has a graph."""
    return Dual(*made, axis, True, recorded=True)


@rule("pow")
def _pow(out: Tensor, x: Any, exponent: Any) -> tuple[Tensor, int]:
    alone("an exponent", exponent)
    power = x.first(exponent)
    # the power 0 is a constant, and 0 times the infinite slope of 0 ** -1 no number
    below = torch.where(power == 0, 0, power - 1) if isinstance(power, Tensor) else power - 1 if power else 0
    return x.tangent * power * x.rows**below, x.axis


@rule("to", "type", "type_as", "float", "double", "half", "bfloat16")
def _to(out: Tensor, x: Any, *args: Any, **kwargs: Any) -> tuple[Tensor | None, int]:
    moves = isinstance(x, Dual) and (out.is_floating_point() or out.is_complex())  # integers and truth values have no tangent
    return (x.tangent.to(out.device, out.dtype), x.axis) if moves else (None, 0)


def _tangent(x: Any) -> Tensor | None:
    return x.tangent if isinstance(x, Dual) else None


@rule("add")
def _add(out: Tensor, a: Any, b: Any, *, alpha: float = 1) -> tuple[Tensor, int]:
    axis = shared_axis(duals((a, b), {}))
    da, db = _tangent(a), _tangent(b)
    if da is None or db is None:
        return da if db is None else alpha * db if alpha != 1 else db, axis  # type: ignore[return-value]
    return torch.add(da, db, alpha=alpha), axis


@rule("sub")
def _sub(out: Tensor, a: Any, b: Any, *, alpha: float = 1) -> tuple[Tensor, int]:
    return _add(out, a, b, alpha=-alpha)


@rule("div", "true_divide")
def _div(out: Tensor, a: Any, b: Any, *, rounding_mode: None = None) -> tuple[Tensor, int]:
    if rounding_mode is not None:
        raise Unsupported("a rounded division")
    x = (found := duals((a, b), {}))[0]
    axis, da, db = shared_axis(found), _tangent(a), _tangent(b)
    top = da if db is None else -x.first(out) * db if da is None else torch.addcmul(da, x.first(out), db, value=-1)
    return top / x.first(b), axis


@rule("lerp")
def _lerp(out: Tensor, a: Any, b: Any, weight: Any) -> tuple[Tensor, int]:
    alone("a weight of lerp", weight)
    axis, x = shared_axis(duals((a, b), {})), duals((a, b), {})[0]
    zero = torch.zeros((), dtype=out.dtype, device=out.device)
    da, db = (zero if d is None else d for d in (_tangent(a), _tangent(b)))
    return da + x.first(weight) * (db - da), axis


@rule("where", places=(Tensor,))
def _where_method(out: Tensor, a: Any, condition: Tensor, b: Any) -> tuple[Tensor, int]:
    return _where(out, condition, a, b)


@rule("where", places=(torch,))
def _where(out: Tensor, condition: Tensor, a: Any, b: Any) -> tuple[Tensor, int]:
    found = duals((a, b), {})
    zero = torch.zeros((), dtype=out.dtype, device=out.device)
    da, db = (zero if d is None else d for d in (_tangent(a), _tangent(b)))
    return torch.where(found[0].first(condition), da, db), shared_axis(found)


# Complex numbers, which rotary positions use ------------------------------------------------------------------------------------------


@rule("view_as_complex", places=(torch,))
def _view_as_complex(out: Tensor, x: Dual) -> tuple[Tensor, int]:
    outside(x, -1)
    return torch.view_as_complex(x.tangent.contiguous()), x.axis + 1


@rule("view_as_real", places=(torch,))
def _view_as_real(out: Tensor, x: Dual) -> tuple[Tensor, int]:
    return torch.view_as_real(x.tangent), x.axis - 1


@rule("complex", places=(torch,))
def _complex(out: Tensor, real: Any, imaginary: Any) -> tuple[Tensor, int]:
    found = duals((real, imaginary), {})
    zero = torch.zeros_like(found[0].tangent)
    return torch.complex(*(zero if d is None else d for d in (_tangent(real), _tangent(imaginary)))), shared_axis(found)


# Products ----------------------------------------------------------------------------------------------------------------------------


def product(f: Callable[..., Tensor], a: Any, b: Any, aligned: bool = True) -> Tensor:
    """The product rule; `aligned`: the batch of a constant factor lies where that of the other does."""
    x = duals((a, b), {})[0]
    p, q = (x.first(c) if aligned or isinstance(c, Dual) else c for c in (a, b))
    left = f(a.tangent, q) if isinstance(a, Dual) else None
    right = f(p, b.tangent) if isinstance(b, Dual) else None
    return right if left is None else left if right is None else left + right  # type: ignore[return-value]


@rule("mul", "multiply")
def _mul(out: Tensor, a: Any, b: Any) -> tuple[Tensor, int]:
    if isinstance(a, Dual) and isinstance(b, Dual):
        return torch.addcmul(a.tangent * b.rows, a.rows, b.tangent), shared_axis((a, b))
    return product(torch.mul, a, b), shared_axis(duals((a, b), {}))


@rule("matmul", "bmm", "mm")
def _matmul(out: Tensor, a: Any, b: Any) -> tuple[Tensor, int]:
    axis = shared_axis(found := duals((a, b), {}))
    contracted = isinstance(a, Dual) and axis == -1, isinstance(b, Dual) and axis == -2
    if a.ndim < 2 or b.ndim < 2 or any(contracted) or (len(found) == 2 and axis > -3):
        raise Unsupported("a matrix product along the batch axis")
    return product(torch.matmul, a, b, aligned=axis < -2), axis


@rule("linear")
def _linear(out: Tensor, x: Any, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, int]:
    alone("a layer's weight", weight, bias)
    outside(x, -1)
    return F.linear(x.tangent, weight), x.axis


@rule("bilinear")
def _bilinear(out: Tensor, a: Any, b: Any, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, int]:
    alone("a layer's weight", weight, bias)
    found = duals((a, b), {})
    outside(found[0], -1)
    return product(lambda p, q: F.bilinear(p, q, weight), a, b), shared_axis(found)


@rule("einsum")
def _einsum(out: Tensor, equation: str, *operands: Any) -> tuple[Tensor, int]:
    operands = tuple(operands[0]) if isinstance(operands[0], (list, tuple)) else operands
    terms, _, result = equation.replace(" ", "").partition("->")
    if "." in equation or "->" not in equation:
        raise Unsupported(f"einsum {equation!r}: write all axes and the result")
    found = [(k, d, term[d.axis]) for k, (d, term) in enumerate(zip(operands, terms.split(","), strict=True)) if isinstance(d, Dual)]
    letters = {letter for _, _, letter in found}
    if len(letters) != 1 or (letter := letters.pop()) not in result:
        raise Unsupported(f"einsum {equation!r} over the batch axis")
    rows, dual = found[0][1].tangent.shape[found[0][1].axis], found[0][1]
    assert isinstance(dual, Dual)

    def cut(d: Any, term: str) -> Tensor:
        x: Tensor = d.primal if isinstance(d, Dual) else d
        return x.narrow(term.index(letter), 0, rows) if letter in term else x

    kept = [cut(d, term) for d, term in zip(operands, terms.split(","), strict=True)]
    parts = [torch.einsum(equation, *kept[:k], d.tangent, *kept[k + 1 :]) for k, d, _ in found]
    return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0], result.index(letter) - len(result)


for _sign, _function in (("add", torch.add), ("sub", torch.sub), ("mul", torch.mul), ("truediv", torch.div), ("matmul", torch.matmul)):
    operator(f"__{_sign}__", _function, f"__r{_sign}__")
operator("__pow__", torch.pow)
operator("__neg__", torch.neg)
