"""The inputs of the loss, refused at the door with the name, what was got and what is wanted."""

from typing import Any

import torch
from torch import Generator, Tensor

from meanstep.shapes import tree_map


def batch_of(
    batch_dims: int, x: Any, y: Any, noise: Any = None, mask: Any = None, progress: Any = None, generator: Any = None
) -> tuple[int, ...]:
    """The batch shape of the data; `TypeError` or `ValueError` for an input of the loss that does not fit."""
    _data(x, batch_dims)
    batch = tuple(x.shape[:batch_dims])
    if noise is not None:
        _tensor("noise", noise, x)
        if noise.shape != x.shape or noise.dtype != x.dtype:
            raise ValueError(f"noise must match the data: {tuple(x.shape)} {x.dtype}, got {tuple(noise.shape)} {noise.dtype}")
    if mask is not None:
        _tensor("mask", mask, x)
        if mask.dtype != torch.bool or mask.shape != x.shape[: mask.ndim] or mask.ndim < batch_dims:
            raise ValueError(f"mask must be boolean and cover leading axes of {tuple(x.shape)}, got {tuple(mask.shape)} {mask.dtype}")
    _progress(progress)
    if generator is not None and not isinstance(generator, Generator):
        raise TypeError(f"generator must be a torch.Generator such as ms.key(0), got {generator!r:.80}")
    tree_map(lambda p: _condition(p, batch, x), y)
    return batch


def _data(x: Any, batch_dims: int) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"data must be a torch tensor, got {type(x).__name__}: the call is loss(field, x, y)")
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"data must be float32 or float64, got {x.dtype}: convert it, and use torch.autocast for half precision")
    if x.layout != torch.strided:
        raise TypeError(f"data must be a dense tensor, got {x.layout}: use x.to_dense()")
    if x.ndim <= batch_dims:
        raise ValueError(f"data of shape {tuple(x.shape)} leaves no event axis after batch_dims={batch_dims}: use x[..., None]")
    if 0 in x.shape[batch_dims:]:
        raise ValueError(f"data of shape {tuple(x.shape)} has rows without an entry: every axis after the batch's has at least one")


def _tensor(name: str, p: Any, x: Tensor) -> None:
    if not isinstance(p, Tensor):
        raise TypeError(f"{name} must be a torch tensor beside data of shape {tuple(x.shape)}, got {type(p).__name__}")
    _beside(name, p, x)


def _beside(name: str, p: Tensor, x: Tensor) -> None:
    if p.device != x.device:
        raise ValueError(f"{name} is on {p.device} and the data on {x.device}: move one of them")
    if p.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got {p.layout}: use {name}.to_dense()")


def _progress(progress: Any) -> None:
    if progress is None or torch.compiler.is_compiling():
        return
    number = progress.numel() == 1 if isinstance(progress, Tensor) else hasattr(progress, "__float__")
    if not number:
        what = (
            f"a tensor of shape {tuple(progress.shape)}" if isinstance(progress, Tensor) else f"{type(progress).__name__} {progress!r:.40}"
        )
        raise TypeError(f"progress is one number, the share of the training done, in [0, 1], got {what}")
    if isinstance(progress, Tensor) and progress.device.type != "cpu":  # to look at it is to wait for the device
        return
    if not 0 <= progress <= 1:
        raise ValueError(f"progress is the share of the training done, in [0, 1], got {progress:g}")


def _condition(p: Any, batch: tuple[int, ...], x: Tensor) -> Any:
    if not isinstance(p, Tensor):
        raise TypeError(f"a condition is a tensor, or a tuple, list or dict of tensors, got {type(p).__name__} {p!r:.40}")
    if tuple(p.shape[: len(batch)]) != batch:
        raise ValueError(f"a condition of shape {tuple(p.shape)} does not start with the batch shape {batch}")
    _beside("a condition", p, x)
    return p
