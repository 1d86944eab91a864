"""A DiT that knows average velocities, as a model of diffusers. An export carries this file with the DiT itself in place of its import."""

from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor

from meanstep.fields.dit import DiT

TRAINED = 1000
"""Timesteps of diffusers are our times, data at 0 and noise at 1, times this number."""


class FlowMapTransformer2DModel(ModelMixin, ConfigMixin):
    """The average velocity of images or latents `[B, C, H, W]` between two timesteps; MeanFlow, arXiv 2505.13447."""

    @register_to_config
    def __init__(
        self,
        size: int | list[int] = 32,
        channels: int = 4,
        patch: int | list[int] = 2,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        classes: int = 0,
        ratio: float = 4.0,
        qk_norm: bool = False,
        rms: bool = False,
        head: bool = False,
        split: int | None = None,
        data_floor: float | None = None,
        time_scale: float = 1.0,
    ) -> None:
        super().__init__()
        more: dict[str, Any] = {"classes": classes, "ratio": ratio, "qk_norm": qk_norm, "rms": rms, "head": head, "split": split}
        self.net = DiT(size, channels, patch, width, depth, heads, **more, data_floor=data_floor, time_scale=time_scale)

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor | float,
        r_timestep: Tensor | float | None = None,
        timestep_r: Tensor | float | None = None,
        class_labels: Tensor | None = None,
        guidance: float = 1.0,
        return_dict: bool = True,
    ) -> Any:
        """The velocity from `timestep` to `r_timestep` (or `timestep_r`), a number or `[B]` in 0 to 1000; without it the instantaneous.

        `class_labels`: int64 `[B]`, None for no class; `guidance`: scale of classifier-free guidance, whose other part has no class.
        """
        z, end = hidden_states, r_timestep if r_timestep is not None else timestep_r
        t, r = self._time(timestep, z), self._time(timestep if end is None else end, z)
        if guidance != 1 and class_labels is not None:
            both = torch.cat([class_labels, torch.full_like(class_labels, self.net.classes)])
            labelled, without = self.net(torch.cat([z, z]), torch.cat([r, r]), torch.cat([t, t]), both).chunk(2)
            sample = torch.lerp(without, labelled, guidance)
        else:
            sample = self.net(z, r, t, class_labels)
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def _time(self, step: Tensor | float, z: Tensor) -> Tensor:
        time = torch.as_tensor(step, dtype=torch.float64, device="cpu" if z.device.type == "mps" else z.device) / TRAINED
        return time.to(z).expand(z.shape[0])
