"""The tutorial: from points to a one-step sampler. `marimo edit docs/tutorial.py` opens it; `make tutorial` writes its page."""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium")


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    # Tutorial: one step from noise to data

    This page trains three small networks on points in the plane, in about three minutes on two cores. It shows what flow matching
    learns, what MeanFlow adds, why the variance of its target matters, what the coefficient changes, and how `meanstep diagnose` looks
    at it. [Theory](theory.md) has the equations; the numbers in brackets are theirs.
    """)


@app.cell
def _():
    import marimo as mo
    import matplotlib.pyplot as plt
    import torch

    import meanstep as ms
    from meanstep.fields.planar import two_moons
    from meanstep.metrics import directions, sliced_wasserstein

    return directions, mo, ms, plt, sliced_wasserstein, torch, two_moons


@app.cell
def _():
    steps = 4000  # of each training
    rows = 256  # of one step
    count = 2000  # samples that are looked at
    probed = 8000  # rows on which the noise is measured
    budget = "15s"  # of diagnose
    return budget, count, probed, rows, steps


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    ## Data, noise and the way between

    The data are two moons. A row of training takes a point `x`, noise `e` and a time `t`, and stands at `z = (1 - t) x + t e` (1). Its
    velocity is `v = e - x` (2). This distribution is special in one way: its mean velocity at every point is known in closed form, so
    errors can be measured instead of guessed.
    """)


@app.cell
def _(count, ms, plt, torch, two_moons):
    law = two_moons(torch.float32)
    data, noise = law.sample(count, ms.key(0)), ms.noise(range(count), (2,))

    def scatter(*panels):
        """A panel for each pair of a title and points."""
        figure, axes = plt.subplots(1, len(panels), figsize=(3.2 * len(panels), 3.2), sharex=True, sharey=True, layout="constrained")
        for axis, (title, points) in zip(axes, panels, strict=True):
            axis.scatter(*points.T, s=2, alpha=0.5, linewidths=0)
            axis.set(title=title, xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
        return figure

    scatter(*((f"t = {t:g}", (1 - t) * data + t * noise) for t in (0, 0.3, 0.6, 1)))
    return data, law, noise, scatter


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    ## Flow matching: many steps

    A network cannot know `x` and `e`; it sees `z` and `t`. Trained on `v`, it learns the mean of all velocities that pass through `z`
    at time `t` (3). Samples follow this velocity from `t = 1` to `t = 0`. In 32 steps the moons appear, blurred. In one step they
    cannot: from noise, the mean velocity leads to the mean of the data.
    """)


@app.cell
def _(law, ms, rows, steps, torch):
    def trained(recipe, ema=None, seed=0):
        """A network trained with the recipe that is made of its EMA copy, this copy, and the residual of every step."""
        net, g, residuals = ms.MLP(2, generator=ms.key(seed, "weights")), ms.key(seed, "rows"), []
        average = ms.Average(net, 0.99)
        loss = ms.Loss(recipe(average))
        optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for _ in range(steps):
            out = loss(net, law.sample(rows, g), generator=g)
            optimiser.zero_grad()
            out.loss.backward()
            optimiser.step()
            schedule.step()
            average.update(net)
            residuals.append(float(out.metrics["residual"]))
        return net, average, residuals

    flow, _, _ = trained(lambda average: ms.recipes.flow_matching(times=ms.times.uniform))
    return flow, trained


@app.cell
def _(flow, ms, noise, scatter):
    many = ms.samplers.heun(flow, noise, ms.samplers.grid(32))
    one = ms.samplers.euler(flow, noise, (1.0, 0.0))
    scatter(("noise", noise), ("flow matching, 32 steps", many), ("flow matching, 1 step", one))
    return many, one


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    ## MeanFlow: one step

    MeanFlow learns the *average* velocity `u(z, r, t)` between two times (4). One evaluation is then a sample: `x = e - u(e, 0, 1)`
    (6). The average obeys an identity that needs no simulation (7): `u + (t - r) du/dt = v`. The derivative runs along the flow, so it
    is itself computed with a velocity: a Jacobian-vector product of the network with a *tangent* (10). MeanFlow takes `v` for that,
    too.
    """)


@app.cell
def _(ms, trained):
    common = dict(times=ms.times.uniform, diagonal_share=0.5, weight=ms.weights.constant)
    mean, mean_average, mean_residuals = trained(lambda average: ms.recipes.meanflow(**common))
    return common, mean, mean_average, mean_residuals


@app.cell
def _(data, mean, ms, noise, scatter):
    jumped = ms.jump(mean, noise)
    scatter(("data", data), ("MeanFlow, 1 step", jumped), ("MeanFlow, 4 steps", ms.walk(mean, noise, ms.samplers.grid(4))))
    return (jumped,)


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    How near are these samples? The sliced Wasserstein distance (38) compares them with fresh data. Read it beside its floor, the
    distance of two fresh sets of data: nothing can be nearer on average.
    """)


@app.cell
def _(count, data, directions, jumped, law, many, ms, one, sliced_wasserstein):
    along = directions(2)
    fresh = law.sample(count, ms.key(1))

    def distances(**samples):
        """A line for each set of samples."""
        return "\n".join(f"{name:22s} {sliced_wasserstein(x, fresh, along):.3f}" for name, x in samples.items())

    print(distances(floor=data, flow_matching_32=many, flow_matching_1=one, meanflow_1=jumped))
    return along, distances, fresh


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    ## Why the variance of the target matters

    The loss regresses on `v`, one velocity out of many. Left: velocities of training rows that stand near one point at one time. They
    scatter widely about their mean. Flow matching pays for the scatter with slower learning. MeanFlow pays twice, because the same `v`
    is also the tangent inside the derivative: the noise of a row's residual is `N v'` with `N = (1 - beta) J - beta I` (17), where `v'`
    is the scatter, `J` a Jacobian of the network, and `beta` = 0 is MeanFlow. Right: the residuals of MeanFlow, which fall to this
    noise and stay there.
    """)


