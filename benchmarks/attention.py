"""Time, rate and memory of attention with a tangent, against fused attention without one and against forward mode through plain attention.

    python benchmarks/attention.py                           # a table
    python benchmarks/attention.py --json attention.json     # and the numbers
    python benchmarks/attention.py --device cuda --json attention.json --plot attention.png

`fused` is the forward pass of `F.scaled_dot_product_attention`, two products of N x N x D; `tangent` is `attention_with_tangent`, six;
`plain` is `torch.func.jvp` through math attention, six too; `published` is the kernel of the package jvp_flash_attention, where it is
installed, there is a CUDA device and it has the head size. On a GPU `fused` is FlashAttention in bfloat16, which has no float32. All run
in turn, round after round, in one process (on a CPU: on one thread); a figure is the median over the rounds. A rate counts the products
only. On a GPU the device's clock counts its waits: at short lengths a figure is the time to launch a call, not a rate. Memory is the
peak above the inputs, results included.
"""

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import options
import torch
import torch.nn.functional as F
from memory import peak
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from meanstep.attention import attention_with_tangent
from meanstep.program.errors import first_line
from meanstep.program.machine import environment

TOKENS = 8192  # queries of a call, over all samples and heads, where the length allows
PRODUCTS = {"fused": 2, "tangent": 6, "plain": 6, "published": 6}


def variants(inputs: list[Tensor]) -> dict[str, Callable[[], Any]]:
    def plain() -> Any:
        return torch.func.jvp(F.scaled_dot_product_attention, tuple(inputs[:3]), tuple(inputs[3:]))

    def published() -> Any:  # it reads the tangents of dual numbers, which torch.func hides from it
        with forward_ad.dual_level():
            out = kernel(*(forward_ad.make_dual(x, dx) for x, dx in zip(inputs[:3], inputs[3:], strict=True)))
            return forward_ad.unpack_dual(out)

    kernel = published_kernel() if inputs[0].is_cuda else None
    return {
        "fused": lambda: F.scaled_dot_product_attention(*inputs[:3]),
        "tangent": lambda: attention_with_tangent(*inputs),
        "plain": plain,
        **({"published": published} if kernel else {}),
    }


def backend(name: str, x: Tensor) -> contextlib.AbstractContextManager[None]:
    """What a variant runs in: entered once a turn, since that takes longer than a short kernel."""
    if name == "plain":
        return sdpa_kernel(SDPBackend.MATH)
    flash = name == "fused" and x.is_cuda and x.dtype == torch.bfloat16
    return sdpa_kernel(SDPBackend.FLASH_ATTENTION) if flash else contextlib.nullcontext()


def published_kernel() -> Callable[..., Tensor] | None:
    try:
        from jvp_flash_attention.jvp_attention import JVPAttn
    except ImportError:
        return None
    return JVPAttn.fwd_dual


def seconds(run: Callable[[], Any], times: int, cuda: bool) -> float:
    """Of one call: process time, or the device's clock, which runs too while the device waits for a launch."""
    if not cuda:
        start = time.process_time()
        for _ in range(times):
            run()
        return (time.process_time() - start) / times
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    for _ in range(times):
        run()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) / times / 1000


