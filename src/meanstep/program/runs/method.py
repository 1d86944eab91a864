"""The part of a run's configuration that says how it is trained: recipe, path, coupling, proxies and guidance. Builds nothing."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from meanstep.program.errors import UserError
from meanstep.program.flags import Options, unset
from meanstep.program.ranges import Amount, Below, Ranged, Rows, Share, ranged

RECIPE = (
    "The recipe's options: '{beta: 0.5, proxy: ema, diagonal_share: 0.5, times: uniform, power: 0}'. A coefficient is a number, or a "
    "schedule such as {linear: [0, 1]}, {cosine: [0, 1]}, {over_t: [0, 1, 4]} (like t^4, all training long), or running (estimated per bin "
    "of (r, t) during training), or climber (moved by the distance at each evaluation). Times are uniform, logit-normal, {logit-normal: "
    "[mean, std]}, {sorted-pair: [mean, std, mean, std]} or {logit-normal-pair: [...]}, of t, then of r."
)


@dataclass(frozen=True)
class MethodConfig(Ranged):
    """The recipe and its settings. What you leave out is as published, see docs/choosing.md."""

    PREFIX = "method."

    recipe: str = "meanflow"
    """A recipe's name, such as meanflow, coefficient, improved_meanflow, flow_matching, or a function of yours, package.module:function."""
    options: Annotated[Options, unset("none", "YAML", "{}", RECIPE)] = field(default_factory=dict)
    largest_gap: Annotated[float | None, unset("none", "FLOAT above 0 to 1", "None")] = None
    """Largest gap t - r of the recipe's times: r is raised where the gap is larger. Samples that jump further use gaps never trained."""
    path: str = "linear"
    """The path between data and noise: linear, trigonometric, or one of yours, package.module:name."""
    coupling: Annotated[str, tyro.conf.arg(metavar="NAME | pairs:FILE")] = "independent"
    """Which noise goes with which row: independent, optimal-transport (of the rows of a chunk, within each class where the network takes
    labels), or pairs:FILE, the noise of each row in an .npy, or in an .npz as noise: what `meanstep couple` writes."""
    proxy_decay: Below = 0.999
    """Decay of the EMA copy that serves as a proxy."""
    references: Rows = 2048
    """Rows of the data that a posterior velocity compares with."""
    components: Annotated[int, unset("all entries", "INT from 0 to 1048576")] = 0
    """Principal components of the data in which a posterior velocity compares rows."""
    dropout: Below = 0.1
    """Share of the rows whose labels and categories are hidden, which guidance needs."""
    hide_numbers: bool = False
    """Hide the other conditions of those rows, too: numbers and arrays are then 0, the mean of the data."""
    dropout_rows: Literal["all", "instant"] = "all"
    """Which rows lose their label: all kinds, or as many of the r = t rows alone, as in MeanFlow's code; then few steps cannot be guided."""
    dropout_inside: bool = False
    """Hide labels only at times strictly inside --method.window, as in alpha-Flow's code."""
    dropped: Literal["plain", "guided", "true"] = "plain"
    """What rows without a label learn: the plain velocity, the guided one of no label (alpha-Flow), or that of the hidden label (TiM)."""
    omega: Amount = 1.0
    """Guidance in the training target: its scale; the effective one is omega / (1 - kappa)."""
    kappa: Below = 0.0
    """Guidance in the training target: the share of the network's own conditional velocity."""
    window: Annotated[tuple[Share, Share], ranged("FLOAT FLOAT from 0 to 1")] = (0.0, 1.0)
    """Times at which the target is guided: from the first one to the second."""
    scales: Annotated[tuple[float, ...], unset("none", "FLOAT FLOAT above 0", "")] = ()
    """Guidance as an input of a network of yours, velocities.Condition: the smallest and largest scale, for recipes that take guidance."""
    fade: Annotated[float, unset("no fading", "FLOAT above 0 to 1", "1.0")] = 1.0
    """Time from which the guidance fades away towards noise, as in SoFlow's code, 0.8; omega is then m w and kappa 1 - m."""

    def __post_init__(self) -> None:
        """`UserError` for a number out of its range, and for a window that ends before it begins."""
        super().__post_init__()
        if self.window[0] > self.window[1]:
            raise UserError(f"--method.window: the first time is at most the second, got {self.window[0]:g} {self.window[1]:g}")
        if self.scales and (len(self.scales) != 2 or self.scales[0] > self.scales[1]):
            raise UserError(f"--method.scales: two, the first at most the second, got {' '.join(f'{scale:g}' for scale in self.scales)}")
        if self.dropout_inside and self.window[0] == self.window[1]:
            raise UserError("--method.dropout-inside: there is no time strictly inside --method.window: widen it")
