"""Losses beside the regression: what they add, what they see, which weights they move, what does not fit."""

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import meanstep as ms
from meanstep import auxiliary, recipes, terms, times, weights
from meanstep.auxiliary import Auxiliary, Directional, Look
from meanstep.fields import DiT
from meanstep.rates import Central, Exact

ROWS, SIZE = 8, 4
PLAIN = weights.constant


def dit(seed: int = 0) -> DiT:
    """A tiny transformer on images, away from its start, where its output is 0."""
    net = DiT(SIZE, 2, 2, 16, 2, 2, generator=ms.key(seed)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=ms.key(seed, "moved"), dtype=p.dtype))
    return net


class Encoder(nn.Module):
    """Features of four tokens, `[B, 4, 3]`, as many as the transformer has."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(2, 3, 2, stride=2).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).flatten(2).mT.sin()


def data() -> Tensor:
    return torch.randn(ROWS, 2, SIZE, SIZE, generator=ms.key(0, "data"), dtype=torch.float64)


def gradient(recipe: Any, net: nn.Module, **given: Any) -> tuple[list[Tensor], Tensor, ms.Loss]:
    loss = ms.Loss(recipe).double()
    value = loss(net, data(), generator=ms.key(0, "draw"), **given).loss
    parameters = [*net.parameters(), *loss.parameters()]
    found = torch.autograd.grad(value, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)], value, loss


def close(a: list[Tensor], b: list[Tensor], tolerance: float = 1e-10) -> None:
    largest = max(float(p.abs().max()) for p in b)
    assert largest > 0 and max(float((p - q).abs().max()) for p, q in zip(a, b, strict=True)) < tolerance * largest


def drawn(recipe: Any) -> list[Any]:
    return [b for _, b in ms.Loss(recipe).double().draw(data(), generator=ms.key(0, "draw"))]


def fixed(shape: tuple[int, ...], g: Any) -> tuple[Tensor, Tensor]:
    """Times that are the same for every member."""
    t = torch.linspace(0.2, 0.9, shape[-1]).double().expand(shape)
    return t / 2, t


def test_a_perceptual_loss_is_added_on_the_rows_below_its_time():
    """The sum of both gradients, the second one written out on the network's own predictions."""
    net, encoder, recipe = dit(), Encoder(), recipes.meanflow(times.uniform, 0.5)
    part = auxiliary.perceptual(auxiliary.distance_of(encoder), 0.3, 0.6)
    ours = gradient(terms.beside(recipe, part), net)[0]
    losses = []
    for b in drawn(recipe):
        predicted = b.z - b.t[:, None, None, None] * net(b.z, b.r, b.t)
        d = (encoder(predicted) - encoder(b.data)).square().sum((1, 2))
        losses.append(torch.where(b.t < 0.6, d / (d.detach() + 0.01), 0.0))
    assert 0 < sum(int((b.t < 0.6).sum()) for b in drawn(recipe)) < ROWS
    extra = torch.autograd.grad(0.3 * torch.cat(losses).mean(), [*net.parameters()], allow_unused=True)
    plain = gradient(recipe, net)[0]
    close(ours, [p + (0 if q is None else q) for p, q in zip(plain, extra, strict=True)])
    assert all(p.grad is None for p in encoder.parameters())


def test_a_feature_network_sees_the_rows_of_an_ensemble_as_one_batch():
    """The loss is the sum over the members, each alone on its own draws, with a network that knows one batch axis only."""
    net = ms.MLP(4, 8, 1, members=(3,), generator=ms.key(0)).double()
    x, e = torch.randn(2, 3, ROWS, 4, generator=ms.key(1)).double()
    features = nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 2)).double()
    part = auxiliary.perceptual(auxiliary.distance_of(features), weight=PLAIN)
    whole = ms.Loss(terms.beside(recipes.meanflow(fixed, 0.5), part), batch_dims=2)(net, x, noise=e)
    for k in range(3):
        one = ms.MLP(4, 8, 1).double()
        one.load_state_dict({name: p[k] for name, p in net.state_dict().items()})
        alone = ms.Loss(terms.beside(recipes.meanflow(fixed, 0.5), part))(one, x[k], noise=e[k])
        torch.testing.assert_close(whole.metrics["auxiliary"][k], alone.metrics["auxiliary"], rtol=1e-10, atol=0)


