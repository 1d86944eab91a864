"""The training loop. What happens beside the steps is in `events`, what is written in `checkpoints` and `records`."""

import math
import signal
import time
from collections.abc import Generator as Stream
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.utils.checkpoint import CheckpointError

from meanstep.coefficients import Running
from meanstep.keys import key
from meanstep.loss import Loss, Output
from meanstep.program.console import UserError
from meanstep.program.data import Batch, Loader
from meanstep.program.runs import networks
from meanstep.program.runs.config import Config
from meanstep.program.training.ranks import Ranks, syncing
from meanstep.program.training.state import Owner, State
from meanstep.program.wrapped import sharded
from meanstep.velocities import of, own

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
OBSERVE_EVERY = 16
"""Steps between two observations of a coefficient that learns from the noise."""


class Failure(UserError):
    """A step whose loss or gradient is not finite: the run stops, its last checkpoint stays."""

    code = 1


@dataclass
class Window:
    """What the steps since the last record measured."""

    names: tuple[str, ...] = ()
    rows: list[Tensor] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)

    def add(self, values: dict[str, Tensor]) -> None:
        """One step's values, 0-d."""
        self.names = tuple(values)
        self.rows.append(torch.stack([v.detach().float() for v in values.values()]))

    def close(self, ranks: Ranks) -> tuple[dict[str, float], float, int]:
        """Means over steps and ranks, seconds, and the number of steps; starts over."""
        means = dict(zip(self.names, ranks.mean(torch.stack(self.rows).nanmean(0)).tolist(), strict=True)) if self.rows else {}
        found = means, time.perf_counter() - self.began, len(self.rows)
        self.rows, self.began = [], time.perf_counter()
        return found


