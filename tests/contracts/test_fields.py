"""What fields and adapters owe their caller: argument orders, parameterisations, independent members, weights that survive a round trip."""

import copy
import re
from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import meanstep as ms
from meanstep import fields, recipes
from meanstep.fields import DataPrediction, Decoupled, DiT, Gaussian, Mixture, Scaled
from meanstep.fields.adapt import ROLES
from meanstep.velocities import Condition


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    g = generator()
    t = torch.rand(6, generator=g)
    return {"z": torch.randn(6, 2, generator=g), "r": t * torch.rand(6, generator=g), "t": t, "y": torch.arange(6) % 3}


def called(field: Callable[..., Tensor], inputs: dict[str, Tensor]) -> Tensor:
    return field(inputs["z"], inputs["r"], inputs["t"], inputs["y"])


def test_a_dit_names_an_image_it_was_not_built_for():
    net, t = DiT(8, 1, 2, 16, 1, 2), torch.ones(2)
    for shape in ((2, 3, 8, 8), (2, 1, 16, 16)):
        with pytest.raises(ValueError, match=r"takes rows \[B, 1, 8, 8\], got \(2, "):
            net(torch.randn(shape), t, t)
    with pytest.raises(ValueError, match="without classes"):
        net(torch.randn(2, 1, 8, 8), t, t, torch.zeros(2, dtype=torch.int64))


# as_field ----------------------------------------------------------------------------------------------------------------------------


def test_every_order_gives_the_network_what_it_names(inputs: dict[str, Tensor]):
    given = {**inputs, "gap": inputs["t"] - inputs["r"]}
    for length in range(1, len(ROLES) + 1):
        for order in permutations(ROLES, length):
            if "z" not in order:
                continue
            seen: list[tuple[Tensor, ...]] = []
            field = ms.as_field(lambda *a, seen=seen: seen.append(a) or a[0], order)
            called(field, inputs)
            assert all(torch.equal(a, given[role]) for a, role in zip(seen[0], order, strict=True)), order


def test_keyword_names(inputs: dict[str, Tensor]):
    def unet(sample: Tensor, *, timestep: Tensor, span: Tensor, labels: Tensor) -> Tensor:
        return sample * timestep[:, None] + span[:, None] * labels[:, None]

    field = ms.as_field(unet, ("z",), {"timestep": "t", "span": "gap", "labels": "y"})
    gap = inputs["t"] - inputs["r"]
    assert torch.equal(called(field, inputs), unet(inputs["z"], timestep=inputs["t"], span=gap, labels=inputs["y"]))
    everything = ms.as_field(lambda **a: a["x"] - a["end"][:, None], (), {"x": "z", "end": "r"})
    assert torch.equal(called(everything, inputs), inputs["z"] - inputs["r"][:, None])


def test_output_and_head_pick_from_what_the_network_returns(inputs: dict[str, Tensor]):
    field = ms.as_field(lambda z, r, t: {"u": z + 1, "v": z - 1}, output=lambda out: out["u"], head=lambda out: out["v"])
    assert torch.equal(called(field, inputs), inputs["z"] + 1)
    assert field.head is not None and torch.equal(called(field.head, inputs), inputs["z"] - 1)
    assert ms.as_field(lambda z, r, t: z).head is None


def test_the_condition_is_optional_and_untouched(inputs: dict[str, Tensor]):
    y = Condition(*(torch.rand(6) for _ in range(4)))
    field = ms.as_field(lambda z, y: z if y is None else z * y.omega[:, None], ("z", "y"))
    assert torch.equal(field(inputs["z"], inputs["r"], inputs["t"]), inputs["z"])
    assert torch.equal(field(inputs["z"], inputs["r"], inputs["t"], y), inputs["z"] * y.omega[:, None])


@pytest.mark.parametrize(
    ("order", "names", "message"),
    [
        (("z", "time"), None, r"one of z, r, t, gap, y, got 'time'"),
        (("z",), {"timestep": "T"}, r"one of z, r, t, gap, y, got 'T'"),
        (("r", "t"), None, r"must be given z, got order=\('r', 't'\)"),
    ],
)
def test_a_wrong_role_is_named(order: tuple[str, ...], names: dict[str, str] | None, message: str):
    with pytest.raises(ValueError, match=message):
        ms.as_field(lambda *a: a[0], order, names)


