"""Sweeps: many small trainings side by side, their measurements and the claims about them."""