@pytest.mark.parametrize("rate", [Exact(), Central()], ids=["carried", "difference"])
def test_alignment_reads_the_layer_in_the_same_pass(rate: Any):
    """TiM's and REPA's: the mean over tokens of 1 - cosine, of the same rows in the same order, with the projection's gradient."""
    net, encoder, projection = dit(), Encoder(), nn.Linear(16, 3).double()
    recipe = recipes.meanflow(times.uniform, 0.5, PLAIN, rate=rate)
    ours, _, loss = gradient(terms.beside(recipe, auxiliary.aligned(net.blocks[0], encoder, projection, 0.7)), net)
    assert {id(p) for p in projection.parameters()} <= {id(p) for p in loss.parameters()}
    apart = []
    for b in drawn(recipe):
        heard: list[Tensor] = []
        hook = net.blocks[0].register_forward_hook(lambda m, a, out, heard=heard: heard.append(out))
        net(b.z, b.r, b.t)
        hook.remove()
        apart.append((1 - F.cosine_similarity(projection(heard[0]), encoder(b.data).detach(), dim=-1)).mean(1))
    parameters = [*net.parameters(), *projection.parameters()]
    extra = torch.autograd.grad(0.7 * torch.cat(apart).mean(), parameters, allow_unused=True)
    plain = [*gradient(recipe, net)[0], *(torch.zeros_like(p) for p in projection.parameters())]
    close(ours, [p + (0 if q is None else q) for p, q in zip(plain, extra, strict=True)])


def test_no_pass_of_the_field_is_added():
    net, calls = dit(), []
    net.register_forward_hook(lambda m, a, out: calls.append(len(a[0].primal if hasattr(a[0], "primal") else a[0])))
    recipe = recipes.meanflow(times.uniform, 0.5)
    gradient(recipe, net)
    alone = list(calls)
    calls.clear()
    parts = auxiliary.perceptual(auxiliary.distance_of(Encoder())), auxiliary.aligned(net.blocks[1], Encoder(), nn.Linear(16, 3).double())
    gradient(terms.beside(recipe, *parts), net)
    assert calls == alone


def test_what_it_adds_is_logged_and_the_residual_stays_the_plain_one():
    net, recipe = dit(), recipes.meanflow(times.uniform, 0.5)
    with_it = terms.beside(recipe, Auxiliary(lambda look: look.bridge.t, 2.0))
    plain, more = (ms.Loss(r).double()(net, data(), generator=ms.key(0, "draw")) for r in (recipe, with_it))
    t = torch.cat([b.t for b in drawn(recipe)])
    torch.testing.assert_close(more.metrics["auxiliary"], 2 * t.mean())
    torch.testing.assert_close(more.loss - plain.loss, 2 * t.mean())
    torch.testing.assert_close(more.metrics["residual"], plain.metrics["residual"], rtol=0, atol=0)


def test_a_row_at_the_time_itself_has_none():
    t = torch.tensor([0.5, 0.6, 0.7])
    b = ms.Bridge(t[:, None], t[:, None], t, t)
    assert Auxiliary(lambda look: torch.ones(3), before=0.6)(Look(b.z, b)).tolist() == [1.0, 0.0, 0.0]


def test_what_is_under_the_mask_is_0_in_both_pictures():
    """Whatever the field returns there: a distance sees neither it nor the padding."""
    seen: list[Tensor] = []
    mask = torch.arange(SIZE)[None, None] < torch.arange(1, ROWS + 1)[:, None, None] % 3 + 2
    mask = mask.expand(ROWS, 2, SIZE)

    def distance(predicted: Tensor, data: Tensor) -> Tensor:
        seen.extend((predicted, data))
        return (predicted - data + 1).square().flatten(1).sum(1)

    net, recipe = dit(), terms.beside(recipes.meanflow(times.uniform, 0.5), auxiliary.perceptual(distance))
    out = ms.Loss(recipe).double()(net, data(), mask=mask, generator=ms.key(0, "draw"))
    assert out.loss.isfinite() and len(seen) == 4
    for predicted, rows in zip(seen[::2], seen[1::2], strict=True):
        hidden = rows.abs() < 1e-12  # found from point and velocity: 0 up to rounding
        assert hidden.any() and not hidden.all() and (predicted[hidden] == 0).all() and (predicted[~hidden] != 0).all()


