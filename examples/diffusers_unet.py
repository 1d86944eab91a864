"""A UNet2DModel of diffusers as a one-step generator of digits, with labels.

Shows: `with_gap`, which gives the network its second time without touching it; conditions; the table of steps.
Needs: pip install 'meanstep[digits,latents]' matplotlib. Takes: a minute or two of one core; --quick seconds.
"""

import argparse

import torch
from diffusers import UNet2DModel
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import meanstep as ms
from meanstep.fields import with_gap


def prediction(output):  # a function of the module, not a lambda: so the field can be pickled
    return output.sample


def main(argv=None):
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="a few steps only")
    options.add_argument("--out", default="diffusers_unet.png", help="the picture")
    given = options.parse_args(argv)
    steps, batch, count = (2, 16, 16) if given.quick else (500, 64, 800)

    pictures, labels = load_digits(return_X_y=True)
    x = torch.tensor(pictures, dtype=torch.float32).reshape(-1, 1, 8, 8) / 8 - 1
    y = torch.tensor(labels)
    with torch.random.fork_rng(devices=[]):  # diffusers and with_gap draw weights from the global generator
        torch.manual_seed(0)
        unet = UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=(32, 64),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=16,
            norm_num_groups=8,
            num_class_embeds=10,
        )
        # unet(sample, timestep, class_labels=), with times to 1000, becomes field(z, r, t, y); load your checkpoint into unet before.
        field = with_gap(unet, "time_embedding", order=("z", "t"), names={"class_labels": "y"}, output=prediction, scale=1000)

    loss, average = ms.Loss(ms.recipes.meanflow(diagonal_share=0.5)), ms.Average(field, 0.995)
    optimiser = torch.optim.AdamW(field.parameters(), lr=1e-3, weight_decay=0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    g = ms.key(0, "train")
    for step in range(steps):
        rows = torch.randint(len(x), (batch,), generator=g)
        out = loss(field, x[rows], y[rows], generator=g)
        optimiser.zero_grad()
        out.loss.backward()
        optimiser.step()
        schedule.step()
        average.update(field)
        if step % 100 == 0:
            print(f"step {step}: residual {out.metrics['residual']:.3f}", flush=True)

    order = torch.randperm(len(x), generator=ms.key(0, "halves"))
    data, other = order[:count], order[count : 2 * count]
    noise = ms.noise(range(count), (1, 8, 8))
    made = {n: ms.walk(average, noise, ms.samplers.grid(n), y[data]) for n in (1, 4)}
    data, other = x[data], x[other[:count]]
    distance = ms.metrics.Sliced(data.flatten(1), ms.metrics.directions(64, generator=ms.key(0, "directions")))
    print(
        {f"{n} steps": round(distance(z.flatten(1)), 4) for n, z in made.items()}, f"floor {distance(other.flatten(1)):.4f}   [sliced W1]"
    )
    labelled = ms.jump(average, ms.noise(range(80), (1, 8, 8)), torch.arange(80) % 10)
    figure = Figure((5, 4.2), layout="constrained")
    axes = figure.subplots()
    tiles = torch.nn.functional.pad(labelled, (1, 1, 1, 1)).reshape(8, 10, 10, 10).transpose(1, 2).reshape(80, 100)
    axes.imshow(tiles.numpy(), cmap="gray", vmin=-1, vmax=1)
    axes.set(title="one step each, a column a label", xticks=[], yticks=[])
    figure.savefig(given.out, dpi=100)


if __name__ == "__main__":
    main()
