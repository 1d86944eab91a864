#!/bin/sh
# One part of this study: studies/labels/run.sh OUT digits, or OUT cifar. A stopped one goes on. cifar needs MEANSTEP_DATA, a folder
# with cifar10_jpeg.npz and taesd.safetensors.
set -eu
out=${1:?usage: studies/labels/run.sh OUT digits|cifar}
part=${2:?usage: studies/labels/run.sh OUT digits|cifar}
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
case "$part" in
digits) set -- --data.source digits --samples 200000 ;;
cifar)
    data=${MEANSTEP_DATA:?a folder with cifar10_jpeg.npz and taesd.safetensors}
    meanstep cache "$data/cifar10_jpeg.npz" --out "$out/cifar-latents" --autoencoder "taesd:$data/taesd.safetensors"
    set -- --data.source "$out/cifar-latents" --network.patch 1 --samples 200000
    ;;
*)
    echo "the parts are digits and cifar, got $part" >&2
    exit 2
    ;;
esac
for seed in 0 1 2 3 4; do
    for rows in all instant; do
        run="$out/$part-$rows-$seed"
        meanstep train --preset digits --out "$run" --seed "$seed" "$@" --method.omega 1 --method.kappa 0.5 --method.dropout 0.1 \
            --method.dropout-rows "$rows" --evaluate-every 0 --sample-every 0 --save-every 100000 --device cpu
        meanstep evaluate "$run" --steps 1 2 --guidance 1 1.5 --count 4000 --extractor pixels --metrics frechet --device cpu
    done
done
