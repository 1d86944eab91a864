"""Values that a user holds: a `repr` that a person reads, equality that sees through tensors, and pickling.

A function that returns a function is decorated with `@value`: what it returns knows the function and the arguments it was made by, which
is what is shown, compared and pickled. Frozen dataclasses inherit from `Value` for the first two.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor, nn

P = ParamSpec("P")
T = TypeVar("T", bound=Callable[..., Any])
FEW = 6
"""A tensor of more entries is shown by its shape and type."""


def told(x: Any) -> str:
    """A text for `x` in a `repr`: functions and modules by their name, tensors of many entries by shape and type."""
    if isinstance(x, Tensor):
        return _tensor(x)
    if isinstance(x, nn.Module):
        return _module(x)
    if isinstance(x, dict):
        return "{" + ", ".join(f"{key!r}: {told(part)}" for key, part in x.items()) + "}"
    if isinstance(x, (list, tuple)) and not hasattr(x, "_fields"):
        parts = ", ".join(map(told, x))
        return f"[{parts}]" if isinstance(x, list) else f"({parts},)" if len(x) == 1 else f"({parts})"
    if inspect.isroutine(x) or isinstance(x, type):
        return str(getattr(x, "__name__", type(x).__name__))
    if isinstance(x, functools.partial):
        return called_as("partial", [x.func, *x.args], x.keywords)
    if "__repr__" not in {name for kind in type(x).__mro__[:-1] for name in vars(kind)}:
        return f"{type(x).__name__}(...)"
    return repr(x)


def _tensor(x: Tensor) -> str:
    kind = str(x.dtype).removeprefix("torch.")
    if x.is_meta or x.layout != torch.strided or x.numel() > FEW:
        return f"tensor{list(x.shape)} {kind}"
    plain: Any = x.detach().tolist()
    return f"{plain:.6g}" if isinstance(plain, float) else str(plain) if x.ndim == 0 else f"tensor({_rounded(plain)})"


def _rounded(x: Any) -> str:
    return "[" + ", ".join(map(_rounded, x)) + "]" if isinstance(x, list) else f"{x:.6g}" if isinstance(x, float) else str(x)


def _module(x: nn.Module) -> str:
    count = sum(p.numel() for p in x.parameters())
    return f"{type(x).__name__}({count:,} parameters)" if count else f"{type(x).__name__}({x.extra_repr()})"


def called_as(name: str, positional: list[Any], named: Mapping[str, Any]) -> str:
    """A call with its arguments, as it is written in Python."""
    return f"{name}({', '.join([*map(told, positional), *(f'{key}={told(part)}' for key, part in named.items())])})"


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal, tensors inside them entry by entry."""
    if a is b:
        return True
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        alike = isinstance(a, Tensor) and isinstance(b, Tensor) and (a.dtype, a.shape, a.device) == (b.dtype, b.shape, b.device)
        return alike and torch.equal(a, b)
    if type(a) is not type(b):
        return not isinstance(a, (Value, tuple, list, dict)) and bool(a == b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(part, b[key]) for key, part in a.items())
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def like(function: T) -> Callable[[Callable[..., Any]], T]:
    """For type checkers: gives a method another's signature, a module's `__call__` that of `forward`, which torch types as Any."""
    return lambda _: function


def record(self: Any) -> str:
    """The `repr` of a named tuple of tensors, on one line: parts that are None are not shown."""
    return called_as(type(self).__name__, [], {name: part for name, part in self._asdict().items() if part is not None})


class Value:
    """A base of frozen dataclasses with `repr=False, eq=False`: arguments that are as by default are not shown."""

    __slots__ = ()

    def _parts(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(cast(Any, self)) if f.compare}

    def __repr__(self) -> str:
        positional: list[Any] = []
        named: dict[str, Any] = {}
        left_out = False
        for f in (f for f in fields(cast(Any, self)) if f.repr):
            part = getattr(self, f.name)
            default = f.default_factory() if f.default_factory is not MISSING else f.default
            if default is not MISSING and same(part, default):
                left_out = True
            elif left_out or f.kw_only or default is not MISSING:
                named[f.name] = part
            else:
                positional.append(part)
        return called_as(type(self).__name__, positional, named)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Value) and type(other) is type(self) and same(self._parts(), other._parts())

    def __hash__(self) -> int:
        return hash(type(self).__qualname__)


@dataclass(frozen=True, repr=False, eq=False)
class Made(Value):
    """What `factory(*positional, **named)` returned: called like it, and shown, compared and pickled as that call."""

    factory: Callable[..., Any]
    positional: tuple[Any, ...]
    named: dict[str, Any]
    function: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        """Call what was made."""
        return self.function(*args)

    def __repr__(self) -> str:
        return called_as(self.factory.__name__, list(self.positional), self.named)

    def _parts(self) -> dict[str, Any]:
        return {"factory": self.factory, "positional": self.positional, "named": self.named}

    def __hash__(self) -> int:
        return hash(self.factory)

    def __reduce__(self) -> tuple[Any, ...]:
        return _made_again, (self.factory, self.positional, self.named)


def _made_again(factory: Callable[..., Any], positional: tuple[Any, ...], named: dict[str, Any]) -> Any:
    return factory(*positional, **named)


def value(factory: Callable[P, T]) -> Callable[P, T]:
    """Make what a function at module level returns a value, with every argument written out, those by default too."""
    signature = inspect.signature(factory)

    @functools.wraps(factory)
    def make(*args: P.args, **kwargs: P.kwargs) -> T:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return cast(T, Made(make, bound.args, bound.kwargs, factory(*bound.args, **bound.kwargs)))

    return make
