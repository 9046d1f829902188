"""The report of a search chooses by calibrated NLL on validation, over common pairs and seeds, and never reads test."""

import shutil
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import pytest
from records import a_record, rows_below, saved

from ensemble_transfer.report.record import read_records

SCRIPT = Path(__file__).parents[2] / "scripts" / "evidence" / "recipe_report.py"
SHIFT = {"a -> b": 0.0, "a -> c": 0.3}
BY_RATE = {0.001: 0.8, 0.01: 0.5, 0.1: 0.52}


def a_run(pair, seed, rate=0.01, schedule="cosine", test=False, tiny=0.01):
    nll = BY_RATE[rate] + SHIFT[pair] + 0.1 * seed + (0.2 if schedule == "constant" else 0)
    if rate == 0.1:
        nll += 0.05 * (seed - 1)  # seed 0 is ahead of the best, by less than its noise
    return a_record(
        "full",
        seed,
        pair,
        metrics={"target/validation/calibrated/nll": nll, "target/validation/ensemble/accuracy": 1 - nll / 2},
        cost={"phases": {"full": {}}, "total": {"flops": 1, "fine_tunings": 1.0, "seconds": 1.0}},
        curves={"anything": [1] * 1000},
        reused_fits=[{"phase": "full", "member": 0, "key": "k"}],
        config={
            "seed": seed,
            "strategy": {"_target_": "x"},
            "recipe": {"full": {"lr": rate, "schedule": schedule}, "tiny": {"lr": tiny}},
            "evaluation": {"test": test},
        },
    )


@pytest.fixture
def runs():
    found = [a_run(pair, seed, rate) for pair in SHIFT for seed in range(3) for rate in BY_RATE]
    found += [a_run(pair, seed, schedule="constant", tiny=0.1) for pair in SHIFT for seed in range(3)]
    found += [replace(a_run("a -> b", 0, rate), backbone="another") for rate in (0.01, 0.1)]
    return [run for run in found if not (run.dataset == "a -> c" and run.seed == 2 and "0.1" in str(run.config))]


def report(forks, runs, folder, *arguments):
    saved(folder / "runs", *runs)
    return forks.run(SCRIPT, "runs", *arguments, cwd=folder)


def test_the_lowest_mean_over_common_units_is_marked_and_so_are_ties(forks, runs, tmp_path):
    done = report(forks, runs, tmp_path)
    assert done.returncode == 0, done.stderr
    rates = rows_below("full: recipe.full.lr", done.stdout)
    assert list(rates[0]) == ["recipe.full.lr", "a -> b", "a -> c", "mean", "behind", "accuracy", ""]
    assert [(rate["recipe.full.lr"], rate[""]) for rate in rates] == [
        ("0.001", ""),
        ("0.01", "**lowest**"),
        ("0.1", "within a standard error"),
    ]
    units = [("a -> b", 0), ("a -> b", 1), ("a -> b", 2), ("a -> c", 0), ("a -> c", 1)]
    means = [0.5 + SHIFT[pair] + 0.1 * seed for pair, seed in units]
    assert list(rates[1].values())[1:4] == ["0.600", "0.850", f"{mean(means):.3f}"]
    apart = [0.02 + 0.05 * (seed - 1) for _, seed in units]
    assert 0 < mean(apart) < stdev(apart) / len(apart) ** 0.5
    # rates of tiny differ too, but these runs have no tiny fine-tuning
    schedules = {row["recipe.full.schedule"]: row for row in rows_below("full: recipe.full.schedule", done.stdout)}
    assert {name: row[""] for name, row in schedules.items()} == {"cosine": "**lowest**", "constant": ""}
    assert schedules["constant"]["behind"] == "+0.200 ± 0.000"
    assert rates[2]["behind"] == f"{mean(apart):+.3f} ± {stdev(apart) / len(apart) ** 0.5:.3f}"
    assert "Calibrated NLL on validation, another, seeds 0." in done.stdout


def test_a_search_that_has_read_test_is_refused(forks, runs, tmp_path):
    done = report(forks, [*runs, replace(a_run("a -> b", 5, test=True), command="python -m it")], tmp_path)
    assert done.returncode == 2
    assert "python -m it has read test: a search sets evaluation.test=false" in done.stderr
    assert report(forks, [a_run("a -> b", 0)], tmp_path / "one").returncode == 2


def test_runs_that_differ_in_what_is_not_searched_are_not_mixed(forks, runs, tmp_path):
    larger = a_run("a -> b", 0)
    done = report(forks, [*runs, replace(larger, config=larger.config | {"ensemble": {"size": 9}})], tmp_path)
    assert done.returncode == 2
    assert "full, a -> b, seed 0: two runs differ in what no search is about" in done.stderr


def test_packed_records_give_the_same_table(forks, runs, tmp_path):
    file = tmp_path / "kept" / "search.tar.xz"
    first = report(forks, runs, tmp_path, "--pack", file).stdout
    shutil.unpack_archive(file, tmp_path / "kept", "xztar")
    kept = read_records([tmp_path / "kept"])
    assert len(kept) == len(runs)
    assert {str(record.curves) for record in kept.values()} == {"{}"}
    again = forks.run(SCRIPT, "kept/search", cwd=tmp_path)
    assert again.stdout + f"{file}\n" == first
