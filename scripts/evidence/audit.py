"""Print what an audit of the frontier asks of one and two members with ImageNet weights, beside the protocol's claim.

    mkdir -p redrawn/now redrawn/plain redrawn/former
    tar xJf benchmarks/frontier/records.tar.xz -C redrawn/now
    tar xJf benchmarks/frontier/unaugmented.tar.xz -C redrawn/plain
    tar xJf benchmarks/batch_statistics/records.tar.xz -C redrawn/former
    python scripts/evidence/audit.py redrawn/now redrawn/plain redrawn/former

The folders are those of the confirming runs, of the first ones without augmentation, and of those with the former
recipe. The output is benchmarks/frontier/AUDIT.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import mean

from frontier_claims import Protocol, read_protocol
from frontier_runs import ONE, TWO, Runs, Spec

from ensemble_transfer.report.record import read_records
from ensemble_transfer.report.rows import CALIBRATED, NAMED, Column, on_test
from ensemble_transfer.report.statistics import LEVEL, holm, paired_difference
from ensemble_transfer.report.tables import markdown as table

CLAIMS = Path(__file__).parents[2] / "benchmarks" / "frontier" / "claims.yaml"
BRIER = Column("Brier", on_test("ensemble/brier"), 3, False)
PAIRS = ("clipart -> emoji", "google_emoji -> twitter_emoji", "mate -> oxygen")
TOLD = "two-pretrained"
AGAIN, FORMER = range(300, 310), range(200, 210)

BySeed = Mapping[int, float]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the page from three folders of records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs=3, type=Path, metavar="DIR", help="now, without augmentation, former recipe")
    options = parser.parse_args(arguments)
    protocol = read_protocol(CLAIMS)
    records = [read_records([folder]).values() for folder in options.folders]
    now = Runs.of(records[0], protocol.seeds, protocol.again, protocol.rivals)
    plain, former = (Runs.of(own, seeds, {}, {}) for own, seeds in zip(records[1:], (AGAIN, FORMER), strict=True))
    print("# An audit of one and two members with ImageNet weights\n")
    print(
        "Written by `scripts/evidence/audit.py`. Nothing here is a claim; intervals are of 95%, positive is better.\n"
    )
    print(table(("question", "seeds", "lead"), [*_measures(now), *_augmentation(now, plain), _alone(now)]) + "\n")
    print(_without_one(now, protocol) + "\n")
    print("One and two members at 1 with the former recipe and with today's, accuracy / calibrated NLL:\n")
    print(table(("pair", "members", "former", "today's"), _recipes(former, now)))
    return 0


def _values(runs: Runs, pair: str, spec: Spec, column: Column) -> dict[int, float]:
    values = {seed: column.read(record) for seed, record in runs.find(pair, spec, 1).items()}
    return {seed: value for seed, value in values.items() if value is not None}


def _over_pairs(of_pair: Callable[[str], Mapping[int, float]]) -> BySeed:
    """Return the mean over the pairs by seed, of the seeds that all have."""
    every = [of_pair(pair) for pair in PAIRS]
    return {seed: mean(own[seed] for own in every) for seed in sorted(set.intersection(*map(set, every)))}


def _two_less_one(runs: Runs, column: Column) -> BySeed:
    """Return by how much two members at 1 are better than one, by seed."""
    one, two = (_over_pairs(lambda pair, s=spec: _values(runs, pair, s, column)) for spec in (ONE, TWO))
    return {seed: one[seed] - two[seed] for seed in one.keys() & two.keys()}


def _line(question: str, leads: BySeed) -> list[str]:
    lead = paired_difference(leads, dict.fromkeys(leads, 0.0))
    return [question, str(len(leads)), lead.text(3) if lead else "-"]


def _measures(now: Runs) -> list[list[str]]:
    columns = (NAMED[CALIBRATED], NAMED["NLL"], BRIER)
    return [_line(f"two members less one at 1, by {column.name}", _two_less_one(now, column)) for column in columns]


def _augmentation(now: Runs, plain: Runs) -> list[list[str]]:
    """Return the lead of two members with and without augmentation, on common seeds, and what it does for one."""
    column = NAMED[CALIBRATED]
    both = [_two_less_one(runs, column) for runs in (now, plain)]
    seeds = both[0].keys() & both[1].keys()
    common = [{seed: own[seed] for seed in seeds} for own in both]
    one = [_over_pairs(lambda pair, r=runs: _values(r, pair, ONE, column)) for runs in (now, plain)]
    return [
        _line("the same by calibrated NLL, with crop_flip, on seeds that have both", common[0]),
        _line("the same, without", common[1]),
        _line("one member with crop_flip less one without", {seed: one[1][seed] - one[0][seed] for seed in seeds}),
    ]


def _alone(now: Runs) -> list[str]:
    spec = {**ONE, "budget": 2}
    after, alone = (_values(now, pair, spec, NAMED[CALIBRATED]) for pair in ("clipart -> emoji", "emoji"))
    return _line(
        "emoji alone less emoji after clipart, one member at 2",
        {s: after[s] - alone[s] for s in after.keys() & alone.keys()},
    )


def _without_one(now: Runs, protocol: Protocol) -> str:
    """Return in how many cases the claim would be undecided, had one of its seeds been left out."""
    claims = {claim.id: claim.leads(now) for claim in protocol.claims}
    p_values = {claim.id: claim.test(claims[claim.id])[1] for claim in protocol.claims}
    own, moved = next(claim for claim in protocol.claims if claim.id == TOLD), 0
    for left in AGAIN:
        rest = {pair: {s: d for s, d in of.items() if s != left} for pair, of in claims[TOLD].items()}
        adjusted = holm([*(p_values | {TOLD: own.test(rest)[1]}).values()])
        moved += adjusted[[*p_values].index(TOLD)] >= LEVEL
    return f"With one of its {len(AGAIN)} seeds left out, `{TOLD}` is undecided after Holm in {moved} cases."


def _recipes(former: Runs, now: Runs) -> Iterable[list[str]]:
    for pair, spec in product(PAIRS, (ONE, TWO)):
        yield [pair, str(spec["members"]), *(_quality(runs, pair, spec) for runs in (former, now))]


def _quality(runs: Runs, pair: str, spec: Spec) -> str:
    columns = (NAMED["accuracy"], NAMED[CALIBRATED])
    return " / ".join(f"{mean(_values(runs, pair, spec, column).values()):.3f}" for column in columns)


if __name__ == "__main__":
    sys.exit(main())
