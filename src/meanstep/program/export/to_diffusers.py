"""`--to diffusers`: what DiffusionPipeline.from_pretrained opens: network, scheduler, autoencoder, and the code of the pipeline."""

import inspect
import json
import re
import tempfile
from collections.abc import Collection, Sequence
from importlib import import_module
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from meanstep import modulation, samplers
from meanstep.fields import DiT, dit, given
from meanstep.fields.adapt import Adapted, towards
from meanstep.program.console import UserError
from meanstep.program.data.autoencoders import DIFFUSERS
from meanstep.program.disk import tree
from meanstep.program.export.checks import Difference, batches, compared
from meanstep.program.export.modules import Pictures
from meanstep.program.export.subject import Subject
from meanstep.program.export.targets import Target
from meanstep.program.reading.tensors import File
from meanstep.shapes import over

Files = dict[str, bytes]
WEIGHTS, OWN = "diffusion_pytorch_model.safetensors", "meanflow_transformer"
TYPES = {"float32": "F32", "float16": "F16", "float64": "F64", "int64": "I64", "bool": "BOOL", "uint8": "U8"}
"""Types of numbers as safetensors names them."""
HEADS = """\
import math
from collections.abc import Iterator, Mapping, Sequence

import torch.nn.functional as F
from torch import Generator, nn
from torch.overrides import handle_torch_function, has_torch_function
from torch.utils.checkpoint import checkpoint
"""
USE = """\
With diffusers alone, whose flag lets the code in this folder run (`pipeline.py` and what lies beside the weights):

```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained(".", trust_remote_code=True)
pictures = pipeline(seeds=range(16), num_inference_steps={steps}).images
```

Where meanstep is installed no code of the folder runs:

```python
from meanstep.program.export.flowmap_load import FlowMapPipeline

pipeline = FlowMapPipeline.from_pretrained(".")
```
"""


def files(subject: Subject, target: Target) -> tuple[Files, Difference, str]:
    """The files, their difference to PyTorch once they are read back, and how they are used."""
    _check(subject)
    half = subject.choice.half
    name, kind, config, net = _network(subject)
    found: Files = {"pipeline.py": _source("flowmap_pipeline.py").encode()}
    found |= {f"{name}/config.json": _json(config), f"{name}/{WEIGHTS}": _weights(net.state_dict(), _parameters(net) if half else ())}
    if kind[0] == OWN:
        found[f"{name}/{OWN}.py"] = standalone().encode()
    vae = _autoencoder(subject)
    if vae:
        found |= {"vae/config.json": _json(vae[1]), f"vae/{WEIGHTS}": _weights(vae[2], vae[3] if half else ())}
    found["scheduler/scheduler_config.json"] = _json(_versioned("FlowMapEulerDiscreteScheduler", num_train_timesteps=1000, shift=1.0))
    index: dict[str, Any] = {name: kind, "scheduler": ["diffusers", "FlowMapEulerDiscreteScheduler"], "facts": _facts(subject, kind)}
    index["vae"] = ["diffusers", vae[0]] if vae else [None, None]
    index["unet" if name == "transformer" else "transformer"] = [None, None]
    found["model_index.json"] = _json(_versioned(["pipeline", "FlowMapPipeline"], **index))
    return found, compared(subject, _read_back(subject, found), target.bound, "the pipeline"), USE.format(steps=subject.choice.steps)


def _check(subject: Subject) -> None:
    """`UserError` for what the scheduler or the pipeline cannot do, with the target that can."""
    if subject.sampler not in (samplers.walk, samplers.euler):
        raise UserError(
            f"--to diffusers steps by its own scheduler, and the sampler {subject.facts['sampler']} is another: --to onnx or torch"
        )
    if not isinstance(subject.decode, Pictures):
        latents = ": leave out --no-decode, or --to onnx or torch"
        rows = ", and this run makes rows of numbers: --to web, onnx, torch or hub can"
        raise UserError(f"--to diffusers makes pictures{latents if subject.decoder else rows}")
    if subject.choice.batch:
        raise UserError("--batch: a pipeline takes any number of rows: leave it out, or --to onnx or torch")


