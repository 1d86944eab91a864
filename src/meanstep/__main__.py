"""`python -m meanstep` is `meanstep`."""

from meanstep.cli import main

main()
