"""The report of a study says what its records say, finished or not."""

import csv
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

from ensemble_transfer.report.record import Record

ROOT = Path(__file__).parents[2]
TEST = "target/test/"
SEEDS = (0, 1, 2)
# accuracy by pair and strategy; a seed adds its jitter, another for each strategy
ACCURACY = {
    "a -> b": {"full": 0.80, "matched": 0.70, "shift": 0.75},
    "a -> c": {"full": 0.60, "matched": 0.55, "shift": 0.54},
    "a -> d": {"full": 0.90, "matched": 0.80, "shift": 0.83},
}
JITTER = {"full": (0.0, 0.02, 0.01), "matched": (0.0, 0.01, 0.03), "shift": (0.0, 0.02, 0.02)}
GFLOPS = {"full": 400, "matched": 140, "shift": 140}


def cost(gflops):
    return {"steps": gflops, "flops": gflops * 10**9, "seconds": gflops * 3.6, "cpu_seconds": gflops * 1.8}


def accuracy(pair, strategy, seed):
    return ACCURACY[pair][strategy] + JITTER[strategy][seed]


def a_record(pair, strategy, seed, size):
    value = accuracy(pair, strategy, seed)
    metrics = {
        "ensemble/accuracy": value,
        "ensemble/nll": 1 - value,
        "calibrated/nll": 0.9 - value,
        "member/accuracy": value - 0.05,
        "soup/accuracy": value - 0.1,
        "diversity/disagreement_normalised": 0.7 if strategy == "shift" else 0.5 + 0.01 * seed,
    }
    phases = {"full": cost(GFLOPS[strategy])}
    if strategy == "shift":
        phases = {"full": cost(100), "tiny": cost(40)}
    return Record(
        "finished",
        strategy,
        seed,
        pair,
        "resnet10t",
        {"size": size, "lineage": "shared"},
        metrics={TEST + name: number for name, number in metrics.items()} | {"shift/probe_gain": None},
        cost={
            "phases": phases,
            "total": cost(GFLOPS[strategy]),
            "marginal": cost(8 if strategy == "shift" else GFLOPS[strategy] // size),
            "source": cost(10 * size),
        },
        # the donor was fully fine-tuned by the run of full
        reused_fits=[{"phase": "full", "member": 0, "key": "k"}] if strategy == "shift" else [],
        curves={"shift_line": {"scale": [0.0, 1.0], "loss": [2.0, 1.0], "accuracy": [0.2, 0.5]}}
        if strategy == "shift"
        else {
            "ensemble_size": {
                "size": [1, 2, 3, 4],
                "accuracy": [0.6, 0.7, 0.8, 0.9],
                "calibrated_nll": [0.6, 0.5, 0.4, 0.1],
            }
        },
        config={"strategy": {"donors": 1} if strategy == "shift" else {}, "dataset": {"source": {"train": 5}}},
        environment={"device": "cpu", "processor": "A CPU", "versions": {"torch": "2.13.0"}},
        command=f"python -m ensemble_transfer +strategy={strategy} +experiment=study",
    )


def predictions(folder, rights):
    """Members that are right on so many of 100 examples."""
    labels = np.arange(100) % 2
    probabilities = np.zeros((len(rights), 100, 2), np.float32)
    for member, right in enumerate(rights):
        said = np.where(np.arange(100) < right, labels, 1 - labels)
        probabilities[member, np.arange(100), said] = 1
    np.savez(folder / "predictions.npz", probabilities=probabilities, labels=labels)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Three pairs with four members, one with two as well; of one pair a seed is missing and a run has failed."""
    folder = tmp_path_factory.mktemp("study")
    runs = [(pair, s, seed, 4) for pair in ACCURACY for s in GFLOPS for seed in SEEDS]
    runs = [run for run in runs if run[0] != "a -> d" or run[2] < 2] + [("a -> b", "shift", 0, 2)]
    for index, run in enumerate(runs):
        (folder / str(index)).mkdir()
        a_record(*run).save(folder / str(index))
        if run[0] != "a -> d":
            donor_and_recipients = {"full": (90, 60, 62, 64), "shift": (90, 58, 60, 65)}.get(run[1], (50, 50, 50, 50))
            predictions(folder / str(index), donor_and_recipients[: run[3]])
    failed = Record("failed", "full", 2, "a -> d", "resnet10t", {"size": 4}, error="lr=nan: must be finite")
    (folder / "99").mkdir()
    failed.save(folder / "99")
    swept = {"seed": "0,1,2", "dataset": "b,c,d", "ensemble.size": "4,2", "+strategy": "full,matched,shift"}
    (folder / "multirun.yaml").write_text(yaml.safe_dump({"hydra": {"sweeper": {"params": swept}}}))
    return folder


def report(*arguments):
    command = [sys.executable, str(ROOT / "scripts" / "study_report.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def output(sweep, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    (folder / "CONCLUSIONS.md").write_text("## Conclusions\n\nA person says so.\n")
    done = report(sweep, folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(folder / "README.md")
    return folder


@pytest.fixture(scope="module")
def page(output):
    return (output / "README.md").read_text()


def rows(text, heading):
    """Rows of the table under a heading, by their first cell."""
    part = text.split(f"## {heading}")[1].split("\n## ")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line[:1] == "|"]
    return {line[0]: dict(zip(lines[0][1:], line[1:], strict=True)) for line in lines[2:]}


def test_every_finished_run_is_a_row(output):
    with (output / "records.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == 25
    [one] = [r for r in found if (r["dataset"], r["strategy"], r["seed"], r["M"]) == ("a -> c", "shift", "1", "4")]
    assert float(one["accuracy"]) == pytest.approx(0.56)
    assert (float(one["GFLOPs"]), float(one["marginal GFLOPs"])) == (140, 8)
    assert float(one["soup accuracy"]) == pytest.approx(0.46)
    assert one["probe gain"] == ""
    assert float(one["full members"]) == pytest.approx(3.2)  # 0.34: between 0.4 of three and 0.1 of four


def test_the_table_has_mean_deviation_and_n(output):
    with (output / "table.csv").open(newline="") as file:
        found = {(r["dataset"], r["M"], r["strategy"]): r for r in csv.DictReader(file)}
    row = found["a -> b", "4", "matched"]
    values = [accuracy("a -> b", "matched", seed) for seed in SEEDS]
    assert row["n"] == "3"
    assert float(row["accuracy mean"]) == pytest.approx(np.mean(values))
    assert float(row["accuracy std"]) == pytest.approx(np.std(values, ddof=1))
    assert found["a -> b", "2", "shift"]["accuracy std"] == ""


def test_shift_and_matched_are_paired_by_seed(page):
    found = rows(page, "Shift against matched")
    row = found["a -> b, M=4"]
    own, other = ([accuracy("a -> b", s, seed) for seed in SEEDS] for s in ("shift", "matched"))
    test = stats.ttest_rel(own, other)
    interval = test.confidence_interval(0.95)
    assert row["accuracy"] == f"**{np.mean(own) - np.mean(other):+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]**"
    assert (row["n"], row["GFLOPs, ratio"]) == ("3", "1.000")
    assert "**" not in found["a -> c, M=4"]["accuracy"]
    assert found["a -> d, M=4"]["n"] == "2"
    assert "a -> b, M=2" not in found


def test_aims_are_computed_at_the_largest_size(page):
    met = {aim: (row["met?"], row["pairs"]) for aim, row in rows(page, "Aims").items()}
    assert [state for state in met.values()] == [  # noqa: C416
        ("met", "2 of 3"),
        ("met", "3 of 3"),
        ("met", "3 of 3"),
        ("not met", "2 of 3"),
    ]


def test_an_added_member_is_compared_with_the_same_member_fully_fine_tuned(page):
    row = rows(page, "An added member")["a -> b, M=4"]
    assert row["GFLOPs, ratio"] == "0.080"
    assert row["accuracy, difference"] == f"{(58 + 60 + 65) / 300 - (60 + 62 + 64) / 300:+.3f}"
    assert rows(page, "An added member")["a -> d, M=4"]["accuracy, difference"] == "-"


def test_each_pair_has_a_table_of_all_strategies_at_its_largest_size(page):
    found = rows(page, "a -> b, M=4")
    assert list(found) == ["full", "matched", "shift"]
    assert found["matched"]["accuracy"] == "0.713 ± 0.015"


def test_the_page_begins_with_accuracy_at_the_largest_sizes(page):
    found = rows(page, "Accuracy")
    assert list(found) == ["a -> b, M=4", "a -> c, M=4", "a -> d, M=4"]
    assert found["a -> b, M=4"]["matched"] == "0.713 ± 0.015"
    assert found["a -> b, M=4"]["GFLOPs, shift / full"] == f"{GFLOPS['shift'] / GFLOPS['full']:.2f}"


def test_what_is_missing_or_failed_is_said(page):
    assert "25 finished, 1 failed, 28 missing" in page
    assert "- failed: full, a -> d, seed 2: lr=nan: must be finite" in page
    assert "- a -> d, M=4: full 2, matched 2, shift 2" in page
    assert "- a -> b, M=2: full 0, matched 0, shift 1" in page
    assert "- a -> c, M=2" not in page  # studies of different sizes can be reported together: none was begun
    assert "`python -m ensemble_transfer +experiment=study`" in page
    assert "processor A CPU" in page
    assert "torch 2.13.0" in page


def test_fits_from_the_store_and_shared_source_ensembles_count_once(page):
    [source] = [line for line in page.splitlines() if line.startswith("- source ensembles")]
    [moved] = [line for line in page.splitlines() if line.startswith("- transfers")]
    assert f"{3 * 40:,} GFLOPs" in source  # one source task, three seeds
    gflops = 8 * (400 + 140 + 40) + 40  # the donor's fit belongs to full
    assert f"{gflops:,} GFLOPs" in moved
    assert f"{gflops * 1.8 / 3600:.2f} CPU hours, {gflops * 3.6 / 3600:.2f} wall hours" in moved


def test_conclusions_and_figures_are_included(page, output):
    assert page.index("A person says so.") < page.index("## Aims")
    names = ("accuracy", "accuracy_flops", "nll_flops", "shift_minus_matched", "room", "disagreement", "shift_line")
    for name in names:
        assert f"](figures/{name}.svg)" in page
        assert (output / "figures" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    assert page.count("![") == len(names)


def test_a_study_that_has_just_begun_makes_a_page(tmp_path):
    (tmp_path / "0").mkdir()
    a_record("a -> b", "full", 0, 4).save(tmp_path / "0")
    done = report(tmp_path, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out" / "README.md").read_text()
    assert all(row["met?"] == "not met" for row in rows(text, "Aims").values())
    assert "no run yet" in text
    assert "unknown missing" in text
    assert not (tmp_path / "out" / "figures" / "shift_line.svg").exists()
    assert not math.isnan(float(rows(text, "a -> b, M=4")["full"]["accuracy"]))


def test_what_is_no_study_is_refused_in_a_line(tmp_path):
    for folder in (tmp_path, tmp_path / "gone"):
        done = report(folder, tmp_path / "out")
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
    a_record("a -> b", "full", 0, 4).save(tmp_path)
    (tmp_path / "again").mkdir()
    a_record("a -> b", "full", 0, 4).save(tmp_path / "again")
    assert "more than one run of full, a -> b, 4 members, seed 0" in report(tmp_path, tmp_path / "out").stderr


def test_a_shift_with_a_search_is_a_strategy_of_its_own(tmp_path):
    for index, (strategy, search) in enumerate(
        [("full", None), ("matched", None), ("shift", "none"), ("shift", "probe")]
    ):
        (tmp_path / "sweep" / str(index)).mkdir(parents=True)
        record = a_record("a -> b", strategy, 0, 4)
        options = record.config["strategy"] | ({} if search is None else {"search": search})
        replace(record, config=record.config | {"strategy": options}).save(tmp_path / "sweep" / str(index))
    done = report(tmp_path / "sweep", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out" / "README.md").read_text()
    assert "| a -> b, M=4 | " in text
    assert "| a -> b, M=4 (search=probe) | " in text
    assert "| shift (search=probe) | " in text
