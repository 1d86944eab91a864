"""Which module does it: hooks on every module of a network, taken off again. Knows no checks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from meanstep.precise import low

Enter = Callable[[str, nn.Module, Any], Any]
Leave = Callable[[str, nn.Module, Any, Any], Any]


class Visit(NamedTuple):
    """One call of one module: what it was given and what it returned."""

    label: str
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any


def label(name: str, module: nn.Module) -> str:
    """A module as a person would look for it."""
    return f"{name or 'the network itself'} ({type(module).__name__})"


@contextmanager
def hooked(net: nn.Module, enter: Enter | None = None, leave: Leave | None = None) -> Iterator[None]:
    """Call `enter(label, module, (args, kwargs))` before and `leave(label, module, (args, kwargs), out)` after every module's forward."""
    hooks = []
    for name, module in net.named_modules():
        if isinstance(module, torch.jit.ScriptModule):  # it takes no hooks
            continue
        text = label(name, module)
        if enter is not None:

            def before(m: nn.Module, a: Any, k: Any, text: str = text) -> None:  # torch takes what a hook returns for the input
                enter(text, m, (a, k))

            hooks.append(module.register_forward_pre_hook(before, with_kwargs=True))
        if leave is not None:

            def after(m: nn.Module, a: Any, k: Any, o: Any, text: str = text) -> None:
                leave(text, m, (a, k), o)

            hooks.append(module.register_forward_hook(after, with_kwargs=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def visits(net: nn.Module, run: Callable[[], Any]) -> list[Visit]:
    """Every call of a module during `run`, in the order in which they return: children before their parents, copies of what went in."""
    found: list[Visit] = []
    given: list[Any] = []

    def leave(text: str, module: nn.Module, _: Any, out: Any) -> None:
        args, kwargs = given.pop()
        found.append(Visit(text, module, args, kwargs, _copied(out)))

    with hooked(net, lambda text, module, arguments: given.append(_copied(arguments)), leave):
        out = run()
    return found or [Visit(label("", net), net, (), {}, _copied(out))]


def scripted(net: nn.Module) -> str:
    """The first TorchScript module in it, or nothing."""
    return next((label(name, module) for name, module in net.named_modules() if isinstance(module, torch.jit.ScriptModule)), "")


def coarse(net: nn.Module, run: Callable[[], Any]) -> tuple[str, str] | None:
    """The first module that computes in less precision than float32 during `run`, and in which; None if none does."""
    inside: list[str] = []
    found: list[tuple[str, str]] = []

    class Watched(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            found.extend((inside[-1] if inside else label("", net), str(x.dtype).removeprefix("torch.")) for x in floats(out) if low(x))
            return out

    with torch.no_grad(), hooked(net, lambda text, *_: inside.append(text), lambda *_: inside.pop()), Watched():
        run()
    return found[0] if found else None


def where_it_stops(net: nn.Module, run: Callable[[], Any]) -> str:
    """The innermost module inside which `run` raises, or nothing."""
    inside: list[str] = []
    try:
        with hooked(net, lambda text, *_: inside.append(text), lambda *_: inside.pop()):
            run()
    except Exception:  # the caller knows it already: only where it happens is of interest
        return inside[-1] if inside else ""
    return ""


def _copied(tree: Any) -> Any:
    return _pytree.tree_map(lambda x: x.detach().clone() if isinstance(x, Tensor) else x, tree)


def floats(tree: Any) -> list[Tensor]:
    """The floating-point tensors in a structure."""
    return [x for x in _pytree.tree_leaves(tree) if isinstance(x, Tensor) and x.is_floating_point()]


def function_of(visit: Visit) -> tuple[Callable[..., tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """A module's call as a function of its floating-point inputs, and those inputs. The same random numbers in every call."""
    leaves, spec = _pytree.tree_flatten((visit.args, visit.kwargs))
    places = [k for k, x in enumerate(leaves) if isinstance(x, Tensor) and x.is_floating_point()]

    def f(*inputs: Tensor) -> tuple[Tensor, ...]:
        new = list(leaves)
        for place, x in zip(places, inputs, strict=True):
            new[place] = x
        args, kwargs = _pytree.tree_unflatten(new, spec)
        torch.default_generator.manual_seed(0)
        return tuple(floats(visit.module(*args, **kwargs)))

    return f, tuple(leaves[k] for k in places)
