#!/usr/bin/env bash
# Everything this study shows: about 20 minutes of a free core. OUT: a folder for latents and records. MEANSTEP_DATA: the data (see data.py).
set -euo pipefail
out=${1:?usage: studies/posterior/run.sh OUT}
here=studies/posterior
python $here/data.py "$out"
python $here/exact.py "$out"
python $here/train.py "$out" --steps 1000
python $here/exact.py "$out" --cost
python $here/tables.py "$out"
