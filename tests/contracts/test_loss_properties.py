"""`Loss` on anything: a finite number with finite gradients that leaves what it was given as it was, or a refusal that names what is wrong.

Right calls have every recipe, rank, batch, dtype, layout, mask and tree of conditions; of hostile ones one or two arguments are not right.
`hypothesis` draws the calls, with `derandomize` the same ones each time; in the slow tests it shrinks those that break the law.
"""

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import meanstep as ms
from meanstep.shapes import over, tree_map

from .table import CASES, CLASSES, Proxies

MARGINAL = ("posterior", "flow_matching/posterior", "coefficient/both")
"""Recipes of a posterior, which needs independent noise and averages over all conditions."""
N = 12
"""Rows that are enough for every recipe."""
LONGEST = 2000
DRAWN: dict[str, Any] = {"derandomize": True, "deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
plain = settings(max_examples=50, phases=[Phase.generate], **DRAWN)  # calls are told in a line, so none has to be shrunk
many = settings(max_examples=2000, **DRAWN)


# A field of any event ----------------------------------------------------------------------------------------------------------------


class Pointwise(nn.Module):
    """A field that acts on each entry alone, of any event shape and any tree of conditions, with a head; what it returns is `made`."""

    def __init__(self, made: Callable[[Tensor, Tensor], Any] = lambda u, z: u) -> None:
        super().__init__()
        self.made, self.scale = made, nn.Parameter(torch.tensor([0.5, 0.3, -0.2, 0.1], dtype=torch.float64))

    def _velocity(self, z: Tensor, r: Tensor, t: Tensor, y: Any) -> Tensor:
        a, b, c, d = self.scale.to(z.dtype)
        told: list[Tensor] = []
        tree_map(lambda part: told.append(part.to(z.dtype).reshape(*t.shape, -1).mean(-1)), y)
        u = a * z + b * over(t, z) + c * over(r, z) * z.sin() + d
        return u + 0.1 * over(sum(told, torch.zeros_like(t)).to(z), z)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Any:
        return self.made(self._velocity(z, r, t, y), z)

    def head(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Any:
        return self.made(self._velocity(z, r, t, y) * 0.9, z)


class Mine(Exception):
    """The network's own."""


def _raises(u: Tensor, z: Tensor) -> Any:
    raise Mine("of the network itself")


FIELDS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "a narrower shape": lambda u, z: u[..., :1].squeeze(-1),
    "another axis": lambda u, z: u[..., None],
    "twice the batch": lambda u, z: torch.cat([u, u]),
    "half": lambda u, z: u.half(),
    "integers": lambda u, z: u.long(),
    "complex": lambda u, z: u.to(torch.complex64),
    "bool": lambda u, z: u > 0,
    "nan": lambda u, z: u * float("nan"),
    "inf": lambda u, z: u + float("inf"),
    "in place": lambda u, z: z.add_(1),
    "raises": _raises,
    "a tuple": lambda u, z: (u, u),
    "a dict": lambda u, z: {"sample": u},
    "nothing": lambda u, z: None,
    "a number": lambda u, z: 3.0,
    "an array": lambda u, z: np.zeros(tuple(u.shape)),
    "another device": lambda u, z: torch.empty(u.shape, device="meta", dtype=u.dtype),
    "sparse": lambda u, z: u.to_sparse(),
}
"""What a network may wrongly return."""
ODD: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "right": lambda u, z: u,
    "double": lambda u, z: u.double(),
    "no z": lambda u, z: u.mean() * torch.ones_like(z),
    "expanded": lambda u, z: u.mean().expand(z.shape),
    "transposed": lambda u, z: u.movedim(0, -1).contiguous().movedim(-1, 0),
}
"""What a network may return in good faith."""

