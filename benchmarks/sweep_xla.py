"""The sweep's step by XLA, for `sweep.py --jax`: `jit` of a `scan` over a block's draws, which are those of the engine; needs JAX."""

import os
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch

from meanstep.fields.flat import Shape
from meanstep.keys import key
from meanstep.program.reproduce.points.settings import Settings

PARTS = ("velocity", "inputs", "boundary", "tangents", "gap")


def layers(shape: Shape, flat: Any) -> list[tuple[Any, Any]]:
    """Weights `[in, out]` and biases of a flat vector, which holds weights as `[out, in]`."""
    ends = [0]
    for fan_in, fan_out in shape.sizes:
        ends += [ends[-1] + fan_in * fan_out, ends[-1] + fan_in * fan_out + fan_out]
    parts = [flat[a:b] for a, b in pairwise(ends)]
    return [(w.reshape(size[::-1]).T, b) for size, w, b in zip(shape.sizes, parts[::2], parts[1::2], strict=True)]


def scanned(shape: Shape, settings: Settings) -> tuple[Callable[[Any, tuple[Any, ...]], Any], Any]:
    """The steps of a block as one program, from weights, moments, averages and count, and what they are at first."""
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    import jax
    import jax.numpy as jnp

    n, initial = settings.moving, jnp.asarray(shape.initial(key(0)).numpy())

    def loss(flat: Any, w: Any, given: tuple[Any, ...]) -> Any:
        v, h, _, times, gap = given
        dh, (*hidden, last) = jnp.concatenate([w, times], -1), layers(shape, flat)
        for weight, bias in hidden:  # the tangent of the first rows beside the values of all
            a = h @ weight + bias
            q = jax.nn.sigmoid(a)
            h, slope = a * q, a * q + (1 - a * q) * q
            dh = jax.lax.stop_gradient((dh @ weight) * slope[:n])
        residual = (h @ last[0] + last[1] - v).at[:n].add(jax.lax.stop_gradient(gap * (dh @ last[0])))
        error = jnp.square(residual).sum(-1)
        return (error * jax.lax.stop_gradient((error + settings.c) ** -settings.power)).mean()

    def step(state: Any, given: tuple[Any, ...]) -> tuple[Any, None]:
        flat, first, second, ema, proxy, k = state
        h, (*hidden, last) = given[2], layers(shape, proxy)
        for weight, bias in hidden:
            h = jax.nn.silu(h @ weight + bias)
        grad = jax.grad(loss)(flat, h @ last[0] + last[1], given)
        first, second = 0.9 * first + 0.1 * grad, 0.999 * second + 0.001 * grad * grad
        rate, root = settings.lr / (1 - 0.9 ** (k + 1)), jnp.sqrt(1 - 0.999 ** (k + 1))
        flat = flat - rate * first / (jnp.sqrt(second) / root + 1e-8)
        age = (1 + k) / (10 + k)
        decays = [jnp.minimum(decay, age) for decay in (settings.ema_decay, settings.proxy_decay)]
        averages = [average + (1 - decay) * (flat - average) for average, decay in zip((ema, proxy), decays, strict=True)]
        return (flat, first, second, *averages, k + 1), None

    zero = jnp.zeros_like(initial)
    return jax.jit(lambda state, block: jax.lax.scan(step, state, block)[0]), (initial, zero, zero, initial, initial, jnp.float32(0))


def given(block: Any) -> tuple[Any, ...]:
    """A block's parts for `scanned`."""
    import jax.numpy as jnp

    parts: list[torch.Tensor] = [getattr(block.steps, name)[0].contiguous() for name in PARTS]
    return tuple(jnp.asarray(part.numpy()) for part in parts)
