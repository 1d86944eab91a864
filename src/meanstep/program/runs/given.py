"""A network that a program in Python gives as an object: a run's folder holds its weights, and names its class. Knows no files.

`network.name` of such a run is `given:package.module.Class`. Whoever opens the run gives the object again, or what builds it.
"""

import copy
from typing import TYPE_CHECKING

from meanstep.program.errors import UserError, first_line

if TYPE_CHECKING:
    from torch import nn

PREFIX = "given:"


def name(net: "nn.Module") -> str:
    """What a configuration calls it: the class of the module itself, not of what `as_field` put around it."""
    from meanstep.fields import Adapted

    kind = type(net.net if isinstance(net, Adapted) else net)
    return f"{PREFIX}{kind.__module__}.{kind.__qualname__}"


def is_given(network: str) -> bool:
    """Whether a network's name stands for an object from Python."""
    return network.startswith(PREFIX)


def remedy(network: str) -> str:
    """What to do with a run whose network is not at hand, in Python and on the command line."""
    what = f"its network is an object from Python, {network.removeprefix(PREFIX)}, of which a run's folder holds the weights only"
    return f"{what}: give it again, in Python as net=, or name what builds it, --network package.module:factory"


def taken(net: "nn.Module", network: str) -> "nn.Module":
    """A copy of the object, for a run of the network of that name; `UserError` if it is another, or not called as (z, r, t, y)."""
    from meanstep.program.doctor.arguments import read

    if name(net) != network:
        raise UserError(f"net: the run's network is {network.removeprefix(PREFIX)}, got {name(net).removeprefix(PREFIX)}")
    call = read(net)
    if call.known and not call.native:
        raise UserError(f"net: a network is called as (z, r, t, y), and the names of its arguments say otherwise: give {call.line}")
    try:
        return copy.deepcopy(net)
    except Exception as error:  # modules of others hold anything
        raise UserError(f"net: it cannot be copied ({first_line(error)}): hold no computed tensors in attributes") from error
