#!/bin/bash
# Image size, members and auto at equal cost on photos, for some seeds: goes on where it stopped. Exits with 1 if a stage failed.
#
#   bash scripts/evidence/photos.sh 0,1,2                         # the table of sizes in docs/results.md
#   bash scripts/evidence/photos.sh 0,1,2 signs                   # on one task
#   bash scripts/evidence/photos.sh 400,401 signs,solar claims    # what the claims of benchmarks/photos/PROTOCOL.md without a source need
seeds=${1:?seeds, such as 0,1,2} tasks=${2:-signs,solar} failed=0
run() { ${PYTHON:-python} -m ensemble_transfer +experiment=photos "seed=$seeds" "dataset=$tasks" "$@" || failed=1; }

run strategy=few strategy.members=1 strategy.image_size=64,128 budget=1
run strategy=few strategy.members=2 strategy.image_size=64,128
run strategy=auto
if [ "$3" = claims ]; then
    run strategy=few strategy.members=1,4 strategy.image_size=128 'evaluation.corruptions=[gaussian_noise,gaussian_blur,contrast]'
    run strategy=few strategy.members=1,4 strategy.image_size=64
else
    run strategy=few strategy.members=1 strategy.image_size=64,128
    run strategy=few strategy.members=1 strategy.image_size=96 budget=1
    run strategy=few strategy.members=2 'strategy.image_size=[64,128]'
fi
exit $failed
