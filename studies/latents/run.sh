#!/bin/sh
# The runs of this study: studies/latents/run.sh OUT. A stopped one goes on. CIFAR latents need MEANSTEP_DATA, a folder with
# cifar10_jpeg.npz and taesd.safetensors.
set -eu
out=${1:?give a folder for the runs}
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
meanstep reproduce latents --out "$out/digits" --arms constants anchors schedules recipes --seeds 0:3 --samples 64000 \
    --moments 4 --measure.count 1024 --measure.rows 1024 --measure.rows-at 128
meanstep reproduce latents --out "$out/digits-squared" --arms constants rising falling posterior@1 posterior-both@1 projected --seeds 0:3 \
    --samples 64000 --moments 4 --measure.count 1024 --measure.rows 512 --measure.rows-at 64 \
    --method.options '{times: uniform, diagonal_share: 0.5, power: 0}'
if [ -z "${MEANSTEP_DATA:-}" ]; then
    echo "CIFAR latents skipped: MEANSTEP_DATA names no folder with cifar10_jpeg.npz and taesd.safetensors" >&2
    exit 0
fi
meanstep cache "$MEANSTEP_DATA/cifar10_jpeg.npz" --out "$out/cifar-latents" --autoencoder "taesd:$MEANSTEP_DATA/taesd.safetensors"
meanstep reproduce latents --out "$out/cifar" --data.source "$out/cifar-latents" --network.patch 1 \
    --arms constants rising falling squared@0 squared-both@1 --seeds 0:3 --samples 64000 \
    --moments 3 --measure.count 512 --measure.rows 512 --measure.rows-at 64 --measure.references 50000
meanstep reproduce latents --out "$out/cifar" --data.source "$out/cifar-latents" --arms constants squared-both@1 --seeds 3,4
