#!/usr/bin/env bash
# The runs of this study, in parts that go on where they were stopped: studies/paper/dit/run.sh OUT [PART ...]
# Parts: digits-authors digits-coefficient digits-uniform cifar-authors cifar-coefficient cifar-uniform; without one all, in this order.
# WORKERS: runs at a time (one a core).
# CIFAR latents need MEANSTEP_DATA, a folder with cifar10_jpeg.npz and taesd.safetensors.
set -euo pipefail
out=${1:?give a folder for the runs}
shift
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
[ $# -gt 0 ] || set -- digits-authors digits-coefficient digits-uniform cifar-authors cifar-coefficient cifar-uniform

# What both protocols share, and the measurements. Samples seen: 2,000 steps of 128 rows where the target is guided on digits, else 1,500.
shared=(--batch 128 --moments 4 --rate 1e-3 --averages.decays 0.999 ${WORKERS:+--workers "$WORKERS"})
small=(--measure.count 1024 --measure.rows 512 --measure.rows-at 64)
# Ours, at the authors' times, weight and optimiser, without guidance: there the coefficient is that of eq. (17).
ours=(--warmup 0 --clip 0 --method.proxy-decay 0.999 --method.options '{times: logit-normal, diagonal_share: 0.75}')
uniform=("${ours[@]/logit-normal/uniform}") # controls that were added when the others were known: times that draw the jump of a one-step sample
zero_one=(squared@0 squared@1 anchored@0 anchored@1 squared-anchored@0 squared-anchored@1)
cifar=(--data.source "$out/cifar-latents" --network.patch 1)

latents() { meanstep reproduce latents "$@"; }
cached() {
    [ -e "$out/cifar-latents/manifest.json" ] && return
    : "${MEANSTEP_DATA:?names no folder with cifar10_jpeg.npz and taesd.safetensors}"
    meanstep cache "$MEANSTEP_DATA/cifar10_jpeg.npz" --out "$out/cifar-latents" --autoencoder "taesd:$MEANSTEP_DATA/taesd.safetensors"
}

for part; do
    case $part in
    digits-authors)
        latents --protocol authors --out "$out/$part" --arms paper controls stated@1 stated-squared-anchored@1 --seeds 0:5 \
            --samples 256000 "${shared[@]}" "${small[@]}"
        ;;
    digits-coefficient)
        latents --out "$out/$part" --arms constants "${zero_one[@]}" --seeds 0:5 --samples 192000 "${shared[@]}" "${small[@]}" "${ours[@]}"
        ;;
    digits-uniform)
        latents --out "$out/$part" --arms beta@0 beta@1 squared@0 squared@1 --seeds 0:5 --samples 192000 "${shared[@]}" "${small[@]}" \
            "${uniform[@]}"
        ;;
    cifar-authors)
        cached
        latents --protocol authors --out "$out/$part" --arms paper beta@1 anchored@1 squared@1 stated@1 --seeds 0:3 "${cifar[@]}" \
            --samples 192000 "${shared[@]}" "${small[@]}" --measure.references 50000 --measure.steps 1 # decoding more would cost what training costs
        ;;
    cifar-coefficient)
        cached
        latents --out "$out/$part" --arms constants squared@0 squared@1 squared-anchored@1 --seeds 0:3 "${cifar[@]}" --samples 192000 \
            "${shared[@]}" "${small[@]}" "${ours[@]}" --measure.references 50000
        ;;
    cifar-uniform)
        cached
        latents --out "$out/$part" --arms beta@0 beta@1 squared@0 squared@1 --seeds 0:3 "${cifar[@]}" --samples 192000 "${shared[@]}" \
            "${small[@]}" "${uniform[@]}" --measure.references 50000 --measure.steps 1
        ;;
    *)
        echo "there is no part $part: digits-authors, digits-coefficient, digits-uniform, cifar-authors, cifar-coefficient, cifar-uniform" >&2
        exit 2
        ;;
    esac
done