# Arguments ---------------------------------------------------------------------------------------------------------------------------

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "expanded": lambda x: x[:1].expand(x.shape),
    "expanded event": lambda x: x[..., :1].expand(x.shape),
    "transposed": lambda x: x.movedim(0, -1).contiguous().movedim(-1, 0),
    "sliced": lambda x: torch.stack([x, x], -1)[..., 0],
    "flipped twice": lambda x: x.flip(0).flip(0),
    "offset": lambda x: torch.cat([x[:1], x])[1:],
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x,
    "a parameter": lambda x: x.clone().requires_grad_(),
}
TREES: dict[str, Callable[[int, tuple[int, ...]], Any]] = {
    "none": lambda seed, batch: None,
    "integers": lambda seed, batch: torch.randint(CLASSES, batch, generator=ms.key(seed)),
    "floats": lambda seed, batch: torch.randn(*batch, 3, generator=ms.key(seed)),
    "tuple": lambda seed, batch: (torch.ones(batch), torch.zeros(*batch, 2, 2)),
    "dict": lambda seed, batch: {"a": torch.ones(batch), "b": {"c": torch.zeros(*batch, 1)}},
    "a leaf of none": lambda seed, batch: {"a": torch.ones(batch), "b": None},
    "empty dict": lambda seed, batch: {},
    "empty tuple": lambda seed, batch: (),
    "empty parts": lambda seed, batch: [torch.ones(*batch, 4), None, ()],
    "bool": lambda seed, batch: torch.ones(batch, dtype=torch.bool),
}
MASKS: dict[str, Callable[[int, tuple[int, ...], int], Tensor | None]] = {
    "none": lambda seed, shape, dims: None,
    "all true": lambda seed, shape, dims: torch.ones(shape[:dims], dtype=torch.bool),
    "all false": lambda seed, shape, dims: torch.zeros(shape, dtype=torch.bool),
    "rows": lambda seed, shape, dims: torch.rand(shape[:dims], generator=ms.key(seed)) < 0.5,
    "entries": lambda seed, shape, dims: torch.rand(shape, generator=ms.key(seed)) < 0.5,
    "leading": lambda seed, shape, dims: torch.rand(shape[: dims + 1], generator=ms.key(seed)) < 0.5,
    "expanded": lambda seed, shape, dims: (
        (torch.rand(shape[:dims], generator=ms.key(seed)) < 0.5).reshape(*shape[:dims], *(1,) * (len(shape) - dims)).expand(shape)
    ),
}


