#!/bin/bash
# The stages of benchmarks/frontier/PROTOCOL.md that claims are about, for some seeds: goes on where it stopped. Exits with 1 if a stage failed.
#
#   bash scripts/evidence/frontier.sh 100,101                                      # stage 1, small pairs
#   bash scripts/evidence/frontier.sh 100,101 pretrained                           # stage 2, with ImageNet weights
#   bash scripts/evidence/frontier.sh 100,101 pretrained mate_to_oxygen_icons      # stage 3
seeds=${1:?seeds, such as 100,101}
if [ "${2:-small}" = pretrained ]; then
    kind=_pretrained pairs="dataset=${3:-clipart_to_emoji,google_to_twitter_emoji}" wrong=0.0009,0.0001 more=4
    without=(frontier budget=null) others=head,snapshots,zero_shot,auto
else
    kind='' pairs='' wrong=0.03,0.00333 more=4,8 without=(frontier_full)
    others=head,snapshots,zero_shot,shift,auto
fi
failed=0
run() { ${PYTHON:-python} -m ensemble_transfer "+experiment=$1$kind" "seed=$seeds" ${pairs:+"$pairs"} "${@:2}" || failed=1; }

# what claims about single strategies need
run frontier_few budget=1 strategy.members=1,2
run frontier_few budget=2 strategy.members=1,2,4
run frontier_few strategy=few budget=2 strategy.members=2 'strategy.cycles=[0.6,0.2,0.2]'
run frontier budget=1 strategy=snapshots,head
run frontier_few strategy=few budget=1.5 strategy.members=2
run frontier budget=1.5 strategy=zero_shot
run "${without[@]}" strategy=zero_shot strategy.members=2
run frontier budget=2 strategy=turns
# auto, and all that it is held against
run frontier budget=1,1.5,2 strategy=auto
run frontier strategy=auto budget=2 "recipe.full.lr=$wrong"
run frontier_few budget=1,1.5,2
run frontier budget=1,1.5,2 "strategy=$others"
run frontier budget=1,1.5 strategy=turns
# in no claim
run "${without[@]}" strategy=full
run "${without[@]}" strategy=zero_shot "strategy.members=$more"
run "${without[@]}" strategy=zero_shot strategy.members=2 strategy.scale=0
run "${without[@]}" strategy=random_shift strategy.finish=head strategy.members=2 strategy.scale=0.7
if [ -z "$kind" ]; then
    run frontier_few budget=0.5
    run frontier budget=0.5
fi
exit $failed
