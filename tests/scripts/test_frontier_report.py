"""The page of the frontier says what its records say: rivals, paired differences, worth by cost, aims."""

import csv
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from ensemble_transfer.report.record import Record

ROOT = Path(__file__).parents[2]
SEEDS = (0, 1, 2)
PAIRS = ("a -> b", "a -> c")
BUDGETS = (1.05, 2.5)
# accuracy and calibrated NLL at the smaller budget; the larger one adds GAIN, a seed its jitter
QUALITY = {
    "few": (0.80, 0.60),
    "snapshots": (0.79, 0.62),
    "shift": (0.84, 0.52),
    "zero_shot": (0.82, 0.45),
    "auto": (0.83, 0.50),
}
GAIN = {"few": 0.06, "snapshots": 0.02, "shift": 0.0, "zero_shot": 0.01, "auto": 0.055}
JITTER = {"few": (0, 0.02, 0.01), "shift": (0.01, 0.0, 0.03)}
ONE_MEMBER, CURVE = 0.7, (0.7, 0.6, 0.5, 0.4)
"""Calibrated NLL of `full` by its number of members, for seed 0; each further seed is .02 higher."""

HEAD = ["pair", "budget", "best rival", "better shift", "minus the rival", "auto", "minus the rival", "n"]


def quality(strategy, seed, budget):
    """Accuracy and calibrated NLL on test."""
    accuracy, nll = QUALITY[strategy]
    jitter = JITTER.get(strategy, (0, 0, 0))[seed]
    gain = GAIN[strategy] if budget > BUDGETS[0] else 0
    return accuracy + gain + jitter, nll - gain + jitter


def a_record(pair, strategy, seed, budget, members=8, validation=0.5):
    accuracy, nll = quality(strategy, seed, budget)
    if strategy == "few" and members == 1:
        accuracy, nll = accuracy - 0.3, nll + 0.3  # never what validation prefers
        validation += 0.1
    metrics = {
        "target/test/ensemble/accuracy": accuracy,
        "target/test/calibrated/nll": nll,
        "target/validation/calibrated/nll": validation,
    }
    options = {"members": members} if strategy == "few" else {}
    cost = {"total": {"flops": budget * 10**9, "fine_tunings": budget, "seconds": 1.0}, "marginal": None}
    return Record(
        "finished",
        strategy,
        seed,
        pair,
        "resnet10t",
        {"size": members, "lineage": "shared"},
        metrics,
        cost,
        config={"strategy": options, "budget": budget, "ensemble": {"size": 8}, "seed": seed},
        environment={"processor": "A CPU", "versions": {"torch": "2.13.0"}},
    )


def full(pair, seed):
    curve = [value + 0.02 * seed for value in CURVE]
    return Record(
        "finished",
        "full",
        seed,
        pair,
        "resnet10t",
        {"size": len(curve), "lineage": "shared"},
        {"target/test/ensemble/accuracy": 0.9, "target/test/calibrated/nll": curve[-1]},
        {"total": {"flops": len(curve) * 10**9, "fine_tunings": float(len(curve)), "seconds": 4.0}, "marginal": None},
        curves={"ensemble_size": {"size": [1, 2, 3, 4], "accuracy": [0.6, 0.7, 0.8, 0.9], "calibrated_nll": curve}},
        config={"strategy": {}, "budget": None, "ensemble": {"size": 8}, "seed": seed},
        environment={"processor": "A CPU", "versions": {"torch": "2.13.0"}},
    )


def saved(record, folder):
    folder.mkdir(parents=True)
    record.save(folder)


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory):
    """Two folders of runs, as three sweeps into one folder and another leave them."""
    folder = tmp_path_factory.mktemp("frontier")
    runs = [full(pair, seed) for pair in PAIRS for seed in SEEDS]
    for pair in PAIRS:
        for budget in BUDGETS:
            for seed in SEEDS:
                runs += [a_record(pair, s, seed, budget) for s in QUALITY if s != "few"]
                runs += [a_record(pair, "few", seed, budget, members) for members in (1, 2)]
    for index, run in enumerate(runs):
        saved(run, folder / ("one" if index % 2 else "other") / str(index))
    refused = Record("failed", "shift", 0, "a -> b", "resnet10t", {"size": 8}, error="budget=0.1: does not pay")
    saved(refused, folder / "one" / "refused")
    return folder


