"""Configurations to start from, each with what it is for. Those with a band were run; docs/training.md holds the numbers."""

from dataclasses import dataclass

from meanstep.program.runs.config import Averages, Config, Data, Method, Network, Optimiser, Run


@dataclass(frozen=True)
class Preset:
    """`about`: one line for the list; `band`: what was measured, empty if it was not run here."""

    about: str
    config: Config
    band: str = ""


PRESETS: dict[str, Preset] = {
    "digits": Preset(
        "scikit-learn's 8 x 8 digits, two to three minutes on two cores; needs no download",
        Config(
            Data("digits"),
            Network(patch=2, width=96, depth=4, heads=4),
            Method("meanflow", {"times": "uniform", "diagonal_share": 0.5}),
            Optimiser(rate=2e-3, warmup=6_400, schedule="cosine"),
            Averages((0.998,)),
            Run(samples=1_000_000, batch=128),
        ),
    ),
}
DEFAULT = "digits"
