"""The training program: configuration, loop, averages, checkpoints, ranks."""