@dataclass(frozen=True)
class Right:
    """A call that is right, by the names of its parts."""

    case: str
    event: tuple[int, ...]
    members: int
    double: bool
    layout: str
    mask: str
    tree: str
    noise: bool
    field: str
    seed: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the data; without members there is one batch axis."""
        return (*((self.members,) if self.members else ()), N, *self.event)

    @property
    def dims(self) -> int:
        return 2 if self.members else 1

    def made(self, **wrong: Any) -> "Call":
        """Field, loss and arguments."""
        case, g, dtype = CASES[self.case], ms.key(self.seed), torch.float64 if self.double else torch.float32
        field = case.wrap(Pointwise(wrong.pop("returned", ODD[self.field]))).to(dtype)
        other = case.wrap(Pointwise()).to(dtype)
        for p in other.parameters():
            p.data.mul_(0.9)
        x = LAYOUTS[self.layout](torch.randn(self.shape, generator=g).to(dtype))
        batch = self.shape[: self.dims]
        marginal = self.case in MARGINAL
        arguments: dict[str, Any] = {
            "x": x,
            "y": None if marginal else TREES["integers" if case.labels else self.tree](self.seed, batch),
            "mask": MASKS[self.mask](self.seed, self.shape, self.dims),
            "noise": torch.randn(self.shape, generator=g).to(dtype) if case.couplings or (self.noise and not marginal) else None,
            "progress": case.progress,
            "generator": ms.key(self.seed, "loss"),
        }
        recipe = case.recipe(Proxies(other, torch.randn(20, *self.event, generator=g).to(dtype)))
        return Call(field, ms.Loss(recipe, batch_dims=self.dims).to(dtype), arguments | wrong)


@dataclass(frozen=True)
class Call:
    """A field, a loss and its arguments."""

    field: Any
    loss: ms.Loss
    arguments: dict[str, Any]

    def __call__(self, **changed: Any) -> ms.Output:
        """The loss."""
        return self.loss(self.field, **self.arguments | changed)


events = st.lists(st.integers(1, 3), min_size=1, max_size=4).map(tuple)
rights = st.builds(
    Right,
    case=st.sampled_from(sorted(CASES)),
    event=events,
    members=st.sampled_from([0, 0, 2]),
    double=st.booleans(),
    layout=st.sampled_from(sorted(LAYOUTS)),
    mask=st.sampled_from(sorted(MASKS)),
    tree=st.sampled_from(sorted(TREES)),
    noise=st.booleans(),
    field=st.sampled_from(sorted(ODD)),
    seed=st.integers(0, 99),
)


def tensors(arguments: dict[str, Any]) -> dict[str, Tensor]:
    """Every tensor among the arguments, by its place."""
    found: dict[str, Tensor] = {}
    for name, value in arguments.items():
        if name in ("x", "y", "mask", "noise"):
            tree_map(lambda part, name=name: found.setdefault(f"{name} {len(found)}", part) if isinstance(part, Tensor) else part, value)
    return found


def kept(value: Tensor) -> Tensor | None:
    return value.detach().clone() if value.device.type == "cpu" and not value.is_sparse else None


def lawful(call: Call) -> ms.Output:
    """The loss, with all that it owes its caller."""
    there = tensors(call.arguments)
    before = {name: kept(value) for name, value in there.items()}
    state = torch.get_rng_state()
    out = call()
    assert out.loss.shape == () and out.loss.isfinite(), f"a loss of {out.loss}"
    assert out.loss.dtype == call.arguments["x"].dtype
    if out.loss.requires_grad:
        parameters = [p for p in (*call.field.parameters(), *call.loss.parameters()) if p.requires_grad]
        for gradient in torch.autograd.grad(out.loss, parameters, allow_unused=True):
            assert gradient is None or gradient.isfinite().all(), f"a gradient of {gradient}"
    for name, value in before.items():
        assert value is None or torch.equal(value.nan_to_num(7), there[name].detach().nan_to_num(7)), f"{name} was changed"
    if isinstance(call.arguments["generator"], torch.Generator):
        assert torch.equal(state, torch.get_rng_state()), "the global random state was changed"
    return out


def copied(call: Call) -> Call:
    """With a generator of its own, at the same state."""
    state = call.arguments["generator"].get_state()
    generator = torch.Generator()
    generator.set_state(state)
    return Call(copy.deepcopy(call.field), call.loss, call.arguments | {"generator": generator})


# What is right ----------------------------------------------------------------------------------------------------------------------


def right_calls_are_lawful(right: Right) -> None:
    """A finite loss, the same however its data lies in memory and whatever its masked entries hold."""
    call = right.made()
    again, other = copied(call), copied(call)
    found = lawful(call)
    assert found.loss.requires_grad
    plainly = {
        name: None if value is None else value.detach().contiguous() for name, value in call.arguments.items() if name in ("x", "noise")
    }
    torch.testing.assert_close(found.loss.detach(), again(**plainly).loss.detach(), msg=lambda m: f"it depends on strides: {m}")
    if (mask := call.arguments["mask"]) is not None:
        hidden = ~over(mask, call.arguments["x"]).expand(right.shape)
        changed = {k: None if v is None else v.masked_fill(hidden, float("nan")) for k, v in plainly.items()}
        torch.testing.assert_close(found.loss.detach(), other(**changed).loss.detach(), msg=lambda m: f"masked entries count: {m}")


@plain
@given(rights)
def test_a_right_call_gives_a_loss(right: Right):
    right_calls_are_lawful(right)


@pytest.mark.slow
@many
@given(rights)
def test_two_thousand_right_calls(right: Right):
    right_calls_are_lawful(right)


# What is not ------------------------------------------------------------------------------------------------------------------------

WRONG: dict[str, dict[str, Callable[[Tensor, int], Any]]] = {
    "x": {
        "half": lambda x, dims: x.half(),
        "bfloat16": lambda x, dims: x.bfloat16(),
        "integers": lambda x, dims: x.long(),
        "complex": lambda x, dims: x.to(torch.complex64),
        "bool": lambda x, dims: x > 0,
        "no event": lambda x, dims: x.flatten(dims)[..., 0],
        "a number": lambda x, dims: x.flatten()[0],
        "an empty event": lambda x, dims: x[..., :0],
        "an empty batch": lambda x, dims: x[:0],
        "one row": lambda x, dims: x[:1],
        "nan": lambda x, dims: x * float("nan"),
        "inf": lambda x, dims: x.clone().fill_(float("inf")),
        "huge": lambda x, dims: x * 1e38,
        "an array": lambda x, dims: x.detach().numpy(),
        "a list": lambda x, dims: x.tolist(),
        "None": lambda x, dims: None,
        "meta": lambda x, dims: x.detach().to("meta"),
        "sparse": lambda x, dims: x.detach().to_sparse(),
    },
    "noise": {
        "another dtype": lambda x, dims: x.detach().to(torch.float16),
        "another shape": lambda x, dims: x[..., None],
        "fewer rows": lambda x, dims: x[:1],
        "a number": lambda x, dims: 0.5,
        "an array": lambda x, dims: x.detach().numpy(),
        "nan": lambda x, dims: x * float("nan"),
        "meta": lambda x, dims: x.detach().to("meta"),
        "a generator": lambda x, dims: ms.key(0),
    },
    "mask": {
        "floats": lambda x, dims: torch.ones_like(x),
        "integers": lambda x, dims: torch.ones(x.shape, dtype=torch.uint8),
        "a number": lambda x, dims: True,
        "a list": lambda x, dims: [True] * len(x),
        "too few axes": lambda x, dims: torch.ones((), dtype=torch.bool),
        "another length": lambda x, dims: torch.ones(len(x) + 1, *x.shape[1:], dtype=torch.bool),
        "too many axes": lambda x, dims: torch.ones(*x.shape, 1, dtype=torch.bool),
        "broadcast": lambda x, dims: torch.ones(*x.shape[:dims], *(1,) * (x.ndim - dims + 1), dtype=torch.bool)[..., 0],
        "meta": lambda x, dims: torch.ones(x.shape, dtype=torch.bool, device="meta"),
    },
    "y": {
        "fewer rows": lambda x, dims: torch.zeros(1, dtype=torch.long),
        "a number": lambda x, dims: 3,
        "a text": lambda x, dims: "cat",
        "a list of numbers": lambda x, dims: [1] * len(x),
        "an array": lambda x, dims: np.zeros(len(x)),
        "no axes": lambda x, dims: torch.zeros(()),
        "a deep mistake": lambda x, dims: {"a": (torch.zeros(x.shape[:dims]), {"b": torch.zeros(len(x) + 1)})},
        "a set": lambda x, dims: {1, 2},
        "meta": lambda x, dims: torch.zeros(x.shape[:dims], device="meta"),
    },
    "progress": {
        "nan": lambda x, dims: float("nan"),
        "2": lambda x, dims: 2.0,
        "-1": lambda x, dims: -1,
        "a text": lambda x, dims: "half",
        "a batch": lambda x, dims: torch.full((3,), 0.5),
        "complex": lambda x, dims: 1j,
        "a tensor of nan": lambda x, dims: torch.tensor(float("nan")),
    },
    "generator": {
        "a number": lambda x, dims: 3,
        "numpy's": lambda x, dims: np.random.default_rng(0),
        "a function": lambda x, dims: ms.key,
    },
    "field": {name: lambda x, dims, name=name: FIELDS[name] for name in FIELDS},
}
WORDS = {
    "x": r"data|batch|samples|event|rows?\b|mask|noise|condition",  # of another shape, it is the others that do not fit
    "noise": "noise|row",
    "mask": "mask",
    "y": r"condition|label|\by\b",
    "progress": "progress|schedule",
    "generator": "generator",
    "field": "field|network|velocity|objective|prediction|tangent|derivative|loss is not finite",
}
"""What a refusal says of each argument."""
MAY_BE_RIGHT = {("x", "one row"), ("x", "huge"), ("mask", "broadcast"), ("field", "half"), ("y", "fewer rows")}
mistakes = st.sampled_from([(argument, form) for argument, forms in WRONG.items() for form in forms])


def mistakes_are_named(right: Right, wrong: list[tuple[str, str]]) -> None:
    """A refusal that names one of the arguments that are wrong, or a loss that is lawful where they may be right."""
    assume("/guided" not in right.case or "field" not in dict(wrong))  # the table's wrapper computes with what its network returns
    given_ = right.made().arguments
    changed = {argument: WRONG[argument][form](given_["x"], right.dims) for argument, form in wrong}
    if "field" in changed:
        changed["returned"] = changed.pop("field")
    call = right.made(**changed)
    forms = dict(wrong)
    try:
        lawful(call)
    except Mine:
        assert forms.get("field") == "raises"
    except (ValueError, TypeError, FloatingPointError) as refusal:
        told = str(refusal)
        assert type(refusal) in (ValueError, TypeError, FloatingPointError)
        assert len(told) < LONGEST and any(re.search(WORDS[argument], told) for argument in forms), told
    else:
        assert all(item in MAY_BE_RIGHT for item in wrong) or _unread(right, forms), "no word of it"


def _unread(right: Right, forms: dict[str, str]) -> bool:
    """Whether what is wrong does not matter: it is masked, or the network does not do what it was told where nobody looks."""
    hidden = right.mask in ("all false", "entries", "rows", "leading", "expanded")
    return hidden and set(forms) <= {"x", "noise", "field"} and set(forms.values()) <= {"nan", "inf", "huge"}


@plain
@given(rights, st.lists(mistakes, min_size=1, max_size=2, unique_by=lambda item: item[0]))
def test_a_mistake_is_named(right: Right, wrong: list[tuple[str, str]]):
    mistakes_are_named(right, wrong)


@pytest.mark.slow
@many
@given(rights, st.lists(mistakes, min_size=1, max_size=2, unique_by=lambda item: item[0]))
def test_two_thousand_mistakes_are_named(right: Right, wrong: list[tuple[str, str]]):
    mistakes_are_named(right, wrong)
