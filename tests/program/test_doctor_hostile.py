"""The doctor falls over nothing: whatever a network does, every check ends in a finding, or the network is refused in one line."""

import random
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import meanstep as ms
from meanstep.program.console import UserError
from meanstep.program.doctor import ways
from meanstep.program.doctor.findings import CHECKS, FAIL, NONE, PASS, WARN, Report

FAST = tuple(name for name in CHECKS if name not in ("compile", "ddp", "fsdp"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "PATIENCE", 0.0)


class Core(nn.Module):
    """A sound perceptron on points; `Hostile` does something to its call."""

    def __init__(self, middle: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(4, 8), middle or nn.SiLU(), nn.Linear(8, 2)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return self.last(self.middle(self.first(torch.cat([z, r[:, None], t[:, None]], -1))))


class Hostile(Core):
    """The perceptron with `act(self, z, r, t, u)` after the call."""

    def __init__(self, act: Callable[..., Any]) -> None:
        super().__init__()
        self.act, self.calls = act, 0

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Any:
        self.calls += 1
        return self.act(self, z, r, t, super().forward(z, r, t, y))


class Refuses(Core):
    def __deepcopy__(self, memo: Any) -> Any:
        raise RuntimeError("there is only one of me")


class Counted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(3, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return x + self.seen[0]


def fails(error: BaseException, when: Callable[..., bool]) -> Callable[..., Any]:
    def act(net: Hostile, z: Tensor, r: Tensor, t: Tensor, u: Tensor) -> Tensor:
        if when(net, z):
            raise error
        return u

    return act


def transformed(net: Any, z: Tensor) -> bool:
    return torch._C._functorch.is_functorch_wrapped_tensor(z) or torch.autograd.forward_ad.unpack_dual(z).tangent is not None


def written(net: Hostile, z: Tensor, r: Tensor, t: Tensor, u: Tensor) -> Tensor:
    z.mul_(2)
    t.add_(1)
    return u


def shaken(net: Hostile, z: Tensor, r: Tensor, t: Tensor, u: Tensor) -> Tensor:
    torch.manual_seed(random.randrange(1000))
    torch.set_grad_enabled(False)
    return u + torch.randn(())


def lazy() -> nn.Module:
    net = Core()
    net.first = nn.LazyLinear(8)
    return net


HOSTILE: dict[str, Callable[[], nn.Module]] = {
    "raises under a transform": lambda: Hostile(fails(RuntimeError("no transforms here"), transformed)),
    "raises now and then": lambda: Hostile(fails(ValueError("every third call\nof many lines"), lambda net, z: net.calls % 3 == 2)),
    "raises in eval mode": lambda: Hostile(fails(KeyError("train only"), lambda net, z: not net.training)),
    "leaves the program": lambda: Hostile(fails(SystemExit(3), lambda net, z: net.calls > 1)),
    "raises without a word": lambda: Hostile(fails(AssertionError(), lambda net, z: net.calls > 1)),
    "always raises": lambda: Hostile(fails(RuntimeError("never"), lambda net, z: True)),
    "a tuple": lambda: Hostile(lambda net, z, r, t, u: (u, {"z": z})),
    "nothing": lambda: Hostile(lambda net, z, r, t, u: None),
    "text": lambda: Hostile(lambda net, z, r, t, u: "u"),
    "whole numbers": lambda: Hostile(lambda net, z, r, t, u: u.long()),
    "complex numbers": lambda: Hostile(lambda net, z, r, t, u: u.to(torch.complex64)),
    "half precision": lambda: Hostile(lambda net, z, r, t, u: u.half()),
    "another shape": lambda: Hostile(lambda net, z, r, t, u: u.mean(0)),
    "no entries": lambda: Hostile(lambda net, z, r, t, u: u[:, :0]),
    "another device": lambda: Hostile(lambda net, z, r, t, u: u.to("meta")),
    "nan": lambda: Hostile(lambda net, z, r, t, u: u * torch.nan),
    "infinite": lambda: Hostile(lambda net, z, r, t, u: u / (t - t)[:, None]),
    "writes into its input": lambda: Hostile(written),
    "global state": lambda: Hostile(shaken),
    "sparse": lambda: Hostile(lambda net, z, r, t, u: u.to_sparse()),
    "returns its input": lambda: Hostile(lambda net, z, r, t, u: z),
    "numpy": lambda: Hostile(lambda net, z, r, t, u: torch.from_numpy(u.detach().numpy().copy())),
    "scripted inside": lambda: Core(torch.jit.script(nn.Sequential(nn.Linear(8, 8), nn.SiLU()))),
    "scripted": lambda: torch.jit.script(Core()),
    "traced": lambda: torch.jit.trace(Core(), (torch.randn(3, 2), torch.rand(3), torch.rand(3)), check_trace=False),
    "compiled": lambda: torch.compile(Core(), backend="eager"),  # type: ignore[dict-item, return-value]
    "compiled inside": lambda: Core(torch.compile(nn.Sequential(nn.Linear(8, 8)), backend="eager")),  # type: ignore[arg-type]
    "frozen": lambda: Core().requires_grad_(False),
    "no parameters": nn.Identity,
    "lazy": lazy,
    "whole numbers in buffers": lambda: Core(Counted()),
    "refuses a copy": Refuses,
    "batch statistics": lambda: Core(nn.BatchNorm1d(8)),
    "on the meta device": lambda: Core().to("meta"),
    "half precision weights": lambda: Core().half(),
    "quantised": lambda: torch.ao.quantization.quantize_dynamic(Core(), {nn.Linear}),
}


def examined(make: Callable[[], nn.Module], **options: Any) -> Report | UserError:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ms.doctor(make(), (2,), batch=4, **options)
        except UserError as error:
            return error


def sound(found: Report | UserError, checks: tuple[str, ...]) -> None:
    if isinstance(found, UserError):
        assert "\n" not in str(found)
        return
    assert [f.check for f in found.findings] == list(checks)
    for f in found.findings:
        assert f.status in (PASS, WARN, FAIL, NONE) and f.measured and "\n" not in f.measured + f.remedy + f.module, f


@pytest.mark.parametrize("name", HOSTILE)
def test_no_network_makes_the_doctor_fall_over(name: str):
    sound(examined(HOSTILE[name], only=FAST), FAST)


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_no_network_makes_the_wrappers_fall_over(name: str):
    torch.manual_seed(0)
    rest = tuple(check for check in CHECKS if check not in FAST)
    sound(examined(HOSTILE[name], only=rest), rest)


@pytest.mark.parametrize("seed", range(3))
def test_nor_do_two_of_them_one_after_the_other(seed: int):
    acting = [name for name, make in HOSTILE.items() if "Hostile" in getattr(getattr(make, "__code__", None), "co_names", ())]
    one, two = (HOSTILE[name]() for name in random.Random(seed).sample(acting, 2))
    first, second = one.act, two.act
    one.act = lambda net, z, r, t, u: second(net, z, r, t, v) if isinstance(v := first(net, z, r, t, u), Tensor) else v
    sound(examined(lambda: one, only=FAST), FAST)


# What the finding says ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scripted inside", "scripted"])
def test_torchscript_is_named_with_its_remedy(name: str):
    report = examined(HOSTILE[name], only=("arguments", "inputs", "rows", "gradients", "forward-mode", "way"))
    assert isinstance(report, Report)
    for check in ("forward-mode", "way"):
        found = report.of(check)
        assert found.status == FAIL and "is a TorchScript module, which has no reliable forward derivative" in found.measured
        assert "pass the module before torch.jit.script" in found.remedy and "RecursiveScriptModule" in found.module
    assert report.of("rows").status == report.of("inputs").status == report.of("arguments").status == PASS
    assert "could not be made" not in str(report)


class Time(nn.Module):
    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        self.kind, self.mix = kind, nn.Linear(32, 16)

    def forward(self, r: Tensor, t: Tensor) -> Tensor:
        angles = torch.stack([t, r], -1)[..., None].to(self.kind) * torch.arange(1, 9).to(self.kind)
        return self.mix(torch.cat([angles.sin(), angles.cos()], -1).flatten(1).to(self.mix.weight.dtype))


class Timed(nn.Module):
    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        self.time, self.first, self.last = Time(kind), nn.Linear(2, 16), nn.Linear(16, 2)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return self.last(torch.tanh(self.first(z) + self.time(r, t)))


@pytest.mark.parametrize(("kind", "word"), [(torch.float16, "float16"), (torch.bfloat16, "bfloat16")])
def test_a_time_embedding_in_half_precision_is_named(kind: torch.dtype, word: str):
    report = examined(lambda: Timed(kind), only=("time-scale", "forward-mode"))
    assert isinstance(report, Report)
    found = report.of("forward-mode")
    assert found.status == FAIL and word in found.measured and f"in {word}" in found.remedy and found.module == "time (Time)"
    assert "detach" not in str(report)
    assert "detach" not in str(examined(lambda: Timed(torch.float32), only=FAST))


class Tokens(nn.Module):
    """GroupNorm over the channels of attention's tokens, before or after the attention, transposed there and back."""

    def __init__(self, before: bool) -> None:
        super().__init__()
        self.into, self.out, self.norm = nn.Linear(4, 16), nn.Linear(16, 2), nn.GroupNorm(4, 16)
        self.attention, self.before = nn.MultiheadAttention(16, 2, batch_first=True), before

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        h = self.into(torch.cat([z, torch.stack([r, t], -1)[:, None].expand(-1, z.shape[1], -1)], -1))
        h = self.normed(h) if self.before else h
        h = h + self.attention(h, h, h, need_weights=False)[0]
        return self.out(h if self.before else self.normed(h))

    def normed(self, h: Tensor) -> Tensor:
        return self.norm(h.transpose(1, 2)).transpose(1, 2)


@pytest.mark.parametrize("before", [True, False])
def test_group_norm_on_transposed_tokens_ends_in_findings(before: bool):
    torch.manual_seed(0)
    report = ms.doctor(Tokens(before), (8, 2), only=FAST)
    sound(report, FAST)
    assert "could not be made" not in str(report)


def test_no_check_passes_by_numbers_that_are_none():
    report = examined(HOSTILE["nan"], only=FAST, classes=3)
    assert isinstance(report, Report)
    found = {f.check: f for f in report.findings}
    assert not [f for f in report.findings if "nan" in f.measured and f.status == PASS]
    unknown = ("finite", "repeatable", "rows", "times", "time-scale", "labels", "forward-mode")
    assert {name: found[name].status for name in unknown} == dict.fromkeys(unknown, FAIL)
    assert all("not finite" in found[name].measured for name in unknown)


class Late(nn.Module):
    """A feature that is 0, and has no slope there, until late."""

    def forward(self, t: Tensor) -> Tensor:
        return (t - 0.9).clamp(min=0).sqrt()


class Rooted(Core):
    def __init__(self) -> None:
        super().__init__()
        self.feature = Late()

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return super().forward(z, r, t) + self.feature(t)[:, None]


def test_a_derivative_that_is_not_finite_is_named_with_its_module():
    report = examined(Rooted, only=("finite", "times", "time-scale", "forward-mode"))
    assert isinstance(report, Report)
    found = report.of("forward-mode")
    assert found.status == FAIL and "not finite" in found.measured and found.module == "feature (Late)" and "eps" in found.remedy
    assert report.of("finite").status == report.of("times").status == PASS
