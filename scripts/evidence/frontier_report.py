"""Write the page of a protocol from records alone: claims with verdicts, regret of auto, added members, all tables.

    python scripts/evidence/frontier_report.py multirun/frontier multirun/frontier_pretrained benchmarks/frontier
    python scripts/evidence/frontier_report.py multirun/frontier /tmp/page --pack benchmarks/frontier/records.tar.xz
    python scripts/evidence/frontier_report.py multirun/frontier /tmp/page --development
    python scripts/evidence/frontier_report.py multirun/photos benchmarks/photos --claims benchmarks/photos/claims.yaml

What is tested stands in ``claims.yaml`` of benchmarks/frontier, or of another protocol, how and why in PROTOCOL.md
beside it. The page, README.md of the output folder, has the confirmation seeds alone, and of pairs that were run again
after a fault the reserve seeds; with --development it has the development seeds, and says so. Differences are paired
by seed, over the seeds that both sides have on all pairs.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean

from frontier_auto import regret, taken
from frontier_claims import (
    GAIN,
    MEASURES,
    BySeed,
    Claim,
    Protocol,
    Side,
    digits_of,
    read_protocol,
    time_of,
)
from frontier_runs import ONE, TWO, UNSHIFTED, Runs, Spec
from recipe_report import pack

from ensemble_transfer.report.record import Record, read_records
from ensemble_transfer.report.rows import CALIBRATED, worth_of
from ensemble_transfer.report.statistics import Spread, holm
from ensemble_transfer.report.summary import number
from ensemble_transfer.report.tables import markdown as table

CLAIMS = Path(__file__).parents[2] / "benchmarks" / "frontier" / "claims.yaml"
LOOKS = (
    "A look was thought of when results were known. It has no verdict and no correction, and shows where to look next."
)
FLIPS = (
    "The p-value by sign flips is a check that assumes no normal distribution. It is two-sided, uncorrected, and never "
    "below 2/1,024 with ten seeds. So it could pass no claim among more than 25 under Holm's correction, and decides "
    "nothing."
)
TAKEN = (
    "Learning rates of fine-tuned members in those of the tuned recipe, and leads over two members with the tuned "
    "rate. A look: runs are sorted by what they took, so rows of one pair have different seeds. Choices of earlier "
    "runs are not kept."
)
LEGEND = (
    "Budgets and costs are in fine-tunings: full fine-tunings of one member, by FLOPs, or `by time`, where CPU seconds "
    "are divided by those of a fine-tuning in the same process. The column of CPU seconds is a mean over runs that "
    "other work disturbed, so the one does not follow from the other. Neither includes what members cost on the "
    "source. `±` is the standard deviation over seeds, `n` their number; intervals are of 95% by Student's t, without "
    "correction. `networks` is how many predict, the mean over seeds: `snapshots (members=8)` keeps up to eight. OOD "
    "AUROC is missing where the target has all classes of the source."
)
DEVELOPMENT = range(3)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, or 2 if there is nothing to report."""
    parser = argparse.ArgumentParser(
        prog="python scripts/evidence/frontier_report.py",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folders of the sweeps")
    parser.add_argument("output", type=Path, metavar="OUT", help="folder of the page")
    parser.add_argument("--claims", type=Path, default=CLAIMS, metavar="FILE", help="default: that of the protocol")
    parser.add_argument("--development", action="store_true", help="the development seeds, to look at and tune on")
    parser.add_argument("--pack", type=Path, metavar="FILE.tar.xz", help="keep these records in an archive")
    options = parser.parse_args(arguments)
    try:
        protocol = read_protocol(options.claims)
        seeds, again = (DEVELOPMENT, {}) if options.development else (protocol.seeds, protocol.again)
        runs = Runs.of(read_records(options.folders).values(), seeds, again, protocol.rivals)
        if not runs.by_pair:
            raise ValueError(f"no finished run of seeds {seeds[0]} to {seeds[-1]} below the folders")
        text = page(runs, protocol, seeds)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "README.md").write_text(text, encoding="utf-8")
    print(options.output / "README.md")
    if options.pack is not None:
        pack((record for own in runs.by_pair.values() for record, _ in own), options.pack)
        print(options.pack)
    return 0


