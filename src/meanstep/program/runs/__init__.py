"""What a run's folder holds: its configuration, its checkpoints, the networks in them. Knows no training."""
