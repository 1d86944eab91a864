"""An export at work: load, build, compare with PyTorch, write the folder whole. `meanstep.export` is here."""

import json
import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from meanstep import __version__
from meanstep.program.console import UserError, stage
from meanstep.program.disk import made, tree
from meanstep.program.export import subject as subjects
from meanstep.program.export.card import card
from meanstep.program.export.checks import Difference, halved
from meanstep.program.export.conditioned import of_net
from meanstep.program.export.subject import Choice, Subject
from meanstep.program.export.targets import CARD, TARGETS, Target, check_belongs, fresh, require
from meanstep.program.runs.report.page import TRY, wanted
from meanstep.program.runs.saved import located
from meanstep.program.sampling.model import Model


def export(
    run: "str | os.PathLike[str] | Model | nn.Module",
    *,
    to: str,
    out: str | os.PathLike[str] | None = None,
    steps: int = 1,
    guidance: float | None = None,
    labels: Sequence[int] | None = None,
    half: bool = False,
    decode: bool = True,
    batch: int | str = "dynamic",
    field: bool = False,
    checkpoint: int | str = "",
    runtime: str | Path | None = None,
    shape: Sequence[int] | None = None,
    condition: Any = None,
    **loaded: Any,
) -> dict[str, Any]:
    """Export a trained generator into the new folder `out`, and return what its card.json says.

    `run`: a run's folder, a `Run`, or what `meanstep.load` returned. `out`: of a run by default a folder in it of the target's name, `try`
    for the web, which its report links to. `to`: web, onnx, torch, diffusers or hub. `steps` of the sampler, `guidance`
    (1, the conditional model, by default; an input of a run of --method.scales unless it is given) and the decoding are inside;
    `labels`: numbers of the classes that are offered, by default all that have data, and a single one is always meant. `half`:
    store the weights in half precision; `decode`: False exports latents; `batch`: a number of rows, or "dynamic"; `field`: with "onnx"
    also u(z, r, t, y). `checkpoint`: "last", "best" or samples seen, by default the last one of a run that is finished. `runtime`: with
    "web", the file of onnxruntime-web. `loaded`: other arguments of `meanstep.load`.

    Conditions of a run are inputs under their names, in units of the data, for "onnx" and "torch"; `condition`: those that are always
    meant instead, `{"kind": 2, "seen": seen}`, which a page needs. Where a flow starts at rows of the data, they are the first input.

    `run` may also be a network `(z, r, t, y)`, for "onnx" and "torch": then `shape` is that of one event, `condition` are rows of what `y`
    is, a tensor or a tree of tensors (a dict of them) that become inputs under their names, and `sampler` may be given.

    The export is compared with PyTorch on draws that it never saw; `UserError` if they differ by more than the target's bound, and for all
    that cannot be exported. Nothing is written then.
    """
    require(to)
    check_belongs(to, field=field, runtime=runtime)
    _check_said(run, checkpoint, shape, loaded)
    folder = fresh(Path(out) if out is not None else _beside(run, to))
    chosen = tuple(labels) if labels is not None else None
    choice = Choice(
        steps, None if guidance is None else float(guidance), chosen, decode, half, 0 if batch == "dynamic" else int(batch), field
    )
    with stage("building the network"):
        if isinstance(run, nn.Module):
            assert shape is not None
            subject = of_net(run, choice, target=to, shape=shape, condition=condition, **loaded)
        else:
            subject = subjects.of(run, choice, target=to, checkpoint=checkpoint, condition=condition, **loaded)
    return written(subject, to, folder, {"runtime": Path(runtime).expanduser()} if runtime else {})


def _beside(run: Any, to: str) -> Path:
    """Where the export of a run goes by default."""
    if isinstance(run, Model | nn.Module):
        raise UserError("out: a model or network alone has no folder to export into: give out, a new folder")
    return located(Path(run).expanduser())[0] / (Path(TRY).parent if to == "web" else to)


def _check_said(run: Any, checkpoint: int | str, shape: Sequence[int] | None, loaded: dict[str, Any]) -> None:
    """`UserError` for arguments that what is exported cannot take, because it is loaded already, or says so itself."""
    given = [*(["checkpoint"] if checkpoint else []), *loaded]
    if isinstance(run, Model) and given:
        raise UserError(f"{', '.join(given)}: this model is loaded already: say these to meanstep.load, or give the run's path")
    if isinstance(run, nn.Module):
        if shape is None:
            raise UserError("a network alone does not say what it makes: give shape, that of one event without the batch")
        if checkpoint:
            raise UserError("checkpoint: a network alone has none: load its weights into it, or give the run's path")
    elif shape is not None:
        raise UserError("shape: a run says itself what it makes: leave it out")


def written(subject: Subject, to: str, folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Make the files of a target, compare them, and write the folder; what its card says."""
    target = TARGETS[to]
    with stage("comparing half precision with float32"):
        # a folder of the hub has the autoencoder of the run, byte for byte
        stored = subject.rounded(decoder=to != "hub") if subject.choice.half else subject
        half = halved(subject, stored) if subject.choice.half else None
    with stage(f"exporting to {to} and comparing with PyTorch"):
        files, found, use = _module(target).files(stored, target, **asked)
    record = told(subject, to, found, half, {name: len(data) for name, data in files.items()})
    files = {**files, CARD: (json.dumps(record, indent=1) + "\n").encode()}
    if "README.md" not in files:
        files["README.md"] = card(record, use).encode()
    with stage("writing"):
        tree(made(fresh(folder).parent) / folder.name, files.items())  # fresh again: another export may have been quicker
        _linked(subject, folder)
    return record


def _linked(subject: Subject, folder: Path) -> None:
    """A page that lies in its run as `try` is linked from the run's report, where there is one."""
    if subject.run and (subject.run / TRY).resolve() == (folder / "index.html").resolve() and (subject.run / "report.html").is_file():
        wanted(subject.run)


def _module(target: Target) -> Any:
    return import_module(f"meanstep.program.export.{target.module}")


def told(subject: Subject, to: str, found: Difference, half: float | None, sizes: dict[str, int]) -> dict[str, Any]:
    """What card.json says."""
    difference = found.record() | ({"half": half} if half is not None else {})
    made_by = {"meanstep": __version__, "name": subject.name, "target": to}
    return made_by | subject.facts | {"difference": difference, "files": sizes}
