"""`--to web`: index.html, one page that generates offline. The runtime, the graphs and the generator of the noise are inside."""

import base64
import gzip
import html
import json
import re
from dataclasses import replace
from functools import lru_cache
from importlib.resources import files as resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from meanstep.program.console import UserError
from meanstep.program.export import to_onnx
from meanstep.program.export.card import sentence
from meanstep.program.export.checks import Difference, compared
from meanstep.program.export.quicker import quicker
from meanstep.program.export.runtime import LICENCE, SCRIPT, runtime
from meanstep.program.export.subject import Subject
from meanstep.program.export.targets import Target
from meanstep.samplers import grid

Files = dict[str, bytes]
USE = "Open index.html by double click: it needs no server and no network. {exact}\n"
STEPS = (1, 2, 4)
"""What the page offers beside the number of steps that was asked for."""
MANY = {"pictures": 16, "lines": 9, "points": 1024}
"""Samples that are shown at once."""


def files(subject: Subject, target: Target, runtime: Path | None = None) -> tuple[Files, Difference, str]:
    """The page with the licence of its runtime, its difference to PyTorch, and how it is used.

    The comparison here runs the page's two graphs in ONNX Runtime, from this process's noise; the noise in the page is that one, too, and
    the tests compare the pictures of a real browser.
    """
    if subject.choice.batch:
        raise UserError("--batch: a page makes any number of samples: leave it out, or --to onnx")
    parts = graphs(subject)
    found = compared(subject, stepping(subject, parts), target.bound, "the page")
    return (
        {"index.html": page(subject, parts, found, runtime).encode(), "LICENCE-onnxruntime-web.txt": LICENCE.encode()},
        found,
        USE.format(exact=exact(subject)),
    )


def graphs(subject: Subject) -> dict[str, bytes]:
    """Two graphs: `step`, (z, r, t, y) to the sample at time r, and `show`, from there to what is looked at."""
    rows = to_onnx.times(subject, range(2))
    step = to_onnx.graph(subject.apart(subject.step("web")), rows, ("next",), subject, quicker)
    return {
        "step": step,
        "show": to_onnx.graph(subject.decode, {"z": rows["z"]}, subject.outputs, replace(subject, condition=None, scales=()), quicker),
    }


def stepping(subject: Subject, parts: dict[str, bytes]) -> Any:
    """What the page does, here: from noise, labels and scales to the outputs of `show`."""
    step, show = to_onnx.session(parts["step"]), to_onnx.session(parts["show"])
    beside = [name for name in to_onnx.times(subject, range(2)) if name not in ("z", "r", "t")]

    def made(z: Tensor, *others: Tensor) -> Any:
        more = dict(zip(beside, others, strict=True))
        times = grid(subject.choice.steps)
        for t, r in pairwise(times):
            full = torch.ones(len(z))
            given = {"z": z, "r": r * full, "t": t * full, **more}
            z = torch.from_numpy(step.run(None, {name: x.numpy() for name, x in given.items()})[0])
        return show.run(None, {"z": z.numpy()})

    return made


def page(subject: Subject, parts: dict[str, bytes], found: Difference, given: Path | None) -> str:
    """The whole page."""
    web = runtime(given)
    held = {"runtime": web.binary, **parts}
    blocks = [f'<script type="application/gzip" id="{name}">{_packed(data)}</script>' for name, data in held.items()]
    filled = {
        "TITLE": html.escape(subject.name),
        "ABOUT": html.escape(about(subject)),
        "DIFFERENCE": html.escape(sentence(found.record())),
        "LICENCE": html.escape(LICENCE),
        "STYLE": _source("page.css"),
        "BLOCKS": "\n".join(blocks),
        "FACTS": json.dumps(facts(subject)).replace("<", "\\u003c"),
        "RUNTIME": wrapped(web.script),
        "NOISE": _source("noise.js"),
        "PAGE": _source("page.js"),
    }
    parts_of = re.split(r"@@([A-Z]+)@@", _source("page.html"))
    return "".join(filled[part] if k % 2 else part for k, part in enumerate(parts_of))


def about(subject: Subject) -> str:
    """What it was trained on, in a sentence."""
    told = subject.facts
    by = f"by {told['recipe']} in {told['samples seen']:,} samples seen" if told.get("recipe") else ""
    classes = f" of {len(subject.classes)} classes" if subject.classes else ""
    return (
        f"Trained on {told['images']:,} rows of {told['data']}{classes} {by}; {told['parameters']:,} parameters, weights {told['weights']}."
    )


def facts(subject: Subject) -> dict[str, Any]:
    """What the page's script is told."""
    return {
        "shape": list(subject.shape),
        "view": subject.view,
        "many": MANY[subject.view],
        "classes": [[k, subject.classes[k]] for k in subject.among] if subject.labelled else [],
        "steps": sorted({*STEPS, subject.choice.steps}),
        "first": subject.choice.steps,
        "scales": list(subject.scales),
        "exact": exact(subject),
    }


def exact(subject: Subject) -> str:
    """What a seed of the page is to the command, whose own classes it draws from only where all of them are offered."""
    alike = "the same network, on this machine's processor in one thread"
    if subject.label is not None and not subject.drawn:
        return f"Seed n here is meanstep sample --seeds n --labels {subject.label}: the same noise and {alike}."
    if subject.drawn:
        return f"Seed n here is meanstep sample --seeds n: the same noise{', the same drawn class' * subject.labelled} and {alike}."
    other = "The class that a seed draws is another there: it is drawn here among those that are offered."
    return f"Seed n here is meanstep sample --seeds n --labels CLASS: the same noise and {alike}. {other}"


def wrapped(script: str) -> str:
    """The runtime's module as the value of a function, so that its names meet no others: its exports become an object."""
    body, mark, exports = script.rpartition("export{")
    names, end, _ = exports.partition("}")
    if not mark or not end:
        raise UserError(f"{SCRIPT} is no module with exports: give the package's own")
    pairs = [name.split(" as ") for name in names.split(",")]
    given = ",".join(f"{json.dumps(pair[-1])}:{pair[0]}" for pair in pairs)
    safe = body.replace("</script", "<\\/script")
    return f"(() => {{{safe}\nreturn {{{given}}};}})()"


@lru_cache(maxsize=2)
def _packed(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()


def _source(name: str) -> str:
    return resources("meanstep.program.export").joinpath("page", name).read_text(encoding="utf-8")
