"""Names of what is measured. Measures nothing, and needs no torch."""

from typing import Literal, get_args

Metric = Literal["frechet", "kid", "precision-recall", "density-coverage", "inception-score"]
METRICS: tuple[Metric, ...] = get_args(Metric)
