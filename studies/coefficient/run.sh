#!/usr/bin/env bash
# Everything this study shows: about 40 minutes of one core. OUT: a folder for the records.
set -euo pipefail
out=${1:?usage: studies/coefficient/run.sh OUT}
sets=(eight_gaussians swiss_roll checkerboard pinwheel two_moons two_spirals mixture-16)
python studies/coefficient/run.py "$out" --steps 2000 --seeds 0 1 2 --sets "${sets[@]}"
python studies/coefficient/run.py "$out" --table
