"""Conditions of a network, a tensor or a tree of tensors, and what takes their place where they are hidden. Knows no velocities."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Generator, Tensor, nn

from meanstep.keys import drawn


class Learned(nn.Module):
    """A null that is learned: the parameter `value` in place of every row of a condition."""

    def __init__(self, value: nn.Parameter) -> None:
        super().__init__()
        self.value = value

    def forward(self, y: Tensor) -> Tensor:
        """The value for every row of `y`."""
        return _spread(self.value, y, "y")


def prepared(null: Any) -> Any:
    """A null whose parameters are modules, so that they can be sharded and moved; `TypeError` if it hides nothing."""
    hides(null)
    return _with_modules(null)


def hides(null: Any) -> None:
    """`TypeError` for a null that hides nothing."""
    if all(part is None for part in _parts(null)):
        raise TypeError(f"a null says what takes the place of a hidden condition, and null={null!r} hides nothing")


def learned(null: Any) -> tuple[nn.Module, ...]:
    """The modules among the parts of a null."""
    return tuple(part for part in _parts(null) if isinstance(part, nn.Module))


def hidden(null: Any, y: Any) -> Any:
    """`y` with `null` in its place, on all rows.

    `null`: a number for a tensor of integer labels; else a tree like `y`, whose parts are numbers or tensors that broadcast over that part,
    None for one that is not hidden, or functions of that part (of all of `y` where it is no tree): an `nn.Module` or `Learned` too.
    `TypeError` or `ValueError` if it does not fit.
    """
    if _single(null) and not (isinstance(y, Tensor) and _integer(y)):
        raise TypeError(_one_for_all(null, y))
    return _hidden(null, y, "y")


def submodes(features: Tensor, labels: Tensor, count: int, generator: Generator | None = None, rounds: int = 25) -> Tensor:
    """Labels of class and cluster, `label * count + cluster`, int64 `[N]`: k-means of each class in the features `[N, D]`; 2604.12273.

    SubFlow trains any recipe with them in place of the labels, and a sample of a class draws its cluster by how many rows that has. A class
    of fewer rows than `count` has as many clusters as rows. `ValueError` for features and labels that do not fit, or no cluster.
    """
    if features.ndim != 2 or labels.shape != features.shape[:1] or not _integer(labels) or count < 1:
        what = f"got {tuple(features.shape)}, {labels.dtype} {tuple(labels.shape)} and {count}"
        raise ValueError(f"sub-modes are of features [N, D], integer labels [N] and at least one cluster, {what}")
    found = torch.empty_like(labels, dtype=torch.int64)
    for label in sorted(set(labels.tolist())):
        at = (labels == label).nonzero().squeeze(1)
        found[at] = label * count + _clusters(features[at].double(), min(count, len(at)), generator, rounds)
    return found


def _clusters(x: Tensor, count: int, generator: Generator | None, rounds: int) -> Tensor:
    """Lloyd's algorithm from a random row and those furthest from the ones before."""
    centres = x[drawn(torch.randint, len(x), (1,), generator=generator, device=x.device)]
    while len(centres) < count:
        centres = torch.cat([centres, x[torch.cdist(x, centres).amin(1).argmax()][None]])
    for _ in range(rounds):
        mine = torch.cdist(x, centres).argmin(1)
        centres = torch.stack([x[mine == k].mean(0) if (mine == k).any() else c for k, c in enumerate(centres)])
    return torch.cdist(x, centres).argmin(1)


def _hidden(null: Any, y: Any, name: str) -> Any:
    if null is None or y is None:
        return y
    if callable(null):
        return _like(null(y), y, name)
    if isinstance(y, dict):
        if not isinstance(null, dict) or null.keys() != y.keys():
            raise ValueError(f"the null of {name} is {_form(null)}, and {name} has the parts {_form(y)}: give each, None to keep it")
        return {k: _hidden(null[k], part, f"{name}[{k!r}]") for k, part in y.items()}
    if isinstance(y, (tuple, list)):
        if not isinstance(null, (tuple, list)) or len(null) != len(y):
            raise ValueError(f"the null of {name} is {_form(null)}, and {name} has {len(y)} parts: give each, None for one to be kept")
        parts = [_hidden(n, part, f"{name}[{k}]") for k, (n, part) in enumerate(zip(null, y, strict=True))]
        return type(y)(*parts) if hasattr(y, "_fields") else type(y)(parts)
    return _spread(null, y, name)


