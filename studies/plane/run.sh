#!/usr/bin/env bash
# Every run of the study, in order. Each resumes where it was interrupted. On two cores: an hour and a half in all.
# Usage: studies/plane/run.sh OUT   (a folder for the runs)
set -euo pipefail
out=${1:?give a folder for the runs}
toy() { meanstep reproduce toy --device cpu --out "$out/$1" "${@:2}"; }

toy main --updates 6000 --seeds 0:5
toy proxies --updates 4000 --arms paper@0 posterior@1 oracle@1 ema-both@1 posterior-both@1 oracle-both@1 matrix

# One factor at a time: beta = 0 and 1, with and without the anchor, and the posterior in both roles.
some=(--sets eight_gaussians swiss_roll --arms paper@0,1 plain@1 anchored@0 posterior-both@1)
toy base "${some[@]}" --seeds 0:3 --updates 3000
toy batch64 "${some[@]}" --seeds 0:3 --updates 3000 --batch 64
toy share25 "${some[@]}" --seeds 0:3 --updates 3000 --diagonal-share 0.25
toy share75 "${some[@]}" --seeds 0:3 --updates 3000 --diagonal-share 0.75
toy weighted "${some[@]}" --seeds 0:3 --updates 3000 --power 1
toy logit-normal "${some[@]}" --seeds 0:3 --updates 3000 --times logit-normal
toy batch1024 "${some[@]}" --seeds 0:3 --updates 3000 --batch 1024
toy long "${some[@]}" --updates 20000 --seeds 0,1

toy references --updates 3000 --seeds 0,1 --sets eight_gaussians swiss_roll --arms paper@0 flow_matching alpha_flow improved_meanflow \
    terminal_velocity split_meanflow solution_flow shortcut
