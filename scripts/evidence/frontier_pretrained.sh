#!/bin/bash
# Stages 2 and 3 of benchmarks/frontier/PROTOCOL.md, pairs with ImageNet weights, for some seeds: goes on where it stopped.
#
#   bash scripts/evidence/frontier_pretrained.sh 100,101                               # stage 2
#   bash scripts/evidence/frontier_pretrained.sh 100,101 mate_to_oxygen_icons          # stage 3
seeds=${1:?seeds, such as 100,101} pairs=${2:-clipart_to_emoji,google_to_twitter_emoji}
run() { ${PYTHON:-python} -m ensemble_transfer "+experiment=$1_pretrained" "seed=$seeds" "dataset=$pairs" "${@:2}"; }

# what claims about single strategies need
run frontier_few budget=1 strategy.members=1,2
run frontier_few budget=2 strategy.members=1,2,4
run frontier_few strategy=few budget=2 strategy.members=2 'strategy.cycles=[0.6,0.2,0.2]'
run frontier budget=1 strategy=snapshots,head
run frontier_few strategy=few budget=1.5 strategy.members=2
run frontier budget=1.5 strategy=zero_shot
run frontier budget=null strategy=zero_shot strategy.members=2
run frontier budget=2 strategy=turns
# auto, and all that it is held against
run frontier budget=1,1.5,2 strategy=auto
run frontier budget=2 strategy=auto recipe.full.lr=0.003,0.000333
run frontier_few budget=1,1.5,2
run frontier budget=1,1.5,2
# in no claim
run frontier budget=null strategy=full
run frontier budget=null strategy=zero_shot strategy.members=4
