"""A model's whole step as one compiled function: gradient, Adam and the two averages, with the elementwise parts fused.

torch.inductor writes C++ for it, which the system's compiler builds once for each structure; its cache keeps that across processes. The
numbers are those of the step as it is written, to rounding.
"""

import copy
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from meanstep.fields.flat import Plain
from meanstep.program.reproduce.points import near
from meanstep.program.reproduce.points.draws import Block, Step
from meanstep.program.reproduce.points.settings import BLOCK, Settings

FEWEST = 2000
"""Steps of a model from which on compiling its step pays."""
OPTIONS: dict[str, Any] = {"cpp_wrapper": True, "cpp.threads": 1, "compile_threads": 1}
INLINED: dict[str, Any] = {"realize_reads_threshold": 64, "realize_opcount_threshold": 200}
"""For `near.sums`: what it would otherwise write out, a matrix of rows by references, is larger than the caches."""
ADAM: dict[str, Any] = dict(fused=True, amsgrad=False, beta1=0.9, beta2=0.999, weight_decay=0.0, eps=1e-8, maximize=False)
"""For the kernel of torch.optim.Adam, which is called without its bookkeeping; the compiled step does the same."""
Made = Callable[..., Any]
_made: dict[Any, Made | None] = {}


def compiler() -> str | None:
    """The C++ compiler that would be used: `$CXX`, else g++, on a Mac clang++; None without one."""
    return shutil.which(os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++"))


class Fused:
    """The steps of one model, compiled; changes the cohort's tensors in place as its own steps do. `RuntimeError` where that fails.

    `cohort`: of one model whose gradient is written out, on a CPU; `block`: any block of its draws, for their shapes.
    """

    def __init__(self, cohort: Any, block: Block) -> None:
        gradient = cohort.gradient
        self.held = [cohort.flat, *cohort.moments.values(), cohort.averages, gradient.beta, gradient.share, gradient.means]
        self.parts = [name for name, part in zip(Step._fields, block.steps, strict=True) if part is not None]
        settings = replace(cohort.settings, sets=(), betas=(), seeds=(), arms=(), steps=0, points=None, digest=None)
        self.shapes = self._shapes(block)
        about = (replace(gradient.spec, beta=0.0), type(cohort.shape), settings, tuple(self.shapes), cohort.flat.dtype)
        like = torch.ones(4, dtype=cohort.flat.dtype)
        self.made = _once(about, self._written(gradient), lambda: [*self.held, *next(iter(self._steps(block, range(1)))), like])

    def _shapes(self, block: Block) -> list[torch.Size]:
        return [getattr(block.steps, name).shape for name in self.parts]

    def fits(self, block: Block) -> bool:
        """Whether a block has the shapes that were compiled: one with more moving rows than any before is rare."""
        return self._shapes(block) == self.shapes

    def run(self, block: Block, steps: range, scalars: Tensor) -> Tensor:
        """Some steps of a block; `scalars` `[steps, 4]`: rate and root by Adam's corrections, shares of the averages. The residuals."""
        total = torch.zeros(2, 1, dtype=scalars.dtype)
        with torch.no_grad():
            for given, row in zip(self._steps(block, steps), scalars, strict=True):
                (residual,) = self.made(*self.held, *given, row)
                total += residual
        return total

    def _steps(self, block: Block, steps: range) -> Iterable[tuple[Tensor, ...]]:
        return zip(*(getattr(block.steps, name)[:, steps.start : steps.stop].unbind(1) for name in self.parts), strict=True)

    def _written(self, gradient: Any) -> Callable[..., tuple[Tensor]]:
        """The step as a function of all that it reads; the gradient is the cohort's own, on passes without buffers."""
        shape, parts = gradient.cohort.shape, self.parts

        def step(*given: Tensor) -> tuple[Tensor]:
            flat, first, second, averages, beta, share, means, *read, scalars = given
            traced = copy.copy(gradient)
            traced.passes, traced.aside = Plain(shape), gradient.aside and Plain(shape)
            traced.layers, traced.others = shape.layers(flat), shape.layers(averages[1])
            traced.beta, traced.share, traced.means = beta, share, means
            there = dict(zip(parts, read, strict=True))
            residual = traced.rows(Step(*(there.get(name) for name in Step._fields)))  # type: ignore[arg-type]
            grad, (rate, root, *decays) = traced.passes.grad, scalars.unbind()
            first.lerp_(grad, 1 - ADAM["beta1"])
            second.mul_(ADAM["beta2"]).addcmul_(grad, grad, value=1 - ADAM["beta2"])
            flat.sub_(rate * first / (second.sqrt() / root + ADAM["eps"]))
            averages.add_((flat - averages) * torch.stack(decays)[:, None, None])
            return (residual,)

        return step


def sums(settings: Settings, dim: int) -> near.Sums:
    """`near.sums` compiled for blocks of these settings and points of `dim` coordinates. `RuntimeError` where that fails."""
    rows, n = BLOCK * settings.batch, settings.reference
    shapes = ((rows, dim), (rows, 1), (rows, 1), (dim, n))
    return _once(("sums", *shapes), near.sums, lambda: [torch.ones(shape) for shape in shapes], INLINED)


def _once(about: Any, function: Callable[..., Any], given: Callable[[], list[Tensor]], options: dict[str, Any] | None = None) -> Made:
    """The function compiled, in one process once for all that is alike."""
    if compiler() is None:
        raise RuntimeError("there is no C++ compiler: install g++, or name one in CXX")
    if about not in _made:
        _made[about] = None
        _made[about] = _compiled(function, [x.clone() for x in given()], options or {})
    made = _made[about]
    if made is None:
        raise RuntimeError("it failed before")
    return made


def _compiled(step: Callable[..., Any], given: list[Any], more: dict[str, Any]) -> Made:
    """`RuntimeError` with the reason where the compiler does not build it."""
    try:
        from torch._inductor import standalone_compile
        from torch.fx.experimental.proxy_tensor import make_fx

        with torch.no_grad():
            traced = make_fx(step)(*given)
            for node in traced.graph.nodes:
                node.meta.clear()
            made: Made = standalone_compile(traced, given, dynamic_shapes="from_example_inputs", options={"config_patches": OPTIONS | more})
            made(*given)  # builds what is built at the first call
    except Exception as error:  # whatever a compiler and its cache may raise: the step as it is written remains
        raise RuntimeError(f"{type(error).__name__}: {error}") from error
    return made
