"""The best coefficient as the authors estimate it, eq. (54), of a run at one moment: beside ours in `measure`. Changes nothing of the run.

Settings are theirs: 512 rows of the data at each of five times with a gap of 0.25, 128 Gaussian inputs at t = 0.5, no labels shown.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from meanstep.coefficients import scalar_optimum
from meanstep.keys import key
from meanstep.probes import published
from meanstep.program.runs import networks
from meanstep.program.training.samples import Samples
from meanstep.program.training.train import mirrored

ROWS, INPUTS = 512, 128


def estimators(net: nn.Module, copy: nn.Module | None, samples: Samples) -> dict[str, Any]:
    """The entry "published" of a record, plain numbers; without an EMA copy there is no gap, and so no scalar form."""
    data = rows(samples, len(published.TIMES) * ROWS, net)
    g = key(samples.config.run.seed, "probe", "published")
    parts = data.chunk(len(published.TIMES))
    bridges = [published.at_times(x, _noise(x, g), t) for x, t in zip(parts, published.TIMES, strict=True)]
    kappas = [published.norm_kappa(net, b, generator=g) for b in bridges]
    kappa = math.sqrt(sum(k * k for k in kappas) / len(kappas))
    square = sum(float(b.v.double().square().sum()) for b in bridges) / len(data)
    gap = None if copy is None else published.average_gap(net, copy, data.shape[1:], rows=INPUTS, generator=g, like=data)
    pieces = iter(parts)
    matrix = published.matrix_bound(net, lambda n: next(pieces), rows=ROWS, generator=g)
    scalar = None if gap is None else float(scalar_optimum(kappa, square, gap))
    numbers = {"kappa": kappa, "gap": gap, "square": square, "scalar": scalar, "matrix": matrix}
    found: dict[str, Any] = {name: x if x is not None and math.isfinite(x) else None for name, x in numbers.items()}
    by_t = {"t": list(published.TIMES), "kappa": [k if math.isfinite(k) else None for k in kappas]}
    return found | {"by_t": by_t, "rows": ROWS, "inputs": INPUTS}


def rows(samples: Samples, n: int, net: nn.Module) -> Tensor:
    """Rows of the data as training sees them, on the network's device and in its type."""
    config, cache, g = samples.config, samples.cache, key(samples.config.run.seed, "probe", "rows of the published")
    index, flip = torch.randint(len(cache), (n,), generator=g), torch.rand(n, generator=g) < 0.5
    x, _ = cache.rows(index, flip if mirrored(config, cache) else None)
    return x.to(samples.ranks.device, networks.dtype(net))


def _noise(x: Tensor, g: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=g).to(x)
