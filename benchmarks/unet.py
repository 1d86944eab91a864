"""What a MeanFlow step costs on a U-Net of diffusers, as a ratio to a flow-matching step of the same network and batch in the same run.

    python benchmarks/unet.py                                             # one CPU thread: widths 64 and 128, 16 x 16, batch 32
    python benchmarks/unet.py --json benchmarks/records/unet.json

The network is `UNet2DModel` with attention at 8 x 8, given the gap in place of a label; a quarter of the rows has r < t. Rounds, ratio,
memory and floor are those of benchmarks/step.py. `by forward mode` is what it costs a network whose tangents cannot be carried.
"""

import math
from typing import Any

import options
import torch
from step import EAGER, Bench, Case, measure, report
from torch import Tensor, nn

from meanstep.program.machine import environment

VARIANTS = ("flow matching", "meanflow", "meanflow, by forward mode")


class Timed(nn.Module):
    """A `UNet2DModel` as a field: it takes the gap in place of a label."""

    channels, grid, positions = 4, (16, 16), range(256)

    def __init__(self) -> None:
        super().__init__()
        from diffusers import UNet2DModel

        self.net = UNet2DModel(
            sample_size=16, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(64, 128), norm_num_groups=8,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"), class_embed_type="timestep",
        )  # fmt: skip

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        """The average velocity `[B, 4, 16, 16]`."""
        out: Tensor = self.net(z, 1000 * t, class_labels=1000 * (t - r)).sample
        return out


def main() -> None:
    parser = options.parser(__doc__)
    options.rounds(parser, 15)
    parser.add_argument("--seconds", type=float, default=math.inf, help="then no round begins (default: no limit)")
    parser.add_argument("--batch", type=int, default=32, help="rows of a step (default: 32)")
    options.file(parser, "write the numbers to this file")
    asked = options.read(parser, "rounds", "batch")
    try:
        bench = Bench(Case(Timed, asked.batch), torch.device("cpu"), autocast=False)
    except ImportError:
        parser.error("this needs diffusers: pip install diffusers")
    torch.set_num_threads(1)
    machine, title = environment(), f"UNet2DModel: widths 64 and 128, 16 x 16, batch {asked.batch}, eager"
    run = measure(bench, {name: EAGER[name] for name in VARIANTS}, "eager", asked.rounds, asked.seconds)
    report(title, run["rows"])
    if asked.json:
        record = {"environment": machine, "place": f"{machine['processor']}, 1 thread(s)", "runs": {title: run}}
        options.write(asked.json, record)


if __name__ == "__main__":
    main()
