"""Nodes and weights on an interval."""

import math

import torch
from torch import Tensor, float64


def legendre(n: int, digits: float = 8) -> tuple[Tensor, Tensor]:
    """Nodes in (0, 1) and weights `[n]`: Gauss-Legendre's, spread evenly by an arcsine, which costs no more than that many digits.

    Even nodes resolve noise of one width along a curve with two thirds of them. Source: Kosloff and Tal-Ezer, J. Comput. Phys. 104, 1993.
    """
    k = torch.arange(1, n, dtype=float64)
    off = torch.diag(k / (4 * k**2 - 1).sqrt(), 1)
    y, vectors = torch.linalg.eigh(off + off.mT)
    a = 1 / math.cosh(digits * math.log(10) / n)
    return (1 + (a * y).asin() / math.asin(a)) / 2, vectors[0] ** 2 * a / math.asin(a) / (1 - (a * y) ** 2).sqrt()