def test_the_network_inside_is_found_by_torch():
    net = nn.Linear(2, 2)
    field = ms.as_field(net, ("z",))
    assert [name for name, _ in field.named_parameters()] == ["net.weight", "net.bias"]
    assert field.eval().net.training is False
    assert list(ms.as_field(lambda z: z, ("z",)).parameters()) == []


# Parameterisations -------------------------------------------------------------------------------------------------------------------


def test_data_prediction_is_the_velocity_towards_the_data(inputs: dict[str, Tensor]):
    """A network that returns `z - t u` for a known field `u` is that field again above the floor, and is damped below it."""
    known = ms.MLP(2, 8, 1, generator=generator())
    t = inputs["t"][:, None]
    data = ms.as_field(lambda z, r, t: z - t[:, None] * known(z, r, t))
    u = called(known, {**inputs, "y": None})
    torch.testing.assert_close(called(DataPrediction(data, floor=1e-6), inputs), u, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(called(DataPrediction(data, floor=0.5), inputs), u * t / t.clamp(min=0.5), rtol=1e-5, atol=1e-6)


def test_data_prediction_reads_the_head_likewise(inputs: dict[str, Tensor]):
    net = ms.as_field(lambda z, r, t: (z, 2 * z), output=lambda out: out[0], head=lambda out: out[1])
    field = DataPrediction(net, 0.1)
    assert field.head is not None
    want = (inputs["z"] - 2 * inputs["z"]) / inputs["t"].clamp(min=0.1)[:, None]
    torch.testing.assert_close(called(field.head, inputs), want)
    assert DataPrediction(ms.MLP(2)).head is None


@pytest.mark.parametrize("floor", [0.0, -1.0, 1.5, float("nan")])
def test_data_prediction_refuses_a_floor_that_is_no_time(floor: float):
    with pytest.raises(ValueError, match=rf"floor is a time in \(0, 1\], got {floor:g}"):
        DataPrediction(ms.MLP(2), floor)


def test_scaled_multiplies_by_the_scale(inputs: dict[str, Tensor]):
    y = Condition(inputs["y"], torch.rand(6) + 1, torch.zeros(6), torch.ones(6))
    net = ms.as_field(lambda z, y: z + y.label[:, None], ("z", "y"))
    out = Scaled(net)(inputs["z"], inputs["r"], inputs["t"], y)
    torch.testing.assert_close(out, y.omega[:, None] * (inputs["z"] + inputs["y"][:, None]))


@pytest.mark.parametrize(("y", "name"), [(None, "NoneType"), (torch.zeros(6), "Tensor")])
def test_scaled_needs_a_scale(inputs: dict[str, Tensor], y: Any, name: str):
    with pytest.raises(TypeError, match=rf"got {name}: pass guidance= to the recipe"):
        Scaled(ms.MLP(2))(inputs["z"], inputs["r"], inputs["t"], y)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.seen = nn.Linear(8, 8), torch.empty(0)

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        self.seen = c.detach()
        return h + torch.tanh(self.layer(h) + c)


class Flow(nn.Module):
    """A flow-matching network `v(z, t, y)` in the four parts that `Decoupled` asks for."""

    def __init__(self, depth: int = 6) -> None:
        super().__init__()
        self.times, self.labels, self.stem = nn.Linear(1, 8), nn.Embedding(3, 8), nn.Linear(2, 8)
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.last = nn.Linear(8, 2)

    def embed(self, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.times(t[:, None]) + (0 if y is None else self.labels(y))

    def final(self, h: Tensor, c: Tensor) -> Tensor:
        return self.last(h * (1 + c))

    def forward(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        c, h = self.embed(t, y), self.stem(z)
        for block in self.blocks:
            h = block(h, c)
        return self.final(h, c)


@pytest.fixture
def flow() -> Flow:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Flow()


@pytest.mark.parametrize("split", [None, 0, 3, 6])
def test_a_decoupled_network_is_the_original_on_the_diagonal(flow: Flow, inputs: dict[str, Tensor], split: int | None):
    z, r, t, y = inputs["z"], inputs["r"], inputs["t"], inputs["y"]
    field = Decoupled(flow, split)
    assert torch.equal(field(z, t, t, y), flow(z, t, y)) and torch.equal(field(z, t, t), flow(z, t))
    assert not torch.allclose(field(z, r, t, y), flow(z, t, y))


@pytest.mark.parametrize(("split", "early"), [(None, 4), (0, 0), (3, 3), (6, 6)])
def test_blocks_below_the_split_see_t_and_the_others_r(flow: Flow, inputs: dict[str, Tensor], split: int | None, early: int):
    z, r, t, y = inputs["z"], inputs["r"], inputs["t"], inputs["y"]
    field = Decoupled(flow, split)
    field(z, r, t, y)
    for k, block in enumerate(flow.blocks):
        assert torch.equal(block.seen, flow.embed(t if k < early else r, y)), k
    moved = field(z, r, t * 0.9, y)
    assert torch.equal(moved, field(z, r, t, y)) == (early == 0), "with no early block the network cannot see t"


@pytest.mark.parametrize(("depth", "early"), [(28, 20), (24, 17), (16, 11), (12, 9), (6, 4)])
def test_the_split_is_the_published_one_of_28_blocks(flow: Flow, depth: int, early: int):
    """20 of 28, and at other depths the nearest number to that share."""
    flow.blocks = nn.ModuleList(Block() for _ in range(depth))
    assert Decoupled(flow).split == early and abs(early / depth - 20 / 28) <= 0.5 / depth


def test_a_decoupled_network_adds_no_weights(flow: Flow):
    assert {id(p) for p in Decoupled(flow).parameters()} == {id(p) for p in flow.parameters()}


def test_decoupling_names_what_is_missing(flow: Flow):
    with pytest.raises(TypeError, match=r"Linear cannot be decoupled: it lacks embed, stem, blocks, final; give it these parts"):
        Decoupled(nn.Linear(2, 2))
    del flow.stem
    with pytest.raises(TypeError, match=r"Flow cannot be decoupled: it lacks stem"):
        Decoupled(flow)


@pytest.mark.parametrize("split", [-1, 7])
def test_a_split_outside_the_network_is_refused(flow: Flow, split: int):
    with pytest.raises(ValueError, match=rf"number of blocks in \[0, 6\], got {split}"):
        Decoupled(flow, split)


# MLP ---------------------------------------------------------------------------------------------------------------------------------


def ensemble(members: tuple[int, ...] = (3,), **options: Any) -> ms.MLP:
    return ms.MLP(2, 8, 2, members=members, generator=generator(), **options).double()


def batch(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    g = generator(1)
    z, t = torch.randn(*shape, 2, generator=g, dtype=torch.float64), torch.rand(*shape, generator=g, dtype=torch.float64)
    return z, t * torch.rand(*shape, generator=g, dtype=torch.float64), t


def test_a_member_equals_a_network_of_its_own():
    net, (z, r, t) = ensemble(head=True), batch(3, 5)
    for m in range(3):
        single = ms.MLP(2, 8, 2, head=True).double()
        single.load_state_dict({name: p[m] for name, p in net.state_dict().items()})
        torch.testing.assert_close(net(z, r, t)[m], single(z[m], r[m], t[m]), rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(net.head(z, r, t)[m], single.head(z[m], r[m], t[m]), rtol=1e-12, atol=1e-14)


def test_no_member_sees_another():
    net, (z, r, t) = ensemble(), batch(3, 5)
    before = net(z, r, t)
    moved, other = (p.clone() for p in (z, t))
    moved[0], other[0] = float("nan"), 0.9
    assert torch.equal(net(moved, r, other)[1:], before[1:])
    for parameter in torch.autograd.grad(before[1].square().sum(), list(net.parameters())):
        assert parameter[1].any() and not parameter[0].any() and not parameter[2].any()


def test_members_of_members():
    net, (z, r, t) = ensemble((2, 3)), batch(2, 3, 5)
    assert net(z, r, t).shape == (2, 3, 5, 2)
    loss = ms.Loss(recipes.meanflow(), batch_dims=3)
    out = loss(net, z, generator=generator())
    assert out.metrics["residual"].shape == (2, 3)


def test_an_ensemble_loss_is_the_sum_of_its_members():
    """The draws of an ensemble are its members' own, so each member's part can be recomputed with a network of its own."""
    net, x = ensemble(), batch(3, 8)[0]
    loss = ms.Loss(recipes.meanflow(), batch_dims=2)
    total = loss(net, x, generator=generator(2)).loss
    parts = []
    for m in range(3):
        single = ms.MLP(2, 8, 2).double()
        single.load_state_dict({name: p[m] for name, p in net.state_dict().items()})
        for term, b in loss.draw(x, generator=generator(2)):
            mine = type(b)(*(p[m] if isinstance(p, Tensor) else p for p in b))
            prediction, target, *_ = term.objective(single, mine)
            error = (prediction - target).square().mean(-1)
            parts.append(term.weight(error, mine).sum() / 8)
    torch.testing.assert_close(total, torch.stack(parts).sum(), rtol=1e-12, atol=0)


def test_labels_and_the_label_of_none():
    net, (z, r, t) = ensemble((), classes=3), batch(5)
    assert torch.equal(net(z, r, t), net(z, r, t, torch.full((5,), 3)))
    assert not torch.allclose(net(z, r, t, torch.zeros(5, dtype=torch.int64)), net(z, r, t, torch.ones(5, dtype=torch.int64)))


def test_the_same_generator_gives_the_same_network():
    before = torch.get_rng_state()
    a, b = ms.MLP(2, generator=generator(4)), ms.MLP(2, generator=generator(4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert ms.MLP(2).head is None


@pytest.mark.parametrize("sizes", [(0, 8, 1), (2, 0, 1), (2, 8, 0)])
def test_an_empty_network_is_refused(sizes: tuple[int, int, int]):
    with pytest.raises(ValueError, match=f"at least 1, got {sizes[0]}, {sizes[1]}, {sizes[2]}"):
        ms.MLP(*sizes)


# Exact fields: sampling --------------------------------------------------------------------------------------------------------------

N = 40_000
LEVEL = 1e-3  # of every test below; the seed is fixed, so a pass stays a pass


def two_sided(z: Tensor) -> float:
    """The smallest p value of standard normal statistics, corrected for their number."""
    return min(1.0, 2 * float(stats.norm.sf(z.abs().max().item())) * z.numel())


def test_mixture_samples_have_the_mixtures_moments():
    means, stds = torch.tensor([[-1.0, 2], [1, 0], [3, -1]]).double(), torch.tensor([[0.5, 1], [0.2, 0.4], [1, 2]]).double()
    weights = torch.tensor([2.0, 1, 1]).double()
    x = Mixture(means, stds, weights).sample(N, generator(5))
    assert x.shape == (N, 2) and x.dtype == torch.float64
    p = weights / 4
    mean = p @ means
    second = torch.einsum("k,ki,kj->ij", p, means, means) + torch.diag(p @ stds**2)
    assert two_sided((x.mean(0) - mean) / (x.std(0) / N**0.5)) > LEVEL
    products = torch.einsum("ni,nj->nij", x, x)
    assert two_sided((products.mean(0) - second) / (products.std(0) / N**0.5)) > LEVEL


def test_mixture_samples_have_the_mixtures_law():
    """One dimension of an unequal mixture against its distribution function."""
    mixture = Mixture(torch.tensor([[-2.0], [1.0]]).double(), torch.tensor([0.3, 1.0]).double(), torch.tensor([1.0, 3]).double())
    x = mixture.sample(N, generator(6))[:, 0].numpy()
    assert stats.kstest(x, lambda q: 0.25 * stats.norm.cdf(q, -2, 0.3) + 0.75 * stats.norm.cdf(q, 1, 1)).pvalue > LEVEL


def test_gaussian_samples():
    gaussian = Gaussian(torch.tensor([1.0, -2]).double(), torch.tensor([0.5, 2]).double())
    x = gaussian.sample(N, generator(7))
    for column, mean, std in ((0, 1, 0.5), (1, -2, 2)):
        assert stats.kstest(x[:, column].numpy(), stats.norm(mean, std).cdf).pvalue > LEVEL


def test_conditional_draws_have_the_posteriors_moments():
    mixture = Mixture(torch.tensor([[-1.0, 0], [1, 0.5]]).double(), torch.tensor([0.4, 0.7]).double())
    z, t = torch.tensor([0.3, 0.1]).double().expand(N, 2), torch.full((N,), 0.6).double()
    v = mixture.conditional_draws(z, t, generator(8))
    mean, covariance = mixture.velocity(z[:1], t[:1])[0], mixture.covariance(z[:1], t[:1])[0]
    assert two_sided((v.mean(0) - mean) / (v.std(0) / N**0.5)) > LEVEL
    products = torch.einsum("ni,nj->nij", v - mean, v - mean)
    assert two_sided((products.mean(0) - covariance) / (products.std(0) / N**0.5)) > LEVEL


@pytest.mark.parametrize("stds", [0.5, torch.tensor([0.5, 0.5]), torch.tensor([[0.5], [0.5]]), torch.full((2, 3), 0.5)])
def test_standard_deviations_of_every_shape(stds: Any):
    mixture = Mixture(torch.zeros(2, 3), stds)
    assert torch.equal(mixture.stds, torch.full((2, 3), 0.5)) and torch.equal(mixture.weights, torch.full((2,), 0.5))


def test_sampling_leaves_the_global_state_alone():
    before = torch.get_rng_state()
    mixture = Mixture(torch.zeros(2, 3))
    a, b = (mixture.sample(10, generator(1)) for _ in range(2))
    assert torch.equal(a, b) and torch.equal(torch.get_rng_state(), before)


def test_bad_mixtures():
    with pytest.raises(ValueError, match=r"shape \[K, D\], got \(3,\)"):
        Mixture(torch.zeros(3))
    for stds, weights in ((0.0, None), (-1.0, None), (1.0, torch.tensor([1.0, 0.0]))):
        with pytest.raises(ValueError, match="must be positive"):
            Mixture(torch.zeros(2, 1), stds, weights)


@pytest.mark.parametrize("name", ["stds", "weights"])
@pytest.mark.parametrize("shape", [(3,), (3, 1), (1, 2)])
def test_numbers_of_a_mixture_that_do_not_fit_its_means(name: str, shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=rf"^{name} .* have shape \(2,\).*, got {re.escape(str(shape))}"):
        Mixture(torch.zeros(2, 2), **{name: torch.ones(shape)})


# Weights that survive ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: ms.MLP(2, 8, 2, head=True, classes=3),
        lambda: ms.MLP(2, 8, 2).double(),
        lambda: ms.as_field(Flow(), ("z", "t", "y")),
        lambda: DataPrediction(ms.as_field(Flow(), ("z", "t", "y"))),
        lambda: Decoupled(Flow(), 2),
    ],
    ids=["MLP", "MLP in float64", "as_field", "DataPrediction", "Decoupled"],
)
def test_a_state_dict_restores_the_field(make: Callable[[], nn.Module], inputs: dict[str, Tensor], tmp_path: Any):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        field, other = make(), make()
    dtype = next(field.parameters()).dtype
    z, r, t, y = (p.to(dtype) if p.is_floating_point() else p for p in (inputs[k] for k in ("z", "r", "t", "y")))
    assert not torch.equal(field(z, r, t, y), other(z, r, t, y))
    torch.save(field.state_dict(), tmp_path / "weights.pt")
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(field(z, r, t, y), other(z, r, t, y))
    assert torch.equal(copy.deepcopy(field)(z, r, t, y), field(z, r, t, y))


def test_the_loss_keeps_the_learned_weight_in_its_state():
    loss, other = (ms.Loss(recipes.decoupled_meanflow()) for _ in range(2))
    assert len(list(loss.parameters())) == 2, "both terms share one learned weight"
    with torch.no_grad():
        for p in loss.parameters():
            p.add_(1)
    other.load_state_dict(loss.state_dict())
    assert all(torch.equal(p, q) for p, q in zip(loss.parameters(), other.parameters(), strict=True))
    assert list(ms.Loss(recipes.meanflow()).parameters()) == []


CATEGORIES = {
    "mlp": lambda: fields.MLP(2, 8, 1, classes=3, generator=ms.key(0)),
    "mlp, by name": lambda: fields.MLP(2, 8, 1, conditions={"a": 3}, generator=ms.key(0)),
    "dit": lambda: DiT(4, 1, 2, 16, 1, 2, classes=3, generator=ms.key(0)),
    "unet": lambda: fields.UNet((1, 4, 4), 8, (1, 1), 1, (1,), 2, classes=3, generator=ms.key(0)),
}


@pytest.mark.parametrize("name", CATEGORIES)
def test_labels_are_whole_numbers_of_any_type(name: str):
    net, y = CATEGORIES[name](), torch.tensor([0, 1, 1])
    z = torch.randn(3, *((2,) if "mlp" in name else (1, 4, 4)), generator=ms.key(0))
    r, t = torch.zeros(3), torch.ones(3)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1)
    wanted = net(z, r, t, y)
    for kind in (torch.uint8, torch.int32, torch.bool):
        assert torch.equal(net(z, r, t, y.to(kind)), wanted)
    with pytest.raises(TypeError, match="categories, a tensor of whole numbers"):
        net(z, r, t, y.float())


def test_one_tensor_is_not_two_conditions():
    net, y = fields.MLP(2, 8, 1, conditions={"a": 3, "b": 3}), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="takes the conditions a, b, and y is a Tensor"):
        net(torch.zeros(2, 2), torch.zeros(2), torch.ones(2), y)
    with pytest.raises(ValueError, match="a has -3 categories"):
        fields.MLP(2, conditions={"a": -3})