def report(*arguments):
    command = [sys.executable, str(ROOT / "scripts" / "frontier_report.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def output(sweeps, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    (folder / "CONCLUSIONS.md").write_text("## Conclusions\n\nA person says so.\n")
    done = report(sweeps / "one", sweeps / "other", folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(folder / "README.md")
    return folder


@pytest.fixture(scope="module")
def page(output):
    return (output / "README.md").read_text()


def lines(text, start):
    """Cells of the table after a text, without its heading."""
    cells = []
    for line in text.split(start)[1].strip().splitlines():
        if line.startswith("|"):
            cells.append([cell.strip() for cell in line.strip("|").split("|")])
        elif cells:
            break
    return cells[0], cells[2:]


def by_hand(own, other, digits=3):
    """Mean of differences paired by seed, with Student's 95% interval, by scipy."""
    test = stats.ttest_rel(own, other)
    interval = test.confidence_interval(0.95)
    mean = np.mean(own) - np.mean(other)
    return f"{mean:+.{digits}f} [{interval.low:+.{digits}f}, {interval.high:+.{digits}f}]"


def values(strategy, budget, place):
    return [quality(strategy, seed, budget)[place] for seed in SEEDS]


def test_every_run_is_a_row_and_what_was_refused_is_counted(output, page):
    with (output / "records.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == 2 * (3 + 2 * 3 * 6) + 1
    [one] = [
        r
        for r in found
        if (r["dataset"], r["strategy"], r["seed"], r["config/budget"]) == ("a -> c", "auto", "1", "2.5")
    ]
    assert float(one["target/test/ensemble/accuracy"]) == pytest.approx(0.83 + 0.055)
    assert float(one["cost/total/fine_tunings"]) == 2.5
    assert f"from {len(found) - 1} finished runs" in page
    assert "1 more did not finish" in page
    assert "A CPU, one thread, torch 2.13.0" in page


def test_the_verdict_pairs_the_better_shift_and_auto_with_the_best_rival(page):
    head, rows = lines(page, "By accuracy:")
    assert head == HEAD
    assert [row[:2] for row in rows] == [[pair, f"{budget:g}"] for pair in PAIRS for budget in BUDGETS]
    rival = values("few", 1.05, 0)
    row = rows[0]
    assert row[2] == f"few {np.mean(rival):.3f} ± {np.std(rival, ddof=1):.3f}"
    assert row[3].startswith(f"shift {np.mean(values('shift', 1.05, 0)):.3f}")
    assert row[4] == by_hand(values("shift", 1.05, 0), rival)
    assert row[6] == by_hand(values("auto", 1.05, 0), rival)
    assert row[7] == "3"


def test_the_better_shift_is_another_by_nll_where_lower_is_better(page):
    _, rows = lines(page, "By calibrated NLL:")
    assert rows[0][3].startswith(f"zero_shot {np.mean(values('zero_shot', 1.05, 1)):.3f}")
    assert rows[0][4] == by_hand(values("zero_shot", 1.05, 1), values("few", 1.05, 1))


def test_each_pair_has_a_table_with_worth_by_cost_and_a_figure(page, output):
    for pair, stem in zip(PAIRS, ("a_to_b", "a_to_c"), strict=True):
        head, rows = lines(page, f"## {pair}")
        found = {(row[0], row[1]): dict(zip(head, row, strict=True)) for row in rows}
        assert len(found) == 2 * 5
        assert f"](figures/{stem}.svg)" in page
        assert (output / "figures" / f"{stem}.png").read_bytes()[:4] == b"\x89PNG"
        # auto at 1.05: NLL .5 against a curve of .7 .6 .5 .4 plus .02 a seed: three members and a fifth of one a seed
        worth = np.array([3.0, 3.2, 3.4])
        row = found["1.05", "auto"]
        assert row["worth"] == f"{worth.mean():.2f} ± {worth.std(ddof=1):.2f}"
        ratio = worth / 1.05
        assert row["worth / cost"] == f"{ratio.mean():.2f} ± {ratio.std(ddof=1):.2f}"
        assert row["fine_tunings"] == "1.05"
        few = found["1.05", "few"]
        assert few["members"] == "2.0"  # validation prefers two for every seed
        assert few["accuracy minus the best rival's"] == "-"
        assert row["accuracy minus the best rival's"] == by_hand(values("auto", 1.05, 0), values("few", 1.05, 0))


def test_worth_below_one_member_is_a_ratio_of_probabilities(tmp_path):
    """An NLL of .9 against one of .7 for a single member: the true class has exp(-.2) of its probability."""
    for seed in SEEDS:
        saved(full("a -> b", seed), tmp_path / f"full_{seed}")
        for budget in BUDGETS:
            for strategy in ("snapshots", "auto"):
                record = a_record("a -> b", strategy, seed, budget)
                metrics = dict(record.metrics) | {"target/test/calibrated/nll": ONE_MEMBER + 0.2 + 0.02 * seed}
                saved(Record(**{**vars(record), "metrics": metrics}), tmp_path / f"{strategy}_{seed}_{budget:g}")
    done = report(tmp_path, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out" / "README.md").read_text()
    head, rows = lines(text, "## a -> b")
    [row] = [dict(zip(head, row, strict=True)) for row in rows if row[:2] == ["2.5", "auto"]]
    assert row["worth"] == f"{math.exp(-0.2):.2f}"
    assert row["worth / cost"] == f"{math.exp(-0.2) / 2.5:.2f}"
    _, aims = lines(text, "## Aims")
    [ratio] = [aim for aim in aims if aim[0].startswith("worth / cost")]
    assert ratio[1:] == [f"lowest {math.exp(-0.2) / 2.5:.2f}, a -> b at 2.5", "not met"]


def test_aims_are_measured_on_all_pairs(page):
    _, aims = lines(page, "## Aims")
    near, far, ratio = aims
    # the best at 1.05 is shift, .84 and .0133 by its seeds, auto .83; at 2.5 few, .86 and .01, auto .885
    assert re.fullmatch(r"largest gap \+0\.023 \(a -> [bc], shift\)", near[1])
    assert re.fullmatch(r"largest gap -0\.015 \(a -> [bc], few\)", far[1])
    worth = [3 + (0.5 + 0.02 * seed - quality("auto", seed, 2.5)[1]) / 0.1 for seed in SEEDS]
    assert ratio[1] == f"lowest {np.mean(worth) / 2.5:.2f}, a -> b at 2.5"
    assert [near[2], far[2], ratio[2]] == ["not met", "met", "met"]


def test_auto_is_compared_on_its_own_seeds(tmp_path):
    """The best strategy is better on seeds that auto has not run; they say nothing of auto."""
    for strategy, seeds in (("shift", (0, 2)), ("auto", (0,)), ("few", (0, 2))):
        for seed in seeds:
            for budget in (1.05, 2.5):
                saved(a_record("a -> b", strategy, seed, budget), tmp_path / f"{strategy}_{seed}_{budget:g}")
    done = report(tmp_path, tmp_path / "page")
    assert done.returncode == 0, done.stderr
    _, aims = lines((tmp_path / "page" / "README.md").read_text(encoding="utf-8"), "## Aims")
    near = quality("shift", 0, 1.05)[0] - quality("auto", 0, 1.05)[0]
    assert aims[0][1] == f"largest gap {near:+.3f} (a -> b, shift)"


def test_conclusions_come_before_the_numbers(page):
    assert page.index("A person says so.") < page.index("## Which strategy to take")
    assert "excludes zero" in page


def test_what_is_no_frontier_is_refused_in_a_line(tmp_path):
    for folder in (tmp_path, tmp_path / "gone"):
        done = report(folder, tmp_path / "out")
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
    saved(full("a -> b", 0), tmp_path / "full")
    assert "no runs with budgets below" in report(tmp_path, tmp_path / "out").stderr
    assert not (tmp_path / "out").exists()
