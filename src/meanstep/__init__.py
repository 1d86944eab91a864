"""meanstep: train, diagnose and evaluate one-step generators of the MeanFlow family. Names load their modules when they are used."""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meanstep import (
        auxiliary,
        averages,
        coefficients,
        couplings,
        fields,
        metrics,
        objectives,
        paths,
        probes,
        rates,
        recipes,
        samplers,
        times,
        velocities,
        weights,
    )
    from meanstep.averages import Average
    from meanstep.fields import MLP, Gaussian, Mixture, as_field
    from meanstep.keys import key
    from meanstep.loss import Loss, Output
    from meanstep.program.doctor.examination import doctor
    from meanstep.program.errors import UserError
    from meanstep.program.export.session import export
    from meanstep.program.sampling.model import load
    from meanstep.program.training.caller import Moment
    from meanstep.program.verbs.measuring import diagnose, evaluate
    from meanstep.program.verbs.run import Run
    from meanstep.program.verbs.training import train
    from meanstep.samplers import jump, noise, walk
    from meanstep.terms import Recipe, Term
    from meanstep.types import Bridge, Field, Regression

__version__ = "0.1.0"
__all__ = [
    "MLP",
    "Average",
    "Bridge",
    "Field",
    "Gaussian",
    "Loss",
    "Mixture",
    "Moment",
    "Output",
    "Recipe",
    "Regression",
    "Run",
    "Term",
    "UserError",
    "as_field",
    "auxiliary",
    "averages",
    "coefficients",
    "couplings",
    "diagnose",
    "doctor",
    "evaluate",
    "export",
    "fields",
    "jump",
    "key",
    "load",
    "metrics",
    "noise",
    "objectives",
    "paths",
    "probes",
    "rates",
    "recipes",
    "samplers",
    "times",
    "train",
    "velocities",
    "walk",
    "weights",
]
_HOME = {
    **dict.fromkeys(("MLP", "Gaussian", "Mixture", "as_field"), "fields"),
    "Average": "averages",
    **dict.fromkeys(("Loss", "Output"), "loss"),
    **dict.fromkeys(("Recipe", "Term"), "terms"),
    **dict.fromkeys(("jump", "noise", "walk"), "samplers"),
    **dict.fromkeys(("Bridge", "Field", "Regression"), "types"),
    "key": "keys",
    "doctor": "program.doctor.examination",  # of the program: loaded only when it is used
    "export": "program.export.session",
    "load": "program.sampling.model",
    **dict.fromkeys(("evaluate", "diagnose"), "program.verbs.measuring"),
    "Run": "program.verbs.run",
    "train": "program.verbs.training",
    "Moment": "program.training.caller",
    "UserError": "program.errors",
}


def __getattr__(name: str) -> Any:
    """A public name from the module that holds it, or a module of the package (PEP 562)."""
    if name not in _HOME and (name.startswith("_") or find_spec(f"{__name__}.{name}") is None):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_HOME[name]}"), name) if name in _HOME else import_module(f"{__name__}.{name}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return list(__all__)