@app.cell
def _(law, mean_residuals, ms, noise, plt, torch):
    t = 0.6
    many_rows = law.sample(40_000, ms.key(2)), ms.noise(range(40_000), (2,), 2)
    z, v = (1 - t) * many_rows[0] + t * many_rows[1], many_rows[1] - many_rows[0]
    place = torch.tensor([0.1, 0.3])
    near = ((z - place).norm(dim=1) < 0.1).nonzero().flatten()[:60]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    left.quiver(*place.expand(len(near), 2).T, *v[near].T, angles="xy", scale_units="xy", scale=1, width=0.003, alpha=0.35)
    left.quiver(*place, *law.velocity(place[None], torch.tensor([t]))[0], angles="xy", scale_units="xy", scale=1, color="C1", width=0.012)
    left.set(title=f"velocities near one point at t = {t:g}, and their mean", xlim=(-4, 4), ylim=(-3, 3), aspect="equal")
    window = max(1, len(mean_residuals) // 40)
    smooth = torch.tensor(mean_residuals).unfold(0, window, window).mean(1)
    right.plot(torch.arange(len(smooth)) * window, smooth)
    right.set(title="MeanFlow: mean squared residual", xlabel="step", ylim=(0, None))
    figure


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    ## What the coefficient does

    A *proxy* for the mean velocity can stand in the tangent: here an EMA copy of the network. The coefficient `beta` is its share. How
    much noise would each `beta` leave in the trained MeanFlow network? `meanstep.probes` measures it on drawn rows, with the exact mean
    velocity of the law as the center; the band is the 95 percent interval.
    """)


@app.cell
def _(common, law, mean, mean_average, ms, plt, probed):
    drawn = ms.Loss(ms.recipes.meanflow(**common)).draw(law.sample(probed, ms.key(3)), generator=ms.key(4))
    bridge = next(b for _, b in drawn if (b.t > b.r).any())
    table = ms.probes.moments(mean, bridge, ms.velocities.oracle(law.velocity), ms.velocities.of(mean_average))
    curve = ms.probes.curve(table)
    low, high = curve.noise.interval()
    noise_figure, axis = plt.subplots(figsize=(5, 3.2), layout="constrained")
    axis.plot(curve.betas, curve.noise.value, marker="o")
    axis.fill_between(curve.betas, low, high, alpha=0.25)
    axis.set(xlabel="beta", ylabel="noise of the residual / noise of v", ylim=(0, None))
    noise_figure
    return (table,)


@app.cell
def _(ms, table):
    least = ms.probes.matrix(table).clipped()
    print(f"beta of least noise: {least.value:.2f}, 95 percent interval {least.low:.2f} to {least.high:.2f}")


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    Does a quieter residual make better samples? Train with `beta = 1` and look. One training of each decides nothing; the [study of six
    such sets](../studies/plane/README.md) with five seeds found gradients 1.15 to 1.28 times quieter, and samples no nearer.
    """)


@app.cell
def _(common, distances, jumped, ms, noise, scatter, trained):
    quiet, _, _ = trained(lambda average: ms.recipes.coefficient(1.0, average, anchor=0.0, **common))
    quiet_jumped = ms.jump(quiet, noise)
    print(distances(meanflow_1=jumped, beta_1=quiet_jumped))
    scatter(("beta = 0", jumped), ("beta = 1", quiet_jumped))


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    ## A look at diagnose

    Your data have no closed form. `meanstep diagnose` makes the same measurements on any network and data, names what is wrong, and
    writes a page. It takes the network's factory, the weights, a second copy as the proxy, and rows of the data.
    """)


@app.cell
def _(budget, law, mean, mean_average, ms):
    import os
    import subprocess
    import sys
    import tempfile

    import numpy as np
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/moons.npy", law.sample(4096, ms.key(5)).numpy())
        save_file(mean.state_dict(), f"{folder}/net.safetensors")
        save_file(mean_average.module.state_dict(), f"{folder}/ema.safetensors")
        words = "diagnose meanstep:MLP --data moons.npy --weights net.safetensors --average ema.safetensors --times uniform"
        words += f" --power 0 --diagonal-share 0.5 --budget {budget}"
        asked = [sys.executable, "-m", "meanstep", *words.split(), "--options", "{dim: 2}"]
        said = subprocess.run(asked, cwd=folder, env=os.environ | {"COLUMNS": "110"}, capture_output=True, text=True, check=True).stdout
    print(said.partition("clear: ")[0])  # the first lines: what it read, and what it found


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    ## From here

    - Your own network and data in ten minutes: [start here](start.md).
    - Which method, and when: [choosing a recipe](choosing.md).
    - What the page of diagnose says: [diagnose](diagnose.md).
    """)


if __name__ == "__main__":
    app.run()
