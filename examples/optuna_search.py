"""A search for learning rate and width by Optuna, where hopeless trainings are stopped early.

Shows: the callback of `ms.train`, which reports each evaluation and prunes by raising; every trial leaves a run's folder.
Needs: pip install 'meanstep[report]' optuna. Takes: a minute of one core; --quick seconds.
"""

import argparse
import tempfile
from pathlib import Path

import optuna
from matplotlib.figure import Figure

import meanstep as ms


def main(argv=None):
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="two tiny trials only")
    options.add_argument("--out", default="optuna_search.png", help="the picture")
    options.add_argument("--runs", help="where the trials' runs are kept; a temporary folder by default")
    given = options.parse_args(argv)
    trials, samples = (2, 1280) if given.quick else (8, 200_000)
    rows = ms.fields.planar.two_moons().sample(256 if given.quick else 20_000, ms.key(0)).float()

    def objective(trial: optuna.Trial) -> float:
        def report(moment: ms.Moment) -> None:
            if moment.kind == "evaluation":
                trial.report(moment.metrics["distance/1"], moment.seen)
                if trial.should_prune():
                    raise optuna.TrialPruned  # the run is saved first: ms.train(out=...) could go on with it

        run = ms.train(
            data=rows,
            net="mlp",
            network_width=trial.suggest_categorical("width", [16, 32] if given.quick else [64, 128, 256]),
            rate=trial.suggest_float("rate", 1e-4, 3e-2, log=True),
            out=Path(runs, f"trial-{trial.number}"),
            samples=samples,
            batch=64 if given.quick else 128,
            evaluate_every=samples // 4,
            evaluate_count=len(rows) // 8,
            callback=report,
            progress=False,
        )
        return min(record["steps"]["1"] for record in run.records if record["kind"] == "evaluation")

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler, pruner = optuna.samplers.TPESampler(seed=0), optuna.pruners.MedianPruner(n_startup_trials=2)
    study = optuna.create_study(sampler=sampler, pruner=pruner)
    with tempfile.TemporaryDirectory() as folder:
        runs = given.runs or folder
        study.optimize(objective, n_trials=trials)

    figure = Figure((6, 3.2), layout="constrained")
    axes = figure.subplots()
    for trial in study.trials:
        pruned, seen = trial.state == optuna.trial.TrialState.PRUNED, trial.intermediate_values
        print(f"{trial.number}: {trial.params}, {'pruned at' if pruned else 'finished,'} {max(seen):,} samples: {min(seen.values()):.4f}")
        label = f"rate {trial.params['rate']:.1e}, width {trial.params['width']}{' (best)' if trial == study.best_trial else ''}"
        axes.plot([n / 1000 for n in seen], list(seen.values()), "x--" if pruned else "o-", ms=3, lw=0.8, label=label)
    print(f"best: {study.best_params}, sliced W1 of one step {study.best_value:.4f}")
    axes.set(xlabel="thousand samples seen", ylabel="sliced W1, one step", title="crosses: stopped early")
    figure.legend(loc="outside right", fontsize=6)
    figure.savefig(given.out, dpi=100)


if __name__ == "__main__":
    main()
