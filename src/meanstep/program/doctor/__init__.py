"""`meanstep doctor`: a network examined for use as a MeanFlow field. `examination` runs the checks, which live in the other modules."""
