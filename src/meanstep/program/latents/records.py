"""A study's folder: what was asked, what was found. Knows no networks.

study.json      what the study is made of, written once; a folder belongs to one study:
    {"study": "latents", "version": 1, "settings": {...}, "config": {...}, "data": {"name", "rows", "shape": [..], "classes": N},
     "extractor", "floor": {"1": distance of one half of the data to the other}, "seeds": [..], "moments": [..],
     "arms": [{"name", "about", "family": "constant" | "anchored" | "schedule" | "recipe", "beta": B or null, "recipe", "options": {...},
               "samples": to see in all, "compute": {"forwards", "backwards", "tangents"}}, ...]}
    moments: samples seen at which all arms are measured; an arm with more samples goes on at the same spacing, so that it can be compared
    at equal compute. compute: rows passed through a network for one row of training: without and with gradient, and tangents; a pass forward is
    1, a pass backward 2, a tangent 1.
env.json        commit, versions, machine
runs/ARM-SEED/  a run of `meanstep train`, and measures.jsonl: one object a moment, as below
records.jsonl   all of them, made anew by the report from runs/ where that is there
samples/ARM-SEED.png   a grid of one-step samples (EMA weights) of the same noise and labels for every arm, at the last matched moment
report.html, summary.csv, figures/*.png   made of study.json, env.json, records.jsonl and samples/ alone

A record: {"kind": "moment", "arm", "seed", "seen", "beta": mean coefficient on rows r < t now, or null,
 "seconds": processor seconds of the process spent training so far, "measuring": seconds spent on this moment,
 "distance": {"raw": {"1": .., "2": .., "4": ..}, "ema": {...}},     by steps of the sampler; flow matching: Euler steps
 "loss": {"t": [..], "conditional": {"mean": [..], "variance": [..]}, "ema": {"mean": [..], "variance": [..]}},
    on these frozen raw weights, at fixed times t with r uniform below: mean over fresh rows of the squared residual an entry (target v), and
    its variance, with either tangent; the same rows for both, and for all arms of a seed
 "error": {CENTER: {"betas": [..], "value": [..], "se": [..], "a", "b", "c", "d", "s": means over rows, "by_t": {"t": [..], "a": [..], ...},
                    "optimum": {"matrix": [value, se], "matrix_unbiased": [..], "norm": [..], "sign": [..]}}},
    M(beta) = E|J v'|^2 - 2 beta E<J v', (J + I) v'> + beta^2 (E|(J + I) v'|^2 + E|(J + I) bias|^2) over E|v'|^2 for the tangent
    (1 - beta) v + beta EMA, eq. (17), (20), (47), on raw weights. CENTER stands for the marginal velocity: "data", the posterior over the data
    (exact for their empirical law), bias that of the EMA copy; "ema", the EMA copy itself, bias 0
 "bias": {"value", "se", "kind"}}   squared error of the EMA copy over E|v'|^2
    or {"kind": "failure", "arm", "seed", "seen", "error"}   its loss was not finite; "moments" before it are kept
"""
