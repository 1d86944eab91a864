"""Columns of a table as the numbers of a row, and back: as they are, by quantiles, one-hot. Knows no files.

A quantile column is what scikit-learn's `QuantileTransformer(output_distribution="normal", subsample=None)` makes of it, held as numbers.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from meanstep.program.data.column import Column
from meanstep.program.data.request import Table

QUANTILES, NUMBERS = 1000, 200_000
"""Most quantiles of a column, and of all columns together."""
EDGE = 1e-7
"""How near to the ends a value or a rank is taken to be one, as in scikit-learn; less in a column whose range is less than 1."""


def coded(column: Column, values: np.ndarray) -> np.ndarray:
    """Numbers or texts `[N]` as float64 `[N, width]`; nan for what is missing, or a text that is none of the words."""
    if column.way != "words":
        x = values.astype(np.float64)
        return (_normal(x, np.array(column.points)) if column.way == "quantile" else x)[:, None]
    number = {word: k for k, word in enumerate(column.words)}
    at = np.array([number.get(cell, -1) for cell in values.tolist()])[:, None]
    return np.where(at < 0, np.nan, (at == np.arange(len(column.words))).astype(np.float64))


def back(column: Column, x: np.ndarray) -> np.ndarray:
    """Numbers `[N, width]` as what the table holds `[N]`: texts, int64 or float64."""
    if column.way == "words":
        return np.array(column.words, dtype=np.str_)[x.argmax(1)]
    values = x[:, 0].astype(np.float64)
    values = _quantile(values, np.array(column.points)) if column.way == "quantile" else values
    return np.rint(values).astype(np.int64) if column.whole and np.isfinite(values).all() else values


def fitted(columns: Mapping[str, np.ndarray], conditions: Sequence[str], how: Table) -> tuple[Column, ...]:
    """How each column of a table becomes numbers; texts only where `how` says that words are taken."""
    numeric = max(1, sum(x.dtype.kind != "U" for name, x in columns.items() if name not in conditions))
    return tuple(_fitted(name, x, name in conditions, how, max(16, NUMBERS // numeric)) for name, x in columns.items())


def _fitted(name: str, x: np.ndarray, condition: bool, how: Table, most: int) -> Column:
    whole = x.dtype.kind == "i"
    if condition:
        return Column(name, "condition", whole)
    if x.dtype.kind == "U":
        words = tuple(np.unique(x[x != ""]).tolist())
        return Column(name, "words", words=words) if words and how != "numbers" else Column(name)
    finite = x[np.isfinite(x)].astype(np.float64)
    if how != "quantile" or not len(finite):
        return Column(name, "same", whole)
    points = np.percentile(finite, 100 * np.linspace(0, 1, min(QUANTILES, most, len(finite))))  # rounded as scikit-learn does
    return Column(name, "quantile", whole, points=tuple(np.maximum.accumulate(points).tolist()))


def table(columns: Sequence[Column], rows: np.ndarray, beside: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rows `[N, width]` in units of the data as columns by name, in the table's order, with the conditions among them that are `beside`."""
    found, at = dict[str, np.ndarray](), 0
    for column in columns:
        if column.way != "condition":
            found[column.name] = back(column, rows[:, at : at + column.width])
        elif column.name in beside:
            found[column.name] = beside[column.name]
        at += column.width
    return found


def _normal(x: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Values to the normal quantile of their rank; of equal points the middle one."""
    from scipy.special import ndtri

    share = np.linspace(0, 1, len(points))
    rank = 0.5 * (np.interp(x, points, share) - np.interp(-x, -points[::-1], -share[::-1]))
    near = EDGE * min(1.0, points[-1] - points[0])
    rank = np.where(x >= points[-1] - near, 1.0, rank)
    rank = np.where(x <= points[0] + near, 0.0, rank)
    end = EDGE - np.spacing(1)
    return np.where(np.isnan(x), np.nan, np.clip(ndtri(rank), ndtri(end), ndtri(1 - end)))


def _quantile(x: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Normal quantiles to values between the points."""
    from scipy.special import ndtr

    rank = ndtr(x)
    found = np.interp(rank, np.linspace(0, 1, len(points)), points)
    found = np.where(rank + EDGE > 1, points[-1], found)
    return np.where(rank - EDGE < 0, points[0], found)
