"""`meanstep doctor`: finds planted faults by module and remedy, passes sound networks, changes nothing, and complains in one line."""

import copy
import gc
import json
import math
import random
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import meanstep as ms
from meanstep.cli import main
from meanstep.program.console import UserError
from meanstep.program.doctor.examination import doctor
from meanstep.program.doctor.examined import admit
from meanstep.program.doctor.findings import CHECKS, FAIL, NONE, PASS, WARN, spoken

FAST = tuple(name for name in CHECKS if name not in ("compile", "ddp", "fsdp"))


def code(*args: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(args)
    return int(stop.value.code or 0)


# Sound networks ----------------------------------------------------------------------------------------------------------------------


class Time(nn.Module):
    """Sines and cosines of `scale` times t and t - r."""

    def __init__(self, width: int = 32, scale: float = 1.0) -> None:
        super().__init__()
        self.scale, self.mix = scale, nn.Linear(64, width)
        self.register_buffer("rates", torch.exp(-math.log(1000) * torch.arange(16) / 16), persistent=False)

    def forward(self, r: Tensor, t: Tensor) -> Tensor:
        angles = self.scale * torch.stack([t, t - r], -1)[..., None] * self.rates
        return self.mix(torch.cat([angles.sin(), angles.cos()], -1).flatten(-2))


class Plain(nn.Module):
    """A perceptron; faults are planted by overriding `middle` or `time`."""

    def __init__(self, dim: int = 4, width: int = 32, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.time, self.first = Time(width, scale), nn.Linear(dim, width)
        self.body = nn.Sequential(nn.Linear(width, width), nn.SiLU())
        self.last = nn.Linear(width, dim)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return self.last(self.body(F.silu(self.first(z) + self.time(r, t))))


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.time, self.stem = Time(16), nn.Conv2d(1, 16, 3, padding=1)
        self.block = nn.Sequential(nn.GroupNorm(4, 16), nn.SiLU(), nn.Conv2d(16, 16, 3, padding=1))
        self.head = nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        h = self.stem(z) + self.time(r, t)[:, :, None, None]
        return self.head(h + self.block(h))


class Audio(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.time, self.down, self.up = Time(16), nn.Conv1d(1, 16, 4, 2, 1), nn.ConvTranspose1d(16, 1, 4, 2, 1)
        self.middle = nn.Sequential(nn.GELU(), nn.Dropout(0.1), nn.Conv1d(16, 16, 3, padding=2, dilation=2))

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return self.up(self.middle(self.down(z) + self.time(r, t)[..., None]))


class Policy(nn.Module):
    """Actions over time, by a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.time, self.gru, self.out = Time(8), nn.GRU(3 + 8, 24, batch_first=True), nn.Linear(24, 3)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        c = self.time(r, t)[:, None].expand(-1, z.shape[1], -1)
        return self.out(self.gru(torch.cat([z, c], -1))[0])


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2))


class Transformer(nn.Module):
    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.time, self.first, self.attention, self.last = Time(16), nn.Linear(2, 16), attention, nn.Linear(16, 2)
        self.norm = nn.LayerNorm(16)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        h = self.first(z) + self.time(r, t)[:, None]
        a = self.norm(h)
        return self.last(
            h + (self.attention(a, a, a, need_weights=False)[0] if isinstance(self.attention, nn.MultiheadAttention) else self.attention(a))
        )


class Encoder(nn.Module):
    """torch's own layers, with dropout inside and behind attention."""

    def __init__(self) -> None:
        super().__init__()
        self.time, self.first, self.last = Time(16), nn.Linear(2, 16), nn.Linear(16, 2)
        self.layers = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return self.last(self.layers(self.first(z) + self.time(r, t)[:, None]))


def dit(**options: Any) -> nn.Module:
    return ms.fields.DiT(8, 1, 4, 16, 2, 2, generator=ms.key(0), **options)


def fused() -> nn.Module:
    return Transformer(nn.MultiheadAttention(16, 2, batch_first=True))


SOUND: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "plain": (Plain, (4,)),
    "images": (Images, (1, 8, 8)),
    "transformer": (lambda: Transformer(Attention(16)), (6, 2)),
    "heads": (fused, (6, 2)),
    "encoder": (Encoder, (6, 2)),
    "audio": (Audio, (1, 32)),
    "policy": (Policy, (5, 3)),
    "MLP": (lambda: ms.MLP(2, 32, 2, generator=ms.key(0)), (2,)),
    "DiT": (dit, (1, 8, 8)),
    "DiT, checkpointed": (lambda: dit(checkpointing=True), (1, 8, 8)),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_network_passes(name: str):
    make, shape = SOUND[name]
    report = doctor(make(), shape, only=FAST)
    allowed = {"way"} if name == "policy" else set()  # a recurrent layer has no rule
    assert [spoken(f) for f in report.findings if f.status == FAIL or (f.status == WARN and f.check not in allowed)] == []
    assert report.of("forward-mode").status == report.of("rows").status == PASS


@pytest.mark.parametrize("name", ["plain", "transformer", *(pytest.param(name, marks=pytest.mark.slow) for name in ("audio", "DiT"))])
def test_a_sound_network_passes_compile_and_wrappers(name: str):
    make, shape = SOUND[name]
    report = doctor(make(), shape, only=("compile", "ddp", "fsdp"))
    assert {f.check: f.status for f in report.findings} == {"compile": PASS, "ddp": PASS, "fsdp": PASS}, str(report)


# Planted faults ----------------------------------------------------------------------------------------------------------------------


class Normed(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32), nn.SiLU())


class _Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * grad


class Cube(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _Cube.apply(x)


class Sampled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        grid = x[:, :, None, None].expand(-1, -1, 2, 2).reshape(len(x), -1, 2, 2).permute(0, 2, 3, 1)[..., :2].tanh()
        return x + F.grid_sample(x[:, :4].reshape(-1, 1, 2, 2), grid, align_corners=False).mean((1, 2, 3))[:, None]


class Pairwise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        points = x.unflatten(-1, (-1, 2))
        return x + torch.cdist(points, points).mean((1, 2))[:, None]


class Writes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2)


class WritesInput(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.scaling = Writes()

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return super().forward(self.scaling(z), r, t)


class Middle(Plain):
    """The perceptron with another layer in its middle."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.middle = middle

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return self.last(self.middle(self.body(self.first(z) + self.time(r, t))))


class Linear1000(Plain):
    """1000 t into a layer that is no sine: u itself grows."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = nn.Linear(1, 32)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return self.last(self.body(F.silu(self.first(z) + self.time(r, t) + self.raw(1000 * t[:, None]))))


class OneTime(Plain):
    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return super().forward(z, torch.zeros_like(r), t)


class Swapped(Plain):
    def forward(self, x: Tensor, t: Tensor, r: Tensor, y: Any = None) -> Tensor:  # type: ignore[override]
        return super().forward(x, r, t)


class Narrow(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(32, 3)


class Detached(Plain):
    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return self.last(self.body(F.silu(self.first(z).detach() + self.time(r, t))))


class Reentrant(Plain):
    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return self.last(checkpoint(self.body, self.first(z) + self.time(r, t), use_reentrant=True))


class Steps(Plain):
    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return super().forward(z, r, (100 * t).floor() / 100)


class Rooted(Plain):
    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return super().forward(z, r, t) / (t - r).sqrt()[:, None]


class Counting(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        self.seen += 1
        return super().forward(z, r, t) * (1 + 0.1 * self.seen)


class Tracking(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        self.seen.add_(1)
        return super().forward(z, r, t)


class Borrowing(Plain):
    """Reads the weights of its first layer in its forward."""

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return super().forward(z, r, t) + F.linear(z, self.first.weight[:4])


class Unused(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(3, 3)


class Branching(Plain):
    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return super().forward(z, r, t) * (2.0 if z.mean().item() > 0 else 1.0)


class FixedDevice(Plain):
    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return super().forward(z + torch.ones(4, device="cpu"), r, t)


class Chancy(Plain):
    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return super().forward(z + 0.1 * torch.rand_like(z), r, t)


class Loose(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.zeros(4)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return super().forward(z + self.shift, r, t)


class Forced(nn.Module):
    """A fused kernel called by its own name: nothing can be switched."""

    def forward(self, x: Tensor) -> Tensor:
        q = x.unflatten(-1, (2, 2, 8)).transpose(1, 2)
        return x + torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, q, q)[0].transpose(1, 2).flatten(1)


class Summed(nn.Module):
    """A function without a rule beside a norm through which torch cannot compile forward mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(32)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x).cumsum(-1)


class Recurrent(Policy):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.LSTM(3 + 8, 24, 2, batch_first=True, dropout=0.5)  # type: ignore[assignment]


def mixing() -> nn.Module:
    return Transformer(nn.MultiheadAttention(16, 2))


FAULTS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str, str, str, str]] = {
    "fused attention": (
        lambda: Transformer(nn.MultiheadAttention(16, 2, add_bias_kv=True, batch_first=True)),
        (6, 2),
        "forward-mode",
        WARN,
        "attention (MultiheadAttention)",
        "switched to math by itself",
    ),
    "attention without a rule": (
        lambda: Transformer(nn.MultiheadAttention(16, 2, add_bias_kv=True, batch_first=True)),
        (6, 2),
        "way",
        WARN,
        "",
        "without add_bias_kv",
    ),
    "fused LSTM with dropout": (lambda: Recurrent().train(), (5, 3), "way", FAIL, "", "cudnn.enabled"),
    "recorded": (lambda: Middle(Summed()), (4,), "compile", WARN, "", "carries_tangents = True"),
    "forced attention": (
        lambda: Middle(Forced()),
        (4,),
        "forward-mode",
        FAIL,
        "middle (Forced)",
        "scaled_dot_product_attention as it comes",
    ),
    "BatchNorm": (Normed, (4,), "forward-mode", FAIL, "body.1 (BatchNorm1d)", "GroupNorm"),
    "BatchNorm mixes": (Normed, (4,), "rows", FAIL, "body.1 (BatchNorm1d)", "GroupNorm"),
    "autograd function": (lambda: Middle(Cube()), (4,), "forward-mode", FAIL, "middle (Cube)", "setup_context and jvp"),
    "in place": (WritesInput, (4,), "inputs", FAIL, "scaling (Writes)", "x = x * a"),
    "grid_sample": (lambda: Middle(Sampled()), (4,), "forward-mode", FAIL, "middle (Sampled)", "gather"),
    "cdist": (lambda: Middle(Pairwise()), (4,), "forward-mode", FAIL, "middle (Pairwise)", "square().sum(-1)"),
    "1000 t": (lambda: Plain(scale=1000.0), (4,), "time-scale", FAIL, "time", "not 1000 t"),
    "1000 t, no sine": (Linear1000, (4,), "time-scale", WARN, "raw", "not 1000 t"),
    "r unused": (OneTime, (4,), "times", FAIL, "", "embed r (or t - r)"),
    "wrong order": (Swapped, (4,), "arguments", FAIL, "", 'ms.as_field(net, ("z", "t", "r", "y"))'),
    "other shape": (Narrow, (4,), "output", FAIL, "last (Linear)", "one velocity per entry of z"),
    "rows mixed": (mixing, (6, 2), "rows", FAIL, "attention (MultiheadAttention)", "batch_first=True"),
    "detached": (Detached, (4,), "gradients", FAIL, "first (Linear)", "detach()"),
    "detached slope": (Detached, (4,), "forward-mode", FAIL, "the network itself (Detached)", "detach()"),
    "reentrant": (Reentrant, (4,), "checkpoints", FAIL, "the network itself (Reentrant)", "use_reentrant=False"),
    "rounded times": (Steps, (4,), "time-scale", FAIL, "time", "no rounding"),
    "not finite": (Rooted, (4,), "finite", FAIL, "the network itself (Rooted)", "eps"),
    "memory": (Counting, (4,), "repeatable", WARN, "", "remembers"),
    "plain tensor": (Loose, (4,), "types", WARN, "", "register_buffer"),
    "buffer in DDP": (Normed, (4,), "ddp", NONE, "", ""),
    "counter in DDP": (Tracking, (4,), "ddp", WARN, "", "its own"),
    "unused": (Unused, (4,), "gradients", WARN, "", "remove or freeze"),
    "unused in DDP": (Unused, (4,), "ddp", WARN, "", "find_unused_parameters"),
    "borrowed weights": (Borrowing, (4,), "fsdp", WARN, "", "shard both as one"),
    "branch": (Branching, (4,), "compile", WARN, "", "compile the blocks"),
    "value read": (Branching, (4,), "devices", WARN, "", ".item()"),
    "fixed device": (FixedDevice, (4,), "devices", WARN, "the network itself", "device=x.device"),
    "chance": (Chancy, (4,), "repeatable", WARN, "the network itself", "self.training"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_with_its_module_and_remedy(name: str):
    make, shape, check, status, module, remedy = FAULTS[name]
    found = doctor(make(), shape, only=(check,)).of(check)
    assert found.status == status, spoken(found)
    assert found.module.startswith(module) and remedy in found.remedy, spoken(found)
    assert "\n" not in spoken(found)


def test_a_zero_output_is_no_fault_and_hides_none():
    """A network that starts at u = 0 is examined with noise in place of its zeros."""
    net = OneTime()
    nn.init.zeros_(net.last.weight)
    nn.init.zeros_(net.last.bias)
    assert doctor(net, (4,), only=("times",)).of("times").status == FAIL
    sound = dit()
    assert not sound(torch.randn(2, 1, 8, 8), torch.zeros(2), torch.ones(2)).any()
    assert doctor(sound, (1, 8, 8), only=("times", "gradients", "time-scale")).failed == 0


# Arguments ---------------------------------------------------------------------------------------------------------------------------


def call(forward: Callable[..., Any], **given: Any) -> Any:
    """The report on a network with this forward, by its arguments and output."""
    net = Plain()
    net.forward = forward.__get__(net)  # type: ignore[method-assign]
    return doctor(net, (4,), only=("arguments", "output", "times"), **given)


def test_names_of_arguments_are_understood():
    gap = call(lambda self, x, timestep, delta: Plain.forward(self, x, timestep - delta, timestep))
    assert gap.call == 'ms.as_field(net, ("z", "t", "gap"))' and gap.of("times").status == PASS
    named = call(lambda self, sample, *, timestep, timestep_r: Plain.forward(self, sample, timestep_r, timestep))
    assert named.call == 'ms.as_field(net, ("z",), {"timestep": "t", "timestep_r": "r"})' and named.of("times").status == PASS
    short = call(lambda self, z, r, t: Plain.forward(self, z, r, t, None))
    assert short.call == 'ms.as_field(net, ("z", "r", "t"))' and "takes no y" in short.of("arguments").measured
    lone = call(lambda self, x, t: Plain.forward(self, x, t, t)).of("arguments")
    assert lone.status == FAIL and "no place for r or the gap" in lone.measured


def test_names_that_say_nothing_are_tried_and_a_stated_order_is_believed():
    def first(self: Plain, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return Plain.forward(self, c, a, b)

    found = call(first)
    assert found.of("arguments").status == WARN and found.call == 'ms.as_field(net, ("r", "t", "z"))'
    told = call(first, order="r, t, z")
    assert told.of("arguments").status == PASS and "as you say" in told.of("arguments").measured
    assert call(lambda self, x, *, tau, h: Plain.forward(self, x, tau - h, tau), order="z,tau=t,h=gap").failed == 0


@pytest.mark.parametrize(
    ("wrap", "reading"),
    [
        (lambda u: (u, 0), "out[0]"),
        (lambda u: {"sample": u}, "out['sample']"),
        (lambda u: torch.return_types.max((u, u)), "out[0]"),
        (lambda u: torch.cat([u, u], 1), "out.chunk(2, 1)[0]"),
    ],
)
def test_what_is_no_velocity_is_read_with_a_hint(wrap: Callable[[Tensor], Any], reading: str):
    found = call(lambda self, z, r, t, y=None: wrap(Plain.forward(self, z, r, t)))
    assert found.of("output").status == FAIL and reading in found.call and found.of("times").status == PASS


def test_an_adapted_network_and_labels():
    net = ms.as_field(ms.MLP(4, 16, 1, classes=3, generator=ms.key(0)), ("z", "r", "t", "y"))
    report = doctor(net, {"shape": (4,), "classes": 3}, only=("arguments", "labels", "rows"))
    assert report.failed == 0 and report.of("labels").status == PASS
    assert doctor(Plain(), (4,), classes=3, only=("labels",)).of("labels").status == WARN


def test_the_number_of_labels_that_is_asked_for_goes_before_the_example():
    wide = ms.as_field(ms.MLP(4, 16, 1, classes=50, generator=ms.key(0)), ("z", "r", "t", "y"))
    for example in ({"shape": (4,), "classes": 2}, {"shape": (4,), "y": torch.arange(8) % 2}):
        labels = [admit(wide, example, 8, classes, "", torch.device("cpu")).rows[3] for classes in (50, 0)]
        assert labels[0].max() > 1 and labels[1].max() == 1


class Conditioned(Plain):
    """Reads `width`, one of two conditions by name, if it is told to."""

    def __init__(self, reads: bool) -> None:
        super().__init__()
        self.reads = reads

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return super().forward(z + y["width"] if self.reads else z, r, t)


@pytest.mark.parametrize(("reads", "status"), [(True, PASS), (False, WARN)])
def test_conditions_by_name_are_changed_too(reads: bool, status: str):
    example = {"shape": (4,), "y": {"kind": torch.zeros(8, dtype=torch.long), "width": torch.randn(8, 4, generator=ms.key(0))}}
    found = doctor(Conditioned(reads), example, only=("labels",)).of("labels")
    assert found.status == status and "changes by" in found.measured


def test_a_condition_that_is_the_same_for_all_rows_tells_nothing():
    for found in (
        doctor(Labelled(), (4,), classes=1, only=("labels",)),
        doctor(Conditioned(False), {"shape": (4,), "y": {"width": torch.ones(8, 4)}}, only=("labels",)),
    ):
        assert (found.of("labels").status, found.of("labels").measured) == (NONE, "the condition of all rows is the same")
    assert doctor(Plain(), (4,), only=("labels",)).of("labels").measured == "no condition was given"


def test_the_cost_of_a_step_has_its_range_and_no_verdict():
    found = doctor(Plain(), (4,), only=("way",)).of("way")
    ratio = re.search(r"takes (\S+) \(in (\d+) rounds (\S+) to (\S+)\) times the CPU time of one", found.measured)
    assert ratio is not None, found.measured
    middle, rounds, low, high = map(float, ratio.groups())
    assert low <= middle <= high and rounds >= 4 and found.status == PASS


def test_a_compiled_step_says_which_way_it_takes():
    carried = doctor(Images(), (1, 8, 8), only=("compile",)).of("compile")  # forward mode through GroupNorm does not compile
    assert carried.status == PASS and "found right" in carried.measured, spoken(carried)
    assert "call the loss once" in carried.remedy and "carries_tangents = True" in carried.remedy
    own = doctor(ms.MLP(2, 8, 1, generator=ms.key(0)), (2,), only=("compile",)).of("compile")
    assert own.status == PASS and "as its class declares" in own.measured and not own.remedy, spoken(own)


class Labelled(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(3, 4)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return super().forward(z + self.table(y), r, t)


def test_a_conditional_network_without_labels_is_told_how_to_get_them():
    with pytest.raises(UserError, match=r"does not run without its y: give --classes N") as complaint:
        doctor(Labelled(), (4,))
    assert "\n" not in str(complaint.value)
    assert doctor(Labelled(), (4,), classes=3, only=("labels",)).of("labels").status == PASS


def test_the_public_name_is_this_function(recwarn: pytest.WarningsRecorder):
    """It leaks none of torch's warnings, such as that of a batching rule that it lacks."""

    class Warns(Plain):
        def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
            warnings.warn("There is a performance drop because we have not yet implemented the batching rule", stacklevel=2)
            return super().forward(z, r, t)

    assert ms.doctor is doctor and ms.doctor(Warns(), (4,), only=("forward-mode", "way", "ddp")).failed == 0
    assert not recwarn.list


# Nothing is changed ------------------------------------------------------------------------------------------------------------------


def test_nothing_is_changed():
    net = Normed()
    net.eval()
    before, hooks = copy.deepcopy(net.state_dict()), [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()]
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    x = torch.randn(4, 4)
    kept, states = x.clone(), (torch.get_rng_state(), *states[1:])
    settings = torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda.flash_sdp_enabled(), torch.get_num_threads()
    dispatch = repr(torch._C._dispatch_tls_local_include_set()), repr(torch._C._dispatch_tls_local_exclude_set())
    with torch.no_grad():
        doctor(net, x)
        assert not torch.is_grad_enabled()
    gc.collect()  # the errors of a failed trace hold guards
    assert dispatch == (repr(torch._C._dispatch_tls_local_include_set()), repr(torch._C._dispatch_tls_local_exclude_set()))
    assert torch.equal(states[0], torch.get_rng_state()) and states[1] == random.getstate()
    assert np.array_equal(states[2], np.random.get_state()[1]) and torch.equal(x, kept) and not net.training
    assert all(torch.equal(a, b) for a, b in zip(before.values(), net.state_dict().values(), strict=True))
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()]
    assert all(w.grad is None for w in net.parameters()) and not torch.distributed.is_initialized()
    after = torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda.flash_sdp_enabled(), torch.get_num_threads()
    assert settings == after
    assert torch.utils.checkpoint.CheckpointFunction.__name__ == "CheckpointFunction"


# The command -------------------------------------------------------------------------------------------------------------------------

SOURCE = """
import torch
from torch import nn

import meanstep as ms

Hidden = None
net = ms.MLP(3, 8, 1)


def build(width=8):
    return ms.MLP(2, width, 1), (2,)


def needs(width):
    return ms.MLP(2, width, 1)


def number():
    return 3


def breaks():
    raise RuntimeError("no weights\\nhere")


class Bad(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, z, t, r):
        return self.layer(z) * (1 + t[:, None] - r[:, None])


class Held(Bad):
    def __init__(self):
        super().__init__()
        self.cache = self.layer.weight * 2
"""
QUICK = ("--only", "arguments", "output", "times")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "theirs.py").write_text(SOURCE)
    (tmp_path / "torn.py").write_text("def f(:\n")
    (tmp_path / "lacks.py").write_text("import no_such_package\n")
    (tmp_path / "leaves.py").write_text("raise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "theirs", raising=False)
    return tmp_path


def test_the_command_prints_a_table_and_writes_json(here: Path, capsys: pytest.CaptureFixture[str]):
    assert code("doctor", "theirs:build", "--options", "{width: 16}", "--json", "found.json", *QUICK) == 0
    shown = capsys.readouterr().out
    assert "MLP with" in shown and "no check fails" in shown and "time-scale" not in shown
    record = json.loads((here / "found.json").read_text())
    assert record["command"] == "doctor" and [f["check"] for f in record["findings"]] == ["arguments", "output", "times"]
    assert record["counts"] == {"pass": 3, "warn": 0, "fail": 0, "n/a": 0} and record["torch"] == torch.__version__


def test_a_failed_check_is_exit_code_1_and_names_the_line(here: Path, capsys: pytest.CaptureFixture[str]):
    assert code("doctor", "theirs:Bad", "--shape", "2", "--json", "-", *QUICK) == 1
    record = json.loads(capsys.readouterr().out)
    assert record["call"] == 'ms.as_field(net, ("z", "t", "r"))' and record["counts"]["fail"] == 1
    assert code("doctor", "theirs:Bad", "--shape", "2", "--order", "z,t,r", *QUICK) == 0


def test_a_network_itself_and_what_it_says_of_its_shape(here: Path, capsys: pytest.CaptureFixture[str]):
    assert code("doctor", "theirs:net", *QUICK) == 0
    assert "[8, 3] as z" in capsys.readouterr().out


MISTAKES = {
    "no colon": (("theirs",), "the network: package.module:factory, got 'theirs'"),
    "no module": (("nowhere.nets:build",), "cannot import nowhere.nets: there is no module 'nowhere'"),
    "no package": (("lacks:build",), "it needs 'no_such_package'"),
    "syntax": (("torn:build",), "SyntaxError"),
    "leaves": (("leaves:build",), "cannot import leaves: SystemExit"),
    "no name": (("theirs:nothing",), "theirs has no 'nothing'; it has "),
    "not callable": (("theirs:Hidden",), "no function or class"),
    "needs arguments": (("theirs:needs",), "missing a required argument: 'width'"),
    "too many": (("theirs:build", "--options", '{"depth": 2}'), "unexpected keyword argument 'depth'"),
    "no mapping": (("theirs:build", "--options", "width=3"), "options are names with values"),
    "no YAML": (("theirs:build", "--options", "{a: [}"), "options are YAML"),
    "no network": (("theirs:number",), "returns no torch.nn.Module but int 3"),
    "breaks": (("theirs:breaks",), "theirs:breaks failed: RuntimeError: no weights"),
    "no shape": (("theirs:Bad",), "give --shape"),
    "bad shape": (("theirs:Bad", "--shape", "2,a"), "--shape is the shape of one sample"),
    "zero shape": (("theirs:Bad", "--shape", "0"), "--shape is the shape of one sample"),
    "does not fit": (("theirs:Bad", "--shape", "7"), "in layer (Linear), RuntimeError: mat1 and mat2"),
    "no role": (("theirs:Bad", "--shape", "2", "--order", "z,q"), "--order is made of z, r, t, gap and y"),
    "no z": (("theirs:Bad", "--shape", "2", "--order", "t,r"), "must name z once"),
    "one row": (("theirs:build", "--chunk", "1"), "--chunk: at least 2 and at most 65536, got 1"),
    "no copy": (("theirs:Held", "--shape", "2"), "cannot be copied"),
    "no device": (("theirs:build", "--device", "cuda:77"), "there is no device 'cuda:77'"),
    "no such kind": (("theirs:build", "--device", "quantum"), "--device: cpu, cuda, cuda:N, mps or auto, got 'quantum'"),
    "no check": (("theirs:build", "--only", "luck"), "there is no check 'luck': choose among arguments, "),
    "no folder": (("theirs:build", "--json", "no/where.json"), "the folder"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(name: str, here: Path, capsys: pytest.CaptureFixture[str]):
    args, message = MISTAKES[name]
    assert code("doctor", *args) == 2
    complaint = capsys.readouterr().err.strip().splitlines()
    assert len(complaint) == 1 and complaint[0].startswith("meanstep: ") and message in complaint[0], complaint


def test_mistakes_in_python():
    with pytest.raises(UserError, match=r"examines a torch.nn.Module, got function"):
        doctor(lambda z: z, (2,))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="an example is a tensor, a shape"):
        doctor(Plain(), "four")


# Other people's networks -------------------------------------------------------------------------------------------------------------


class WithGap(nn.Module):
    """diffusers' DiT is given one time; the gap comes in as another channel."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        gap = (t - r).reshape(-1, 1, 1, 1).expand_as(z[:, :1])
        return self.net(torch.cat([z, gap], 1), timestep=t, class_labels=torch.zeros_like(t, dtype=torch.int64)).sample


@pytest.mark.slow
def test_the_networks_of_diffusers_pass():
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    torch.manual_seed(0)
    small = {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8, "class_embed_type": "timestep"}
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    unet = diffusers.UNet2DModel(sample_size=8, in_channels=1, out_channels=1, attention_head_dim=8, **small, **blocks)
    field = ms.as_field(unet, ("z",), {"timestep": "t", "class_labels": "gap"}, output=lambda out: out.sample)
    report = doctor(field, (1, 8, 8))
    assert report.failed == 0, str(report)
    net = diffusers.DiTTransformer2DModel(2, 8, in_channels=2, out_channels=1, num_layers=2, sample_size=8, patch_size=4, norm_num_groups=1)
    report = doctor(WithGap(net), (1, 8, 8))
    assert report.failed == 0, str(report)
