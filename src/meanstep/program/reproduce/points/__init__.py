"""Coefficient sweeps on data in the plane and on mixtures.

sweep.json      {"study": "toy" or "mixtures", "settings", "lines": [{arm, beta, id}]}
records.jsonl   in any order:

{"kind": "set", "set", "dim", "regions", "floor": {"sw1": [..], "energy": [..], "coverage": [..]}, "law": MAP or null, "seconds"}
    floor: fresh data against fresh data, one value a replicate, with the same number of samples as the models
    "noise": {"sw1": [..]}: the noise that samples are made of against fresh data, likewise; older records have none
{"kind": "model", "set", "seed", "id", "spec": {..}, "steps", "seconds" (training), "measuring" (seconds),
 "compiled": whether its step was one compiled function; older records have none, and were not
 "variance": mean over the second half of training of Tr Cov of a batch's gradient, by replicates, eq. (14); the authors' protocol only
 "raw": SCORES (one jump only), "ema": SCORES,      raw weights and EMA weights
 "curve": {"step": [..], "sw1": [..], "sw1_raw": [..], "residual": [..], "residual_gap": [..]},
    residual: mean squared residual an entry since the point before, over all rows but the anchors; residual_gap: over those with r < t
 "probe": null (reference recipes) or {
    "rows": ..,                                     the number of fresh rows with r < t, the same for all models of a set and seed
    "betas": [..],                                  the tangent (1 - beta) v + beta EMA, target v, on these frozen raw weights
    "trace": [..], "trace_se": [..],                Tr Cov of one row's gradient of the squared residual, eq. (14)
    "weighted": [..],                               the same under the adaptive weight that trains
    "noise": [..],                                  the part of `trace` given (z, r, t): 4 E|G^T N v'|^2
    "error": [..],                                  M(beta): mean squared residual noise plus squared bias, over E|v'|^2
    "proxies": {"ema", "own", "posterior", "oracle", and each with "-both"}: trace at beta = 1, in the tangent or in both roles
    "bias": {proxy: E|w - v|^2 over E|v'|^2},       mean squared error; a network's is all bias, the posterior's also noise
    "map": MAP,
    "optimum": {"norm", "signed", "matrix", "matrix_biased"}   predicted: eq. (19) with |kappa|, (19b), (20) with b = 0, (20)
 }}
SCORES: {"sw1": {"1": .., "2": .., "4": ..}, "sw2": likewise, "energy": .., "coverage": ..}   by steps of the sampler: also the fewest
    jumps within a cap, and flow matching "64" (Euler); sw2 is not in older records
MAP: {"edges": [..], "a": [[..]], "b": [[..]], "c": [[..]], "s": [[..]], "rows"}   [bin of t][bin of r], null where there is no row:
    a = E|J v'|^2, b = E<J v', (J + I) v'>, c = E|(J + I) v'|^2, s = E|v'|^2, so the noise at beta is (a - 2 beta b + beta^2 c) / s

samples/SET-SEED.npz   for the first seed: float16 arrays [n, D], "data" and one for each model id (EMA weights, one step)
state/SET-SEED.*       of a job that is not finished: weights and moments, and the models that it has measured
"""

from meanstep.program.reproduce.study import Kind

KIND = Kind(
    __name__,
    commands=(
        ("toy", "The paper's coefficient sweep on data in the plane.", "Toy"),
        ("mixtures", "The same sweep on Gaussian mixtures of growing dimension.", "Mixtures"),
    ),
    studies=("toy", "mixtures"),
    file="sweep.json",
    needs={"set": ("set", "dim", "floor", "law"), "model": ("set", "seed", "id", "raw", "ema", "curve", "probe")},
    own={"state": ("*.safetensors", "*.jsonl"), "samples": ("*.npz",)},
    flags={"steps": "--updates", "lr": "--rate", "digest": "--points of digest"}
    | {"ensemble": "--device cuda", "samples": "--scale", "directions": "--scale", "probe": "--scale", "ema_decay": "--scale"},
    place=0,
)