def page(runs: Runs, protocol: Protocol, seeds: Sequence[int]) -> str:
    """Return the page of a protocol, of runs on these seeds."""
    records = [record for own in runs.by_pair.values() for record, _ in own]
    kind = "confirmation" if seeds == protocol.seeds else "development (nothing here is a result)"
    machines = sorted({str(record.environment.get("processor", "unknown")) for record in records})
    opening = (
        f"Written by `scripts/evidence/frontier_report.py` from {len(records)} runs on {kind} seeds "
        f"{_seeds(runs, seeds)}, one thread of {' and '.join(machines)}. What is tested, how, and what verdicts mean: "
        f"`{protocol.page}`. Leads are own minus other, turned so that positive is better, with 95% intervals."
    )
    parts = [f"# {protocol.title}", opening, LEGEND, "## Claims", _claims(runs, protocol.claims, len(seeds)), FLIPS]
    parts += ["## Looks", LOOKS, _looks(runs, protocol.looks)] if protocol.looks else []
    parts += ["## Means over pairs", _means(runs, protocol.claims, len(seeds))]
    parts += ["## Regret of auto", regret(runs)]
    parts += ["## What auto took", TAKEN, taken(runs)] if _chosen(records, "lr") else []
    parts += ["## Members that are added later", added] if (added := _added(runs)) else []
    for pair in runs.by_pair:
        parts += [f"## {pair}", _everything(runs, pair)]
    return "\n\n".join(parts) + "\n"


def _chosen(records: Sequence[Record], what: str) -> bool:
    return any(what in record.curves.get("choice", ()) for record in records)


def _seeds(runs: Runs, seeds: Sequence[int]) -> str:
    """Return in words which seeds are counted, and on which pairs others: those that were run again."""
    others: dict[tuple[int, int], list[str]] = {}
    for pair, own in runs.by_pair.items():
        found = {record.seed for record, _ in own}
        if not found <= {*seeds}:
            others.setdefault((min(found), max(found)), []).append(pair)
    usual = [f"{seeds[0]} to {seeds[-1]}"] if sum(map(len, others.values())) < len(runs.by_pair) else []
    again = [f"{first} to {last} on {', '.join(pairs)}" for (first, last), pairs in others.items()]
    return ", and ".join([*usual, *again])


def _looks(runs: Runs, looks: Sequence[Claim]) -> str:
    lines = []
    for look in looks:
        own = look.leads(runs)
        lead, _ = look.test(own)
        text = "-" if lead is None else lead.text(digits_of(look.measure))
        lines.append([f"{look.says} ({look.id})", look.measure, str(lead.n if lead else 0), text, _by_pair(look, own)])
    return table(("look", "measure", "n", "lead", "by pair"), lines)


def _by_pair(claim: Claim, leads: Mapping[str, BySeed]) -> str:
    each = {pair: claim.test({pair: by_seed})[0] for pair, by_seed in leads.items()}
    return "; ".join(f"{pair} {lead.text(digits_of(claim.measure))}" for pair, lead in each.items() if lead) or "-"


def _claims(runs: Runs, claims: Sequence[Claim], least: int) -> str:
    leads = [claim.leads(runs) for claim in claims]
    tests = [claim.test(own) for claim, own in zip(claims, leads, strict=True)]
    complete = [p if lead is not None and lead.n >= least else math.nan for lead, p in tests]
    lines = []
    for claim, own, (lead, p), adjusted in zip(claims, leads, tests, holm(complete), strict=True):
        text = "-" if lead is None else lead.text(digits_of(claim.measure))
        cells = [f"{claim.says} ({claim.id})", claim.measure, str(lead.n if lead else 0), text, _p(p)]
        cells += [_p(adjusted), _p(claim.flips(own)), claim.verdict(lead, adjusted, least), _by_pair(claim, own)]
        lines.append(cells)
    head = ("claim", "measure", "n", "lead", "p", "p after Holm", "p by sign flips", "verdict", "by pair")
    return table(head, lines)


def _p(value: float) -> str:
    return "below 0.001" if value < 0.0005 else number(value)