def _spread(null: Any, y: Tensor, name: str) -> Tensor:
    """A number or tensor on every row of a tensor; it must keep its value in the tensor's type."""
    if _number(null):
        null = null.item()
    try:  # a number is filled in where the tensor lives: copied there it would be none of a CUDA graph's operations
        value = torch.full((), null, device=y.device) if isinstance(null, bool | int | float) else torch.as_tensor(null)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise TypeError(f"the null of {name} is a number, a tensor, an nn.Parameter, a function or None, got {_form(null)}") from None
    kinds = {_kind(value), _kind(y)}
    if kinds not in ({"bool"}, {"integer"}, {"float"}, {"integer", "float"}) or (_kind(y) == "integer" and "float" in kinds):
        raise TypeError(f"the null of {name} is {null!r:.60}, and {name} is {y.dtype}: give a null of that type")
    if value.ndim > y.ndim or any(n not in (1, m) for n, m in zip(value.shape[::-1], y.shape[::-1], strict=False)):
        raise ValueError(f"the null of {name} has shape {tuple(value.shape)}, which does not spread over {name}, {tuple(y.shape)}")
    if isinstance(null, int) and _integer(y) and not torch.iinfo(y.dtype).min <= null <= torch.iinfo(y.dtype).max:
        raise ValueError(f"the null of {name} is {null}, which {y.dtype} does not hold")
    return value.to(y.device, y.dtype).expand_as(y)


def _number(null: Any) -> bool:
    """Whether a null is one number in a tensor or array that nothing learns, where reading it does not wait for a device."""
    if isinstance(null, Tensor):
        return not null.ndim and not null.requires_grad and null.device.type == "cpu" and not torch.compiler.is_compiling()
    return getattr(null, "ndim", None) == 0 and hasattr(null, "item")


def _like(found: Any, y: Any, name: str) -> Any:
    """What a function made of a condition, if it is one of the same form."""
    if isinstance(y, dict) and isinstance(found, dict) and found.keys() == y.keys():
        return {k: _like(found[k], part, f"{name}[{k!r}]") for k, part in y.items()}
    if isinstance(y, (tuple, list)) and type(found) is type(y) and len(found) == len(y):
        parts = [_like(a, b, f"{name}[{k}]") for k, (a, b) in enumerate(zip(found, y, strict=True))]
        return type(y)(*parts) if hasattr(y, "_fields") else type(y)(parts)
    if y is None and found is None:
        return None
    if not isinstance(y, Tensor) or not isinstance(found, Tensor) or found.shape != y.shape or found.dtype != y.dtype:
        raise ValueError(f"the null of {name} is a function that returned {_form(found)} for {_form(y)}: it must return the same form")
    return found


def _parts(null: Any) -> Iterator[Any]:
    if isinstance(null, (dict, tuple, list)):
        for part in null.values() if isinstance(null, dict) else null:
            yield from _parts(part)
    else:
        yield null


def _with_modules(null: Any) -> Any:
    if isinstance(null, dict):
        return {k: _with_modules(part) for k, part in null.items()}
    if isinstance(null, (tuple, list)):
        return tuple(_with_modules(part) for part in null)
    return Learned(null) if isinstance(null, nn.Parameter) else null


def _single(null: Any) -> bool:
    """Whether a null is one number."""
    return isinstance(null, (int, float)) or (getattr(null, "ndim", None) == 0 and not callable(null))


def _integer(y: Tensor) -> bool:
    return _kind(y) == "integer"


def _kind(x: Tensor) -> str:
    if x.dtype == torch.bool:
        return "bool"
    return "float" if x.is_floating_point() else "complex" if x.is_complex() else "integer"


def _one_for_all(null: Any, y: Any) -> str:
    if isinstance(y, Tensor):
        what = f"this condition is {_form(y)}: give what takes its place, such as null=torch.zeros_like, a tensor or an nn.Parameter"
    else:
        shown = {k: "..." for k in y} if isinstance(y, dict) else ("...",) * len(y) if isinstance(y, (tuple, list)) else type(y).__name__
        form = str(shown).replace("'...'", "...")
        what = f"this condition has parts: give a null for each, null={form}, None for one that is not hidden"
    return f"null={null!r} stands for a label in a tensor of integers, and {what}"


def _form(x: Any) -> str:
    if isinstance(x, Tensor):
        return f"{x.dtype} {tuple(x.shape)}"
    return ", ".join(map(str, x)) if isinstance(x, dict) else f"{x!r:.60}"
