"""From `package.module:factory` to a network and an example. Every way in which that can fail ends in one line."""

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meanstep.program.console import UserError, first_line

if TYPE_CHECKING:
    from torch import nn


def load(spec: str, options: Mapping[str, Any] | None = None, seed: int | None = None) -> "tuple[nn.Module, Any]":
    """The network that a factory returns, and its example or None; `UserError` if there is none. The current folder is importable.

    With a `seed` a factory that draws its weights draws the same ones every time, and torch's global random state is as before.
    """
    from torch import nn

    if not all(spec.partition(":")):
        raise UserError(f"give the network as package.module:factory, got {spec!r}")
    given = dict(options or {})
    with importable(Path.cwd()), seeded(seed):
        made = _call(attribute(spec), spec, given)
    net, example = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(net, nn.Module):
        raise UserError(f"{spec} returns no torch.nn.Module but {_described(made)}: return the network, or (network, example)")
    return net, example


def attribute(spec: str) -> Any:
    """What `package.module:name` names, imported with the current folder importable; `UserError` if there is none."""
    module, _, name = spec.partition(":")
    if not module or not name:
        raise UserError(f"give it as package.module:name, got {spec!r}")
    with importable(Path.cwd()):
        return _found(module, name)


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """torch's global generators at a seed, and afterwards as they were; None: left alone. A GPU's counts where it is in use already."""
    if seed is None:
        yield
        return
    import torch

    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed_all(seed)
        yield


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """`folder` on the path of imports, first."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


def _found(module: str, name: str) -> Any:
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        own = missing == module or module.startswith(f"{missing}.")
        reason = f"there is no module {missing!r} here or among the installed ones" if own else f"it needs {missing!r}: install that first"
        raise UserError(f"cannot import {module}: {reason}") from error
    except (Exception, SystemExit) as error:  # whatever their module does when it is imported
        raise UserError(f"cannot import {module}: {first_line(error)}{_place(error)}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            near = [n for n in vars(found) if not n.startswith("_") and callable(getattr(found, n))] if hasattr(found, "__dict__") else []
            raise UserError(f"{module} has no {part!r}{'; it has ' if near else ''}{', '.join(near[:8])}")
        found = getattr(found, part)
    return found


def _place(error: BaseException) -> str:
    """File and line of the innermost frame."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if isinstance(error, SyntaxError) or trace is None:
        return f" ({error.filename}, line {error.lineno})" if isinstance(error, SyntaxError) else ""
    return f" ({Path(trace.tb_frame.f_code.co_filename).name}, line {trace.tb_lineno})"


def _call(factory: Any, spec: str, given: dict[str, Any]) -> Any:
    from torch import nn

    if isinstance(factory, nn.Module):
        return factory
    if not callable(factory):
        raise UserError(f"{spec} is no function or class but {_described(factory)}")
    _fits(factory, spec, given)
    try:
        return factory(**given)
    except (Exception, SystemExit) as error:
        called = f"{spec} failed with these --options" if given else f"{spec} failed"
        raise UserError(f"{called}: {first_line(error)}{_place(error)}") from error


def _fits(factory: Callable[..., Any], spec: str, given: dict[str, Any]) -> None:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # written in C: it will complain itself
        return
    try:
        signature.bind(**given)
    except TypeError as error:
        raise UserError(f"{spec} is called without arguments or with those of --options '{{name: value}}': {error}") from error


def _described(value: Any) -> str:
    text = repr(value).replace("\n", " ")
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