def _means(runs: Runs, claims: Sequence[Claim], least: int) -> str:
    """Return for the pairs of claims about auto what every strategy has in the mean over them; a look, no claim."""
    measures, lines = ("accuracy", "calibrated NLL"), []
    for pairs in dict.fromkeys(tuple(claim.pairs) for claim in claims if claim.own["strategy"] == "auto"):
        for budget in runs.budgets(pairs[0]):
            for spec in [*runs.singles(pairs[0], budget), {"strategy": "auto"}]:
                found = [runs.find(pair, spec, budget) for pair in pairs]
                seeds = set.intersection(*map(set, found))
                if len(seeds) < least:
                    continue
                cells = []
                for measure in measures:
                    means = [mean(_value(own[seed], measure) for own in found) for seed in sorted(seeds)]
                    cells.append(Spread.of(means).text(3))
                time = mean(time_of(own[seed]) for own in found for seed in seeds)
                lines.append([str(len(pairs)), f"{budget:g}", _label(spec), *cells, number(time, 2), str(len(seeds))])
    head = ("pairs", "budget", "strategy", *measures, "by time", "n")
    return table(head, lines) if lines else "No budget has been run on all pairs."


def _added(runs: Runs) -> str:
    """Return what shifted members add to a donor, for what price, beside further fully fine-tuned members."""
    lines, nats = [], Side(runs, CALIBRATED)
    for pair in runs.by_pair:
        gain, specs = Side(runs, GAIN), [("zero_shot", None, members) for members in (2, 4, 8)]
        specs += [(UNSHIFTED, None, 2), ("random_shift", None, 2), ("few", 2, 2)]
        for strategy, budget, members in specs:
            spec = TWO if strategy == "few" else {"strategy": strategy, "members": members}
            found = runs.find(pair, spec, budget)
            gains = gain.values(pair, spec, budget, ())
            if not gains:
                continue
            full = runs.find(pair, {"strategy": "full"}, None)
            worths = [value for seed in found.keys() & full.keys() if (value := worth_of(found[seed], full[seed])[0])]
            price = Spread.of([found[seed].cost["total"]["fine_tunings"] - 1 for seed in gains])
            worth_text = Spread.of(worths).text(2) if worths else "-"
            worth_text += f" (of {len(worths)})" * (0 < len(worths) < len(gains))
            own, one = nats.values(pair, spec, budget, ()), nats.values(pair, ONE, 1, ())
            by_member = Spread.of([(own[seed] - one[seed]) / (members - 1) for seed in gains])
            each = [strategy, str(members - 1), price.text(2), worth_text, by_member.text(3)]
            lines.append([pair, *each, Spread.of(list(gains.values())).text(3), str(len(gains))])
    measures = ("NLL's gain per member", f"NLL's {GAIN}")
    head = ("pair", "added by", "members added", "price", "worth of all", *measures, "n")
    note = (
        "`(of 4)`: only with 4 of the seeds is the ensemble as good as one fully fine-tuned member or better. The "
        "worth is the mean of these, which flatters it. A member of scale 0 has a head as a shifted one has, and "
        "statistics where the recipe does not freeze them, but no shift; one of random_shift has a random one of the "
        "same length. Prices leave out the training of the member on the source, which is there before."
    )
    return f"{table(head, lines)}\n\n{note}" if lines else ""


def _value(record: Record, measure: str) -> float:
    """Return a measure by its name; NaN where the record has none."""
    value = MEASURES[measure].read(record)
    return math.nan if value is None else value


def _everything(runs: Runs, pair: str) -> str:
    """Return the table of a pair: every strategy at every budget, in every column."""
    head = ["budget", "strategy", *MEASURES, "fine-tunings", "by time", "CPU seconds", "networks", "n"]
    lines = []
    for budget in runs.budgets(pair):
        for spec in [*runs.singles(pair, budget), {"strategy": "auto"}]:
            records = list(runs.find(pair, spec, budget).values())
            if records:
                lines.append([f"{budget:g}", _label(spec), *_cells(records), str(len(records))])
    return table(head, lines)


def _label(spec: Spec) -> str:
    shown = [(name, str(spec.get(name, "None"))) for name in ("members", "image_size", "cycles")]
    options = ", ".join(f"{name}={value}" for name, value in shown if value not in ("None", "[]"))
    return f"{spec['strategy']} ({options})" if options else str(spec["strategy"])


def _cells(records: Sequence[Record]) -> Iterator[str]:
    for column in MEASURES.values():
        values = [value for record in records if (value := column.read(record)) is not None]
        yield Spread.of(values).text(column.digits) if len(values) == len(records) else "-"
    for field, digits in (("fine_tunings", 2), ("fine_tunings_by_time", 2), ("cpu_seconds", 1)):
        yield number(mean(record.cost["total"][field] for record in records), digits)
    yield number(mean(record.ensemble["size"] for record in records), 1)


if __name__ == "__main__":
    sys.exit(main())
