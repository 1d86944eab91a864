"""Distances between sets of samples. Knows no fields, no files and no devices."""

from meanstep.metrics.distances import Sliced, directions, energy_distance, mode_coverage, sliced_wasserstein

__all__ = ["Sliced", "directions", "energy_distance", "mode_coverage", "sliced_wasserstein"]
