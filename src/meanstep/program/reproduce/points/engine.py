"""Models that train side by side without seeing each other: one step written out for the coefficient family, `Loss` for the rest.

On a CPU a cohort is one model; on a GPU it is every model with the same structure, and its step is one captured graph.
"""

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim.adam import adam

from meanstep import recipes
from meanstep.fields.flat import Passes, Shape
from meanstep.keys import key
from meanstep.loss import Loss
from meanstep.program.reproduce.points.draws import Block, Step
from meanstep.program.reproduce.points.fused import ADAM, Fused
from meanstep.program.reproduce.points.protocols import protocol
from meanstep.program.reproduce.points.protocols import times as drawn_times
from meanstep.program.reproduce.points.settings import BLOCK, Settings, Spec
from meanstep.terms import Recipe
from meanstep.times import diagonal
from meanstep.velocities import own
from meanstep.weights import SIGMAS, adaptive

Structure = tuple[str, str | None, bool, bool, bool, str | None]


def structure(spec: Spec) -> Structure:
    """What decides the operations of a step: models that agree on it can share an ensemble."""
    return (spec.recipe, spec.proxy, spec.both, spec.anchor, spec.matrix, spec.sigma)


class Cohort:
    """`E` models of one structure: parameters, Adam's moments and two EMA copies (`ema` to evaluate, `proxy` for the tangent).

    `streams[i]`: which stream of a block member `i` reads.
    """

    def __init__(self, shape: Shape, specs: list[Spec], initial: Tensor, streams: list[int], settings: Settings) -> None:
        self.shape, self.specs, self.settings = shape, specs, settings
        self.flat, self.grad = initial.clone(), torch.zeros_like(initial)
        self.moments = {name: torch.zeros_like(initial) for name in ("exp_avg", "exp_avg_sq")}
        self.count = torch.zeros((), dtype=torch.float32, device=initial.device)
        self.averages = torch.stack([initial, initial])
        self.ema, self.proxy = self.averages
        self.streams = torch.tensor(streams, device=initial.device)
        self.decays = torch.zeros(2, 1, 1, dtype=initial.dtype, device=initial.device)
        self.seconds = 0.0
        self.protocol = protocol(settings)
        # a captured step reads a rate that changes from the device
        self.rate: float | Tensor = settings.lr
        if self.protocol.falls and initial.is_cuda:
            self.rate = torch.tensor(settings.lr, device=initial.device)
        self.gradient: _Coefficient | _Composed = _Coefficient(self) if specs[0].by_hand else _Composed(self)
        self.graph: _Graph | None = None
        self.fused: Fused | None = None

    def compile(self, block: Block) -> None:
        """Runs by a compiled step from now on; `block`: any of its draws. `RuntimeError` where there is none, and nothing has changed."""
        self.fused = Fused(self, block)

    def run(self, block: Block, start: int, stop: int) -> Tensor:
        """The steps `start` to `stop - 1` of a block that begins at step `start - start % BLOCK`.

        Returns the sum over the steps of the mean squared residual an entry, of all rows but the anchors and of the moving ones,
        `[2, E]`.
        """
        began = time.perf_counter()
        total = torch.zeros(2, len(self.specs), dtype=self.flat.dtype, device=self.flat.device)
        # an average that young must not remember the initial weights
        ages = [(1 + step) / (10 + step) if self.protocol.young else 1.0 for step in range(start, stop)]
        rates = [[1 - min(decay, age) for decay in (self.settings.ema_decay, self.settings.proxy_decay)] for age in ages]
        if self.fused is not None and self.fused.fits(block):
            total = self.fused.run(block, range(start % BLOCK, start % BLOCK + stop - start), self._scalars(rates, start))
            self.count.fill_(stop)
        else:
            decays = torch.tensor(rates, dtype=self.flat.dtype, device=self.flat.device)[..., None, None]
            for k, step in enumerate(range(start, stop)):
                self.decays.copy_(decays[k])
                self._set_rate(self.protocol.rate(step, self.settings))
                total += self._step(block, step)
        found = total.cpu()  # on a GPU this waits for the steps: before the clock is read
        self.seconds += time.perf_counter() - began
        return found

    def _scalars(self, rates: list[list[float]], start: int) -> Tensor:
        """What `Fused.run` asks of every step."""
        rows = []
        for step, decays in enumerate(rates, start):
            first, second = (1 - ADAM[name] ** (step + 1) for name in ("beta1", "beta2"))
            rows.append([self.protocol.rate(step, self.settings) / first, math.sqrt(second), *decays])
        return torch.tensor(rows, dtype=self.flat.dtype)

    def variance(self, block: Block) -> Tensor:
        """The trace of the covariance of a batch's gradient, over the first batches of a block, at the present weights: `[E]`, eq. (14)."""
        found = []
        for k in range(self.protocol.replicates):
            self.gradient(block, k)
            found.append(self.grad.clone())
        return torch.stack(found).double().var(0).sum(-1).cpu()

    def _set_rate(self, rate: float) -> None:
        if isinstance(self.rate, Tensor):
            self.rate.fill_(rate)
        else:
            self.rate = rate

    def _step(self, block: Block, step: int) -> Tensor:
        """Gradient, Adam, EMA copies."""
        if isinstance(self.gradient, _Composed) or not self.flat.is_cuda:
            return self._update(self.gradient(block, step))
        rows = self.gradient.rows
        self.graph = self.graph or _Graph(lambda inputs: self._update(rows(inputs)))
        return self.graph(block.step(step % BLOCK))

    def _update(self, residual: Tensor) -> Tensor:
        first, second = self.moments.values()
        adam([self.flat], [self.grad], [first], [second], [], [self.count], lr=self.rate, **ADAM)
        self.averages.lerp_(self.flat, self.decays)
        return residual

    def state(self) -> dict[str, Tensor]:
        """All that a resumed training needs beside the number of its steps."""
        return {"flat": self.flat, "ema": self.ema, "proxy": self.proxy, **self.moments}


