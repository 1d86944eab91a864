"""A study from its start to its report, whatever its workload."""

import resource
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from meanstep.program.console import chat, err, out, stage
from meanstep.program.reproduce import pool, records
from meanstep.program.reproduce.folder import claimed, note
from meanstep.program.reproduce.report.page import build, spoken
from meanstep.program.reproduce.study import Study

Run = Callable[[Any, Sequence[Any], Path, Sequence[str]], dict[str, str]]


def conduct(study: Study, folder: Path, devices: Sequence[str], run: Run = pool.run) -> tuple[Path, dict[str, str]]:
    """Claim the folder, do what is left of the study on these devices, write its report and say what it says.

    The folder, and what became of each job. `UserError` for a folder that is another's, after Ctrl-C, or where a job fails.
    """
    began = time.perf_counter()
    with ExitStack() as claim:
        here = claim.enter_context(claimed(folder, study))
        whole = study.joined(here)
        note(here, whole, devices[0])
        if study.kind.shared:
            claim.close()
        found = run(whole, whole.left(here), here, devices)
        studied = time.perf_counter()
        with stage("writing the report"):
            page = build(here)
    for line in [*whole.remarks(found, here), *spoken(here)]:
        out.print(line, soft_wrap=True, highlight=False, markup=False)
    for line in (f"report: {page}", f"numbers: {here / 'summary.csv'}"):
        chat.print(line, soft_wrap=True, highlight=False, markup=False)
    err.print(_spent(whole, here, studied - began, time.perf_counter() - studied), style="dim", soft_wrap=True)
    return here, found


def _spent(study: Study, here: Path, studied: float, report: float) -> str:
    """Where the time and the memory went; a unit's seconds of training are those of its last record."""
    found = records.load(here, study.kind)
    last = {tuple(r.get(name) for name in study.kind.unit): r.get("seconds") or 0.0 for r in found}
    training, measuring = sum(last.values()), sum(r.get("measuring") or 0.0 for r in found)
    peak = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
    return (
        f"study {studied:.0f} s, report {report:.0f} s; all workers' time so far: {training:.0f} s training, {measuring:.0f} s measuring; "
        f"peak memory of this process and of the largest worker {peak:.0f} MB"
    )