@dataclass
class Step:
    """One update of a run's state. `wrapped`: the owner as the ranks see it."""

    config: Config
    state: State
    ranks: Ranks
    wrapped: nn.Module
    chunk: int

    @property
    def chunks(self) -> int:
        """Forward passes of this rank in a step."""
        return self.config.run.batch // self.chunk // self.ranks.size

    def starts(self, seen: int) -> list[int]:
        """The positions at which this rank's chunks of a step begin."""
        first = seen + self.ranks.rank * self.chunks * self.chunk
        return [first + k * self.chunk for k in range(self.chunks)]

    def __call__(self, chunks: list[Batch]) -> dict[str, Tensor]:
        """Forward and backward passes of all chunks, the update, the averages; what was measured."""
        state, run = self.state, self.config.run
        state.optimiser.zero_grad()
        measured = [self._backward(k, chunk) for k, chunk in enumerate(chunks)]
        loss, norm = torch.stack([out.loss.detach() for out in measured]).mean(), self._norm()
        if self.ranks.largest(not math.isfinite(float(loss + norm))):  # all fail together, or the others would wait
            raise Failure(self._explained(chunks))
        self._clip(norm)
        rate = self.rate(state.seen)
        for group in state.optimiser.param_groups:
            group["lr"] = rate
        state.optimiser.step()
        state.step, state.seen = state.step + 1, state.seen + run.batch
        for average in state.averages:
            average.update(state.owner.net, state.step)
        return {
            "loss": loss,
            "gradient_norm": norm,
            "rate": torch.full((), rate, device=loss.device),
            **_means([out.metrics for out in measured]),
        }

    @property
    def progress(self) -> float:
        """The share of the training that is done; the last step may reach beyond the end."""
        return min(1.0, self.state.seen / self.config.run.samples)

    def rate(self, seen: int) -> float:
        """The learning rate of the step after `seen` samples."""
        o, run = self.config.optimiser, self.config.run
        warm = min(1.0, (seen + run.batch) / o.warmup) if o.warmup else 1.0
        done = min(1.0, max(0.0, (seen - o.warmup) / max(1, run.samples - o.warmup)))
        fall = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[o.schedule]
        return o.rate * warm * fall

    def _backward(self, k: int, batch: Batch) -> Output:
        here = self._placed(batch)
        with syncing(self.wrapped, k == self.chunks - 1):
            with self._autocast():
                out = self._forward(here, self.progress)
            try:
                (out.loss / self.chunks).backward()
            except CheckpointError as error:
                what = f"--network.options: the derivative of {self.config.method.recipe} cannot be recorded through checkpointed blocks"
                raise UserError(f"{what}: leave checkpointing out, or choose another recipe") from error
        return out

    def _forward(self, b: Batch, progress: float) -> Output:
        """The loss with the chunk's own random numbers, wherever it is computed."""
        b, stream = self.state.coupled(b)
        given: tuple[Any, ...] = (progress, stream)
        with self._layers("layers", b.start):
            if self.config.run.compile:
                torch.manual_seed(_after(stream, b))
                given = torch.full((), progress, device=b.x.device), None
            out: Output = self.wrapped(b.x, b.y, *given, b.noise, b.mask)
            return out

    @contextmanager
    def _layers(self, name: str, start: int) -> Stream[None]:
        """What layers draw inside, dropout for one, is of the chunk that begins at `start` alone; the process keeps its random state."""
        device = self.ranks.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(key(self.config.run.seed, name, start).initial_seed())
            yield

    def _placed(self, batch: Batch) -> Batch:
        """The batch as the network takes it: on its device, in its type, with a condition only if it takes one."""
        takes = self.config.data.conditional and networks.conditional(self.state.description)
        return (batch if takes else batch._replace(y=None)).to(self.ranks.device, networks.dtype(self.state.owner.net))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=self.config.run.precision == "bf16")

    def _norm(self) -> Tensor:
        """The norm of the gradient; `UserError` if copies of the network have weights that get none, and so are never averaged."""
        held = {name: p.grad for name, p in self.state.owner.named_parameters() if p.requires_grad}
        idle = [name for name, grad in held.items() if grad is None]
        if idle and self.ranks.size > 1 and self.config.run.parallel == "ddp":
            what = f"--network: {len(idle)} weights have no part in the loss ({idle[0]}), and copies of a network must use all of them"
            raise UserError(f"{what}: freeze them with requires_grad_(False), or give --parallel fsdp")
        norm: Any = nn.utils.get_total_norm([grad for grad in held.values() if grad is not None])
        whole: Tensor = norm.full_tensor() if sharded([norm]) else norm
        return whole

    def _clip(self, norm: Tensor) -> None:
        if self.config.optimiser.clip:
            nn.utils.clip_grads_with_norm_(self.state.owner.parameters(), self.config.optimiser.clip, norm)

    def _explained(self, chunks: list[Batch]) -> str:
        """Which rows made a loss that is not finite, or which weights have a gradient that is not; all ranks must ask together."""
        state, found = self.state, ""
        bad = [name for name, p in state.owner.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
        where = f"after {state.seen:,} samples"
        checked = Loss(state.owner.loss.recipe, check=True, measure=False)
        for b, generator in (state.coupled(self._placed(chunk)) for chunk in chunks):
            given: dict[str, Any] = {"noise": b.noise, "mask": b.mask, "progress": self.progress, "generator": generator}
            try:
                with self._autocast(), self._layers("layers", b.start):
                    checked(state.owner.net, b.x, b.y, **given)
            except FloatingPointError as error:  # the other chunks are tried too: shards of a network are asked by all ranks alike
                found = found or f"{where}, chunk at {b.start}: {error}"
        if not found and bad:
            return f"{where} the loss of these rows is finite and the gradient is not, in {len(bad)} of its tensors: {', '.join(bad[:4])}"
        return found or f"{where} the loss of another rank's rows is not finite"

    @torch.no_grad()
    def rehearse(self, chunks: list[Batch]) -> None:
        """One loss outside of the compiled step, in which a network that is not ours is found to carry tangents, or not."""
        if self.config.run.compile:
            b, generator = self.state.coupled(self._placed(chunks[0]))
            with self._autocast(), self._layers("layers", b.start):
                Owner.forward(self.state.owner, b.x, b.y, 0.0, generator, b.noise, b.mask)

    def observe(self, chunks: list[Batch]) -> None:
        """Let a coefficient that learns from the noise look at a few rows."""
        learner = self.state.owner.learner
        if not isinstance(learner, Running) or self.state.step % OBSERVE_EVERY:
            return
        here, generator = self.state.coupled(self._placed(chunks[0]), "observe")
        net, proxy = self.state.owner.net, self.state.proxy
        given: dict[str, Any] = {"noise": here.noise, "mask": here.mask, "generator": generator}
        with torch.no_grad(), self._layers("observe layers", here.start):
            for term, b in self.state.owner.loss.draw(here.x, here.y, progress=self.progress, **given):
                if term.times is not None and self.ranks.largest(bool((b.r < b.t).any())):  # all ranks observe, or none
                    learner.observe(net, b, of(proxy.module) if proxy else own)
                    return


def _means(measured: list[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """The metrics of several chunks, where they are numbers, as one."""
    if len(measured) == 1 or not measured[0]:
        return measured[0]
    found = torch.stack([torch.stack(list(metrics.values())) for metrics in measured]).nanmean(0)
    return dict(zip(measured[0], found.unbind(0), strict=True))


def _after(generator: Generator, b: Batch) -> int:
    """A seed for what a compiled step draws: the stream's own, or one that its noise, if it was drawn here, has no part in."""
    return generator.initial_seed() if b.noise is None else int(torch.randint(2**62, (), generator=generator))


@contextmanager
def stopping() -> Iterator[list[int]]:
    """A list that gets the number of a signal to stop: SIGINT, SIGTERM, SIGUSR1, SIGHUP of a closed terminal (but not under nohup, which
    ignores it), SIGUSR2 from a parent process; a second one of the same kind stops at once."""
    got: list[int] = []

    def note(number: int, frame: object) -> None:
        if number in got:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        got.append(number)

    heard = [n for n in STOPPING if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
    old = {number: signal.signal(number, note) for number in heard}
    try:
        yield got
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def batches(step: Step, loader: Loader, samples: int) -> "Stream[list[Batch], None, None]":
    """This rank's chunks of every step that is left."""
    starts = (s for seen in range(step.state.seen, samples, step.config.run.batch) for s in step.starts(seen))
    stream = loader.stream(starts, step.chunk)
    try:
        for _ in range(step.state.seen, samples, step.config.run.batch):
            yield [next(stream) for _ in range(step.chunks)]
    finally:
        stream.close()
