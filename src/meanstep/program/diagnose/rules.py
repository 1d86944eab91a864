"""The rules: what is measured, from where on it matters, who says so, what it means and what to change. Data; nothing is measured here."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from meanstep.program.diagnose.measures import Measure

WARN, NOTE = "warning", "note"
FIRES, CLEAR, OPEN, MISSING = "fires", "clear", "open", "not measured"


@dataclass(frozen=True)
class Rule:
    """Fires where the measure `key` is above `threshold` (below, if `below`) with its whole interval.

    `quantity`: what is measured, in words; `means` and `change` may quote any measure by name in braces; `percent`: how to write it.
    """

    name: str
    level: str
    key: str
    quantity: str
    threshold: float
    source: str
    means: str
    change: str
    percent: bool = False
    below: bool = False

    @property
    def condition(self) -> str:
        """The threshold in words."""
        value = f"{100 * self.threshold:g}%" if self.percent else f"{self.threshold:g}"
        return f"{'below' if self.below else 'above'} {value}"

    def written(self, m: Measure) -> str:
        """A value of the measure."""
        return format(m, "%" if self.percent else "")


@dataclass(frozen=True)
class Verdict:
    """A rule and what became of it. `means` and `change` are filled in."""

    rule: Rule
    status: str
    measured: str = ""
    means: str = ""
    change: str = ""

    @property
    def sentence(self) -> str:
        """What is measured."""
        return f"{self.rule.quantity}: {self.measured} (rule: {self.rule.condition})"


QUIET_IS_NOT_GOOD = (
    "The quietest coefficient is not the best one: arXiv 2605.09235 reports the least gradient error at an interior beta and the best FID "
    "at beta = 0, and in our studies/plane beta = 1 made gradients quieter and one-step samples no better (0.98 [0.92, 1.05])."
)

RULES = (
    Rule(
        "finite",
        WARN,
        "lost",
        "rows with a value or derivative that is not finite",
        0.0,
        "ours: one such row ends a training",
        "The network overflows or divides by zero there. Those rows are left out of every other number.",
        "Look at small t and r = t first (1 / t, 1 / (t - r), sqrt at 0), then at half precision.",
        percent=True,
    ),
    Rule(
        "silent",
        WARN,
        "zero",
        "rows on which u is exactly 0",
        0.5,
        "ours",
        "The network says nothing yet: its last layer starts from 0. There is no derivative and no Jacobian to look at.",
        "Give the trained weights (--weights), or train some steps first.",
        percent=True,
    ),
    Rule(
        "data-scale",
        WARN,
        "scale_off",
        "factor between the data's standard deviation and 1",
        4.0,
        "ours: beside noise of size 1, data 4 times larger or smaller leave most times without a mixture of both",
        "Signal and noise meet only near one end of the times, or these are not the data as the network saw them.",
        "Scale the data to unit variance, in training and here alike.",
    ),
    Rule(
        "derivative",
        WARN,
        "change_late",
        "|(t - r) du/dt| / |u| at t above 0.75, root mean squares",
        3.0,
        "ours: MLPs trained on one Gaussian and on eight have 0.4 and 1.6; spikes at high t came with divergence (imeanflow issue 7)",
        "The target is mostly the network's own derivative, so that errors feed back. {time_or_space}",
        "{slower} Fewer r < t rows early on (curriculum_meanflow, or a larger diagonal_share), or no derivative at all (split_meanflow).",
    ),
    Rule(
        "time-scale",
        WARN,
        "slope",
        "|d_t u| / |u|, root mean squares",
        30.0,
        "the doctor's threshold: a reference MLP has 1 to 2, times multiplied by 1000 in sines 50 to 90",
        "The network sees t at too fine a scale: its derivative in t, which is the training signal, is mostly that of the embedding.",
        "Feed t in [0, 1] into the embedding, not 1000 t, or lower its highest frequency. `meanstep doctor` names the module.",
    ),
    Rule(
        "boundary",
        WARN,
        "boundary",
        "squared error of u(z, t, t) over E|v'|^2",
        0.25,
        "ours: trained MLPs have less than 0.5 percent; arXiv 2512.02012 on tangents made of such a boundary",
        "The r = t rows are not learnt: u(z, t, t) is far from the velocity that everything else is integrated from.",
        "Train longer, or raise the share of r = t rows (diagonal_share 0.5 to 0.75); is this the network's own data?",
        percent=True,
    ),
    Rule(
        "no-diagonal",
        WARN,
        "diagonal",
        "share of the recipe's rows with r = t",
        0.05,
        "arXiv 2505.13447 keeps 25 to 75 percent; arXiv 2512.02012 on tangents made of an unsupervised boundary",
        "Nothing supervises u(z, t, t) directly: it is learnt only through gaps that happen to be small.",
        "Give r = t rows a share of 0.25 or more (diagonal_share), or add the flow-matching anchor, eq. (18).",
        percent=True,
        below=True,
    ),
    Rule(
        "few-rows",
        WARN,
        "effective_rows",
        "effective share of rows in the gradient (weight times residual)",
        0.1,
        "ours: studies/plane, where rows of nearly no residual under the weight p = 1 made samples 4 to 5 times worse",
        "A few rows carry the gradient: a batch of B rows counts for {effective_rows:v%} of B.",
        "Use a smaller power of the adaptive weight (0.5, or the plain squared error) or a larger c; clip the gradient.",
        percent=True,
        below=True,
    ),
    Rule(
        "saturated",
        NOTE,
        "saturated",
        "rows whose weight is below a tenth of its value at no error",
        0.9,
        "eq. (24); the issue 'loss is always 1' of three implementations",
        "The adaptive weight divides every residual by itself: the loss reads {loss:v} whatever the error.",
        "Do not watch the loss. Watch metrics['residual'], here {residual}, and residual_gap_1.",
        percent=True,
    ),
    Rule(
        "beta-pooled",
        NOTE,
        "saving",
        "noise that the quietest beta takes away from the recipe's own",
        0.05,
        "eq. (17), (20), (47) on the recipe's own r < t rows, paired",
        "The residual's noise is least at beta = {best} and {noise_best:v} there, against {noise_recipe:v} at the recipe's beta.",
        "{quieter} Decide by samples, not by this number.",
        percent=True,
    ),
    Rule(
        "beta-louder",
        WARN,
        "excess",
        "noise that the recipe's beta adds to that of beta = 0",
        0.1,
        "eq. (17), (19b): where the flow map contracts, beta = 0 is quieter",
        "On these data the proxy in the tangent adds noise: {noise_recipe:v} at the recipe's beta, {noise_0:v} at beta = 0.",
        "Lower beta towards {best:v}, or take it per (r, t): coefficients.Running, probes.per_bin(...).coefficient().",
        percent=True,
    ),
    Rule(
        "tangent-role",
        NOTE,
        "role",
        "noise through the tangent over noise of the target, mean squares on r < t rows",
        1.0,
        "eq. (17), (46)",
        "Most noise comes through the derivative. This is the part that a coefficient changes.",
        "A proxy in the tangent (coefficient), or a posterior in both roles on plain squared error, docs/choosing.md.{copy}",
    ),
    Rule(
        "target-role",
        NOTE,
        "role",
        "noise through the tangent over noise of the target, mean squares on r < t rows",
        0.1,
        "eq. (17), (46)",
        "Nearly all noise is the target's own, which no coefficient in the tangent changes.",
        "Leave beta at 0. What helps: larger batches, EMA weights, a consistent proxy in the target (Posterior, target_beta).",
        below=True,
    ),
    Rule(
        "heavy-tail",
        WARN,
        "tail",
        "part of the noise at beta = 0 that the top 1 percent of rows carries",
        0.25,
        "section 4 and docs/choosing.md, fact 3: seams between modes; a normal law in two dimensions has 6 percent",
        "The noise at beta = 0 sits in few rows, and rows that were not drawn may hold more: read it as a lower bound.",
        "Raise --budget; in training clip the gradient, and compare coefficients by samples.",
        percent=True,
    ),
    Rule(
        "proxy-bias",
        WARN,
        "bias",
        "squared bias of {proxy} over E|v'|^2",
        0.1,
        "eq. (16), (19): the best beta shrinks by Tr S / (Tr S + |b|^2); studies/plane: an EMA copy in both roles is 2.5 times worse",
        "The proxy is off by more than a tenth of the noise. In the tangent that fades as r -> t; in the target it stays.",
        "Keep it out of the target. In the tangent use a slower (or faster) EMA, a longer warm-up, or a smaller beta.",
        percent=True,
    ),
    Rule(
        "center",
        NOTE,
        "shift",
        "bound on how far the center's error can have moved the quietest beta",
        0.1,
        "eq. (49), the error taken to be the distance from half the reference to all of it",
        "The center is not good enough to trust the second digit of beta.",
        "Give more rows of data.",
    ),
    Rule(
        "batch",
        NOTE,
        "effective_batch",
        "noise of a batch's gradient over its signal, Tr Cov / (B |E g|^2)",
        1.0,
        "eq. (14), (52); the simple noise scale of arXiv 1812.06162",
        "A batch of {batch} rows is mostly noise: signal and noise meet at {noise_scale:v} rows. At the end of a training this is normal.",
        "Lower the learning rate, average weights, or enlarge the batch; early in a training it is the sign of a noisy signal.",
    ),
)


def verdicts(values: Mapping[str, Measure], words: Mapping[str, str]) -> list[Verdict]:
    """What became of every rule, those that fire first, warnings before notes."""
    found = [_verdict(rule, values, words) for rule in RULES]
    order = {FIRES: 0, OPEN: 1, CLEAR: 2, MISSING: 3}
    return sorted(found, key=lambda v: (order[v.status], v.rule.level != WARN))


def _verdict(rule: Rule, values: Mapping[str, Measure], words: Mapping[str, str]) -> Verdict:
    rule = replace(rule, quantity=rule.quantity.format_map({"proxy": "a proxy"} | dict(words)))
    m = values.get(rule.key)
    if m is None or m.value != m.value:
        return Verdict(rule, MISSING)
    above = Measure(-m.value, -m.high, -m.low).above(-rule.threshold) if rule.below else m.above(rule.threshold)
    status = FIRES if above else OPEN if above is None else CLEAR
    filled = dict(words) | dict(values) if status != CLEAR else {}
    means, change = (text.format_map(_Known(filled)) if filled else "" for text in (rule.means, rule.change))
    return Verdict(rule, status, rule.written(m), means, change)


class _Known(dict):
    """What a sentence may quote; a measure that is missing reads as unknown."""

    def __missing__(self, key: str) -> Measure:
        return Measure(float("nan"))