def test_heads_have_no_auxiliary_loss():
    recipe = terms.beside(recipes.improved_meanflow(), Auxiliary(lambda look: look.bridge.t))
    assert [len(term.beside) for term in recipe] == [1, 1, 0]


# The direction inside the weight ----------------------------------------------------------------------------------------------------


def bridge(shape: tuple[int, ...], mask: Tensor | None = None) -> ms.Bridge:
    z = torch.zeros(shape, dtype=torch.float64)
    return ms.Bridge(z, z, z.flatten(1)[:, 0], z.flatten(1)[:, 0], mask=mask)


def test_the_direction_is_one_minus_the_cosine_over_channels():
    g = ms.key(0)
    u, goal = (torch.randn(5, 3, 4, 4, generator=g, dtype=torch.float64) for _ in range(2))
    ours = Directional()(u, goal, bridge((5, 3, 4, 4)))
    torch.testing.assert_close(ours, (1 - F.cosine_similarity(u, goal, dim=1)).mean((1, 2)), rtol=1e-12, atol=1e-12)


def test_an_event_of_one_channel_is_one_direction():
    g = ms.key(0)
    u, goal = (torch.randn(5, 1, 4, 4, generator=g, dtype=torch.float64).requires_grad_(k == 0) for k in range(2))
    ours, whole = Directional()(u, goal, bridge((5, 1, 4, 4))), 1 - F.cosine_similarity(u.flatten(1), goal.flatten(1))
    torch.testing.assert_close(ours, whole, rtol=1e-12, atol=1e-12)
    (found,) = torch.autograd.grad(ours.sum(), u)
    assert (found != 0).all()  # over one entry only those near 0 have a gradient
    mask = (torch.arange(16) < torch.tensor([[3], [16], [1], [7], [0]])).view(5, 1, 4, 4)
    masked = Directional()(torch.where(mask, u, 7.0), goal, bridge((5, 1, 4, 4), mask))
    kept = 1 - F.cosine_similarity((u * mask).flatten(1), (goal * mask).flatten(1))
    torch.testing.assert_close(masked, torch.where(mask.flatten(1).any(1), kept, 0.0), rtol=1e-12, atol=1e-12)


def test_what_is_under_the_mask_has_no_direction():
    g = ms.key(0)
    u, goal = (torch.randn(5, 6, 4, generator=g, dtype=torch.float64) for _ in range(2))
    mask = torch.arange(6) < torch.tensor([[1], [3], [4], [6], [2]])
    ours = Directional()(torch.where(mask[..., None], u, 7.0), goal, bridge((5, 6, 4), mask))
    for k, n in enumerate((1, 3, 4, 6, 2)):
        alone = Directional()(u[k : k + 1, :n], goal[k : k + 1, :n], bridge((1, n, 4)))
        torch.testing.assert_close(ours[k : k + 1], alone, rtol=1e-12, atol=1e-12)


def test_a_network_that_starts_at_zero_gets_a_bounded_gradient():
    u = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    goal = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    (found,) = torch.autograd.grad(Directional()(u, goal, bridge((2, 3))).sum(), u)
    assert torch.equal(found[1], torch.zeros(3)) and abs(float(found[0].norm()) - 100) < 1e-9


# What does not fit ------------------------------------------------------------------------------------------------------------------


def refused(message: str, part: Any, net: nn.Module | None = None, recipe: Any = None) -> None:
    with pytest.raises(ValueError, match=message) as told:
        gradient(terms.beside(recipe or recipes.meanflow(times.uniform, 0.5), part), net or dit())
    assert "\n" not in str(told.value)


