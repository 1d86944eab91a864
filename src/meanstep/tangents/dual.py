"""A value with a tangent on its first rows, and the table of rules that carries both through a network. Knows no rule itself.

A network is run on `Dual`s in place of tensors. Each torch function that it calls is called on the primals, as it would be without a
tangent, with autograd, autocast and fused kernels; then the function's rule adds the tangent, eq. (10): without gradient, or with one if
the `Dual` is `recorded`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree

Rule = Callable[..., tuple[Any, int]]
RULES: dict[Callable[..., Any], Rule] = {}
"""Function -> `(result, *arguments) -> (tangent of the result, its batch axis)`; several results have a list of tangents."""
OPERATORS: dict[str, tuple[Callable[..., Any], bool]] = {}
"""Under compile an operator of a tensor and a `Dual` arrives by its name, maybe as the tensor's mirror image."""
WHOLE: dict[Callable[..., Any], Callable[..., Any]] = {}
"""Functions that a rule replaces altogether: `(*arguments) -> Dual or tensor`."""
PAIRS: dict[Callable[..., Any], Callable[..., Any]] = {}
"""Functions that make a value and a tangent with a graph together: `(*arguments) -> Dual`, or None where they do not apply."""
OWN: set[Callable[..., Any]] = set()
"""Functions of users, whose rules may have no gradient."""


class Unsupported(TypeError):
    """A network does with a `Dual` what no rule covers."""


class Missing(Unsupported, AttributeError):
    """A network reads what a `Dual` does not have."""


def this_pass() -> int:
    """The backward pass that this runs inside of, or -1."""
    return -1 if torch.compiler.is_compiling() else torch._C._current_graph_task_id()


