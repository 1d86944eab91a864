"""Coefficients, schedules and other recipes side by side on images or latents, each a run of `meanstep train`.

study.json      what the study is made of, written anew when arms or seeds are added:
    {"study": "latents", "version": 1, "settings": {"protocol": "ours" (without the entry too) or "authors", "deviations": [..], ...},
     "config": {...}, "data": {"name", "rows", "shape": [..], "classes": N},
     "extractor", "floor": {"1": distance of one half of the data to the other, "noise": of noise taken for samples, where it was measured},
     "seeds": [..], "moments": [..],
     "arms": [{"name", "about", "family": "constant" | "anchored" | "schedule" | "recipe", "beta": B or null, "recipe", "options": {...},
               "samples": to see in all, "compute": {"forwards", "backwards", "tangents"}}, ...],
     "asked": [["arm", seed], ...]}   the runs that were asked for; without it every arm with every seed
    moments: samples seen at which all arms are measured; an arm with more samples goes on at the same spacing, so that it can be compared
    at equal compute. compute: rows passed through a network for one row of training: without and with gradient, and tangents; a pass
    forward is 1, a pass backward 2, a tangent 1.
env.json        commit, versions, machine; env-2.json and so on: of those under which it went on, where they were others
runs/ARM-SEED/  a run of `meanstep train`, and measures.jsonl: one object a moment, as below
records.jsonl   all of them, as the report found them: runs/ replaces what was there of the same arm and seed, and the rest stays
samples/ARM-SEED.png   a grid of one-step samples (EMA weights) of the same noise and labels for every arm, at the last matched moment
report.html, summary.csv, figures/*.png   made of study.json, env.json (those of the runs too, where they are), records.jsonl and samples/
.report.lock    held by whoever writes records.jsonl and what is made of it

A record: {"kind": "moment", "arm", "seed", "seen", "beta": mean coefficient on rows r < t now, or null,
 "seconds": spent training so far, "clock": "processor" (that of the process; without the entry too) or "wall", "measuring": this moment,
 "distance": {"raw": {"1": .., "2": .., "4": ..}, "ema": {...}},     by steps of the sampler; flow matching: Euler steps
 "loss": {"t": [..], "conditional": {"mean": [..], "variance": [..]}, "ema": {"mean": [..], "variance": [..]}},
    on these frozen raw weights, at fixed times t with r uniform below: mean over rows of the squared residual an entry (target v) and its
    variance, with either tangent; the same rows for both, for all arms of a seed, and at every moment
 "error": {CENTER: {"betas": [..], "value": [..], "se": [..], "a", "b", "c", "d", "s": means over rows, "by_t": {"t": [..], "a": [..], ...},
                    "optimum": {"matrix": [value, se], "matrix_unbiased": [..], "norm": [..], "sign": [..]}}},
    M(beta) = E|J v'|^2 - 2 beta E<J v', (J + I) v'> + beta^2 (E|(J + I) v'|^2 + E|(J + I) bias|^2) over E|v'|^2 for the tangent
    (1 - beta) v + beta EMA, eq. (17), (20), (47), on raw weights. CENTER stands for the marginal velocity: "data", the posterior over
    the data (exact for their empirical law), bias that of the EMA copy; "ema", the EMA copy itself, bias 0
 "bias": {"value", "se", "kind"},   of the EMA copy: E|ema - v|^2 over E|v'|^2, kind "exact for the data"; where the center "data" is
    missing E|ema - v_c|^2 over E|v_c|^2, kind "upper bound"
 "published": {"kappa", "gap", "square": E|v_c|^2, "scalar", "matrix", "by_t": {"t", "kappa"}, "rows", "inputs"}}
    the coefficient as the authors estimate it, eq. (54), at beta = 0 and null elsewhere; earlier records lack it
    or {"kind": "failure", "arm", "seed", "seen", "error"}   its loss was not finite; "moments" before it are kept
"""

from meanstep.program.reproduce.records import Record
from meanstep.program.reproduce.study import Kind, Line

OF_ARM = {
    **dict.fromkeys(("name", "about", "family", "recipe"), str),
    **{"beta": int | float | None, "options": dict, "samples": int, "compute": dict},
}
MEASURES = "measures.jsonl"


def _lines(about: Record) -> list[Line]:
    for arm in about["arms"]:
        wrong = next((name for name, kind in OF_ARM.items() if not isinstance(arm[name], kind)), "")
        if wrong or not isinstance(arm.get("method", {}), dict):
            raise TypeError(repr(wrong or "method"))
    return [Line(arm["family"], arm["beta"], arm["name"]) for arm in about["arms"]]


KIND = Kind(
    __name__,
    commands=(("latents", "The same on images or latents, with schedules and recipes.", "Latents"),),
    studies=("latents",),
    needs={"moment": ("arm", "seed", "seen", "distance"), "failure": ("arm", "seed", "seen", "error")},
    unit=("arm", "seed"),
    entries={"settings": dict, "config": dict, "seeds": list, "moments": list, "arms": list},
    lines=_lines,
    parts=f"runs/*/{MEASURES}",
    order=("arm", "seed", "seen"),
    own={"samples": ("*.png",)},
    shared=True,
    place=1,
)
