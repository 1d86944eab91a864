#!/usr/bin/env bash
# The studies (a), (b), (c) of README.md in OUT (out/toys); each goes on where it stopped. WORKERS=N processes at a time, one by default.
set -euo pipefail
run() { name=$1 && shift && meanstep reproduce "$@" --protocol authors --workers "${WORKERS:-1}" --out "${OUT:-out/toys}/$name"; }
case "${1:?give a, b or c}" in
    a) run exact toy --scale paper --betas 0 .5 1 ;;
    b)
        run capped toy --arms plain --betas 0 1 --seeds 42,0,1,2,3 --updates 50000
        run uncapped toy --arms plain --betas 0 1 --seeds 42,0,1,2,3 --updates 50000 --largest-gap 1
        ;;
    c)
        for centres in redrawn fixed; do
            run "mixtures-$centres" mixtures --dims 2 16 64 --arms plain --betas 0 .4 1 --updates 50000 --centres "$centres"
        done
        ;;
    *) echo "no study $1: give a, b or c" >&2 && exit 2 ;;
esac
