"""What a network of a published size holds in memory: values counted, activations measured on a CPU.

    taskset -c 0 python benchmarks/sizes.py                        # counted for all sizes, measured for S/2 and B/2
    taskset -c 0 python benchmarks/sizes.py --json sizes.json --measure S/2 B/2 L/2

Latents are 4 x 32 x 32, 256 tokens, 1000 labels. Activations are the peak of what forward and backward pass of a MeanFlow loss allocate
where weights and gradients are there before, a quarter of the rows with r < t: of 8 rows less that of 4, by 4.
"""

import options
import torch
from memory import peak

from meanstep.fields import DiT
from meanstep.loss import Loss
from meanstep.program.machine import environment
from meanstep.program.runs.networks import parameters
from meanstep.recipes import meanflow

SIZES = ("S/2", "B/2", "L/2", "XL/2")
FORMS = {"float32": (False, False), "bf16": (True, False), "float32, checkpointing": (False, True), "bf16, checkpointing": (True, True)}


def counted(name: str) -> dict[str, float]:
    """Values, and what decides its activations."""
    with torch.device("meta"):
        net = DiT.named(name, classes=1000)
    return {
        "parameters": parameters(net),
        "depth": len(net.blocks),
        "width": net.patches.out_features,
        "tokens": len(net.positions),
    }


def activations(name: str, half: bool, checkpointing: bool) -> float:
    """Bytes a row."""
    torch.manual_seed(0)
    net, loss = DiT.named(name, classes=1000, checkpointing=checkpointing), Loss(meanflow(diagonal_share=0.75), check=False, measure=False)

    def run(rows: int) -> None:
        x, y = torch.randn(rows, 4, 32, 32), torch.zeros(rows, dtype=torch.int64)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            value = loss(net, x, y).loss
        value.backward()

    run(4)
    few, many = (peak(lambda rows=rows: run(rows), False) for rows in (4, 8))
    return (many - few) / 4


def main() -> None:
    parser = options.parser(__doc__)
    parser.add_argument("--measure", nargs="*", choices=SIZES, default=["S/2", "B/2"], help="whose activations (default: S/2 B/2)")
    options.file(parser)
    asked = options.read(parser)
    torch.set_num_threads(1)
    rows = {name: counted(name) for name in SIZES}
    for name, row in rows.items():
        row["activations"] = {form: activations(name, *how) for form, how in FORMS.items()} if name in asked.measure else {}
        found = ", ".join(f"{form} {size / 2**20:.1f}" for form, size in row["activations"].items())
        print(f"{name:5} {row['parameters']:12,} values; activations of a row, MiB: {found or 'not measured'}", flush=True)
    if asked.json:
        options.write(asked.json, {"environment": environment(), "sizes": rows})


if __name__ == "__main__":
    main()
