"""What losses beside the regression cost, as a ratio to a plain MeanFlow step in the same rounds.

    python benchmarks/auxiliary.py                              # one CPU thread: DiT 6 x 256, 64 tokens, batch 32

Steps, times and memory are those of `step.py`: all variants take a step in each round, one after the other, and the ratio is the median
over the rounds of the ratio within a round. The feature network is a small convolutional one that returns 64 tokens of 128 features; its
own forward pass of the batch is timed in the same rounds. Perceptual: its squared distance on the predicted data, below t = 0.8 as
published, and on all rows: a row above the time is computed and not counted. Alignment: 1 - cosine of a middle block's projected tokens
and the features of the data. A loss of one's own: the mean absolute error of the predicted data, with no network.
"""

import statistics
import time
from collections.abc import Callable

import options
import torch
from step import CASES, Bench, Variant, flow_matching, measure, ours, report
from torch import Tensor, nn

import meanstep as ms
from meanstep import auxiliary, terms
from meanstep.auxiliary import Auxiliary
from meanstep.program.machine import environment
from meanstep.recipes import meanflow

FEATURES = 128
PLAIN = "meanflow"


class Encoder(nn.Module):
    """Features `[B, tokens, 128]` of pictures: three convolutions, the second of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 64, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(64, FEATURES, 3, 2, 1),
            nn.SiLU(),
            nn.Conv2d(FEATURES, FEATURES, 3, 1, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).flatten(2).mT


def beside(part: Callable[[nn.Module], Auxiliary]) -> Callable[[nn.Module, nn.Module], Callable[[Tensor], Tensor]]:
    """MeanFlow with an auxiliary loss that is made for the network."""

    def make(net: nn.Module, ema: nn.Module) -> Callable[[Tensor], Tensor]:
        loss = ms.Loss(terms.beside(meanflow(), part(net)), check=False, measure=False)
        return lambda x: loss(net, x, progress=0.5).loss

    return make


def variants(encoder: nn.Module) -> dict[str, Variant]:
    """The floors count the field's passes alone, to which an auxiliary loss adds none."""
    distance = auxiliary.distance_of(encoder)

    def aligned(net: nn.Module) -> Auxiliary:
        block = net.blocks[(len(net.blocks) - 1) // 2]
        return auxiliary.aligned(block, encoder, nn.Linear(block.up.in_features, FEATURES))

    def own(net: nn.Module) -> Auxiliary:
        return Auxiliary(lambda look: (look.data - look.bridge.data).abs().flatten(1).mean(1), 0.1, before=0.8)

    return {
        "flow matching": Variant(flow_matching, 0),
        PLAIN: Variant(ours(lambda ema: meanflow()), 0.25),
        "perceptual, t < 0.8": Variant(beside(lambda net: auxiliary.perceptual(distance)), 0.25),
        "perceptual, all t": Variant(beside(lambda net: auxiliary.perceptual(distance, before=1.0)), 0.25),
        "feature alignment": Variant(beside(aligned), 0.25),
        "a loss of one's own": Variant(beside(own), 0.25),
    }


def forward(encoder: nn.Module, x: Tensor, rounds: int) -> float:
    """Median processor seconds of the feature network's forward pass without gradient."""
    found = []
    with torch.no_grad():
        for _ in range(rounds + 2):
            start = time.process_time()
            encoder(x)
            found.append(time.process_time() - start)
    return statistics.median(found[2:])


def main() -> None:
    parser = options.parser(__doc__)
    parser.add_argument("--network", choices=list(CASES), default="small", help="which network (default: small)")
    options.rounds(parser, 15)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="then no round begins (default: no limit)")
    options.file(parser, "write the numbers there")
    asked = options.read(parser, "rounds")
    torch.set_num_threads(1)
    bench = Bench(CASES[asked.network], torch.device("cpu"), autocast=False)
    encoder = Encoder(bench.net.channels).requires_grad_(False)
    table = variants(encoder)
    found = measure(bench, table, "eager", asked.rounds, asked.seconds, [(name, PLAIN) for name in table if name != "flow matching"])
    found["features"] = {"seconds": forward(encoder, bench.x, asked.rounds), "parameters": sum(p.numel() for p in encoder.parameters())}
    report(f"{asked.network}, the feature network's forward pass {1e3 * found['features']['seconds']:.1f} ms", found["rows"])
    print(*(f"{pair:44} {ratio:.3f}" for pair, ratio in found["pairs"].items()), sep="\n")
    if asked.json:
        machine = environment()
        title = f"{asked.network}: {len(bench.net.positions)} tokens, batch {bench.case.batch}, eager"
        record = {"environment": machine, "place": f"{machine['processor']}, 1 thread(s)", "runs": {title: found}}
        options.write(asked.json, record)


if __name__ == "__main__":
    main()
