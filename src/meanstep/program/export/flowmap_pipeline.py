"""A pipeline of diffusers for networks that know average velocities: from seeds or a generator to pictures, in one step or a few.

An export carries this file. `flowmap_load` opens a folder without its code, by what this package installs.
"""

import hashlib
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Generator, Tensor

TRAINED = 1000


class FlowMapPipeline(DiffusionPipeline):
    """`transformer` or `unet`: the network; `scheduler`: FlowMapEulerDiscreteScheduler; `vae`: from latents to pictures, None for pixels.

    `facts`: `shape` of what the network makes, `classes` (names) and those `offered`, `mean` and `std` of its latents by channel,
    `scaling` and `shift` of the autoencoder's, `channels` of a picture, `steps` and `guidance` by default, `guided`: whether other
    guidance than 1 has a meaning (older folders do not say), `average`: False for a network that knows the instantaneous velocity, `order`
    and `names`: how the network is called with z, r, t, gap and y.
    """

    _optional_components = ["transformer", "unet", "vae"]  # noqa: RUF012
    model_cpu_offload_seq = "transformer->unet->vae"

    def __init__(
        self, scheduler: Any, transformer: Any = None, unet: Any = None, vae: Any = None, facts: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        for part in (transformer, unet, vae):
            if part is not None:
                part.requires_grad_(False)  # torch rounds otherwise where it might have to go back
        self.register_modules(scheduler=scheduler, transformer=transformer, unet=unet, vae=vae)
        self.register_to_config(facts=facts)
        self.facts = dict(facts or {})

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | str | list[int | str] | None = None,
        seeds: list[int] | None = None,
        batch_size: int = 1,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: Generator | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """Pictures, one for each of `seeds` (the same as `meanstep sample` makes of that seed), else `batch_size` by the `generator`.

        `class_labels`: numbers or names, one for all or one each; None draws them. `output_type`: "pil", "np" (uint8 `[B, H, W, C]`), "pt"
        (float `[B, C, H, W]`, -1 is black and 1 is white) or "latent" (what the network makes).
        """
        z = self._noise(seeds, batch_size, generator)
        y = self._labels(class_labels, seeds, len(z), generator)
        self.scheduler.set_timesteps(num_inference_steps or self.facts["steps"], device=z.device)
        scale = self.facts["guidance"] if guidance_scale is None else guidance_scale
        if scale != 1 and not self.facts.get("guided", True):
            raise ValueError("guidance_scale: this network does not know a field with a label and one without, leave it at 1")
        ends = [*self.scheduler.timesteps[1:], self.scheduler.timesteps.new_zeros(())]
        for t, r in zip(self.progress_bar(self.scheduler.timesteps), ends, strict=True):
            z = self.scheduler.step(self._velocity(z, t, r if self.facts["average"] else t, y, scale), t, z, r, return_dict=False)[0]
        images = z if output_type == "latent" else self._shown(z, output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _noise(self, seeds: list[int] | None, count: int, generator: Generator | None) -> Tensor:
        net, shape = self.transformer or self.unet, tuple(self.facts["shape"])
        if seeds is None:
            return randn_tensor((count, *shape), generator=generator, device=self._execution_device, dtype=net.dtype)
        rows = [torch.randn(*shape, generator=_key(int(seed), "sample", 0)) for seed in seeds]
        return torch.stack(rows).to(self._execution_device, net.dtype)

    def _labels(self, given: Any, seeds: list[int] | None, count: int, generator: Generator | None) -> Tensor | None:
        offered, names = self.facts["offered"], self.facts["classes"]
        if not offered:
            if given is not None:
                raise ValueError("this model was trained without labels: leave class_labels out")
            return None
        if given is not None:
            words = list(given) if isinstance(given, (list, tuple)) else [given] * count
            found = [names.index(word) if word in names else int(word) for word in words]
        else:
            keys = [generator] * count if seeds is None else [_key(int(seed), "label") for seed in seeds]
            drawn = [torch.randint(len(offered), (), generator=key, device=key.device if key is not None else None) for key in keys]
            found = [offered[int(k)] for k in drawn]
        if len(found) != count or not all(0 <= k < len(names) for k in found):
            raise ValueError(f"class_labels: one of 0 to {len(names) - 1} or a name, for all or for each of {count}, got {given!r}")
        return torch.tensor(found, device=self._execution_device)

    def _velocity(self, z: Tensor, t: Tensor, r: Tensor, y: Tensor | None, scale: float) -> Tensor:
        order, names = self.facts["order"], self.facts["names"]
        if order is None:
            return self.transformer(z, t, r, class_labels=y, guidance=scale, return_dict=False)[0]
        if scale != 1:
            raise ValueError("guidance_scale: this network is guided in training or not at all, leave it at 1")
        times = {name: (step / TRAINED).to(z).expand(len(z)) for name, step in (("t", t), ("r", r), ("gap", t - r))}
        given = {"z": z, "y": y, **times}
        out = (self.transformer or self.unet)(*(given[role] for role in order), **{name: given[role] for name, role in names.items()})
        return out.sample if hasattr(out, "sample") else out[0] if isinstance(out, tuple) else out

    def _shown(self, z: Tensor, kind: str) -> Any:
        facts = self.facts
        if self.vae is not None:
            mean, std = (z.new_tensor(facts[name])[:, None, None] for name in ("mean", "std"))
            z = self.vae.decode((z * std + mean) / facts["scaling"] + facts["shift"], return_dict=False)[0]
        if kind == "pt":
            return z
        levels = ((z.float() + 1) * 127.5).round().clamp(0, 255)
        if levels.shape[1] != facts["channels"]:
            levels = levels.mean(1, keepdim=True).round()
        arrays = levels.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return arrays if kind == "np" else [Image.fromarray(a[..., 0] if a.shape[-1] == 1 else a) for a in arrays]


def _key(seed: int, *path: Any) -> Generator:
    """The generator of a seed's stream, as meanstep names it."""
    digest = hashlib.sha256(repr((seed, *path)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
