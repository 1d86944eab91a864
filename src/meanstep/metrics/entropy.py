"""The Inception score: how sure a classifier is of each sample and how evenly it names classes. Knows logits, not the classifier."""

from typing import NamedTuple

from torch import Tensor


class InceptionScore(NamedTuple):
    """Mean over the splits, and their standard deviation (divisor n)."""

    value: float
    spread: float


def inception_score(logits: Tensor, splits: int = 10) -> InceptionScore:
    """`exp E KL(p(y | x) || p(y))` of logits `[n, classes]`, float64, over `splits` contiguous parts; arXiv 1606.03498.

    It sees no data: what is good on other classes than the classifier's is not good here. `ValueError` for fewer rows than splits or
    entries that are not finite.
    """
    if logits.ndim != 2 or not 1 <= splits <= len(logits):
        raise ValueError(f"logits must be [n, classes] with at least {splits} rows for {splits} splits, got {tuple(logits.shape)}")
    if not logits.isfinite().all():
        raise ValueError("logits have entries that are not finite")
    log_p, n = logits.detach().double().log_softmax(-1), len(logits)
    parts = [log_p[i * n // splits : (i + 1) * n // splits] for i in range(splits)]
    scores = log_p.new_tensor([_information(part).exp().item() for part in parts])
    return InceptionScore(scores.mean().item(), scores.std(correction=0).item())


def _information(log_p: Tensor) -> Tensor:
    """`E sum_y p (log p - log q)` with `q` the mean of `p`."""
    p = log_p.exp()
    return (p * log_p).sum(-1).mean() - p.mean(0).xlogy(p.mean(0)).sum()
