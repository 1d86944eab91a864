"""`meanstep verify`: the theory of docs/theory.md, measured. Claims live in theorems, noise and equivalences; this is the runner."""

from collections.abc import Callable, Iterator

from meanstep.program.verify import equivalences, noise, theorems
from meanstep.program.verify.rows import Row

GROUPS: dict[str, tuple[str, Callable[[int], Iterator[Row]]]] = {
    "identities": ("Three identities at exact fields", theorems.identities),
    "noise": ("The noise v' and its covariance", theorems.conditional_noise),
    "flow-map": ("J is minus the Jacobian of the flow map", theorems.flow_map),
    "roles": ("Two roles of the velocity; Theorems 2 and 3", theorems.decomposition),
    "asymmetry": ("Target and tangent are not alike (Proposition 3)", theorems.asymmetry),
    "coefficient": ("The optimal coefficient (Theorem 4)", theorems.coefficient),
    "multipliers": ("Noise multiplier N of every recipe", noise.multipliers),
    "rates": ("Rates without forward mode", noise.orders),
    "table": ("Exact noise E|N v'|^2 / Tr S on known data", noise.table),
    "equivalences": ("One discrete target for many methods", equivalences.equivalences),
}
