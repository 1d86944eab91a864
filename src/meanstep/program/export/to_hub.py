"""`--to hub`: a folder that `meanstep.load` reads like a checkpoint, with a model card and a preview; `hub:owner/name` is such a folder."""

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from meanstep.program.console import UserError
from meanstep.program.data.look import Look
from meanstep.program.data.previews import encoded, grid
from meanstep.program.data.views import shown
from meanstep.program.disk import tree
from meanstep.program.export import bare
from meanstep.program.export.checks import Difference, compared
from meanstep.program.export.hub_card import text
from meanstep.program.export.subject import Subject
from meanstep.program.export.targets import Target
from meanstep.program.registry import default_sampler
from meanstep.program.runs.facts import NAME as METHOD
from meanstep.program.runs.facts import known, stated
from meanstep.program.runs.integrity import MODEL, NETWORK, STATE, VERSION, digest
from meanstep.program.runs.saved import AUTOENCODER, CONFIG, MANIFEST, held
from meanstep.program.runs.saved import manifest as described
from meanstep.program.runs.saved import text as configured
from meanstep.program.sampling.model import load

Files = dict[str, bytes]
PREVIEW = 64
"""Samples of the preview: the seeds from 0 on."""


def files(subject: Subject, target: Target) -> tuple[Files, Difference, str]:
    """The files of the folder, its difference to PyTorch once it is read back, and nothing more to say: the card does."""
    if subject.run is None or subject.saved is None:
        raise UserError("--to hub exports a run's folder, which says what it was trained on: give its path instead of a model")
    if subject.choice.labels is not None or subject.guidance != 1 or subject.choice.batch:
        raise UserError(
            "--to hub exports the network, which takes every label, guidance and batch: leave --labels, --guidance and --batch out"
        )
    if (way := subject.facts["sampler"]) != default_sampler(subject.facts["learns"]):
        raise UserError(f"--to hub: the folder does not keep a sampler, its reader chooses one: leave --sampler {way} out")
    if not subject.choice.decode:
        raise UserError("--to hub: the folder has latents and their autoencoder, its reader decodes: leave --no-decode out")
    found = {**_described(subject), **_weights(subject)}
    state = _state(subject, found)
    found[STATE] = (json.dumps(state | {"digest": digest(state)}, indent=1) + "\n").encode()
    difference = compared(subject, _read_back(subject, found), target.bound, "the folder")
    values, *images = subject.reference(range(PREVIEW))
    found["preview.png"] = encoded(grid(images[0]) if images else shown(values, Look()))
    found["README.md"] = text(subject, difference.largest, PREVIEW).encode()
    return found, difference, ""


def _described(subject: Subject) -> Files:
    """What says how the network is made and what it was trained on, without paths of this machine."""
    run, saved = subject.run, subject.saved
    assert run and saved
    manifest, config, facts = bare.manifest(described(run)), held(run), known(run)
    kind = manifest.autoencoder.partition(":")[0]
    copy = run / AUTOENCODER
    manifest = replace(manifest, autoencoder=f"{kind}:{AUTOENCODER}" if copy.is_file() else manifest.autoencoder)
    found = {
        NETWORK: saved.file(NETWORK).read_bytes(),
        MANIFEST: manifest.text().encode(),
        METHOD: stated(replace(facts, coupling=bare.place(facts.coupling))).encode(),
        "config.json": _config(subject, saved.description),
    }
    if config:
        found[CONFIG] = configured(bare.config(replace(config, data=replace(config.data, source=manifest.source)))).encode()
    return found | ({AUTOENCODER: copy.read_bytes()} if copy.is_file() else {})


def _config(subject: Subject, description: dict[str, Any]) -> bytes:
    """config.json, by which a hub knows the library."""
    entries = {"library_name": "meanstep", **description, "shape": list(subject.shape), "classes": list(subject.classes)}
    return (json.dumps(entries, indent=1) + "\n").encode()


def _weights(subject: Subject) -> Files:
    """The weights, in half precision if that is chosen; what is no parameter stays as it is."""
    weights = {name for name, _ in subject.net.named_parameters(remove_duplicate=False)} if subject.choice.half else set()
    state = {name: x.half() if name in weights else x for name, x in subject.net.state_dict().items()}
    return {MODEL: save({name: x.contiguous() for name, x in state.items()})}


def _state(subject: Subject, found: Files) -> dict[str, Any]:
    """What state.json says: whole or refused, as a checkpoint is. The average that was chosen is the model itself here."""
    assert subject.run
    sums = {name: hashlib.sha256(found[name]).hexdigest() for name in (MODEL, NETWORK)}
    seen = {"seen": subject.facts["samples seen"], "step": 0, "best_seen": -1, "chosen": "raw", "sizes": {MODEL: len(found[MODEL])}}
    return {"version": VERSION, **seen, "data": described(subject.run).digest, "sha256": sums}


def _read_back(subject: Subject, found: Files) -> Any:
    """From noise and labels to outputs, by what a reader of the folder gets: the seeds are those of the draws."""
    with tempfile.TemporaryDirectory() as parent:
        tree(Path(parent) / "folder", found.items())
        spec = None if AUTOENCODER in found else subject.decoder or None
        allowed = str(subject.saved.description.get("network")) if subject.saved else ""
        model = load(Path(parent) / "folder", autoencoder=spec, network=allowed)
    again = replace(subject, net=model.field.float())

    def made(z: Tensor, *label: Tensor) -> Sequence[Tensor]:
        return again.whole()(z, *label)

    return torch.no_grad()(made)
