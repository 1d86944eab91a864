"""EfficientNet-Lite0 as published by TensorFlow, names of weights as in efficientnet-lite-pytorch 0.1.0. Knows no files."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STAGES = ((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3), (5, 2, 6, 192, 4), (3, 1, 6, 320, 1))
"""Kernel, stride of the first block, expansion, channels, blocks."""


class _Same(nn.Conv2d):
    """A convolution padded as TensorFlow's "SAME": an odd surplus goes to the right and below."""

    def forward(self, x: Tensor) -> Tensor:
        pad: list[int] = []
        for n, k, s in zip(reversed(x.shape[2:]), reversed(self.kernel_size), reversed(self.stride), strict=True):
            total = max((-(-n // s) - 1) * s + k - n, 0)
            pad += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, pad), self.weight, None, self.stride, 0, 1, self.groups)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class _Block(nn.Module):
    def __init__(self, inside: int, outside: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inside * expansion
        if expansion > 1:
            self._expand_conv, self._bn0 = _Same(inside, wide, 1, bias=False), _norm(wide)
        self._depthwise_conv, self._bn1 = _Same(wide, wide, kernel, stride, groups=wide, bias=False), _norm(wide)
        self._project_conv, self._bn2 = _Same(wide, outside, 1, bias=False), _norm(outside)
        self.expands, self.adds = expansion > 1, stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        h = F.relu6(self._bn1(self._depthwise_conv(h)))
        h = self._bn2(self._project_conv(h))
        return x + h if self.adds else h


class Lite0(nn.Module):
    """`[B, 3, 224, 224]`, `(pixel - 127) / 128`, to pooled features `[B, 1280]`; `_fc` makes 1000 logits of them; arXiv 1905.11946."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = _Same(3, 32, 3, 2, bias=False), _norm(32)
        blocks, inside = [], 32
        for kernel, stride, expansion, channels, repeats in STAGES:
            for i in range(repeats):
                blocks.append(_Block(inside, channels, kernel, stride if i == 0 else 1, expansion))
                inside = channels
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = _Same(inside, 1280, 1, bias=False), _norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Pooled features `[B, 1280]`."""
        h = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            h = block(h)
        return F.relu6(self._bn1(self._conv_head(h))).mean((2, 3))


def lite0(weights: dict[str, Tensor]) -> Lite0:
    """The network with these weights, every one of them used; `RuntimeError` names those that do not fit."""
    with torch.device("meta"):
        net = Lite0()
    laid = {n: w.contiguous(memory_format=torch.channels_last) if w.ndim == 4 else w for n, w in weights.items()}  # a fifth less time
    net.load_state_dict(laid, assign=True)
    return net.float().eval().requires_grad_(False)
