"""An exported pipeline from installed code: of the folder only configurations and safetensors are read."""

from pathlib import Path
from typing import Any

import diffusers

from meanstep.program.console import UserError
from meanstep.program.export import flowmap_pipeline
from meanstep.program.export.flowmap_transformer import FlowMapTransformer2DModel
from meanstep.program.reading import files, trees

OURS = {"FlowMapTransformer2DModel": FlowMapTransformer2DModel}


class FlowMapPipeline(flowmap_pipeline.FlowMapPipeline):
    """The pipeline of this package, which is the one that an export carries."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **options: Any) -> "FlowMapPipeline":
        """The pipeline of an exported folder; `options`: of the `from_pretrained` of its parts, such as `torch_dtype`."""
        return cls(**parts(Path(pretrained_model_name_or_path), **options))


def parts(folder: Path, **options: Any) -> dict[str, Any]:
    """The arguments of the pipeline; `UserError` for a folder that names other classes than diffusers' and ours."""
    try:
        index = trees.entries(files.text(folder / "model_index.json"))
    except (UserError, ValueError) as error:
        raise UserError(f"{folder} is no exported pipeline: {error}") from None
    found: dict[str, Any] = {"facts": index.get("facts")}
    if not isinstance(found["facts"], dict):
        raise UserError(f"{folder} is no exported pipeline: its model_index.json says nothing of facts: open it with diffusers")
    for name in ("scheduler", "transformer", "unet", "vae"):
        part = index.get(name) or (None, None)
        kind = part[1] if isinstance(part, list | tuple) and len(part) == 2 else part
        if kind is None:
            continue
        known = OURS.get(kind) or getattr(diffusers, kind, None) if isinstance(kind, str) else None
        if known is None:
            raise UserError(f"{folder} names a {name} of class {kind!r}, which neither diffusers nor this package has")
        how = {} if name == "scheduler" else {"use_safetensors": True, "low_cpu_mem_usage": False, **options}
        found[name] = known.from_pretrained(folder / name, **how)
    return found