def _network(subject: Subject) -> tuple[str, list[str], dict[str, Any], nn.Module]:
    """Name, library and class, configuration and module of the network: our DiT, or a model of diffusers behind `as_field`."""
    from diffusers import ModelMixin

    net = subject.net
    if isinstance(net, DiT):
        return (
            "transformer",
            [OWN, "FlowMapTransformer2DModel"],
            _versioned("FlowMapTransformer2DModel", **_options(net)),
            nn.ModuleDict({"net": net}),
        )
    inner = net.net if isinstance(net, Adapted) else net
    if not isinstance(inner, ModelMixin) or not type(inner).__module__.startswith("diffusers."):
        kind = type(inner).__name__
        raise UserError(f"--to diffusers takes a DiT or a model of diffusers, and this network is a {kind}: --to onnx or torch can")
    if subject.guidance != 1:
        raise UserError("--guidance: a network of diffusers is called once a step: leave it at 1, or --to onnx or torch")
    name = "transformer" if "Transformer" in type(inner).__name__ else "unet"
    return name, ["diffusers", type(inner).__name__], json.loads(inner.to_json_string()), inner


def _options(net: DiT) -> dict[str, Any]:
    size, patch = (axes[0] if len(axes) == 2 and axes[0] == axes[1] else list(axes) for axes in (net.grid, net.patch))
    sizes = {"size": size, "channels": net.channels, "patch": patch, "classes": net.classes, "heads": net.heads}
    width, block = net.patches.out_features, net.blocks[0]
    assert isinstance(block, dit.Block)
    more = {"width": width, "depth": len(net.blocks), "ratio": block.up.out_features / width, "qk_norm": net.qk_norm, "rms": net.rms}
    return sizes | more | {"head": net.two, "split": net.split, "data_floor": net.data_floor, "time_scale": net.time_scale}


def _facts(subject: Subject, kind: list[str]) -> dict[str, Any]:
    """What the pipeline is told beside its parts."""
    decode, net = subject.decode, subject.net
    assert isinstance(decode, Pictures)
    called: dict[str, Any] = {"order": None, "names": None}
    if kind[0] != OWN:
        called = (
            {"order": list(net.order), "names": dict(net.names)} if isinstance(net, Adapted) else {"order": ["z", "r", "t"], "names": {}}
        )
    latents = {
        "mean": decode.mean.flatten().tolist(),
        "std": decode.std.flatten().tolist(),
        "scaling": decode.scaling,
        "shift": decode.shift,
    }
    labels = {"classes": list(subject.classes), "offered": list(subject.among)}
    asked = {"steps": subject.choice.steps, "guidance": subject.guidance, "guided": subject.guided}
    asked |= {"average": subject.sampler is samplers.walk}
    return {"shape": list(subject.shape), "channels": decode.channels, **labels, **latents, **asked, **called}


def _parameters(net: nn.Module) -> Collection[str]:
    """The names of what half precision rounds."""
    return {name for name, _ in net.named_parameters(remove_duplicate=False)}


def _autoencoder(subject: Subject) -> tuple[str, dict[str, Any], dict[str, Tensor], Collection[str]] | None:
    """Class, configuration and state of the autoencoder, and which of it are parameters; None for pictures themselves."""
    diffusers: Any = import_module("diffusers")
    kind, _, where = subject.decoder.partition(":")
    if not where:
        return None
    if kind in DIFFUSERS:
        net = getattr(diffusers, DIFFUSERS[kind]).from_pretrained(where, use_safetensors=True, local_files_only=True)
        return DIFFUSERS[kind], json.loads(net.to_json_string()), net.state_dict(), _parameters(net)
    if kind != "taesd":
        raise UserError(f"--to diffusers: diffusers has no autoencoder {kind}: --to onnx or torch carries it")
    held = File.open(Path(where)).tensors()
    config = json.loads(diffusers.AutoencoderTiny(latent_channels=len(held["encoder.14.bias"])).to_json_string())
    state = {_renamed(name): x for name, x in held.items()}
    return "AutoencoderTiny", config, state, state.keys()


