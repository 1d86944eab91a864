"""From a run's folder to samples: load a checkpoint, draw, decode, show."""
