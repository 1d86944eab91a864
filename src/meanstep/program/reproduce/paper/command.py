"""`meanstep reproduce paper`: every published number beside what comes out here."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from meanstep.program import flags
from meanstep.program.console import UserError, chat, out, stage
from meanstep.program.errors import shown
from meanstep.program.flags import hinted
from meanstep.program.pages.page import require
from meanstep.program.ranges import Ranged
from meanstep.program.reproduce.images.command import Latents
from meanstep.program.reproduce.images.settings import parted
from meanstep.program.reproduce.paper.published import PARTS
from meanstep.program.reproduce.points.command import WORKERS_HELP, Mixtures, Toy
from meanstep.program.reproduce.points.settings import DIMENSIONS, SETS

Scale = Literal["smoke", "quick", "paper"]
PARTS_HELP = f"Which parts: {', '.join(PARTS)}."
PART_HELP = "K/N: do every N-th set only, for N processes or machines that share --out (1/3, 2/3, ...). The last one has all for the table."
TWO = ("0", "1")
DIGITS = (
    *("--protocol", "authors", "--arms", "paper", "controls", "stated@1", "stated-squared-anchored@1", "--seeds", "0:5"),
    *("--samples", "256000", "--batch", "128", "--moments", "4", "--rate", "1e-3", "--averages.decays", "0.999"),
)
"""What `meanstep reproduce latents` is asked for at the scale paper: the arms of the authors' DiT and their controls, on digits."""
Study = tuple[str, Callable[..., Any], dict[str, Any]]
STUDIES: dict[str, dict[str, tuple[Study, ...]]] = {
    "smoke": {
        "toy": (("toy-smoke", Toy, {"scale": "smoke", "sets": ("swiss_roll",), "arms": ("plain",), "betas": TWO}),),
        "mixtures": (("mixtures-smoke", Mixtures, {"scale": "smoke", "dims": (2,), "arms": ("plain",), "betas": TWO}),),
    },
    "quick": {"toy": (("toy-quick", Toy, {"updates": 30_000, "arms": ("plain",), "betas": TWO}),)},
    "paper": {
        "toy": (
            ("toy", Toy, {"scale": "paper", "betas": ("0", "0.5", "1"), "arms": ("plain", "trace-t2@1")}),
            ("toy-all-gaps", Toy, {"scale": "paper", "betas": TWO, "arms": ("plain",), "largest_gap": 1.0}),
        ),
        "mixtures": (
            ("mixtures", Mixtures, {"scale": "paper", "arms": ("plain",), "betas": ("0", "0.4", "1")}),
            ("mixtures-fixed", Mixtures, {"scale": "paper", "arms": ("plain",), "betas": ("0", "0.4", "1"), "centres": "fixed"}),
        ),
    },
}
"""What a scale trains by part, all under the authors' protocol: folder, which no other scale has, command, options."""


@dataclass(frozen=True)
class Paper(Ranged):
    """Put every number that the paper's authors printed beside what comes out here, under their own protocol, and say what can be told.

    It trains what the scale names, in folders of their own in --out, reads the committed studies for the rest, and writes report.html and
    table.csv: published value, ours with its interval, a verdict by rules that were fixed before any run. Interrupt it at any moment; the
    same command goes on. docs/paper.md says more.

    Examples: meanstep reproduce paper --scale smoke; meanstep reproduce paper --parts history --out runs/history; meanstep reproduce paper
    --scale paper --parts toy --part 1/3
    """

    scale: Scale = "quick"
    """smoke: a minute, for a look; quick: 36 models of 30,000 steps in the plane, some twenty minutes on two idle cores; paper: days."""
    parts: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[PART ...]", help=PARTS_HELP)] = PARTS
    part: Annotated[str | None, hinted(PART_HELP, "all sets", "K/N")] = None
    workers: Annotated[int | None, hinted(WORKERS_HELP, "one a core", "N from 1 to 4096")] = None
    device: flags.Device = "auto"
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("runs/paper")
    """Where results go; it is made if it does not exist."""

    def run(self) -> int:
        """0 when the table is written. `UserError` for parts that there are not."""
        for name in self.parts:
            if name not in PARTS:
                raise UserError(f"--parts: there is no part {shown(name)}: choose among {', '.join(PARTS)}")
        if not self.parts:
            raise UserError(f"--parts is empty: choose among {', '.join(PARTS)}, or leave it out for all")
        parts, share = tuple(dict.fromkeys(self.parts)), parted(self.part) if self.part else None
        asked = [(part, *study) for part in parts for study in STUDIES[self.scale].get(part, ())]
        if share is not None:
            asked = [(part, *_shared(name, options, command, *share)) for part, name, command, options in asked]
        require()
        flags.folder(self.out)
        if "latents" in parts and self.scale == "paper":
            self._latents(share)
        for part, name, command, options in asked:
            chat.print(f"{part}: {name}")
            command(protocol="authors", workers=self.workers, device=self.device, out=self.out / name, **options).run()
        from meanstep.program.reproduce.paper import page

        with stage("writing the table"):
            there = page.build(self.out, parts, flags.spelled(self, ("scale", "part", "workers", "device")))
        for line in page.spoken(self.out, parts):
            out.print(line, soft_wrap=True, highlight=False, markup=False)
        for line in (f"report: {there}", f"numbers: {self.out / 'table.csv'}"):
            chat.print(line, soft_wrap=True, highlight=False, markup=False)
        return 0

    def _latents(self, share: tuple[int, int] | None) -> None:
        """The study of the DiT's arms; with a share only every N-th run of it."""
        chat.print("latents: latents")
        words = [*DIGITS, "--out", str(self.out / "latents"), "--device", self.device]
        words += ["--workers", str(self.workers)] if self.workers else []
        Latents.parse([*words, *(["--part", f"{share[0]}/{share[1]}"] if share else [])]).run()


def _shared(study: str, options: dict[str, Any], command: Callable[..., Any], k: int, n: int) -> Study:
    """The K-th of N shares of a study, by its sets, in a folder of its own; the table joins them."""
    name, every = ("sets", options.get("sets", SETS)) if command is Toy else ("dims", options.get("dims", DIMENSIONS))
    if n > len(every):
        held = "one set" if len(every) == 1 else f"{len(every)} sets"
        raise UserError(f"--part {k}/{n}: {study} has {held}: give N of at most {len(every)}")
    return f"{study}-{k}-of-{n}", command, options | {name: tuple(every[k - 1 :: n])}
