"""MeanFlow in a loop of Hugging Face accelerate: one process or many, mixed precision, gradient accumulation as ever.

Shows: the module that owns network and loss, which is what accelerate wraps; an EMA copy; samples on the first process.
Needs: pip install meanstep accelerate matplotlib. Takes: half a minute of one core; --quick seconds.
Many processes: accelerate launch --num_processes 2 --cpu accelerate_loop.py
"""

import argparse

import torch
from accelerate import Accelerator
from matplotlib.figure import Figure
from torch import nn

import meanstep as ms


class Training(nn.Module):
    """DDP works on modules whose forward returns the loss: so the network is called inside, and derivatives never meet the wrapper."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.loss = ms.Loss(ms.recipes.meanflow(times=ms.times.uniform, diagonal_share=0.5, weight=ms.weights.constant))

    def forward(self, x, generator):
        return self.loss(self.net, x, generator=generator).loss


def main(argv=None):
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="a few steps only")
    options.add_argument("--out", default="accelerate_loop.png", help="the picture")
    given = options.parse_args(argv)
    steps = 10 if given.quick else 4000

    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    rows = ms.fields.planar.two_moons().sample(40_000, ms.key(0)).float()
    order = torch.utils.data.RandomSampler(rows, replacement=True, num_samples=256 * steps, generator=ms.key(0, "order"))
    loader = torch.utils.data.DataLoader(rows, batch_size=256 // accelerator.num_processes, sampler=order)
    model = Training(ms.MLP(2, generator=ms.key(0, "weights")))
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps * accelerator.num_processes)
    model, optimiser, loader, schedule = accelerator.prepare(model, optimiser, loader, schedule)
    average = ms.Average(accelerator.unwrap_model(model).net, 0.999)

    generator = ms.key(0, "train", accelerator.process_index)  # another stream for each process
    for step, x in enumerate(loader):
        with accelerator.accumulate(model):
            loss = model(x, generator)
            accelerator.backward(loss)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
        average.update(accelerator.unwrap_model(model).net)
        if step % 1000 == 0:
            accelerator.print(f"step {step}: loss {loss:.3f}")

    if accelerator.is_main_process:
        noise = ms.noise(range(4096), (2,), device=accelerator.device)
        made = {f"{n} step{'s'[: n > 1]}": ms.walk(average, noise, ms.samplers.grid(n)).cpu() for n in (1, 4)}
        distance = ms.metrics.Sliced(rows[:4096], ms.metrics.directions(2))
        print({k: round(distance(x), 4) for k, x in made.items()}, f"floor {distance(rows[4096:8192]):.4f}   [sliced W1]")
        figure = Figure((7, 2.4), layout="constrained")
        for axes, (name, x) in zip(figure.subplots(1, 3, sharex=True, sharey=True), (made | {"data": rows}).items(), strict=True):
            axes.scatter(*x[:2000].T, s=1)
            axes.set(title=name, aspect="equal")
        figure.savefig(given.out, dpi=100)
    accelerator.end_training()


if __name__ == "__main__":
    main()
