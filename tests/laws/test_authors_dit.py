"""The authors' arms of the DiT against their loss written out: loss and gradient on equal draws, to rounding."""

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import meanstep as ms
from meanstep.fields import DiT
from meanstep.program.console import UserError
from meanstep.program.reproduce.images import protocol
from meanstep.program.reproduce.images.arms import arms
from meanstep.program.reproduce.images.guided import backed_up, guided_meanflow
from meanstep.program.runs.config import Config, MethodConfig
from meanstep.program.training import methods
from meanstep.types import Bridge

from . import authors

CLASSES, ROWS, SHARE, BETAS = 3, 32, 0.3, (0.0, 0.25, 1.0)


def dit(name: str) -> DiT:
    """Weights far from those at the start, where every block is the identity and the output 0."""
    net = DiT(4, 2, 2, 8, 1, 2, classes=CLASSES, generator=ms.key(0, name)).double()
    for k, p in enumerate(net.parameters()):
        p.data += 0.3 * torch.randn(p.shape, generator=ms.key(1, name, k), dtype=torch.float64)
    return net


NET, COPY = dit("online"), dit("average")
METHOD = MethodConfig("meanflow", dict(protocol.OPTIONS), dropout=SHARE, omega=1.0, kappa=0.5)


def built(name: str, method: MethodConfig = METHOD) -> ms.Recipe:
    """The recipe that a run of an arm trains, by the program's own way from its words."""
    (arm,) = arms([name], protocol=protocol.AUTHORS)
    return methods.build(arm.of(method), NET, COPY, None, CLASSES).recipe


def gradient(loss: Tensor) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(NET.parameters()))])


KINDS = [("beta", 1, 0), ("anchored", 1, 0.1), ("squared", 0, 0), ("squared-anchored", 0, 0.1)]
CASES = [(kind, power, anchor, beta, False) for kind, power, anchor in KINDS for beta in BETAS]
CASES += [
    (f"stated-{kind}" if kind != "beta" else "stated", power, anchor, beta, True) for kind, power, anchor in KINDS for beta in BETAS[1:]
]


@pytest.mark.parametrize(("kind", "power", "anchor", "beta", "in_text"), CASES)
def test_an_arm_is_the_loss_written_out(kind: str, power: float, anchor: float, beta: float, in_text: bool):
    g = ms.key(0, "data")
    x, y = torch.randn(ROWS, 2, 4, 4, generator=g, dtype=torch.float64), torch.randint(CLASSES, (ROWS,), generator=g)
    loss = ms.Loss(built(f"{kind}@{beta:g}"))
    with sdpa_kernel(SDPBackend.MATH):
        ours = loss(NET, x, y, generator=ms.key(0, "draws")).loss
        dealt = [b for _, b in loss.draw(x, y, generator=ms.key(0, "draws"))]
        whole = dealt[-1] if anchor else Bridge(*(torch.cat([getattr(b, name) for b in dealt]) for name in ("z", "v", "r", "t", "y")))
        r, t = (torch.cat([getattr(b, name) for b in dealt[:2]]) for name in "rt")
        aux = torch.cat([b.aux for b in dealt[:2]])
        clean, noise = whole.data, whole.noise
        dropped, delta = aux[:, 0] < SHARE, 1e-3 * aux[:, 1]
        law = authors.dit_loss(NET, COPY, clean, noise, r, t, y, dropped, CLASSES, beta, power, anchor, delta, in_text)
        assert dropped.any() and (r == t).sum() == 0.75 * ROWS and (delta < t).all()
        mine, theirs = gradient(ours), gradient(law)
    assert ours.item() == pytest.approx(law.item(), rel=1e-10)
    assert theirs.abs().max() > 1e-6 and (mine - theirs).abs().max() <= 1e-10 * theirs.abs().max()


def test_in_their_code_the_noise_of_the_tangent_does_not_depend_on_the_coefficient():
    """With guidance alone under the coefficient, tangents at 0 and 1 differ by what both networks say, whatever the draw's own velocity."""

    def tangent(name: str, v: Tensor) -> Tensor:
        objective = built(name)[0].objective
        b = Bridge(z, v, r, t, y, aux=torch.ones(4, 4, dtype=torch.float64))
        return objective.tangent(NET, b)

    g = ms.key(0, "rows")
    z, v, w = torch.randn(3, 4, 2, 4, 4, generator=g, dtype=torch.float64)
    r, t, y = torch.full((4,), 0.2).double(), torch.full((4,), 0.7).double(), torch.arange(4) % CLASSES
    for name in ("beta@0", "beta@0.5", "beta@1"):
        assert torch.allclose(tangent(name, v) - tangent(name, w), v - w, atol=1e-12)
    assert torch.equal(tangent("stated@1", v), tangent("stated@1", w))
    assert not torch.allclose(tangent("beta@0", v), tangent("beta@1", v))


def test_the_anchor_does_not_go_below_0():
    b = Bridge(torch.zeros(2, 1), torch.zeros(2, 1), torch.tensor([0.0, 0.4]), torch.tensor([1e-4, 0.5]), aux=torch.ones(2, 4))
    assert torch.equal(backed_up(0.0, 1e-3)(b).r, torch.tensor([0.0, 0.5 - 1e-3]))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"role": "both"}, "role is one of guidance, tangent, got 'both'"),
        ({"anchor": -1.0}, "anchor, the scale of a loss term, is a finite number of at least 0, got -1"),
        ({"beta": 0.5}, "guided_meanflow with beta > 0 needs an EMA copy"),
        ({"beta": 0.5, "proxy": COPY}, "without guidance beta = 0.5 changes nothing in this role"),
        ({"delta": (0.5, 0.1), "anchor": 0.1}, "0 <= low <= high <= 1"),
    ],
)
def test_a_mistake_in_the_options(options: dict[str, object], told: str):
    with pytest.raises(ValueError, match=told):
        guided_meanflow(**options)  # type: ignore[arg-type]


def test_what_is_published_passes_and_every_entry_of_it_is_held():
    config = protocol.applied(Config())
    assert protocol.settled(config) == config and config.averages.decays == (config.method.proxy_decay,) == (0.9999,)
    for (part, name), value in (protocol.FIXED | protocol.FACTORS).items():
        assert name == "samples" or getattr(getattr(config, part), name) == value
    with pytest.raises(UserError, match="or give --protocol ours"):
        protocol.settled(Config())
