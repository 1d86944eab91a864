#!/usr/bin/env bash
# The study's run; it resumes where it was interrupted. On two cores: a quarter of an hour.
# Usage: studies/mixtures/run.sh OUT
set -euo pipefail
meanstep reproduce mixtures --out "${1:?give a folder for the run}/mixtures" --seeds 0:5 --updates 3000 \
    --arms paper plain@1 posterior-both@1 --device cpu
