#!/bin/sh
# One part of this study: studies/bf16/run.sh OUT digits|cifar|gradients|steps. A stopped one goes on. cifar needs MEANSTEP_DATA, a folder
# with cifar10_jpeg.npz and taesd.safetensors.
set -eu
out=${1:?usage: studies/bf16/run.sh OUT digits|cifar|gradients|steps}
part=${2:?usage: studies/bf16/run.sh OUT digits|cifar|gradients|steps}
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
case "$part" in
gradients | steps) exec "${PYTHON:-python}" "$(dirname "$0")/run.py" "$out" "$part" ;;
digits) set -- --data.source digits ;;
cifar)
    data=${MEANSTEP_DATA:?a folder with cifar10_jpeg.npz and taesd.safetensors}
    meanstep cache "$data/cifar10_jpeg.npz" --out "$out/cifar-latents" --autoencoder "taesd:$data/taesd.safetensors"
    set -- --data.source "$out/cifar-latents" --network.patch 1
    ;;
*)
    echo "the parts are digits, cifar, gradients and steps, got $part" >&2
    exit 2
    ;;
esac
for seed in 0 1 2; do
    for precision in float32 bf16; do
        run="$out/$part-$precision-$seed"
        meanstep train --preset digits --out "$run" --seed "$seed" "$@" --samples 100000 --precision "$precision" \
            --evaluate-every 0 --sample-every 0 --save-every 50000 --device cpu
        meanstep evaluate "$run" --steps 1 2 --count 4000 --extractor pixels --metrics frechet --device cpu
    done
done
