"""What samples are given beside labels: conditions of rows of the data, or those that the user names. Knows no networks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from meanstep.keys import key
from meanstep.program.data.beside import Condition
from meanstep.program.data.manifest import Manifest
from meanstep.program.data.request import listed
from meanstep.program.errors import UserError, shown
from meanstep.program.reading import arrays
from meanstep.program.reading.tensors import File
from meanstep.program.runs.saved import CONDITIONS

Stored = dict[str, Tensor]
"""Values by name `[N, ...]` as a cache stores them: categories int64, numbers float32 in units of the data."""


def rows(run: Path, manifest: Manifest) -> Stored:
    """Those of some rows of the data, which the run's folder keeps; empty for a run without any. `UserError` for a damaged file."""
    if not manifest.beside:
        return {}
    path = run / CONDITIONS
    found = File.open(path).tensors()
    for c in manifest.beside:
        kind = torch.int64 if c.words else torch.float32
        values = found.get(c.name)
        fits = values is not None and len(values) > 0 and values.dtype == kind and values.shape[1:] == c.shape
        if values is None or not fits or (c.words and not 0 <= int(values.min()) <= int(values.max()) < len(c.words)):
            raise UserError(f"{path} is damaged: {c.name} is not what the run's data.json says: copy it from the run anew")
    return {c.name: found[c.name].clone() for c in manifest.beside}


def named(words: Sequence[str], taken: Sequence[Condition], shape: Sequence[int]) -> Stored:
    """Of words `name=value` one value each; `UserError` for a condition that is not `taken`, and a category unseen in training.

    `shape`: of the model's rows.
    """
    there = {c.name: c for c in taken}
    found: Stored = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in there:
            raise UserError(f"--condition: NAME=VALUE with a name among {listed(list(there)) or 'none'}, got {shown(word)}")
        if name in found:
            raise UserError(f"--condition: {name} is given twice: once is enough")
        found[name] = _value(there[name], value)
        if (along := there[name].along) is not None:
            _lengths(found[name], shape[along], f"--condition {name}")
    return found


def _lengths(n: Tensor, most: int, what: str) -> None:
    if ((n < 1) | (n > most) | (n != n.round())).any():
        raise UserError(f"{what}: rows have whole lengths from 1 to {most}, got {float(n.flatten()[0]):g}")


def _value(c: Condition, value: str) -> Tensor:
    if c.words:
        if value not in c.words:
            raise UserError(f"--condition {c.name}: {shown(value)} was not in the training data: they have {listed(c.words)}")
        return torch.tensor(c.words.index(value))
    if c.shape:
        return _array(c, value)
    try:
        number = torch.tensor(float(value))
    except ValueError:
        number = torch.tensor(float("nan"))
    if not number.isfinite():
        raise UserError(f"--condition {c.name}: a finite number, got {shown(value)}")
    return number


def told(y: Any, manifest: Manifest) -> dict[str, np.ndarray]:
    """Labels or conditions in units of the data as a file holds them, by name: the names of categories, numbers."""
    if not isinstance(y, dict):
        y = {} if y is None or not manifest.conditions else {manifest.conditions[0].name: torch.as_tensor(y)}
    there = {c.name: c for c in manifest.conditions}
    return {name: np.array(there[name].words)[values.numpy()] if there[name].words else values.numpy() for name, values in y.items()}


def _array(c: Condition, value: str) -> Tensor:
    """One entry of an array's condition, an .npy."""
    sides, path = " x ".join(map(str, c.shape)), Path(value).expanduser()
    if path.suffix.lower() != ".npy" or not path.is_file():
        raise UserError(f"--condition {c.name}: it is an array of {sides}: give an .npy that is there, got {shown(value)}")
    held = arrays.mapped(path)
    if held.shape != c.shape or held.dtype.kind not in "biuf" or not np.isfinite(held).all():
        raise UserError(f"--condition {c.name}: {sides} finite numbers, and {path} holds {held.dtype} {held.shape}: take one row's entry")
    return torch.from_numpy(np.array(held, dtype=np.float32))


def drawn(seeds: Sequence[int], held: Stored, fixed: Stored) -> Stored:
    """For each seed those of a row of `held`, always the same for that seed, with the `fixed` ones in their place.

    Rows are drawn among those of the fixed categories, if there are any.
    """
    n = len(next(iter(held.values())))
    fits = torch.ones(n, dtype=torch.bool)
    for name, value in fixed.items():
        fits &= held[name] == value if not value.is_floating_point() else True
    among = (fits if fits.any() else ~fits).nonzero().squeeze(1)
    picked = [int(torch.randint(len(among), (), generator=key(int(seed), "condition"))) for seed in seeds]
    at = among[torch.tensor(picked, dtype=torch.int64)]
    return {name: fixed[name].expand(len(seeds), *values.shape[1:]) if name in fixed else values[at] for name, values in held.items()}


def checked(y: Any, taken: Sequence[Condition], shape: Sequence[int], count: int) -> Stored:
    """Conditions that a caller gives for `count` seeds and rows of a shape, in units of the data, by name; `UserError` where they do not
    fit those that are `taken`.

    One without the axis of the seeds, a number or a tensor `[*shape]`, is that of all of them.
    """
    parts = dict(y) if isinstance(y, dict) else {taken[0].name: y}
    if parts.keys() != {c.name for c in taken}:
        raise UserError(f"this model takes the conditions {listed([c.name for c in taken])}, got {listed(list(parts))}")
    for c in taken:
        part = parts[c.name] = _for_all(parts[c.name], c, count)
        if not isinstance(part, Tensor) or tuple(part.shape) != (count, *c.shape):
            raise UserError(
                f"the condition {c.name} is a tensor of shape {(count, *c.shape)}, got {shown(getattr(part, 'shape', part), 60)}"
            )
        if c.words and (part.is_floating_point() or not 0 <= int(part.min()) <= int(part.max()) < len(c.words)):
            raise UserError(f"the condition {c.name} is of categories 0 to {len(c.words) - 1}, whole numbers")
        if c.along is not None:
            _lengths(part, shape[c.along], f"the condition {c.name}")
    return {name: part.float() if part.is_floating_point() else part for name, part in parts.items()}


def fixed(y: Any, taken: Sequence[Condition], shape: Sequence[int]) -> Stored:
    """Conditions that a caller fixes, one value `[*shape]` of some of those that are `taken`, by name; `UserError` for others."""
    parts = dict(y or {})
    if unknown := [name for name in parts if name not in {c.name for c in taken}]:
        raise UserError(f"this model takes the conditions {listed([c.name for c in taken])}, got {listed(unknown)}")
    found = checked(parts, [c for c in taken if c.name in parts], shape, 1) if parts else {}
    return {name: part[0] for name, part in found.items()}


def _for_all(part: Any, c: Condition, count: int) -> Any:
    """One entry as that of every seed; anything else as it is."""
    one = torch.as_tensor(part) if isinstance(part, int | float | np.ndarray) else part
    if isinstance(one, Tensor) and tuple(one.shape) == c.shape:
        one = one.expand(count, *c.shape).contiguous()
    return one if not isinstance(one, Tensor) or c.words or one.is_floating_point() else one.float()
