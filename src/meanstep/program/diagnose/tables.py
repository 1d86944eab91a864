"""Tables of rows: put together, cut, and rid of what is not finite."""

import torch
from torch import Tensor

from meanstep.probes import Table


def part(table: Table, rows: Tensor) -> Table:
    """Some rows of a table."""
    return Table(table.r[rows], table.t[rows], {name: p[rows] for name, p in table.columns.items()})


def stacked(tables: list[Table]) -> Table:
    """The rows of several tables, one after the other."""
    whole = tables[0]
    for table in tables[1:]:
        whole = joined(whole, table)
    return whole


def joined(a: Table | None, b: Table) -> Table:
    """The rows of two tables, on the processor; `a` may be missing."""
    b = Table(b.r.detach().cpu(), b.t.detach().cpu(), {name: p.detach().cpu() for name, p in b.columns.items()})
    if a is None:
        return b
    parts = {name: torch.cat([a.columns[name].cpu(), p]) for name, p in b.columns.items()}
    return Table(torch.cat([a.r.cpu(), b.r]), torch.cat([a.t.cpu(), b.t]), parts)


def finite(tables: dict[str, Table]) -> tuple[dict[str, Table], int]:
    """The tables without rows that hold a value that is not finite, and the largest number of such rows in one table."""
    kept, lost = {}, 0
    for name, table in tables.items():
        good = torch.stack([p.isfinite() for p in table.columns.values()]).all(0)
        lost = max(lost, int((~good).sum()))
        kept[name] = Table(table.r[good], table.t[good], {column: p[good] for column, p in table.columns.items()})
    return kept, lost
