"""`meanstep diagnose`: where the noise of a network's training signal is, what its Jacobian does, and what to change."""
