"""Distances between sets of samples or of features. Knows no fields, no files and no devices."""

from meanstep.metrics.distances import Sliced, directions, energy_distance, mode_coverage, sliced_wasserstein
from meanstep.metrics.entropy import InceptionScore, inception_score
from meanstep.metrics.kernel import Estimate, energy, kid, mmd, subsets
from meanstep.metrics.manifold import DensityCoverage, Nearest, PrecisionRecall, density_coverage, nearest, nearest_apart, precision_recall
from meanstep.metrics.statistics import Statistics, frechet

__all__ = [
    "DensityCoverage",
    "Estimate",
    "InceptionScore",
    "Nearest",
    "PrecisionRecall",
    "Sliced",
    "Statistics",
    "density_coverage",
    "directions",
    "energy",
    "energy_distance",
    "frechet",
    "inception_score",
    "kid",
    "mmd",
    "mode_coverage",
    "nearest",
    "nearest_apart",
    "precision_recall",
    "sliced_wasserstein",
    "subsets",
]
