"""Whose settings a study has: ours, or those of the DiT of arXiv 2605.09235's authors. Knows no networks and no files of a study.

Read in their public run configurations. What cannot hold at other sizes is a factor of its own: it may differ, and the study says so.
"""

import dataclasses
from typing import Any

from meanstep.program.console import UserError
from meanstep.program.reproduce.records import Record
from meanstep.program.runs.config import Config, flag
from meanstep.program.runs.options import flat

OURS, AUTHORS = "ours", "authors"
OPTIONS: dict[str, Any] = {"times": "logit-normal", "diagonal_share": 0.75}
"""Times and the share of r = t rows; the arms hold weight and anchor."""
FIXED: dict[tuple[str, str], Any] = {
    ("method", "path"): "linear",
    ("method", "dropout"): 0.1,
    ("method", "omega"): 1.0,
    ("method", "kappa"): 0.5,
    ("method", "window"): (0.0, 1.0),
    ("optimiser", "warmup"): 0,
    ("optimiser", "schedule"): "constant",
    ("optimiser", "betas"): (0.9, 0.95),
    ("optimiser", "weight_decay"): 0.0,
    ("optimiser", "clip"): 0.0,
    ("averages", "widths"): (),
    ("data", "conditional"): True,
}
"""What holds at any size."""
FACTORS: dict[tuple[str, str], Any] = {
    ("run", "batch"): 256,
    ("run", "samples"): 76_800_000,
    ("optimiser", "rate"): 1e-4,
    ("averages", "decays"): (0.9999,),
}
"""What may differ where networks and trainings are small; the decay is that of the one copy for tangent and samples."""
NETWORK = "12 blocks of 768, 12 heads, patch 4, conditioned on t and t - r"
OTHERWISE = (
    "75 % of the rows of every batch at r = t (theirs: drawn row by row)",
    "the decay of the EMA rises to its value over the first steps (theirs: not seen)",
    "rows as they were cached (theirs: the autoencoder's posterior drawn anew)",
)
"""What differs at any size."""


def of(about: Record) -> str:
    """The protocol of a study.json; one that says nothing is ours."""
    return str(about.get("settings", {}).get("protocol", OURS))


def applied(config: Config) -> Config:
    """A configuration with all that is published, at any size."""
    parts: dict[str, dict[str, Any]] = {}
    for (part, name), value in (FIXED | FACTORS).items():
        if (part, name) != ("run", "samples"):
            parts.setdefault(part, {})[name] = value
    parts["method"] |= {"recipe": "meanflow", "options": dict(OPTIONS), "proxy_decay": FACTORS["averages", "decays"][0]}
    return dataclasses.replace(config, **{part: dataclasses.replace(getattr(config, part), **new) for part, new in parts.items()})


def settled(config: Config) -> Config:
    """The configuration with one EMA copy for tangent and samples. `UserError` for the first entry that contradicts the protocol."""
    for (part, name), value in FIXED.items():
        if (found := getattr(getattr(config, part), name)) != value:
            raise _against(flag(part, name), _words(value), _words(found))
    for name, found in config.method.options.items():
        if name not in OPTIONS:
            raise UserError(f"--protocol {AUTHORS} and --method.options {{{name}: {found}}}: its arms decide on that, leave it out")
        if found != OPTIONS[name]:
            raise _against("--method.options", f"{{{name}: {OPTIONS[name]}}}", f"{{{name}: {found}}}")
    decays, proxy = config.averages.decays, config.method.proxy_decay
    if len(decays) != 1:
        raise _against("--averages.decays", "one decay", _words(decays) or "none")
    if proxy not in (decays[0], FACTORS["averages", "decays"][0]):
        raise _against("--method.proxy-decay", f"the copy of --averages.decays {decays[0]:g}", f"{proxy:g}")
    return dataclasses.replace(config, method=dataclasses.replace(config.method, proxy_decay=decays[0]))


def _against(option: str, published: str, found: str) -> UserError:
    return UserError(f"--protocol {AUTHORS} has {option} {published}, got {found}: leave {option} out, or give --protocol {OURS}")


def deviations(config: Config) -> list[str]:
    """In words, in what a study under the authors' protocol differs from theirs."""
    held = {entry: (getattr(getattr(config, entry[0]), entry[1]), value) for entry, value in FACTORS.items()}
    found = [f"{flag(*entry)} {_words(here)} (theirs: {_words(value)})" for entry, (here, value) in held.items() if here != value]
    network = {name: value for (part, name), value in flat(config).items() if part == "network"}
    if (network.get("model") or network["name"]) != "B/4":
        sizes = [
            f"{network[name]} {word}" for name, word in (("depth", "blocks"), ("width", "wide"), ("patch", "a patch")) if name in network
        ]
        found.append(f"the network {network['name']}, {', '.join(sizes)} (theirs: {NETWORK})")
    return [*found, f"data {config.data.source} (theirs: ImageNet-256 latents)", *OTHERWISE]


def _words(value: Any) -> str:
    return " ".join(map(_words, value)) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)
