"""What a run was trained on is not written over by what is made of it. Needs no torch."""

from collections.abc import Collection
from pathlib import Path

from meanstep.program.data.request import chosen
from meanstep.program.errors import UserError
from meanstep.program.registry import PAIRS, PARTNERS
from meanstep.program.runs.saved import held


def check_spared(path: Path, run: Path, further: Collection[Path] = ()) -> None:
    """`UserError` if a file or folder that `--out` names is what the run was trained on, or lies in it; `further`: what is written with it.

    That is its source, the source of partners, and the file of a coupling, as the run's configuration names them.
    """
    for source in sources(run):
        if lost := next((file for file in (path, *further) if file.exists() and file.samefile(source)), None):
            raise UserError(f"--out: {lost} would be written over, which the run was trained on: give another name")
        if source.is_dir() and source.resolve() in path.resolve().parents:
            raise UserError(f"--out: {path} would be written into {source}, which the run was trained on: give another place")


def sources(run: Path) -> list[Path]:
    """The files and folders that are there of those which the run was trained on."""
    config = held(run)
    if config is None:
        return []
    coupling = config.method.coupling
    pairs = coupling.removeprefix(PAIRS) if coupling.startswith(PAIRS) and coupling != PARTNERS else ""
    found = [Path(chosen(spec)[0]).expanduser() for spec in (config.data.source, config.data.pair, pairs) if spec]
    return [path for path in found if path.exists()]
