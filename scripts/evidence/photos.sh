#!/bin/bash
# Image size, members and auto at equal cost on photos, for some seeds: goes on where it stopped. Exits with 1 if a stage failed.
#
#   bash scripts/evidence/photos.sh 0,1,2                   # the table of sizes in docs/results.md
#   bash scripts/evidence/photos.sh 0,1,2 table signs       # on one task
#   bash scripts/evidence/photos.sh 400,401 claims          # benchmarks/photos/PROTOCOL.md: claims of sizes, and of auto but in hindsight
#   bash scripts/evidence/photos.sh 400,401 more            # auto in hindsight, four members, corruptions
#   bash scripts/evidence/photos.sh 400,401 sources         # a shift at 128 pixels
seeds=${1:?seeds, such as 0,1,2} stage=${2:-table} failed=0
[ "$stage" = sources ] && tasks=signs_split,clipart_to_stamps || tasks=signs,solar
tasks=${3:-$tasks} corrupted='evaluation.corruptions=[gaussian_noise,gaussian_blur,contrast]'
run() { ${PYTHON:-python} -m ensemble_transfer +experiment=photos "seed=$seeds" "dataset=$tasks" "$@" || failed=1; }
few() { run strategy=few "strategy.members=$1" "strategy.image_size=$2" "${@:3}"; }

case $stage in
table)
    few 1 64,128 budget=1
    few 2 64,128
    run strategy=auto
    few 1 64,128
    few 1 96 budget=1
    few 2 '[64,128]'
    ;;
claims)
    few 1 64,128 budget=1
    few 2 64,128
    few 1 128 "$corrupted"
    run strategy=auto
    ;;
more)
    few 4 128 "$corrupted"
    few 4 64
    few 1 64
    ;;
sources)
    run strategy=few,zero_shot,turns dataset.image_size=128
    ;;
*)
    echo "stage: $stage is not table, claims, more or sources" >&2
    exit 2
    ;;
esac
exit $failed
