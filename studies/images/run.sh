#!/bin/sh
# The runs of this study: studies/images/run.sh OUT. MNIST needs MEANSTEP_DATA, a folder with mnist.npz.
set -eu
out=${1:?give a folder for the runs}
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
for seed in 0 1; do
    meanstep train --preset digits --out "$out/digits-$seed" --seed "$seed"
    meanstep evaluate "$out/digits-$seed" --steps 1 2 4 --count 4000
done
if [ -z "${MEANSTEP_DATA:-}" ]; then
    echo "MNIST skipped: MEANSTEP_DATA names no folder with mnist.npz" >&2
    exit 0
fi
meanstep cache "$MEANSTEP_DATA/mnist.npz" --out "$out/mnist" --channels 1
meanstep cache "$MEANSTEP_DATA/mnist.npz" --out "$out/mnist-test" --split test --channels 1
for recipe in meanflow flow_matching; do
    meanstep train --preset mnist-dit --out "$out/mnist-$recipe" --data.source "$out/mnist" --samples 204800 \
        --schedule constant --method.recipe "$recipe" \
        --method.options "$(test "$recipe" = meanflow && echo '{times: uniform, diagonal_share: 0.5}' || echo '{times: uniform}')"
done
meanstep evaluate "$out/mnist-meanflow" --checkpoint best --steps 1 2 4 --count 4000 --held-out "$out/mnist-test"
meanstep evaluate "$out/mnist-flow_matching" --checkpoint best --steps 1 4 32 --count 4000 --held-out "$out/mnist-test"
meanstep cache "$MEANSTEP_DATA/clothing256_webp.npz" --out "$out/clothing64-latents" --size 64 --flips \
    --autoencoder "taesd:$MEANSTEP_DATA/taesd.safetensors"
meanstep train --preset mnist-dit --out "$out/clothing64" --data.source "$out/clothing64-latents" --network.patch 2 --samples 200000