class _Coefficient:
    """The gradient of `recipes.coefficient` (and of flow matching on the same draws), eq. (17), (18), (24), by hand."""

    def __init__(self, cohort: Cohort) -> None:
        spec, settings, flat = cohort.specs[0], cohort.settings, cohort.flat
        self.cohort, self.spec, self.members = cohort, spec, len(cohort.specs)
        shape = cohort.shape
        self.matching = spec.still
        self.rows_used = settings.batch * (2 if spec.anchor else 1)
        self.passes = Passes(shape, self.members, self.rows_used, flat)
        self.aside = Passes(shape, self.members, settings.batch, flat) if spec.proxy in ("ema", "own") else None
        self.layers, self.grads, self.others = shape.layers(flat), shape.layers(cohort.grad), shape.layers(cohort.proxy)
        self.beta = torch.tensor([s.beta for s in cohort.specs], dtype=flat.dtype, device=flat.device)[:, None, None]
        self.share = torch.full((self.members, self.rows_used), 2 / settings.batch, dtype=flat.dtype, device=flat.device)
        self.share[:, settings.batch :] *= settings.anchor
        if self.matching:
            self.share /= shape.dim
        self.sigma = SIGMAS[spec.sigma] if spec.sigma else None
        moving = settings.batch if self.matching else settings.moving
        counted = [torch.arange(self.rows_used, device=flat.device) < n for n in (settings.batch, moving)]
        self.means = torch.stack([rows / rows.sum() / shape.dim for rows in counted], 1).to(flat)

    def __call__(self, block: Block, step: int) -> Tensor:
        return self.rows(block.step(step % BLOCK))

    def _mine(self, x: Tensor) -> Tensor:
        return x if len(x) == self.members == 1 else x[self.cohort.streams]

    @torch.no_grad()
    def rows(self, inputs: Step) -> Tensor:
        """Writes the gradient; returns the mean squared residuals `[2, E]`."""
        n, batch = 0 if self.matching else inputs.gap.shape[1], self.cohort.settings.batch
        h, v = self._mine(inputs.inputs[:, : self.rows_used]), self._mine(inputs.velocity[:, : self.rows_used])
        if self.matching:
            h = torch.cat([self._mine(inputs.boundary), h[:, inputs.boundary.shape[1] :]], 1)
        proxy = self._proxy(inputs, h) if self.spec.proxy else None
        residual = self.passes.forward(self.layers, h)
        goal = v
        if proxy is not None:
            beta = self._mine(inputs.beta) if self.spec.matrix and inputs.beta is not None else self.beta
            mixed = torch.lerp(v[:, : proxy.shape[1]], proxy, beta)
            goal = torch.cat([mixed, v[:, batch:]], 1) if self.spec.both else v
            tangent = mixed[:, :n]
        else:
            tangent = v[:, :n]
        residual -= goal
        if n:
            change = self.passes.tangent(self.layers, torch.cat([tangent, self._mine(inputs.tangents)], -1))
            residual[:, :n].addcmul_(self._mine(inputs.gap), change)
        error = residual.square().sum(-1)
        weight = self._weight(error)
        if self.sigma is not None:
            weight = weight * self._traced(inputs)
        self.passes.backward(self.layers, self.grads, residual * weight[..., None])
        if self.matching or self.cohort.protocol.counted:
            return (error @ self.means).mT
        moved = torch.linalg.vecdot(error[:, :n], self._mine((inputs.gap[..., 0] > 0).to(error)))
        return torch.stack([error.mean(-1), moved / self._mine((inputs.gap > 0).sum((1, 2)))]) / self.cohort.shape.dim

    def _weight(self, error: Tensor) -> Tensor:
        settings = self.cohort.settings
        return self.share if self.matching or not settings.power else self.share / (error + settings.c) ** settings.power

    def _traced(self, inputs: Step) -> Tensor:
        """The trace weight of every row by one probe of signs; where `r = t` the trace is `D`."""
        assert self.sigma is not None and inputs.signs is not None and inputs.t is not None
        signs, n = self._mine(inputs.signs), inputs.gap.shape[1]
        change = self.passes.tangent(self.layers, torch.cat([signs, torch.zeros_like(self._mine(inputs.tangents))], -1))
        spread = torch.ones_like(self.share)
        spread[:, :n] = torch.addcmul(-signs, self._mine(inputs.gap), change).square().mean(-1)
        return 1 / (1 + self.sigma(self._mine(inputs.t)).square() * spread)

    def _proxy(self, inputs: Step, h: Tensor) -> Tensor:
        """The proxy velocity on the moving rows, or on all rows if it enters the target."""
        n, batch, both = inputs.gap.shape[1], self.cohort.settings.batch, self.spec.both
        if self.aside is not None:
            boundary = self._mine(inputs.boundary)
            rows = torch.cat([boundary, h[:, n:batch]], 1) if both else boundary
            return self.aside.forward(self.others if self.spec.proxy == "ema" else self.layers, rows, slopes=False)
        known = inputs.oracle if self.spec.proxy == "oracle" else inputs.posterior
        assert known is not None
        return self._mine(known if both else known[:, :n])


