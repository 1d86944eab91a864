"""Derivatives of other people's networks by torch's forward mode. The only place that knows what forward mode can and cannot do."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from meanstep.calls import guarded
from meanstep.shapes import tree_map
from meanstep.tangents.dual import RULES, Dual, Unsupported
from meanstep.tangents.recurrent import UNROLLED
from meanstep.types import Field

Directions = tuple[Tensor | None, Tensor | None, Tensor | None]


@contextmanager
def differentiable_kernels() -> Iterator[None]:
    """Kernels that have a forward-mode derivative; fused attention has none (pytorch#128971; tests/contracts tells when this can go)."""
    if torch.compiler.is_compiling():  # the switch below cannot be traced, and a recorded pass does not take the fast path
        with sdpa_kernel(SDPBackend.MATH):
            yield
        return
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    _let_checkpoints_pass()
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _let_checkpoints_pass() -> None:
    """Before 2.13 torch notes a checkpoint's inputs by a function of its own, even without gradient, and gave it no forward derivative.

    Its value is an empty tensor, and so is that. Drop this when the floor is 2.13.
    """
    saver = getattr(torch.utils.checkpoint, "_NoopSaveInputs", None)
    if saver is not None and "jvp" not in vars(saver):
        saver.jvp = staticmethod(lambda ctx, *tangents: torch.empty(0))


def derivative(field: Field, z: Tensor, r: Tensor, t: Tensor, y: Any, along: Directions) -> tuple[Tensor, Tensor]:
    """`u(z, r, t)` and its derivative along `(dz, dr, dt)`, None meaning 0, eq. (10). `TypeError` names a module that has none."""

    if not torch.compiler.is_compiling() and (name := _scripted(field)):
        raise TypeError(f"{name} is a TorchScript module, without a reliable forward derivative: pass the module before torch.jit.script")

    def u(z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        return guarded(field, z, r, t, y)

    # torch.func.jvp refuses tensors whose elements share memory, such as expanded ones, and compiled views
    primals = tuple(p.clone(memory_format=torch.contiguous_format) for p in (z, r, t))
    tangents = tuple(torch.zeros_like(q) if p is None else p.to(q).contiguous() for p, q in zip(along, primals, strict=True))
    try:
        with differentiable_kernels(), WrittenOut() if torch.is_grad_enabled() and not torch.compiler.is_compiling() else nullcontext():
            value, slope = torch.func.jvp(u, primals, tangents)[:2]
            return value, slope
    except (RuntimeError, NotImplementedError) as error:
        if isinstance(error, torch.OutOfMemoryError) or not _lacks_forward_mode(str(error)):
            raise
        if "mutate a captured Tensor" in str(error):  # a condition, which an ordinary call names, or the network's own buffer
            with torch.no_grad():
                guarded(field, *tree_map(torch.clone, (z, r, t, y)))
        raise TypeError(_diagnosis(field, lambda: torch.func.jvp(u, primals, tangents), error)) from error


def _scripted(field: Field) -> str:
    """The first TorchScript module in a network, by its name there; empty if there is none."""
    modules = field.named_modules() if isinstance(field, nn.Module) else ()
    return next((name or "the network" for name, module in modules if isinstance(module, torch.jit.ScriptModule)), "")


class Rules(TorchFunctionMode):
    """Inside forward mode, the layers that torch differentiates slowly or not at all take their tangent from our rules instead.

    `F.linear` alone saves a third of its products: torch multiplies by a weight's tangent of zeros. Inside a network's composite
    functions (`nn.MultiheadAttention`) this does not reach. The tangents that rules make have no gradient here: forward mode takes no
    autograd function without a derivative of its own, as those with a gradient are.
    """

    SLOW = (F.linear, F.layer_norm, F.rms_norm, F.group_norm, F.scaled_dot_product_attention, F.silu, F.gelu, F.softmax, torch.softmax)

    def __init__(self, *layers: Callable[..., Any]) -> None:
        super().__init__()
        self.layers = frozenset(layers or self.SLOW)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Call `func`, by its rule where it has one and only its leading arguments have tangents."""
        kwargs = kwargs or {}
        pairs = [_unpacked(a) for a in args]
        named = any(_unpacked(a)[1] is not None for a in kwargs.values())
        overwrites = kwargs.get("inplace") or (func is F.silu and any(args[1:]))  # or draws random numbers: it must run once only
        if func in UNROLLED and pairs[0][1] is not None:
            with suppress(Unsupported):
                return UNROLLED[func](*args, **kwargs)
        if func not in self.layers or overwrites or kwargs.get("dropout_p") or named or all(d is None for _, d in pairs):
            return func(*args, **kwargs)
        given = [p if d is None else Dual(p, d, -p.ndim, False) for p, d in pairs]
        out = func(*(p for p, _ in pairs), **kwargs)
        try:
            with torch.no_grad():
                tangent = RULES[func](out, *given, **kwargs)[0].to(out.dtype).expand_as(out)
        except Unsupported:
            return func(*args, **kwargs)
        return forward_ad.make_dual(out, tangent)  # type: ignore[no-untyped-call]


class WrittenOut(TorchFunctionMode):
    """LayerNorm and InstanceNorm in other words: torch's forward derivative of them has a wrong gradient, silently (pytorch#196700).

    And attention under a mask, whose derivative has NaN for a gradient if a query sees no key.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Call `func`, or its plain form."""
        found: dict[Any, Any] = {
            F.layer_norm: _plain_layer_norm,
            torch.layer_norm: _plain_layer_norm,
            F.instance_norm: _plain_instance_norm,
            F.scaled_dot_product_attention: _seeing_attention,
        }
        return found.get(func, func)(*args, **kwargs or {})


def _plain_layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5, *rest: Any
) -> Tensor:
    dims = tuple(range(-len(shape), 0))
    full = x.float() if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64 else x
    centred = full - full.mean(dims, keepdim=True)
    unit = centred * (centred.square().mean(dims, keepdim=True) + eps).rsqrt()
    scaled = unit if weight is None else unit * weight
    return scaled if bias is None else scaled + bias


def _plain_instance_norm(
    x: Tensor, mean: Any = None, variance: Any = None, weight: Any = None, bias: Any = None, own: bool = True, *rest: Any, **named: Any
) -> Tensor:
    if mean is not None or not own:
        return F.instance_norm(x, mean, variance, weight, bias, own, *rest, **named)
    return F.group_norm(x, x.shape[1], weight, bias, *(rest[1:] or [named.get("eps", 1e-5)]))


def _seeing_attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, *rest: Any, **named: Any) -> Tensor:
    """A query that sees no key is shown all of them, and its result is 0."""
    if attn_mask is None:
        return F.scaled_dot_product_attention(q, k, v, None, *rest, **named)
    boolean = attn_mask.dtype == torch.bool
    blind = (~attn_mask if boolean else attn_mask == -torch.inf).all(-1, keepdim=True)
    shown = attn_mask | blind if boolean else attn_mask.masked_fill(blind, 0)
    return F.scaled_dot_product_attention(q, k, v, shown, *rest, **named).masked_fill(blind, 0)


def _unpacked(a: Any) -> tuple[Any, Tensor | None]:
    if not isinstance(a, Tensor) or not a.is_floating_point():
        return a, None
    primal, tangent = forward_ad.unpack_dual(a)  # type: ignore[no-untyped-call]
    return primal, tangent


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
