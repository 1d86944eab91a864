"""The displacement's rate `D_t[(t - r) u]` along a tangent. The only place that knows what forward mode can and cannot do."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from meanstep.coefficients import at, checked
from meanstep.shapes import over
from meanstep.types import Bridge, Coefficient, Field


@contextmanager
def differentiable_kernels() -> Iterator[None]:
    """Kernels that have a forward-mode derivative; fused attention has none (pytorch#128971; tests/contracts tells when this can go)."""
    if torch.compiler.is_compiling():  # the switch below cannot be traced, and a recorded pass does not take the fast path
        with sdpa_kernel(SDPBackend.MATH):
            yield
        return
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def rehearsal(z: Tensor) -> Iterator[None]:
    """No gradient, and the random numbers drawn inside (dropout) are drawn again by whatever follows."""
    devices = [] if z.device.type == "cpu" else [z.device]
    with torch.no_grad(), torch.random.fork_rng(devices, device_type=z.device.type if devices else "cuda"):
        yield


def derivative(field: Field, b: Bridge, dz: Tensor, dr: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """`u(z, r, t)` and its derivative along `(dz, dr, dt)` by forward mode, eq. (10). `TypeError` names a module that has none."""

    def u(z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        return field(z, r, t, b.y)

    # torch.func.jvp refuses tensors whose elements share memory, such as expanded ones
    primals = tuple(p.contiguous() for p in (b.z, b.r, b.t))
    tangents = tuple(p.to(q).contiguous() for p, q in zip((dz, dr, dt), primals, strict=True))
    try:
        with differentiable_kernels():
            value, slope = torch.func.jvp(u, primals, tangents)[:2]
            return value, slope
    except (RuntimeError, NotImplementedError) as error:
        if isinstance(error, torch.OutOfMemoryError) or not _lacks_forward_mode(str(error)):
            raise
        raise TypeError(_diagnosis(field, lambda: torch.func.jvp(u, primals, tangents), error)) from error


def _lacks_forward_mode(message: str) -> bool:
    signs = ("forward AD", "forward-mode", "jvp", "functorch", "vmap", "in-place", "inplace", "batch_norm", "running_mean")
    foreign = ("have storage", "should be the same")  # kernels of others; layers whose tangent has another dtype under autocast
    return any(sign in message for sign in signs + foreign)


def _diagnosis(field: Field, run: Callable[[], Any], error: Exception) -> str:
    """Run again with a hook on every module: the last one entered and not left is where forward mode fails."""
    inside: list[str] = []
    hooks = []
    for name, module in field.named_modules() if isinstance(field, nn.Module) else ():
        label = f"{name or 'the network itself'} ({type(module).__name__})"
        hooks.append(module.register_forward_pre_hook(lambda m, a, label=label: inside.append(label)))
        hooks.append(module.register_forward_hook(lambda m, a, o: inside.pop() and None))
    try:
        with differentiable_kernels(), torch.no_grad():
            run()
    except Exception:  # the same failure as before: only where it happens is of interest
        pass
    finally:
        for hook in hooks:
            hook.remove()
    modules = field.modules() if isinstance(field, nn.Module) else ()
    in_wrapper = not inside or inside[-1].endswith("(DistributedDataParallel)")
    if in_wrapper and any(isinstance(module, nn.parallel.DistributedDataParallel) for module in modules):
        return "the derivative fails through a DDP wrapper: wrap a module that owns the network and calls the loss, not the network"
    where = f"in {inside[-1]}" if inside else "in the network"
    reason = str(error).strip().splitlines()[0][:200]
    return (
        f"forward mode has no derivative {where}: {reason}. Replace the layer (BatchNorm in train mode by GroupNorm, a custom autograd "
        "function by plain operations, a reentrant checkpoint by use_reentrant=False) or give the recipe a rate without forward mode: "
        "rate=Central() or Backward(0.1)"
    )


def direct(field: Field, b: Bridge, w: Tensor) -> tuple[Tensor, Tensor]:
    """`u` itself: exact where `r = t`, off by `(t - r) D_t u` elsewhere. Trajectory flow matching, the limit of `Backward` at ratio 1."""
    u = field(b.z, b.r, b.t, b.y)
    return u, torch.zeros_like(u)


@dataclass(frozen=True)
class Exact:
    """Forward-mode derivative, eq. (10). The gradient flows through `u`; the share `through` of it through the derivative too.

    With `through = 0`: one forward-mode pass without a graph, then the ordinary forward pass with whatever kernels the network
    likes; both see the same dropout. Otherwise, and under compile, one recorded pass. Source of `through`: arXiv 2508.17426.
    """

    through: Coefficient = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "through", checked(self.through, "through"))

    def __call__(self, field: Field, b: Bridge, w: Tensor) -> tuple[Tensor, Tensor]:
        """`(u, (t - r) D_t u)`, both `[*B, *E]`."""
        share = over(at(self.through, b), b.z)
        directions = w, torch.zeros_like(b.r), torch.ones_like(b.t)
        if isinstance(share, Tensor) or share > 0 or torch.compiler.is_compiling():
            u, du = derivative(field, b, *directions)
            du = du.detach() + share * (du - du.detach()) if isinstance(share, Tensor) or share > 0 else du.detach()
        else:
            with rehearsal(b.z):
                du = derivative(field, b, *directions)[1]
            u = field(b.z, b.r, b.t, b.y)
        return u, over(b.gap, u) * du


@dataclass(frozen=True)
class Backward:
    """One-sided difference over the share `ratio` of the gap, eq. (22): needs no forward mode. `ratio` 0 is `Exact`, 1 is `direct`.

    A tensor of ratios must be positive. The gradient flows through `u`. `clamp` bounds the discrete target elementwise, also at ratio 1
    (guided alpha-Flow: 4). Sources: arXiv 2510.20771, 2512.15657.
    """

    ratio: Coefficient
    clamp: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratio", checked(self.ratio, "ratio"))

    def __call__(self, field: Field, b: Bridge, w: Tensor) -> tuple[Tensor, Tensor]:
        """`(u, (t - r) D_t u)` to first order in `ratio (t - r)`, both `[*B, *E]`."""
        ratio = at(self.ratio, b)
        if not isinstance(ratio, Tensor) and (ratio == 0 or (ratio == 1 and self.clamp is None)):
            return (direct if ratio else Exact())(field, b, w)
        if isinstance(ratio, Tensor) and ratio.device.type == "cpu" and not torch.compiler.is_compiling() and not (ratio > 0).all():
            raise ValueError(f"a tensor of ratios must be positive, got {ratio.min().item():g}: only the number 0 is the exact derivative")
        step, share = ratio * b.gap, over(ratio, b.z)
        with rehearsal(b.z):
            earlier = field(b.z - over(step, b.z) * w, b.r, b.t - step, b.y)
        goal = share * w + (1 - share) * earlier
        if self.clamp is not None:  # on moving rows: where r = t the goal only stands for the velocity
            goal = torch.where(over(b.gap > 0, b.z), goal.clamp(-self.clamp, self.clamp), goal)
        u = field(b.z, b.r, b.t, b.y)
        return u, (w - u + (u - goal) / share).detach()


@dataclass(frozen=True)
class Central:
    """Symmetric difference over `t +- step`, eq. (23), with both probes in float32 whatever the autocast. TiM, arXiv 2509.04394.

    Times are not clamped, as in the source: the field is asked slightly outside [0, 1] near the ends, and with `r > t` on gaps below
    `step`.
    """

    step: float = 0.005

    def __call__(self, field: Field, b: Bridge, w: Tensor) -> tuple[Tensor, Tensor]:
        """`(u, (t - r) D_t u)` to second order in `step`, both `[*B, *E]`."""

        def probe(h: float) -> Tensor:
            with rehearsal(b.z), torch.autocast(b.z.device.type, enabled=False):
                return field(b.z + h * w, b.r, b.t + h, b.y)

        du = (probe(self.step) - probe(-self.step)) / (2 * self.step)
        u = field(b.z, b.r, b.t, b.y)
        return u, over(b.gap, u) * du