@dataclass(slots=True, eq=False, repr=False)
class Dual:
    """`primal` with all rows; `tangent`, of the same dtype, of the first rows only; `axis`: where the batch lies, from the right (< 0).

    It is no tensor: what does not go through `__torch_function__` raises instead of losing the tangent. FSDP2 looks for tensors in
    dataclasses. `graded`: whether autograd was on; `backward`: the backward pass it was made in; `recorded`: the tangent has a graph.
    """

    primal: Tensor
    tangent: Tensor
    axis: int
    graded: bool
    backward: int = field(default_factory=this_pass, kw_only=True)
    recorded: bool = field(default=False, kw_only=True)

    @classmethod
    def __torch_function__(cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Call `func` on the primals and add the tangent by its rule; `Unsupported` if it has none."""
        kwargs = kwargs or {}
        if (rule := RULES.get(func)) is None:  # not after the call: one in place (`constant += x`) would have happened
            return _without_rule(func, args, kwargs)
        if func in PAIRS and (made := PAIRS[func](*args, **kwargs)) is not None:
            return made
        found: list[Dual] = []
        plain = [_primals(value, found) for value in args]
        out = func(*plain, **{name: _primals(value, found) for name, value in kwargs.items()}) if kwargs else func(*plain)
        now, graded, recorded, many = this_pass(), torch.is_grad_enabled(), False, False
        for d in found:
            recorded, many = recorded or d.recorded, many or isinstance(d, Several)
        for d in found:
            if d.backward != now and not recorded:  # a checkpointed segment, computed anew: nobody reads its tangents
                return out
        for d in found:
            if d.graded != graded:
                raise Unsupported("the network switches the gradient on or off inside, which hides what its autograd functions do")
        if recorded and func in OWN:
            raise Unsupported("the rule of a function of one's own, whose gradient nobody knows")
        with torch.set_grad_enabled(recorded and graded):
            if many:
                return _each(rule, out, args, kwargs, graded)
            tangent, axis = rule(out, *args, **kwargs)
            return out if tangent is None else joined(out, tangent, axis, graded, recorded, now)

    def first(self, x: Any) -> Any:
        """The rows of `x` (primal of a `Dual`, or a tensor that broadcasts against this one) that have a tangent here."""
        x = x.primal if isinstance(x, Dual) else x
        if not isinstance(x, Tensor) or x.ndim < -self.axis:
            return x
        rows, size = self.tangent.shape[self.axis], self.primal.shape[self.axis]
        return x if rows == size or x.shape[self.axis] != size else x.narrow(self.axis, 0, rows)

    @property
    def rows(self) -> Tensor:
        """The primal's rows that have a tangent."""
        rows: Tensor = self.first(self)
        return rows

    def size(self, dim: int | None = None) -> Any:
        """As of the primal, or of its axis `dim`."""
        return self.primal.size() if dim is None else self.primal.size(dim)

    def dim(self) -> int:
        """As of the primal."""
        return self.primal.ndim

    def numel(self) -> int:
        """As of the primal."""
        return self.primal.numel()

    def __iter__(self) -> Iterator["Dual"]:
        return iter(self.unbind(0))

    def __len__(self) -> int:
        return len(self.primal)

    def __getattr__(self, name: str) -> Any:
        raise Missing(f"no tangent rule for the attribute {name} of a tensor")


@dataclass(slots=True, eq=False, repr=False)
class Several(Dual):
    """A `Dual` with `tangents` along several directions on the same rows, None along one that it does not depend on.

    Each function is called once on the primals, and its rule once for each direction. `tangent` is the first that there is.
    """

    tangents: tuple[Tensor | None, ...]


def several(primal: Tensor, tangents: Sequence[Tensor | None], axis: int, graded: bool) -> Any:
    """`primal` with its tangents along several directions; a tensor if it has none."""
    first = next((d for d in tangents if d is not None), None)
    return primal if first is None else Several(primal, first, axis, graded, tuple(tangents))


def _each(rule: Rule, out: Any, args: Any, kwargs: dict[str, Any], graded: bool) -> Any:
    """The results of a function whose arguments have tangents along several directions."""
    count = max(len(d.tangents) for d in duals(args, kwargs) if isinstance(d, Several))
    parts: list[Any] = []
    for k in range(count):
        given, named = _along(args, k), {name: _along(value, k) for name, value in kwargs.items()}
        tangent, axis = rule(out, *given, **named) if duals(given, named) else (None, 0)
        parts.append(None if tangent is None else joined(out, tangent, axis, graded))
    return _bundled(out, parts)


def _along(value: Any, k: int) -> Any:
    """Arguments as the rule of one direction takes them."""
    if isinstance(value, (list, tuple)):
        return type(value)([_along(inner, k) for inner in value]) if not isinstance(value, torch.Size) else value
    if not isinstance(value, Several):
        return value
    tangent = value.tangents[k]
    return value.primal if tangent is None else Dual(value.primal, tangent, value.axis, value.graded)


def _bundled(out: Any, parts: list[Any]) -> Any:
    """A function's results with what each direction made of them."""
    there = [part for part in parts if part is not None]
    if not there:
        return out
    if not isinstance(out, Tensor):
        return type(out)(_bundled(o, [None if part is None else part[i] for part in parts]) for i, o in enumerate(out))
    if len({part.axis for part in there}) > 1:
        raise Unsupported("directions whose batches lie at different axes")
    return several(out, [None if part is None else part.tangent for part in parts], there[0].axis, there[0].graded)


def _of_primal(name: str) -> property:
    def read(self: Dual) -> Any:
        return getattr(self.primal, name)

    return property(read, doc="As of the primal.")


for _name in ("shape", "dtype", "device", "ndim", "layout", "requires_grad", "is_cuda", "is_nested"):
    setattr(Dual, _name, _of_primal(_name))
for _name in ("is_floating_point", "is_complex"):  # methods, which the primal answers
    setattr(Dual, _name, _of_primal(_name))


def joined(out: Any, tangent: Any, axis: int, graded: bool, recorded: bool = False, backward: int | None = None) -> Any:
    """`Dual`s of a function's results, one or several, and their tangents, made in a backward pass: by default this one."""
    now = this_pass() if backward is None else backward
    if not isinstance(out, Tensor):
        return type(out)(joined(o, d, axis, graded, recorded, now) for o, d in zip(out, tangent, strict=True))
    if tangent.dtype != out.dtype:
        tangent = tangent.to(out.dtype)
    found, wanted = list(tangent.shape), list(out.shape)
    wanted[axis] = found[axis]
    return Dual(out, tangent if found == wanted else tangent.expand(wanted), axis, graded, backward=now, recorded=recorded)


def duals(args: Sequence[Any], kwargs: dict[str, Any]) -> list[Dual]:
    """Every `Dual` among the arguments, inside lists and tuples too."""
    flat = [inner for value in (*args, *kwargs.values()) for inner in (value if isinstance(value, (list, tuple)) else (value,))]
    return [value for value in flat if isinstance(value, Dual)]


def _primals(value: Any, found: list[Dual]) -> Any:
    """The primal of an argument, inside lists and tuples too; its `Dual`s are added to `found`."""
    if isinstance(value, Dual):
        found.append(value)
        return value.primal
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        return type(value)([_primals(inner, found) for inner in value])
    return value


def _without_rule(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """A function that is another's name, or that a rule replaces altogether; else `Unsupported`."""
    if (name := getattr(func, "__name__", "")) in OPERATORS:
        named, swap = OPERATORS[name]
        return Dual.__torch_function__(named, (), args[::-1] if swap else args, kwargs)
    if func in WHOLE:
        return WHOLE[func](*args, **kwargs)
    raise Unsupported(f"no tangent rule for {name or func}")


# Registration ------------------------------------------------------------------------------------------------------------------------

SPELLINGS = (torch, F, Tensor)


def rule(
    *names: str, table: dict[Callable[..., Any], Any] = RULES, places: Sequence[Any] = SPELLINGS
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a rule under every spelling of the names (`torch.x`, `F.x`, `Tensor.x`), and make them methods of `Dual`.

    `places`: where a name means this function, if it means others elsewhere.
    """

    def register(f: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            for place in places:
                if callable(function := getattr(place, name, None)):
                    table[function] = f
            method = getattr(Tensor, name, None) if Tensor in places else None
            if isinstance(method, FunctionType):  # written in Python: its namesake can be compiled, it cannot
                method = getattr(torch, name, method)
            if method is not None:
                setattr(Dual, name, _method(method))
        return f

    return register


def has_rule(tangent: Rule) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a function of one's own a rule, `(result, *arguments) -> (tangent, batch axis)`: a decorator."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        def plain(*args: Any, **kwargs: Any) -> Any:  # a compiled step must know every key: not so `Function.apply`
            return function(*args, **kwargs)

        def f(*args: Any, **kwargs: Any) -> Any:
            return Dual.__torch_function__(plain, (), args, kwargs) if duals(args, kwargs) else plain(*args, **kwargs)

        RULES[plain] = tangent
        OWN.add(plain)
        return f

    return decorate


def _method(function: Callable[..., Any], swap: bool = False) -> Callable[..., Any]:
    def method(self: Dual, *args: Any, **kwargs: Any) -> Any:
        args = (args[0], self, *args[1:]) if swap else (self, *args)
        return Dual.__torch_function__(function, (), args, kwargs)

    return method


def operator(name: str, function: Callable[..., Any], reflected: str | None = None) -> None:
    """Make a function the operator `name` of `Dual`, and its mirror image the operator `reflected`."""
    setattr(Dual, name, _method(function))
    OPERATORS[name] = function, False
    if reflected:
        setattr(Dual, reflected, _method(function, swap=True))
        OPERATORS[reflected] = function, True


def _flatten(d: Dual) -> tuple[list[Any], Any]:
    return [d.primal, d.tangent], (d.axis, d.graded, d.recorded)


def _flatten_several(d: Several) -> tuple[list[Any], Any]:
    return [d.primal, d.tangents], (d.axis, d.graded)


# DDP looks for tensors in what its module takes and gives
_pytree.register_pytree_node(Dual, _flatten, lambda parts, context: Dual(*parts, *context[:2], recorded=context[2]))
_pytree.register_pytree_node(Several, _flatten_several, lambda parts, context: several(*parts, *context))
