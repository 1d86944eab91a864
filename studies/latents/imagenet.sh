#!/bin/sh
# The paper's sweep at its scale, and four schedules beside it, ready to run and not run by us: DiT-B/4 on ImageNet-256 latents, 300,000 steps
# of 1,024 rows, under Slurm: studies/latents/imagenet.sh IMAGES VAE OUT, with the training images (a folder with a folder a class, or tars), an
# sd-vae-ft-mse file, and where to work. Counted by `--dry-run`: 18 (beta = 0) to 23 (beta = 1 with the anchor) x 10^18 floating-point
# operations a run, 12 to 16 hours of one H100 at 40 percent of its bf16 peak, twice that at 20. All 24 runs: 340 to 680 GPU hours, the first
# twelve half of it; and 60 evaluations each of 10,000 samples in 1, 2 and 4 steps on top. Estimated, not measured.
set -eu
images=${1:?the training images} vae=${2:?an sd-vae-ft-mse file} out=${3:?a folder}
meanstep cache "$images" --out "$out/imagenet256" --size 256 --flips --autoencoder "kl:$vae" --no-normalise
meanstep launch --array 24 --gpus-per-node 8 --time 24:00:00 --requeue -- reproduce latents --preset imagenet256-dit-b4 \
    --data.source "$out/imagenet256" --out "$out/imagenet256-b4" --arms paper rising falling over-t alpha_flow --seeds 0:3 --moments 60 \
    --precision bf16 --measure.count 10000 --measure.references 1
