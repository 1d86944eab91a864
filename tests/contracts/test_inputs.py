"""What a field is given stays as it is, and what it returns is a velocity: refused wherever the mathematics calls it, and nowhere else."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import meanstep as ms
from meanstep import probes, recipes, samplers, velocities
from meanstep.coefficients import Running
from meanstep.objectives import Eulerian, Matching
from meanstep.rates import Backward, Central, Exact

X = torch.randn(16, 2, generator=ms.key(0))
PARTS = {"label": torch.arange(16) % 3, "text": torch.randn(16, 4, generator=ms.key(1))}
CHANGES = {
    "z": lambda z, r, t, y: z.add_(1.0),
    "r": lambda z, r, t, y: r.zero_(),
    "t": lambda z, r, t, y: t.mul_(1000),
    "y['label']": lambda z, r, t, y: y["label"].fill_(0),
    "y['text']": lambda z, r, t, y: y["text"][:, :1].sub_(1.0),  # by a view
}


class Net(nn.Module):
    """A field of all its inputs that may do something to them, or to its result."""

    def __init__(self, change: Callable[..., Any] | None = None, made: Callable[[Tensor], Any] = lambda u: u) -> None:
        super().__init__()
        self.net, self.change, self.made = ms.MLP(2, 8, 1, generator=ms.key(2)), change, made

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Any:
        if self.change is not None:
            self.change(z, r, t, y)
        u = self.net(z, r, t)
        return self.made(u + 0.1 * y["text"].mean(-1, keepdim=True) + 0.01 * y["label"][:, None] if y is not None else u)

    def head(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Any:
        return self.forward(z, r, t, y)


def copied() -> dict[str, Tensor]:
    return {name: part.clone() for name, part in PARTS.items()}


def taught(recipe: Any) -> Callable[[Any], Any]:
    return lambda field: ms.Loss(recipe)(field, X.clone(), copied(), progress=0.5, generator=ms.key(3))


def drawn(field: Any, *, least: float = 0.0) -> ms.Bridge:
    return ms.Loss(recipes.meanflow(diagonal_share=least)).draw(X.clone(), copied(), generator=ms.key(3))[0][1]


NOISE = ms.noise(range(16), (2,))
CALLERS: dict[str, Callable[[Any], Any]] = {
    "exact": taught(recipes.meanflow()),
    "exact, recorded": taught(recipes.meanflow(rate=Exact(0.5))),
    "backward": taught(recipes.meanflow(rate=Backward(0.1))),
    "central": taught(recipes.transition()),
    "split": taught(recipes.split_meanflow(diagonal_share=0.0)),
    "teacher": lambda field: taught(recipes.split_meanflow(by=field, diagonal_share=0.0))(Net()),
    "terminal": taught(recipes.terminal_velocity(velocities.own)),
    "own": taught(recipes.flow_matching(velocity=velocities.own)),
    "head": taught(recipes.flow_matching(velocity=velocities.head)),
    "proxy": lambda field: taught(recipes.coefficient(1.0, velocities.of(field)))(Net()),
    "head regressed": taught((ms.Term(Matching(read=lambda field: field.head), ms.times.uniform),)),
    "walk": lambda field: ms.walk(field, NOISE.clone(), (1.0, 0.5, 0.0), copied()),
    "euler": lambda field: samplers.euler(field, NOISE.clone(), (1.0, 0.5, 0.0), copied()),
    "heun": lambda field: samplers.heun(field, NOISE.clone(), (1.0, 0.5, 0.0), copied()),
    "renoise": lambda field: samplers.renoise(field, NOISE.clone(), lambda k: NOISE.flip(0), y=copied()),
    "couplings": lambda field: samplers.couplings(field, NOISE.clone(), y=copied()),
    "product": lambda field: probes.product(field, drawn(field), X),
    "transposed": lambda field: probes.transposed(field, drawn(field), X),
    "observe": lambda field: Running().observe(field, drawn(field), velocities.conditional),
}


@pytest.mark.parametrize("caller", CALLERS)
def test_a_field_that_leaves_its_inputs_alone_is_called(caller: str):
    CALLERS[caller](Net())


@pytest.mark.parametrize("kind", ["module", "function"])
@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("caller", CALLERS)
def test_an_input_changed_in_place_is_refused_by_its_name(caller: str, name: str, kind: str):
    field = Net(CHANGES[name])
    if kind == "function" and "head" in caller:
        pytest.skip("a function has no head")
    if (caller, name) == ("transposed", "z"):
        pytest.skip("torch itself refuses to change a leaf in place")
    with pytest.raises(ValueError) as found:
        CALLERS[caller](field if kind == "module" else lambda z, r, t, y=None: field(z, r, t, y))
    same = "r" if name == "t" and caller in ("own", "head", "proxy") else name  # they are one tensor at r = t
    assert f"changes its input {same} in place" in str(found.value)


OUTPUTS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "complex": (lambda u: torch.complex(u, u), "returned torch.complex64, and a velocity is made of real"),
    "integer": (lambda u: u.round().long(), "returned torch.int64, and a velocity is made of real"),
    "boolean": (lambda u: u > 0, "returned torch.bool, and a velocity is made of real"),
    "one column": (lambda u: u[:, :1], "must return one velocity per entry of z"),
    "one row": (lambda u: u.mean(0, keepdim=True), "must return one velocity per entry of z"),
}


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("caller", [name for name in CALLERS if name not in ("product", "observe")])
def test_what_is_no_velocity_is_refused(caller: str, output: str):
    made, message = OUTPUTS[output]
    with pytest.raises((TypeError, ValueError), match=message):
        CALLERS[caller](Net(made=made))


def test_a_pair_is_refused_by_a_sampler_with_the_remedy():
    with pytest.raises(TypeError, match="returned a tuple, not a tensor: pick the velocity"):
        ms.jump(lambda z, r, t, y: (z, z), NOISE)


@pytest.mark.parametrize(("kind", "name"), [(torch.complex64, "complex64"), (torch.int64, "int64")])
@pytest.mark.parametrize("role", ["tangent", "target"])
def test_a_velocity_that_is_not_real_is_refused(role: str, kind: torch.dtype, name: str):
    term = ms.Term(Eulerian(**{role: lambda field, b: b.v.to(kind)}), ms.times.uniform)
    with pytest.raises(TypeError, match=f"the {role} velocity returned torch.{name}"):
        taught((term,))(Net())


@pytest.mark.parametrize("kind", [torch.int64, torch.complex64, torch.bool])
@pytest.mark.parametrize("sample", [samplers.walk, samplers.euler, samplers.heun, samplers.couplings], ids=lambda f: f.__name__)
def test_a_sampler_starts_from_real_numbers(sample: Any, kind: torch.dtype):
    with pytest.raises(TypeError, match=f"floating-point numbers, got {kind}"):
        sample(Net(), NOISE.to(kind), (1.0, 0.0))


@pytest.mark.parametrize("fresh", [lambda k: NOISE.long(), lambda k: NOISE[:, :1], lambda k: NOISE[:1]], ids=["integer", "column", "row"])
def test_fresh_noise_is_like_the_samples(fresh: Any):
    with pytest.raises(ValueError, match=r"of the shape of the samples, \(16, 2\)"):
        samplers.renoise(Net(), NOISE, fresh)


@pytest.mark.parametrize("seed", [0.5, 1.0, "1", None, True, np.float64(2.0), torch.tensor(0.5)], ids=repr)
def test_a_seed_is_an_integer(seed: Any):
    with pytest.raises(TypeError, match="a seed is an integer, got"):
        ms.noise([3, seed], (2,))


@pytest.mark.parametrize("seed", [np.int64(3), np.uint8(3), torch.tensor(3)], ids=repr)
def test_every_kind_of_integer_is_a_seed(seed: Any):
    assert torch.equal(ms.noise([seed], (2,)), ms.noise([3], (2,)))


def test_noise_is_real():
    with pytest.raises(TypeError, match=r"got dtype=torch\.complex64"):
        ms.noise([0], (2,), dtype=torch.complex64)


@pytest.mark.parametrize("longest", [float("nan"), 0.0, -1.0])
def test_a_longest_distance_that_keeps_nothing_is_refused(longest: float):
    with pytest.raises(ValueError, match="is a positive number, got"):
        samplers.couplings(Net(), NOISE, longest=longest)


@pytest.mark.parametrize(
    "given", [{"omega": float("nan")}, {"kappa": float("inf")}, {"window": (float("nan"), 1.0)}, {"window": (0.8, 0.2)}], ids=str
)
def test_guidance_that_would_never_act_is_refused(given: Any):
    with pytest.raises(ValueError, match=r"guidance scale (omega|kappa) is a finite number|the window of guided times: two numbers"):
        velocities.Guided(velocities.conditional, velocities.LabelDropout(3), **given)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("which", ["r", "t"])
def test_times_that_are_no_numbers_are_refused(which: str, bad: float):
    def draw(shape: tuple[int, ...], g: Any) -> tuple[Tensor, Tensor]:
        r, t = ms.times.uniform(shape, g)
        (r if which == "r" else t)[-1] = bad
        return r, t

    with pytest.raises(ValueError, match="times need 0 <= r <= t <= 1"):
        taught(recipes.meanflow(draw))(Net())


def test_the_guard_counts_nothing_where_torch_does_not():
    """In inference mode tensors have no count of changes, and a field is called as ever."""
    with torch.inference_mode():
        assert torch.equal(ms.jump(Net(), NOISE), ms.jump(Net(), NOISE.clone()))
        assert taught(recipes.meanflow())(Net()).loss.isfinite()


def test_the_guard_sees_rows_under_vmap():
    """Per-row gradients run the field inside transforms, whose tensors count the changes of what they wrap."""
    b = drawn(None)._replace(y=None)
    with pytest.raises(ValueError, match="changes its input t in place"):
        probes.of_rows(Net(CHANGES["t"]), b, Matching())
    assert probes.of_rows(Net(), b, Matching()).value > 0


def test_a_central_difference_still_asks_outside_of_the_unit_interval():
    asked = []

    def field(z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        asked.append(t.max().item())
        return z

    b = drawn(None)._replace(t=torch.ones(16), y=None)
    Central()(field, b, b.v)
    assert max(asked) > 1


@pytest.mark.parametrize("out", [lambda u: u.to_sparse(), lambda u: torch.empty(u.shape, device="meta")], ids=["sparse", "meta"])
def test_a_velocity_of_another_kind_of_tensor_is_refused(out: Callable[[Tensor], Tensor]):
    for recipe in (recipes.meanflow(), recipes.improved_meanflow(), recipes.alpha_flow(), recipes.flow_matching()):
        net = ms.MLP(2, 8, 1, head=True)
        field = ms.as_field(net, ("z", "r", "t", "y"), output=out, head=out)
        with pytest.raises((ValueError, TypeError), match=r"the field returned|no derivative"):
            ms.Loss(recipe)(field, torch.randn(16, 2), progress=0.5)


@pytest.mark.parametrize("made", [lambda u: (u, u), lambda u: 3.0, lambda u: u[..., :1], lambda u: u.numpy(force=True), lambda u: None])
def test_predicted_data_that_are_none_are_refused(made: Callable[[Tensor], object]):
    field = ms.fields.DataPrediction(lambda z, r, t, y=None: made(z))
    with pytest.raises((ValueError, TypeError), match=r"for predicted data, not a tensor|predicted data of shape"):
        ms.jump(field, torch.randn(4, 2))


def test_data_without_numbers_have_no_loss_that_is_checked():
    net, x = ms.MLP(2, 8, 1).to("meta"), torch.empty(16, 2, device="meta")
    with pytest.raises(ValueError, match="the data are on the meta device and hold no numbers"):
        ms.Loss(recipes.flow_matching())(net, x)
    assert ms.Loss(recipes.flow_matching(), check=False, measure=False)(net, x).loss.is_meta