class _Composed:
    """The gradient of any recipe by `Loss` and autograd, on the stream's data and noise with times of its own."""

    def __init__(self, cohort: Cohort) -> None:
        if len(cohort.specs) != 1:
            raise ValueError(f"a reference recipe trains alone, got {len(cohort.specs)} members")
        self.cohort, self.name = cohort, cohort.specs[0].recipe
        self.net = cohort.shape.as_module(cohort.flat)
        self.loss = Loss(reference(self.name, cohort.settings, cohort.shape.as_module(cohort.proxy)), batch_dims=2, check=False)
        self.stream = int(cohort.streams[0])

    def __call__(self, block: Block, step: int) -> Tensor:
        x, e = (p[self.stream, step % BLOCK][None] for p in (block.x, block.e))
        out = self.loss(
            self.net,
            x,
            noise=e,
            progress=step / self.cohort.settings.steps,
            generator=key(block.seeds[self.stream], "times", self.name, step),
        )
        grads = torch.autograd.grad(out.loss, list(self.net.parameters()))
        half = len(self.net.weights)
        self.cohort.grad = self.cohort.shape.flatten(grads[:half], grads[half:])
        return torch.stack([out.metrics["residual"], out.metrics["residual_gap"]]).reshape(2, 1)


def reference(name: str, settings: Settings, ema: torch.nn.Module) -> Recipe:
    """A recipe of the table by name: its published row shares and kind of weight, but the sweep's times, which decide one-step samples,
    and its cap on their gap.

    Shortcut keeps its dyadic gaps, which are part of it. Terminal velocity matching gets the sweep's EMA copy (published decay: 0.99).
    """
    times, weight = drawn_times(settings), adaptive(settings.power, settings.c)
    table: dict[str, Callable[[], Recipe]] = {
        "alpha_flow": lambda: recipes.alpha_flow(times=times, c=settings.c, instants=diagonal(times)),
        "improved_meanflow": lambda: recipes.improved_meanflow(own, times=times, weight=weight),
        "terminal_velocity": lambda: recipes.terminal_velocity(ema, times=times, instants=diagonal(times)),
        "split_meanflow": lambda: recipes.split_meanflow(times=times, diagonal_share=settings.diagonal_share),
        "solution_flow": lambda: recipes.solution_flow(times=times, instants=diagonal(times)),
        "shortcut": lambda: recipes.shortcut(ema, clamp=None),
    }
    return table[name]()


class _Graph:
    """A step captured once as a CUDA graph and replayed on new inputs."""

    def __init__(self, function: Callable[[Step], Tensor]) -> None:
        self.function = function
        self.graph: torch.cuda.CUDAGraph | None = None
        self.warmed = 0

    def __call__(self, inputs: Step) -> Tensor:
        if self.warmed < 3:  # the kernels' workspaces must exist before the capture
            self.warmed += 1
            return self.function(inputs)
        if self.graph is None:
            self.inputs = inputs.map(torch.clone)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.out = self.function(self.inputs)
        self.inputs.map(torch.Tensor.copy_, inputs)
        self.graph.replay()
        return self.out.clone()