def test_a_feature_network_that_does_not_fit():
    wide, wrong = nn.Conv2d(3, 4, 1).double(), nn.Linear(16, 5).double()
    refused(
        r"the feature network Conv2d failed on rows \(4, 2, 4, 4\).*give a function that resizes",
        auxiliary.perceptual(auxiliary.distance_of(wide)),
    )
    refused("returned int for 4 rows: it must return", auxiliary.perceptual(auxiliary.distance_of(lambda x: 3)))
    refused(r"returned \(2,\) for 4 rows", auxiliary.perceptual(auxiliary.distance_of(lambda x: torch.zeros(2))))
    cut = auxiliary.perceptual(auxiliary.distance_of(torch.no_grad()(Encoder().forward)))
    refused("the feature network forward cuts the gradient to its input.*leave out no_grad", cut)
    net = dit()
    refused(
        r"projected layer is \(4, 4, 5\) and the network's features are \(4, 4, 3\)",
        auxiliary.aligned(net.blocks[0], Encoder(), wrong),
        net,
    )


def test_a_distance_or_a_projection_that_does_not_fit():
    """torch's own words are within the line, and its end says what to do."""
    refused(
        r"the distance lambda> failed on rows \(4, 2, 4, 4\): .*size of tensor.*give one that takes such rows".replace("lambda", "<lambda"),
        auxiliary.perceptual(lambda a, b: (a - torch.zeros(3, 5)).sum()),
    )
    net = dit()
    refused(
        r"the projection Linear failed on rows \(4, 4, 16\): mat1 and mat2.*such as nn\.Linear\(16, features\)",
        auxiliary.aligned(net.blocks[0], Encoder(), nn.Linear(8, 3).double()),
        net,
    )
    refused(r"one number a row, \(4,\), got \(4, 2, 4, 4\)", auxiliary.perceptual(lambda a, b: (a - b).square()))


def test_a_layer_of_another_network():
    part = auxiliary.aligned(dit(1).blocks[0], Encoder(), nn.Linear(16, 3).double())
    refused("the layer Block of an auxiliary loss was not met.*module of the field that is trained", part)


def test_a_pass_that_hides_the_layer():
    """Where the gradient flows through the derivative, torch's forward mode wraps what a layer returns."""
    net = dit()
    part = auxiliary.aligned(net.blocks[0], Encoder(), nn.Linear(16, 3).double())
    refused(
        "was not met.*a recipe without gradient through the derivative", part, net, recipes.meanflow(times.uniform, 0.5, rate=Exact(1.0))
    )


def test_a_loss_that_is_no_number_a_row():
    refused(r"one number a row, \(4,\), got \(4, 2, 4, 4\): take the mean", Auxiliary(lambda look: look.data))
    refused(r"one number a row, \(4,\), got float", Auxiliary(lambda look: 1.0))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"before": 0.0}, r"lies in \(0, 1\], got 0"),
        ({"before": 1.5}, r"lies in \(0, 1\], got 1.5"),
        ({"scale": float("nan")}, "a finite number, got nan"),
    ],
)
def test_a_time_or_a_scale_that_cannot_be(given: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        Auxiliary(lambda look: look.bridge.t, **given)


def test_what_is_no_auxiliary_loss():
    with pytest.raises(TypeError, match=re.escape("is an auxiliary.Auxiliary, such as auxiliary.perceptual(distance)")):
        terms.beside(recipes.meanflow(), lambda look: look.bridge.t)  # type: ignore[arg-type]


def test_a_loss_that_is_not_finite_names_its_rows():
    part = Auxiliary(lambda look: torch.where(look.bridge.t == look.bridge.t.max(), float("nan"), look.bridge.t))
    with pytest.raises(FloatingPointError, match="term 0, row"):
        gradient(terms.beside(recipes.meanflow(times.uniform, 0.5), part), dit())


def test_a_look_is_shown_in_a_line():
    b = bridge((2, 3))
    assert repr(Look(b.z, b)).startswith("Look(velocity=")
