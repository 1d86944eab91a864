"""What the card of a run's export says of its model, and of what is fixed in it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torch import Tensor

from meanstep.program.data.beside import Condition
from meanstep.program.sampling.model import Model

if TYPE_CHECKING:
    from meanstep.program.export.subject import Choice

FEW = 16
"""Numbers of a fixed condition that a card lists; of a larger array it says the shape."""


def stated(model: Model, choice: "Choice", among: Sequence[int], fixed: Mapping[str, Tensor]) -> dict[str, Any]:
    """The entries of card.json. `among`: the labels that are offered; `fixed`: the conditions that are always meant, by name."""
    return {
        "data": model.manifest.source,
        "images": model.manifest.count,
        "recipe": model.facts.recipe,
        "learns": model.facts.learns,
        "sampler": model.sampler,
        "steps": choice.steps,
        "guidance": choice.guidance,
        "samples seen": model.seen,
        "weights": model.average,
        "parameters": sum(p.numel() for p in model.field.parameters()),
        "shape": list(model.shape),
        "classes": list(model.classes),
        "precision": "half: weights are stored so, and computed with in float32" if choice.half else "float32",
        **_labels(model, among),
        **_columns(model),
        **({"fixed": {c.name: _value(c, fixed[c.name]) for c in model.needed if c.name in fixed}} if fixed else {}),
    }


def _labels(model: Model, among: Sequence[int]) -> dict[str, Any]:
    """The label that is always meant, or those that are offered if they are not all in order, by their names."""
    names = [model.classes[k] for k in among]
    if len(names) == 1:
        return {"label": names[0]}
    return {"offered": names} if names != list(model.classes) else {}


def _columns(model: Model) -> dict[str, Any]:
    """The columns of a table whose entries the values are, in order, and how each became numbers; nothing where all stayed as they are."""
    held = [asdict(column) | {"width": column.width} for column in model.manifest.columns if column.width]
    return {"columns": held} if any(entry["way"] != "same" for entry in held) else {}


def _value(c: Condition, value: Tensor) -> Any:
    """A condition in units of the data: the word of a category, a number, the entries of an array."""
    if c.words:
        return c.words[int(value)]
    return value.tolist() if value.numel() <= FEW else f"{' x '.join(map(str, value.shape))} numbers"
