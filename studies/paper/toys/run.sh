#!/usr/bin/env bash
# The studies (a), (b), (c) of README.md; each goes on where it stopped. WORKERS=N processes at a time, one by default.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
run() { meanstep reproduce "$@" --protocol authors --workers "${WORKERS:-1}"; }
case "${1:?give a, b or c}" in
    a) run toy --scale paper --betas 0 .5 1 --out exact ;;
    b)
        run toy --arms plain --betas 0 1 --seeds 42,0,1,2,3 --updates 50000 --out capped
        run toy --arms plain --betas 0 1 --seeds 42,0,1,2,3 --updates 50000 --largest-gap 1 --out uncapped
        ;;
    c)
        for centres in redrawn fixed; do
            run mixtures --dims 2 16 64 --arms plain --betas 0 .4 1 --updates 50000 --centres "$centres" --out "mixtures-$centres"
        done
        ;;
    *) echo "no study $1: give a, b or c" >&2 && exit 2 ;;
esac
