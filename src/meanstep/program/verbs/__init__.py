"""What the commands do, as functions of Python: no signals, no exit, no word of the command line. `meanstep` offers them by name."""
