"""What a check says: what was measured, whether that is good enough, and what to do. Knows no networks."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from meanstep.program.console import first_line

PASS, WARN, FAIL, NONE = "pass", "warn", "fail", "n/a"
CHECKS = (
    "arguments",
    "output",
    "finite",
    "inputs",
    "repeatable",
    "rows",
    "gradients",
    "times",
    "time-scale",
    "labels",
    "forward-mode",
    "way",
    "autocast",
    "types",
    "devices",
    "checkpoints",
    "compile",
    "ddp",
    "fsdp",
)
"""Names of all checks, in their order."""


@dataclass(frozen=True)
class Finding:
    """One line of the report. `measured`: what was found, with its numbers; `remedy`: what to do; `module`: where, if that is known.

    `fail` means that training as a MeanFlow field breaks or learns something else; `warn`, that it works at a cost or in part; `n/a`, that
    the network gives nothing to measure.
    """

    check: str
    status: str
    measured: str
    remedy: str = ""
    module: str = ""


ROOTS = "a root, norm or division at 0 has no slope there: add an eps inside"


def unmeasured(check: str, measured: str, module: str = "") -> Finding:
    """The finding of a check whose numbers are not finite: nothing passes by them."""
    return Finding(check, FAIL, f"not finite: {measured}", "look at `finite` first: nothing can be told from such numbers", module)


@dataclass(frozen=True)
class Report:
    """All findings on one network. `network`: its class and size; `call`: how it is called as a field."""

    findings: tuple[Finding, ...]
    network: str
    call: str
    seconds: float

    @property
    def failed(self) -> int:
        """How many checks fail."""
        return self.count(FAIL)

    def count(self, status: str) -> int:
        """How many findings have a status."""
        return sum(f.status == status for f in self.findings)

    def of(self, check: str) -> Finding:
        """The finding of one check; `KeyError` if it was not made."""
        return {f.check: f for f in self.findings}[check]

    def record(self) -> dict[str, Any]:
        """For JSON."""
        counts = {status: self.count(status) for status in (PASS, WARN, FAIL, NONE)}
        rows = [asdict(f) for f in self.findings]
        return {"network": self.network, "call": self.call, "seconds": round(self.seconds, 2), "counts": counts, "findings": rows}

    def __str__(self) -> str:
        return "\n".join(f"{f.status:4}  {f.check}: {spoken(f)}" for f in self.findings)


def spoken(f: Finding) -> str:
    """A finding in one line: where, what, and what to do."""
    where = f"{f.module}: " if f.module else ""
    return f"{where}{f.measured}{f' -> {f.remedy}' if f.remedy else ''}"


SHORTER = (
    (r"in-place operation \((.+?)\)", "{} changes a tensor from outside the call in place"),
    (r"forward AD with (\w+)", "{} has no forward derivative"),
    (r"(autograd\.Function) with functorch", "an {} without setup_context and jvp"),
    (r"custom (autograd\.Function) to use it with forward", "an {} without jvp"),
)


def reason(error: BaseException) -> str:
    """Why torch has no forward derivative, in a few words where its own are many."""
    for pattern, text in SHORTER:
        if found := re.search(pattern, str(error)):
            return text.format(found.group(1).strip("_"))
    return first_line(error, 110)


def some(names: Sequence[str], most: int = 3) -> str:
    """The first few of many names."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
