"""Conditions: what takes the place of a hidden one, part by part, and velocities that would leave one out."""

from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import meanstep as ms
from meanstep import recipes, velocities
from meanstep.shapes import where
from meanstep.velocities import Condition, Guided, LabelDropout, LabelOnly, Posterior, conditional, flexibly_guided, own

N = 32
Y = {"text": torch.randn(N, 5, 8, generator=ms.key(0)), "mask": torch.rand(N, 5, generator=ms.key(1)) < 0.7, "speaker": torch.arange(N) % 4}
Y["mask"][:, 0] = True
NULL = {"text": 0.0, "mask": None, "speaker": 4}
X = torch.randn(N, 7, 3, generator=ms.key(2))
Pair = namedtuple("Pair", ["a", "b"])


class Net(nn.Module):
    """Text with a mask by attention, and a speaker."""

    def __init__(self, d: int = 16) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.put, self.time, self.speaker, self.out = nn.Linear(3, d), nn.Linear(2, d), nn.Embedding(5, d), nn.Linear(d, 3)
            self.cross = nn.MultiheadAttention(d, 2, batch_first=True, kdim=8, vdim=8)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any) -> Tensor:
        h = self.put(z) + (self.time(torch.stack([t, r], 1)) + self.speaker(y["speaker"]))[:, None]
        out: Tensor = self.out(h + self.cross(h, y["text"], y["text"], key_padding_mask=~y["mask"])[0])
        return out


def bridge(y: Any, rows: int = N) -> ms.Bridge:
    t = torch.linspace(0.1, 0.9, rows)
    aux = torch.rand(rows, 4, generator=ms.key(3))
    return ms.Bridge(torch.zeros(rows, 2), torch.ones(rows, 2), t, t, y, aux=aux)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (tuple, list)):
        return type(a) is type(b) and all(map(same, a, b))
    return a is b is None or (a.dtype == b.dtype and torch.equal(a, b))


# What takes a hidden condition's place -----------------------------------------------------------------------------------------------

