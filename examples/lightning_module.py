"""MeanFlow as a LightningModule: the criterion is a submodule, `training_step` is one line.

Shows: loss, optimiser with schedule, an EMA copy after each step, logging of the residual, sampling afterwards.
Needs: pip install meanstep lightning matplotlib. Takes: half a minute of one core; --quick seconds.
"""

import argparse
import tempfile

import lightning
import torch
from matplotlib.figure import Figure

import meanstep as ms


class MeanFlow(lightning.LightningModule):
    def __init__(self, net, rate=2e-3, seed=0):
        super().__init__()
        self.net, self.rate, self.seed = net, rate, seed
        self.loss = ms.Loss(ms.recipes.meanflow(times=ms.times.uniform, diagonal_share=0.5, weight=ms.weights.adaptive(0.5)))
        self.average = ms.Average(net, 0.999)

    def training_step(self, batch, index):
        (x,) = batch
        generator = ms.key(self.seed, "train", self.global_rank, self.global_step)  # noise and times: the same after a restart
        out = self.loss(self.net, x, generator=generator)
        self.log("residual", out.metrics["residual"], prog_bar=True)  # the number to watch
        return out.loss

    def on_train_batch_end(self, outputs, batch, index):
        self.average.update(self.net)

    def configure_optimizers(self):
        optimiser = torch.optim.AdamW([*self.net.parameters(), *self.loss.parameters()], lr=self.rate, weight_decay=0)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def main(argv=None):
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="a few steps only")
    options.add_argument("--out", default="lightning_module.png", help="the picture")
    given = options.parse_args(argv)

    rows = ms.fields.planar.checkerboard().sample(40_000, ms.key(0)).float()
    data = torch.utils.data.TensorDataset(rows)
    loader = torch.utils.data.DataLoader(data, batch_size=256, shuffle=True, drop_last=True, generator=ms.key(0, "order"))
    model = MeanFlow(ms.MLP(2, generator=ms.key(0, "weights")))
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            max_steps=10 if given.quick else 10_000,
            gradient_clip_val=1.0,
            accelerator="auto" if torch.cuda.is_available() else "cpu",
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=not given.quick,
            enable_model_summary=False,
        )
        trainer.fit(model, loader)

    noise = ms.noise(range(4096), (2,))
    made = {f"{n} step{'s'[: n > 1]}": ms.walk(model.average.cpu(), noise, ms.samplers.grid(n)) for n in (1, 4)}
    distance = ms.metrics.Sliced(rows[:4096], ms.metrics.directions(2))
    print({k: round(distance(x), 4) for k, x in made.items()}, f"floor {distance(rows[4096:8192]):.4f}   [sliced W1]")
    figure = Figure((7, 2.4), layout="constrained")
    for axes, (name, x) in zip(figure.subplots(1, 3, sharex=True, sharey=True), (made | {"data": rows}).items(), strict=True):
        axes.scatter(*x[:2000].T, s=1)
        axes.set(title=name, aspect="equal")
    figure.savefig(given.out, dpi=100)


if __name__ == "__main__":
    main()
