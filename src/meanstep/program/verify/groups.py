"""The groups of claims: what each is about, and where it is measured. A group's module is imported when it is asked for."""

from collections.abc import Callable, Iterator
from importlib import import_module

from meanstep.program.verify.rows import Row

GROUPS: dict[str, tuple[str, str]] = {
    "identities": ("Three identities at exact fields", "theorems.identities"),
    "noise": ("The noise v' and its covariance", "theorems.conditional_noise"),
    "flow-map": ("J is minus the Jacobian of the flow map", "theorems.flow_map"),
    "roles": ("Two roles of the velocity; Theorems 2 and 3", "theorems.decomposition"),
    "asymmetry": ("Target and tangent are not alike (Proposition 3)", "theorems.asymmetry"),
    "coefficient": ("The optimal coefficient (Theorem 4)", "theorems.coefficient"),
    "multipliers": ("Noise multiplier N of every recipe", "noise.multipliers"),
    "weight": ("The trace weight: bounded noise, and what the gradient becomes", "weighting.trace_weight"),
    "rates": ("Rates without forward mode", "noise.orders"),
    "table": ("Exact noise E|N v'|^2 / Tr S on known data", "noise.table"),
    "equivalences": ("One discrete target for many methods", "equivalences.equivalences"),
}
"""Name, title, and the function beside this module that yields the rows for a seed."""


def measure(name: str) -> Callable[[int], Iterator[Row]]:
    """What measures a group: from a seed to rows."""
    module, _, function = GROUPS[name][1].partition(".")
    found: Callable[[int], Iterator[Row]] = getattr(import_module(f"meanstep.program.verify.{module}"), function)
    return found