def _renamed(name: str) -> str:
    """TAESD's own name of a tensor in diffusers' words, whose decoder has no layer for the clamp before it."""
    part, number, rest = name.split(".", 2)
    return f"{part}.layers.{int(number) - (part == 'decoder')}.{rest}"


def standalone() -> str:
    """The module of the transformer with our DiT in it, which imports torch and diffusers only."""
    inner = "".join(_bare(module) for module in (modulation, given, dit))
    inner = f"{inspect.getsource(over)}\n\n{inspect.getsource(towards)}\n\nlinear = None\n{inner}"
    text = _source("flowmap_transformer.py").replace("from meanstep.fields.dit import DiT\n", f"{HEADS}\n\n{inner}")
    assert "meanstep." not in re.sub(r'""".*?"""|#.*', "", text, flags=re.S), "an import of ours is left"
    return text


def _bare(module: Any) -> str:
    """The source of a module of ours without its documentation and its imports, and without what only type checkers read."""
    inner = re.sub(r"^(from meanstep|import).*\n|^from (typing|torch|collections).*\n", "", inspect.getsource(module), flags=re.M)
    return re.sub(r"^    if TYPE_CHECKING:\n(?:\n|        .*\n)+", "", inner.partition('"""\n')[2], flags=re.M)


def _source(name: str) -> str:
    return resources("meanstep.program.export").joinpath(name).read_text(encoding="utf-8")


def _weights(state: dict[str, Tensor], half: Collection[str] = ()) -> bytes:
    """Safetensors whose tensors begin at multiples of 64 bytes, as far as their sizes allow: read in place, they are rounded as here.

    `half`: those that are stored in half precision.
    """
    wide = {name: x.float() if x.dtype == torch.bfloat16 else x for name, x in state.items()}  # NumPy has no bfloat16
    held = {name: (x.half() if name in half else x).contiguous().numpy() for name, x in wide.items()}
    header, at = {"__metadata__": {"format": "pt"}}, 0
    order = sorted(held, key=lambda name: (held[name].nbytes % 64 > 0, name))
    for name in order:
        entry: Any = {"dtype": TYPES[held[name].dtype.name], "shape": list(held[name].shape), "data_offsets": [at, at + held[name].nbytes]}
        header[name], at = entry, entry["data_offsets"][1]
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    return len(text).to_bytes(8, "little") + text + b"".join(held[name].tobytes() for name in order)


def _json(entries: Any) -> bytes:
    return (json.dumps(entries, indent=2) + "\n").encode()


def _versioned(kind: Any, **entries: Any) -> dict[str, Any]:
    import diffusers

    return {"_class_name": kind, "_diffusers_version": diffusers.__version__, **entries}


def _read_back(subject: Subject, found: Files) -> Any:
    """From noise and labels to outputs, by the pipeline of the folder; the seeds of the draws are its own."""
    from meanstep.program.export.flowmap_load import FlowMapPipeline

    with tempfile.TemporaryDirectory() as parent:
        tree(Path(parent) / "folder", found.items())
        pipeline: Any = FlowMapPipeline.from_pretrained(Path(parent) / "folder")
    pipeline.set_progress_bar_config(disable=True)
    seeds = {len(part): part for part in batches(subject)}

    def made(z: Tensor, *label: Tensor) -> Sequence[Any]:
        labels = label[0].tolist() if label else [subject.label] * len(z) if subject.label is not None else None
        asked = {"class_labels": labels, "seeds": seeds[len(z)]}
        values = pipeline(**asked, output_type="pt").images
        return values, torch.from_numpy(pipeline(**asked, output_type="np").images).permute(0, 3, 1, 2)

    return made