@torch.no_grad()
def measure(length: int, head: int, dtype: torch.dtype, device: str, rounds: int, budget: float) -> dict[str, dict[str, float]]:
    cuda, n_heads = device == "cuda", max(1, TOKENS // length)
    inputs = [torch.randn(1, n_heads, length, head, dtype=dtype, device=device) for _ in range(6)]
    runs, times = variants(inputs), {}

    def turn(name: str, n: int) -> float:
        with backend(name, inputs[0]):
            return seconds(runs[name], n, cuda)

    for name in list(runs):
        try:
            turn(name, 1)
        except Exception as error:
            if name != "published":  # a stranger's kernel may lack this size: the others are measured
                raise
            print(f"head {head}, length {length}: published is left out, {first_line(error)}", flush=True)
            del runs[name]
            continue
        times[name] = max(1, round(budget / max(turn(name, 1), 1e-6)))
    found = {name: [] for name in runs}
    for _ in range(rounds):
        for name in runs:
            found[name].append(turn(name, times[name]))
    pairs = n_heads * length * length
    own = {name: 2 * pairs * head * PRODUCTS[name] / statistics.median(found[name]) for name in runs}
    relative = {name: statistics.median(a / b for a, b in zip(found[name], found["fused"], strict=True)) for name in runs}
    peaks = {}
    for name, run in runs.items():
        with backend(name, inputs[0]):
            peaks[name] = peak(run, cuda)
    return {
        name: {
            "milliseconds": 1e3 * statistics.median(found[name]),
            "operations_per_second": own[name],
            "of_fused_rate": PRODUCTS[name] / PRODUCTS["fused"] / relative[name],
            "peak_bytes": peaks[name],
        }
        for name in runs
    }


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Rate against length, a panel for each head size and dtype."""
    from matplotlib.figure import Figure

    kinds = sorted({(row["head"], row["dtype"]) for row in rows})
    figure = Figure(figsize=(4 * len(kinds), 3.2), layout="constrained")
    for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0], kinds, strict=True):
        chosen = [row for row in rows if (row["head"], row["dtype"]) == kind]
        for name in chosen[0]["variants"]:
            rates = [row["variants"][name]["operations_per_second"] / 1e9 for row in chosen]
            axes.plot([row["length"] for row in chosen], rates, marker="o", label=name)
        axes.set(title=f"head size {kind[0]}, {kind[1]}", xlabel="length", xscale="log", yscale="log")
    figure.axes[0].set_ylabel("10⁹ operations a second")
    figure.axes[0].legend()
    figure.savefig(path, dpi=150)


def arguments() -> argparse.Namespace:
    parser = options.parser(__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cuda adds bfloat16 (default: cpu)")
    parser.add_argument("--lengths", type=int, nargs="+", help="of a sequence (default: 64 256 1024; on cuda 4096 too)")
    parser.add_argument("--heads", type=int, nargs="+", default=[64, 72], help="head sizes (default: 64 72)")
    options.rounds(parser, 9)
    parser.add_argument("--seconds", type=float, default=0.2, help="length of one variant's turn (default: 0.2)")
    options.file(parser)
    parser.add_argument("--plot", type=Path, help="draw the rates here, a PNG")
    asked = options.read(parser, "rounds")
    if asked.plot and not asked.plot.parent.is_dir():
        parser.error(f"--plot: the folder {asked.plot.parent} does not exist")
    if asked.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is no CUDA device here")
    asked.lengths = asked.lengths or [64, 256, 1024, *([4096] if asked.device == "cuda" else [])]
    if min(*asked.lengths, *asked.heads) < 1:
        parser.error("--lengths and --heads are at least 1")
    return asked


def main() -> None:
    asked = arguments()
    torch.set_num_threads(1)
    machine, rows = environment(asked.device), []
    where = machine["device"] if asked.device == "cuda" else f"{machine['processor']}, one thread"
    print(f"{where}, torch {machine['torch']}, medians of {asked.rounds} rounds\n")
    print(f"{'':42} {'ms':>9} {'Gop/s':>8} {'of the fused rate':>18} {'peak MiB':>9}")
    dtypes = [torch.bfloat16, torch.float32] if asked.device == "cuda" else [torch.float32]
    for dtype, head, length in [(t, d, n) for t in dtypes for d in asked.heads for n in asked.lengths]:
        found = measure(length, head, dtype, asked.device, asked.rounds, asked.seconds)
        rows.append({"length": length, "head": head, "dtype": str(dtype).removeprefix("torch."), "variants": found})
        for name, row in found.items():
            label = f"{rows[-1]['dtype']}, head {head}, length {length}: {name}"
            speed, size = row["operations_per_second"] / 1e9, row["peak_bytes"] / 2**20
            print(f"{label:42} {row['milliseconds']:9.3f} {speed:8.0f} {row['of_fused_rate']:18.2f} {size:9.1f}", flush=True)
        if asked.json:  # after each size: what is measured stays if the next one is cut off
            options.write(asked.json, {"environment": machine, "sizes": rows})
    if asked.plot:
        plot(rows, asked.plot)


if __name__ == "__main__":
    main()
