#!/bin/bash
# Stage 1 of benchmarks/frontier/PROTOCOL.md, the small pairs, for some seeds: goes on where it stopped.
#
#   bash scripts/evidence/frontier_small.sh 100,101,102,103,104
seeds=${1:?seeds, such as 100,101}
run() { ${PYTHON:-python} -m ensemble_transfer "+experiment=$1" "seed=$seeds" "${@:2}"; }

# what claims about single strategies need
run frontier_few budget=1 strategy.members=1,2
run frontier_few budget=2 strategy.members=1,2,4
run frontier_few strategy=few budget=2 strategy.members=2 'strategy.cycles=[0.6,0.2,0.2]'
run frontier budget=1 strategy=snapshots,head
run frontier_few strategy=few budget=1.5 strategy.members=2
run frontier budget=1.5 strategy=zero_shot
run frontier_full strategy=zero_shot strategy.members=2
run frontier budget=2 strategy=turns
# auto, and all that it is held against
run frontier budget=1,1.5,2 strategy=auto
run frontier strategy=auto budget=2 recipe.full.lr=0.03,0.00333
run frontier_few budget=1,1.5,2
run frontier budget=1,1.5,2
# in no claim
run frontier_full
run frontier_full strategy=zero_shot strategy.members=4,8
run frontier_few budget=0.5
run frontier budget=0.5
