"""The words and symbols of pages: what each means, links to them from prose, and the list of those that a page uses. Knows no subject."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Term:
    """`pattern`: how it is written in HTML text; `name`: the heading of its entry; `means`: sentences."""

    id: str
    pattern: str
    name: str
    means: str


TERMS = (
    Term(
        "beta",
        r"β",
        "β, the coefficient",
        "The share of a calmer velocity in the tangent. β = 0 is the original MeanFlow, β = 1 that velocity alone.",
    ),
    Term(
        "kappa",
        r"\|?\u2060?κ\u2060?\|?",
        "κ",
        "How much noise grows or shrinks along the flow in one direction. At minus 1 it neither grows nor shrinks.",
    ),
    Term(
        "sw1",
        r"SW1|[Ss]liced W1",
        "SW1, sliced distance",
        "The mean distance between samples and data over many lines through both. Less is better.",
    ),
    Term(
        "frechet",
        r"Frechet distances?|FID",
        "Frechet distance",
        "A distance between two sets of pictures or rows: of means and covariances of features. Less is better. FID is that of Inception.",
    ),
    Term("floor", r"[Ff]loors?", "Floor", "What fresh data score against the data. No sample can be expected to score less."),
    Term("trcov", r"Tr Cov", "Tr Cov", "The variance of the gradient of one row, summed over all weights."),
    Term(
        "error",
        r"M\(β\)",
        "M(β)",
        "The squared error that the tangent adds to the training signal at a coefficient, noise and bias together.",
    ),
    Term(
        "noise",
        r"E\|v(?:'|&#39;)\|²",
        "E|v'|²",
        "The mean square of what one pair's velocity differs from the mean velocity. It is the unit of noise here.",
    ),
    Term("ema", r"EMA", "EMA", "The exponential moving average of the weights: a slow copy of the network."),
    Term("anchor", r"[Aa]nchor", "Anchor", "A further term of the loss, plain flow matching, that holds the network at r = t."),
    Term("arm", r"\b[Aa]rms?\b", "Arm", "One way to train, the same in everything else as the other arms of a study."),
    Term("tangent", r"\b[Tt]angents?\b", "Tangent", "The velocity along which the network is differentiated."),
    Term(
        "proxy",
        r"\b[Pp]rox(?:y|ies)\b",
        "Proxy",
        "What stands in for the mean velocity, which nobody knows: a copy of the network, or the data's own.",
    ),
    Term(
        "posterior",
        r"\b[Pp]osterior\b",
        "Posterior",
        "The mean velocity by the data themselves: an average over all points that could have led here.",
    ),
    Term(
        "residual",
        r"\b[Rr]esiduals?\b",
        "Residual",
        "What the network's output differs from its target, squared and averaged, before any weight.",
    ),
    Term(
        "times",
        r"\br(?: =| &lt;) t\b",
        "r and t",
        "The two times of MeanFlow: it learns the mean velocity from t down to r. Noise is at t = 1, data at 0.",
    ),
    Term(
        "interval",
        r"95% intervals?",
        "95% interval",
        "Where the true value lies, as far as the spread over seeds or rows tells. One that holds no change decides nothing.",
    ),
    Term(
        "seed",
        r"\b[Ss]eeds?\b",
        "Seed",
        "One repetition: its own initial weights, order of data, noise and times. Arms share them, so that they can be compared.",
    ),
    Term("jacobian", r"\bJacobian\b|\|J g\| / \|g\|", "Jacobian", "How the learned flow stretches a small step. Above 1 noise grows."),
    Term(
        "change",
        r"\|\(t - r\) du/dt\| / \|u\||\|d_t u(?:\(z, t, t\))?\| / \|u\|",
        "|du/dt| over |u|",
        "How much of what is learned is the network's own derivative.",
    ),
    Term("u", r"u\(z, t, t\)", "u(z, t, t)", "The network at r = t, where it is the velocity itself."),
    Term(
        "saturated",
        r"\b[Ss]aturated\b",
        "Saturated",
        "Said of a row that the weight divides by its own residual: it counts alike, whatever its error.",
    ),
    Term(
        "center",
        r"\b[Cc]enter\b",
        "Center",
        "What stands for the true mean velocity in a diagnosis. Noise is what is left when it is taken off.",
    ),
    Term(
        "holm",
        r"\bHolm(?:(?:'|&#39;)s)?\b",
        "Holm",
        "A correction for testing several things at once, so that luck is not taken for a find.",
    ),
    Term("steps", r"\b[Oo]ne-step\b|\b[Oo]ne step\b", "One step", "Samples made by a single call of the network."),
)
_ANY = re.compile("(?:" + "|".join(f"(?P<{term.id}>{term.pattern})" for term in TERMS) + r")(?![\w-]*@)")
"""Not in an arm's name, as in anchored@0 and posterior-both@1."""
_TAGS = re.compile(
    r"(<!--.*?-->|<(?:style|script|pre|code|svg|table|a|title|button|label|select)\b.*?</(?:style|script|pre|code|svg|table|a|title|button|label|select)>|<[^>]*>)",
    re.DOTALL,
)
_APART = re.compile(r"<(/?)(summary|dt|nav|h1|h3|b|output)\b")
_NEW = re.compile(r'<(?:details class="part"|section\b)')


def linked(page: str) -> tuple[str, list[Term]]:
    """The page with the first use of each term in every part of it linked to the glossary, and the terms that it uses."""
    head, body, rest = page.partition("<body>")
    used: dict[str, None] = {}
    seen: set[str] = set()
    depth, made = 0, []
    for k, piece in enumerate(_TAGS.split(rest)):
        if k % 2:
            if _NEW.match(piece):
                seen = set()
            if apart := _APART.match(piece):
                depth += -1 if apart[1] else 1
            made.append(piece)
        else:
            made.append(_linked(piece, seen, used, quiet=depth > 0))
    order = [term for term in TERMS if term.id in used]
    return head + body + "".join(made), order


def _linked(text: str, seen: set[str], used: dict[str, None], *, quiet: bool) -> str:
    def link(found: re.Match[str]) -> str:
        id = found.lastgroup or ""
        used[id] = None
        if id in seen or quiet:
            return found[0]
        seen.add(id)
        return f'<a class="term" href="#term-{id}">{found[0]}</a>'

    return _ANY.sub(link, text)


def listed(terms: Iterable[Term]) -> str:
    """The entries, as the inside of a list of definitions."""
    return "".join(f'<div id="term-{term.id}"><dt>{escape(term.name)}</dt><dd>{escape(term.means)}</dd></div>\n' for term in terms)
