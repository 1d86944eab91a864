"""What a sweep trains: the arms by name, their models, and every setting that its numbers depend on."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from meanstep.program.console import UserError
from meanstep.program.registry import INSTANTANEOUS, METHODS
from meanstep.program.reproduce.arms import coefficients, unknown

PROXIES = ("ema", "own", "posterior", "oracle")
SIGMAS = ("one", "t", "t2", "bridge", "scale")
"""Names of `weights.SIGMAS`: deviations of the trace weight."""
REFERENCES = ("flow_matching", "alpha_flow", "improved_meanflow", "terminal_velocity", "split_meanflow", "solution_flow", "shortcut")
OWN_GAPS = frozenset({"shortcut"})
"""Of these, whose gaps are their own: no times and no cap change them."""
SETS = ("swiss_roll", "checkerboard", "pinwheel", "eight_gaussians", "two_moons", "two_spirals")
"""Built-in sets in the plane: those of `fields.planar.PLANAR`, in its order."""
DIMENSIONS = (2, 4, 8, 16, 32, 64)
BLOCK = 32
"""Steps drawn at once."""
MEASURING, SET_COST = 250, 2000
"""What measuring a model and describing a set cost, in steps of plain MeanFlow: for the remaining time only."""


@dataclass(frozen=True)
class Spec:
    """One model of the coefficient family, eq. (17), (18), or a reference recipe by its name.

    `proxy` in the tangent with coefficient `beta`, with `both` in the target too; `matrix`: beta per (r, t) from the exact law, eq. (20),
    in place of the number; `anchor`: whether the flow-matching anchor is on; `sigma`: by its name the deviation of the trace weight,
    None without it. Specs that train alike are equal: see `canonical`.
    """

    recipe: str = "coefficient"
    beta: float = 0.0
    proxy: str | None = None
    both: bool = False
    anchor: bool = False
    matrix: bool = False
    sigma: str | None = None

    @property
    def family(self) -> bool:
        """Whether it is of the coefficient family."""
        return isinstance(METHODS[self.recipe].coefficient, str)

    @property
    def still(self) -> bool:
        """Whether it learns the instantaneous velocity only."""
        return METHODS[self.recipe].learns == INSTANTANEOUS

    @property
    def id(self) -> str:
        """A short name, unique in a sweep: `beta 0`, `ema 0.5`, `posterior-both 1`, `ema 1 trace t2`, `shortcut`."""
        if not self.family:
            return self.recipe
        words = [f"{self.proxy}{'-both' if self.both else ''}" if self.proxy else "beta", "matrix" if self.matrix else f"{self.beta:.12g}"]
        return " ".join([*words, *(["anchor"] if self.anchor else []), *([f"trace {self.sigma}"] if self.sigma else [])])

    @property
    def by_hand(self) -> bool:
        """Whether the engine writes its gradient out; other recipes go through `Loss`, one model at a time."""
        return self.family or self.still

    @property
    def cost(self) -> float:
        """Of a step, in steps of plain MeanFlow: for the remaining time only."""
        return 5.0 if not self.by_hand else 2.0 if self.anchor else 1.3 if self.sigma else 1.0

    def canonical(self) -> "Spec":
        """The same training without names that mean nothing: at `beta = 0` no proxy is asked."""
        return replace(self, proxy=None, both=False) if self.beta == 0 and not self.matrix else self


def _member(**fixed: Any) -> Callable[[float], Spec]:
    return lambda beta: Spec(beta=beta, **fixed).canonical()


SWEPT: dict[str, Callable[[float], Spec]] = {
    "paper": lambda beta: Spec(beta=beta, proxy="ema", anchor=beta == 1).canonical(),
    "plain": _member(proxy="ema"),
    "anchored": _member(proxy="ema", anchor=True),
    **{f"trace-{sigma}": _member(proxy="ema", sigma=sigma) for sigma in SIGMAS},
    **{proxy: _member(proxy=proxy) for proxy in PROXIES[1:]},
    **{f"{proxy}-both": _member(proxy=proxy, both=True) for proxy in PROXIES},
}
"""Arms that are swept over beta, from beta to the model."""
SINGLE: dict[str, Spec] = {
    "matrix": Spec(proxy="ema", matrix=True),
    "matrix-oracle": Spec(proxy="oracle", matrix=True),
    **{name: Spec(recipe=name) for name in REFERENCES},
}
"""Arms that are one model."""
ARMS = (*SWEPT, *SINGLE)


def models(arm: str, betas: Sequence[float]) -> list[tuple[float | None, Spec]]:
    """The models of an arm `name` or `name@beta,beta`, each with its beta (None for a single model). `UserError` if there is none."""
    name, _, chosen = arm.partition("@")
    if name not in ARMS:
        raise unknown(name, tuple(SWEPT), tuple(SINGLE))
    if name in SINGLE:
        if chosen:
            raise UserError(f"the arm {name} is one model and takes no beta: write {name!r}, not {arm!r}")
        return [(None, SINGLE[name])]
    return [(beta, SWEPT[name](beta)) for beta in (coefficients(chosen.split(","), arm) if chosen else betas)]


@dataclass(frozen=True)
class Settings:
    """Everything that the numbers of a sweep depend on; what they do not depend on (workers, device's place) is not here.

    `protocol`: see protocols.py; the numbers that the authors' of arXiv 2605.09235 states are in `PUBLISHED`, the defaults are ours.
    `largest_gap`: a cap on `t - r` in training, None without one; `centres`: of their dense mixtures, redrawn for every batch or fixed.
    """

    sets: tuple[str, ...]
    betas: tuple[float, ...]
    seeds: tuple[int, ...]
    arms: tuple[str, ...]
    steps: int
    batch: int = 256
    diagonal_share: float = 0.5
    times: str = "uniform"
    lr: float = 1e-3
    power: float = 0.0
    c: float = 1e-3
    anchor: float = 0.5
    delta: tuple[float, float] = (1e-4, 1e-2)
    proxy_decay: float = 0.999
    ema_decay: float = 0.999
    reference: int = 2048
    width: int = 128
    depth: int = 3
    samples: int = 10_000
    directions: int = 128
    probe: int = 2048
    points: str | None = None
    digest: str | None = None
    ensemble: bool = False
    protocol: str = "ours"
    largest_gap: float | None = None
    centres: str | None = None

    def lines(self) -> list[tuple[str, float | None, Spec]]:
        """Arm, beta and model of every line of the sweep, arms in order."""
        return [(arm.partition("@")[0], beta, spec) for arm in self.arms for beta, spec in models(arm, self.betas)]

    def specs(self) -> list[Spec]:
        """Every model to train for one set and seed, each once."""
        return list(dict.fromkeys(spec for _, _, spec in self.lines()))

    @property
    def moving(self) -> int:
        """Rows of a batch with `r < t`."""
        return round((1 - self.diagonal_share) * self.batch)


PUBLISHED: dict[str, Any] = {
    "batch": 256,
    "diagonal_share": 0.25,
    "times": "uniform",
    "lr": 1e-3,
    "power": 0.0,
    "proxy_decay": 0.999,
    "ema_decay": 0.999,
    "samples": 4096,
    "directions": 500,
}
"""What the authors' protocol fixes; the cap of 0.5 and the seeds 42, 0, 1 are its defaults, and may be changed."""
SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"steps": 160, "seeds": (0, 1), "batch": 128, "samples": 1000, "directions": 32, "probe": 512, "reference": 512},
    "quick": {"steps": 2800, "seeds": (0, 1, 2)},
    "paper": {"steps": 200_000, "seeds": (0, 1, 2), "batch": 1024, "ema_decay": 0.9999, "samples": 20_000},
}
"""What each scale sets; the rest are the defaults of `Settings`."""
PUBLISHED_SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"steps": 160, "seeds": (42, 0)},
    "quick": {"steps": 12_000, "seeds": (42, 0, 1)},
    "paper": {"steps": 200_000, "seeds": (42, 0, 1)},
}
"""The same under the authors' protocol: its own numbers hold at every scale."""


LEAST_GAP = 0.02
"""The smallest cap: samples within it are made in at most 50 jumps."""


def mixture_dimension(name: str) -> int | None:
    """The dimension of the set `mixture-D`, 2 to 256, or None for another name."""
    found = re.fullmatch(r"mixture-([0-9]{1,3})", name)
    return int(found[1]) if found and 2 <= int(found[1]) <= 256 else None


def known_sets() -> tuple[str, ...]:
    """Names of all built-in sets."""
    return (*SETS, *(f"mixture-{dim}" for dim in DIMENSIONS))