SILENCE = {"text": torch.zeros_like(Y["text"]), "mask": Y["mask"], "speaker": torch.full((N,), 4)}
FORMS: dict[str, tuple[Any, Any, Any]] = {
    "a label": (4, Y["speaker"], torch.full((N,), 4)),
    "a numpy-like label": (torch.tensor(4), Y["speaker"], torch.full((N,), 4)),
    "a tree": (NULL, Y, SILENCE),
    "a function of a part": (NULL | {"text": torch.zeros_like}, Y, SILENCE),
    "a function of all parts": (lambda y: y | {"text": 0 * y["text"], "speaker": torch.full_like(y["speaker"], 4)}, Y, SILENCE),
    "a row of a tensor": (torch.arange(8.0), Y["text"], torch.arange(8.0).expand(N, 5, 8)),
    "an integer in floats": ({"a": 1}, {"a": Y["text"]}, {"a": torch.ones(N, 5, 8)}),
    "a bool in bools": ({"a": False}, {"a": Y["mask"]}, {"a": torch.zeros(N, 5, dtype=torch.bool)}),
    "a tuple": ((None, 4), (Y["text"], Y["speaker"]), (Y["text"], torch.full((N,), 4))),
    "a tuple for a list": ((None, 4), [Y["text"], Y["speaker"]], [Y["text"], torch.full((N,), 4)]),
    "a named tuple": (Pair(0.0, 4), Pair(Y["text"], Y["speaker"]), Pair(SILENCE["text"], torch.full((N,), 4))),
    "a tree in a tree": ({"a": NULL, "b": None}, {"a": Y, "b": (Y["text"],)}, {"a": SILENCE, "b": (Y["text"],)}),
    "a part that is not there": ({"a": 4, "b": None}, {"a": Y["speaker"], "b": None}, {"a": torch.full((N,), 4), "b": None}),
    "a label's, with guidance": (
        NULL,
        Condition(Y, torch.full((N,), 3.0), torch.full((N,), 0.2), torch.full((N,), 0.8)),  # type: ignore[arg-type]
        Condition(SILENCE, torch.ones(N), torch.zeros(N), torch.ones(N)),  # type: ignore[arg-type]
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_part_gets_its_own_null(form: str):
    null, y, expected = FORMS[form]
    assert same(LabelDropout(null).hidden(y), expected)


@pytest.mark.parametrize("form", FORMS)
def test_only_the_dropped_rows_are_hidden(form: str):
    null, y, expected = FORMS[form]
    dropout, b = LabelDropout(null, share=0.4), bridge(y)
    rows = dropout.dropped(b)
    assert rows.any() and not rows.all()
    assert same(dropout(b).y, where(rows, expected, y))


REFUSED: dict[str, tuple[Any, Any, str]] = {
    "a number for a tree": (4, Y, r"give a null for each, null=\{'text': ..., 'mask': ..., 'speaker': ...\}"),
    "a number for a tuple": (0, (Y["text"], Y["speaker"]), r"null=\(..., ...\), None for one that is not hidden"),
    "a number for an observation": (5, Y["text"], r"null=5 stands for a label .* torch.float32 \(32, 5, 8\): .*null=torch.zeros_like"),
    "a float for an observation": (0.0, Y["text"], "null=torch.zeros_like"),
    "a number that wraps": (torch.tensor(300), torch.zeros(3, dtype=torch.uint8), "300, which torch.uint8 does not hold"),
    "a numpy number that wraps": (np.int64(300), torch.zeros(3, dtype=torch.uint8), "300, which torch.uint8 does not hold"),
    "a number for a mask": (0, Y["mask"], "null=torch.zeros_like"),
    "a fraction as a label": (0.5, Y["speaker"], "the null of y is 0.5, and y is torch.int64"),
    "a fraction as a label in a tree": (
        NULL | {"speaker": 4.0},
        Y,
        r"the null of y\['speaker'\] is 4.0, and y\['speaker'\] is torch.int64",
    ),
    "a number in a mask": (NULL | {"mask": 1}, Y, r"y\['mask'\] is torch.bool"),
    "a truth value in floats": (NULL | {"text": True}, Y, r"y\['text'\] is torch.float32"),
    "a label that the type does not hold": (300, Y["speaker"].to(torch.uint8), "is 300, which torch.uint8 does not hold"),
    "a part that is missing": ({"text": 0.0}, Y, "the null of y is text, and y has the parts text, mask, speaker"),
    "a part too many": (NULL | {"more": 1}, Y, "the null of y is text, mask, speaker, more"),
    "too short a tuple": ((4,), (Y["text"], Y["speaker"]), "y has 2 parts"),
    "a shape that does not spread": (NULL | {"text": torch.zeros(5)}, Y, r"shape \(5,\), which does not spread over y\['text'\]"),
    "a word": (NULL | {"text": "silence"}, Y, r"the null of y\['text'\] is a number, a tensor, .* got 'silence'"),
    "a function that changes the shape": (lambda y: y[:, 0], Y["text"], r"returned torch.float32 \(32, 8\) for torch.float32 \(32, 5, 8\)"),
    "a function that changes the type": (lambda y: y.float(), Y["speaker"], "a function that returned torch.float32"),
    "a function that loses a part": (lambda y: {"text": y["text"]}, Y, "a function that returned text for text, mask, speaker"),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_null_that_does_not_fit_is_refused(mistake: str):
    null, y, message = REFUSED[mistake]
    with pytest.raises((TypeError, ValueError), match=message) as found:
        LabelDropout(null).hidden(y)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("null", [None, (), {"a": None, "b": (None,)}], ids=repr)
def test_a_null_that_hides_nothing_is_refused(null: Any):
    with pytest.raises(TypeError, match="hides nothing"):
        LabelDropout(null)


def taught(null: Any, share: float = 0.5) -> dict[str, Callable[[], ms.Output]]:
    """The loss of recipes that hide a condition's parts."""
    dropout = LabelDropout(null, share)
    made = {
        "guided": recipes.meanflow(velocity=Guided(conditional, dropout, 1.0, 0.5)),
        "without a guide": recipes.flow_matching(velocity=Guided(conditional, dropout, 1.0, 0.0)),
        "coefficient": recipes.coefficient(1.0, own, velocity=Guided(conditional, dropout, 1.0, 0.5)),
    }
    return {name: lambda recipe=recipe: ms.Loss(recipe)(Net(), X, Y, generator=ms.key(5)) for name, recipe in made.items()}


@pytest.mark.parametrize("recipe", ["guided", "without a guide", "coefficient"])
def test_a_condition_of_parts_trains(recipe: str):
    """With the values of a tree, and of the same tree hidden by hand."""
    by_tree, by_hand = (taught(null)[recipe]().loss for null in (NULL, FORMS["a function of all parts"][0]))
    assert by_tree.isfinite() and torch.equal(by_tree, by_hand)


@pytest.mark.parametrize("way", ["guided", "flexible", "label only", "sampled"])
def test_every_user_of_a_null_hides_the_same(way: str):
    """A field that returns its condition shows what was hidden from it."""
    y = {"a": torch.ones(4, 2), "b": torch.arange(4)}
    null = {"a": torch.tensor([7.0, 8.0]), "b": None}

    def shows(z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        label = y.label if isinstance(y, Condition) else y
        return label["a"] + label["b"][:, None]

    hidden = null["a"] + y["b"][:, None]
    b, dropout = bridge(y, 4)._replace(z=torch.zeros(4, 2)), LabelDropout(null, 0.0)
    scaled = b._replace(y=Condition(y, torch.full((4,), 2.0), torch.zeros(4), torch.ones(4)))  # type: ignore[arg-type]
    if way == "guided":
        found = Guided(conditional, dropout, 0.0, 0.0)(shows, b)
    elif way == "flexible":  # base + (1 - 1/2) (shown - hidden), base = 1
        found = shows(b.z, b.r, b.t, y) - 2 * (flexibly_guided(conditional, dropout)(shows, scaled) - b.v)
    elif way == "label only":
        found = shows(b.z, b.r, b.t, LabelOnly(replace(dropout, share=1.0))(scaled).y)
    else:
        found = ms.samplers.guided(shows, 0.0, null)(b.z, b.r, b.t, y)
    torch.testing.assert_close(found, hidden)


class Silence(nn.Module):
    """A null made of a part."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((8,), 0.3))

    def forward(self, y: Tensor) -> Tensor:
        return self.weight.expand_as(y)


@pytest.mark.parametrize("recipe", ["guided", "improved"])
@pytest.mark.parametrize("make", [lambda: nn.Parameter(torch.full((8,), 0.3)), Silence], ids=["parameter", "module"])
def test_a_learned_null_is_a_part_of_the_loss(make: Callable[[], Any], recipe: str):
    """Its gradient is that of the rows that it stands in for: by a step, the loss falls where it should."""
    null = make()
    dropout = LabelDropout(NULL | {"text": null}, 0.5)
    if recipe == "guided":
        loss, net = ms.Loss(recipes.meanflow(velocity=Guided(conditional, dropout, 1.0, 0.5))), Net()
    else:
        net = Net()
        net.forward = lambda z, r, t, y, plain=net.forward: plain(z, r, t, y.label)  # type: ignore[method-assign]
        loss = ms.Loss(recipes.improved_meanflow(own, dropout))
    (weight,) = loss.parameters()
    assert weight is (null if isinstance(null, nn.Parameter) else null.weight)
    assert len(loss.state_dict()) == 1

    def value() -> Tensor:
        return loss(net, X, Y, generator=ms.key(6)).loss

    value().backward()
    assert weight.grad is not None and weight.grad.norm() > 0
    if recipe == "guided":  # of rows that stand in for it and no others: by differences, targets held by the others' null
        shown = torch.zeros(N, dtype=torch.bool)
        for term, b in loss.draw(X, Y, generator=ms.key(6)):
            shown[: len(b.t)] |= dropout.dropped(b)
            assert term.objective.given is dropout  # type: ignore[attr-defined]
        assert shown.any()
    nobody = ms.Loss(recipes.meanflow(velocity=Guided(conditional, replace(dropout, share=0.0), 1.0, 0.5)))
    weight.grad = None
    nobody(Net(), X, Y, generator=ms.key(6)).loss.backward()
    assert weight.grad is None or weight.grad.norm() == 0


def test_the_gradient_of_a_learned_null_is_its_difference():
    """Flow matching, whose target knows nothing of the null."""
    null = nn.Parameter(torch.full((8,), 0.3, dtype=torch.float64))
    y, net = Y | {"text": Y["text"].double()}, Net().double()
    dropout = LabelDropout(NULL | {"text": null}, 0.5)
    loss = ms.Loss(recipes.flow_matching(velocity=Guided(conditional, dropout, 1.0, 0.0)))

    def value(at: Tensor) -> Tensor:
        with torch.no_grad():
            null.copy_(at)
        return loss(net, X.double(), y, generator=ms.key(7)).loss

    at, way = null.detach().clone(), torch.linspace(-1, 1, 8, dtype=torch.float64)
    value(at).backward()
    slope = (value(at + 1e-5 * way) - value(at - 1e-5 * way)) / 2e-5
    assert null.grad is not None
    torch.testing.assert_close((null.grad * way).sum(), slope.detach(), rtol=1e-6, atol=1e-10)


# Velocities that leave a condition out -----------------------------------------------------------------------------------------------

REFERENCE, LABELS = torch.randn(12, 2, generator=ms.key(8)), torch.arange(12) % 3
LABEL = torch.arange(N) % 3
LEFT_OUT = {
    "posterior": lambda **given: Posterior(REFERENCE, **given),
    "oracle": lambda **given: velocities.oracle(lambda z, t: z * t[:, None], **given),
}
CONDITIONS: dict[str, Any] = {"labels": LABEL, "floats": torch.rand(N, generator=ms.key(7)), "a tree": Y}


@pytest.mark.parametrize("y", CONDITIONS)
@pytest.mark.parametrize("velocity", LEFT_OUT)
def test_a_velocity_that_ignores_the_condition_is_refused(velocity: str, y: str):
    with pytest.raises(ValueError, match=r"averages over all conditions, and these rows have one \(y=\).* or marginal=True"):
        LEFT_OUT[velocity]()(lambda *a: a[0], bridge(CONDITIONS[y]))


@pytest.mark.parametrize("y", CONDITIONS)
@pytest.mark.parametrize("velocity", LEFT_OUT)
def test_the_average_over_conditions_can_be_meant(velocity: str, y: str):
    found = LEFT_OUT[velocity](marginal=True)(lambda *a: a[0], bridge(CONDITIONS[y]))
    assert torch.equal(found, LEFT_OUT[velocity]()(lambda *a: a[0], bridge(None)))


@pytest.mark.parametrize("make", [recipes.posterior_meanflow, lambda p: recipes.coefficient(0.5, p), recipes.split_meanflow])
def test_a_conditional_draw_refuses_a_posterior_without_labels(make: Any):
    net = ms.MLP(2, 8, 1, classes=3)
    with pytest.raises(ValueError, match="give it labels=, one for each reference"):
        ms.Loss(make(Posterior(REFERENCE)))(net, torch.randn(N, 2), LABEL)
    assert ms.Loss(make(Posterior(REFERENCE, LABELS)))(net, torch.randn(N, 2), LABEL).loss.isfinite()


NO_LABELS = {
    "floats": torch.rand(N, generator=ms.key(8)),
    "three a row": torch.zeros(N, 3, dtype=torch.int64),
    "a column": LABEL[:, None],
    "complex": LABEL.to(torch.complex64),
}


@pytest.mark.parametrize("y", NO_LABELS.values(), ids=NO_LABELS)
def test_a_condition_that_is_no_label_is_refused(y: Tensor):
    with pytest.raises(ValueError, match=rf"compares labels, integers of shape \({N},\), and this condition is"):
        Posterior(REFERENCE, LABELS)(ms.MLP(2), bridge(y))


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.int16, torch.int32])
@pytest.mark.parametrize("whose", ["rows", "references"])
def test_labels_of_every_integer_type_are_compared_by_value(kind: torch.dtype, whose: str):
    """A label that one of the types does not hold is nobody's, and not another one."""
    far = LABEL + 256 * (LABEL == 1)
    y, labels = (LABEL.to(kind), LABELS) if whose == "rows" else (LABEL, LABELS.to(kind))
    expected = Posterior(REFERENCE, LABELS)(ms.MLP(2), bridge(LABEL))
    assert torch.equal(Posterior(REFERENCE, labels)(ms.MLP(2), bridge(y)), expected)
    alone = Posterior(REFERENCE, LABELS.to(kind))(ms.MLP(2), bridge(far))
    torch.testing.assert_close(alone[LABEL == 1], bridge(LABEL).v[LABEL == 1])


def test_the_label_of_a_condition_with_guidance_is_compared():
    y = Condition(LABEL, torch.ones(N), torch.zeros(N), torch.ones(N))
    assert torch.equal(Posterior(REFERENCE, LABELS)(ms.MLP(2), bridge(y)), Posterior(REFERENCE, LABELS)(ms.MLP(2), bridge(LABEL)))


def test_a_label_that_no_reference_has():
    """The own point alone is left, and without it nothing is."""
    y = torch.full((N,), 7)
    torch.testing.assert_close(Posterior(REFERENCE, LABELS)(ms.MLP(2), bridge(y)), bridge(y).v)
    with pytest.raises(ValueError, match="no reference has the label 7: give references of every label, or include_own=True"):
        Posterior(REFERENCE, LABELS, include_own=False)(ms.MLP(2), bridge(y))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS.float(), r"got torch.float32 \(12,\)"),
        (LABELS[:5], r"one for each of the 12 references, got torch.int64 \(5,\)"),
        (LABELS[:, None], r"got torch.int64 \(12, 1\)"),
        (list(range(12)), r"got \[0, 1, 2"),
    ],
)
def test_labels_that_are_not_one_integer_a_reference(labels: Any, message: str):
    with pytest.raises(ValueError, match=message):
        Posterior(REFERENCE, labels)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int64, torch.complex64])
def test_a_reference_is_data_as_the_loss_gets_it(kind: torch.dtype):
    with pytest.raises(TypeError, match=f"floating-point numbers, got {kind}"):
        Posterior(REFERENCE.to(kind))
