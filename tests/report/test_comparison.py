import csv
import math

import numpy as np
import pytest

from ensemble_transfer.compare import main
from ensemble_transfer.records import Record
from ensemble_transfer.report.comparison import Comparison

ACCURACY, NLL = "target/test/ensemble/accuracy", "target/test/ensemble/nll"
CALIBRATED = "target/test/calibrated/nll"


def a_record(strategy="shift", seed=0, accuracy=0.5, nll=1.0, dataset="digits -> mnist", steps=440, **config):
    cost = {"total": {"steps": steps, "flops": steps * 10**9, "seconds": 2.0 * steps}}
    defaults = {
        "seed": seed,
        "strategy": {"name": strategy, "donors": 1, "scale": 1.0} if strategy == "shift" else {"name": strategy},
        "recipe": {"tiny": {"steps": 20, "lr": 0.003}},
        "ensemble": {"size": 8},
        "store": {"root": "store", "reuse": True},
        "trainer": {"threads": 1},
        "logger": {"mode": "offline"},
    }
    return Record(
        "finished",
        strategy,
        seed,
        dataset,
        "resnet10t",
        {"size": 8, "lineage": "shared"},
        metrics={ACCURACY: accuracy, NLL: nll, CALIBRATED: nll},
        cost=cost,
        curves={"ensemble_size": {"calibrated_nll": [1.0 + seed, 0.75 + seed, 0.625 + seed, 0.5 + seed]}},
        config=defaults | config,
    )


def failed(strategy="full", seed=7, error="lr=nan: must be above 0 and finite"):
    return Record("failed", strategy, seed, "digits -> mnist", "resnet10t", {"size": 8}, error=error)


def labels(*records):
    return [row.label for row in Comparison.of(records).rows]


def test_runs_that_differ_in_the_seed_alone_make_a_row():
    records = [a_record(s, seed) for seed in (0, 1, 2) for s in ("shift", "full")]
    rows = Comparison.of(records).rows
    assert [(row.label, row.seeds) for row in rows] == [("shift", (0, 1, 2)), ("full", (0, 1, 2))]


def test_rows_hold_numpys_mean_and_sample_deviation():
    accuracies, losses = [0.81, 0.84, 0.9, 0.79], [0.7, 0.5, 0.4, 0.9]
    pairs = zip(accuracies, losses, strict=True)
    [row] = Comparison.of(a_record(seed=s, accuracy=a, nll=n) for s, (a, n) in enumerate(pairs)).rows
    for column, values in (("accuracy", accuracies), ("NLL", losses)):
        spread = row.values[column]
        assert spread.mean == pytest.approx(np.mean(values), rel=1e-12)
        assert spread.std == pytest.approx(np.std(values, ddof=1), rel=1e-12)
        assert spread.n == 4


def test_cost_is_the_total_in_units_a_person_reads():
    [row] = Comparison.of([a_record(seed=0, steps=440), a_record(seed=1, steps=460)]).rows
    assert row.values["steps"].mean == 450
    assert row.values["GFLOPs"].mean == pytest.approx(450)
    assert row.values["seconds"].mean == pytest.approx(900)
    assert row.values["steps"].std == pytest.approx(np.std([440, 460], ddof=1))


def test_an_ensemble_is_worth_so_many_fully_fine_tuned_members_of_the_same_seed():
    runs = (("shift", 0, 0.75), ("shift", 1, 1.625), ("shift", 2, 0.1), ("full", 0, 0.5), ("full", 1, 1.5))
    records = [a_record(strategy, seed, nll=nll) for strategy, seed, nll in runs]
    rows = Comparison.of([*records, a_record("full", 2, nll=2.5)]).rows
    assert [row.values["full members"].mean for row in rows] == [(2 + 3 + 4) / 3, 4]
    [alone] = Comparison.of(records[:1]).rows
    assert "full members" not in alone.values


def test_one_seed_has_no_deviation():
    [row] = Comparison.of([a_record(accuracy=0.75)]).rows
    assert row.values["accuracy"].mean == 0.75
    assert math.isnan(row.values["accuracy"].std)
    assert row.values["accuracy"].n == 1


def test_where_a_run_has_no_number_the_row_has_none():
    [row] = Comparison.of([a_record(seed=0, nll=None), a_record(seed=1, nll=0.5)]).rows
    assert "NLL" not in row.values
    assert row.values["accuracy"].n == 2


def test_where_and_how_a_run_was_computed_does_not_part_it():
    elsewhere = a_record(
        seed=1, store={"root": "/tmp", "reuse": False}, trainer={"threads": 8}, logger={"mode": "none"}
    )
    assert len(Comparison.of([a_record(seed=0), elsewhere]).rows) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": {"tiny": {"steps": 40, "lr": 0.003}}},
        {"ensemble": {"size": 16}},
        {"strategy_": {"name": "shift", "donors": 2, "scale": 1.0}},
    ],
)
def test_any_other_setting_parts_rows(change):
    change = {name.rstrip("_"): value for name, value in change.items()}
    other = a_record(seed=1)
    other.config.update(change)
    rows = Comparison.of([a_record(seed=0), other]).rows
    assert [row.seeds for row in rows] == [(0,), (1,)]


def test_a_label_is_the_strategy_alone_where_that_tells_rows_apart():
    assert labels(a_record("shift"), a_record("full"), a_record("head")) == ["shift", "full", "head"]


def test_a_label_names_the_setting_that_differs_and_no_other():
    longer = a_record(recipe={"tiny": {"steps": 40, "lr": 0.003}})
    assert labels(a_record(), longer) == ["shift (recipe.tiny.steps=20)", "shift (recipe.tiny.steps=40)"]


def test_a_label_names_a_strategys_options_only_among_its_own_kind():
    more = a_record()
    more.config["strategy"] = {"name": "shift", "donors": 2, "scale": 1.0}
    assert labels(a_record(), more, a_record("full")) == ["shift (donors=1)", "shift (donors=2)", "full"]


def test_a_label_names_datasets_that_differ():
    assert labels(a_record("full"), a_record("full", dataset="mnist -> fashion")) == [
        "full (digits -> mnist)",
        "full (mnist -> fashion)",
    ]


def test_failed_runs_are_named_and_count_in_no_row(tmp_path):
    comparison = Comparison.of([a_record(seed=0), failed(), a_record(seed=1)])
    [row] = comparison.rows
    assert row.seeds == (0, 1)
    assert [(record.strategy, record.seed) for record in comparison.failed] == [("full", 7)]
    [line] = [line for line in comparison.markdown().splitlines() if "failed" in line]
    assert "full" in line
    assert "seed 7" in line
    assert "lr=nan: must be above 0 and finite" in line


def test_without_a_finished_run_the_text_says_so():
    text = Comparison.of([failed()]).markdown()
    assert "No run has finished." in text
    assert "lr=nan" in text


def row_of(text, label):
    """Cells of a row of a Markdown table, by the heading of the column."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    [row] = [dict(zip(lines[0], line, strict=True)) for line in lines[2:] if line[0] == label]
    return row


def test_markdown_shows_mean_deviation_and_seeds():
    records = [a_record(seed=seed, accuracy=a) for seed, a in ((0, 0.8), (3, 0.9))] + [a_record("full", steps=2400)]
    text = Comparison.of(records).markdown()
    shift, full = row_of(text, "shift"), row_of(text, "full")
    assert shift["accuracy"] == "0.850 ± 0.071"
    assert shift["steps"] == "440"
    assert shift["seeds"] == "0, 3 (n=2)"
    assert full["accuracy"] == "0.500"
    assert full["steps"] == "2,400"


def test_the_csv_gives_every_number_in_full(tmp_path):
    accuracies = [0.8123456789, 0.9, 0.7]
    records = [a_record(seed=seed, accuracy=a) for seed, a in enumerate(accuracies)]
    records += [a_record("full", accuracy=0.25, nll=None)]
    comparison = Comparison.of(records)
    comparison.write(tmp_path / "new" / "comparison")
    with (tmp_path / "new" / "comparison" / "table.csv").open(newline="") as file:
        shift, full = csv.DictReader(file)
    assert (shift["strategy"], shift["n"], shift["seeds"]) == ("shift", "3", "0 1 2")
    assert float(shift["accuracy mean"]) == pytest.approx(np.mean(accuracies), rel=1e-15)
    assert float(shift["accuracy std"]) == pytest.approx(np.std(accuracies, ddof=1), rel=1e-12)
    assert float(shift["steps mean"]) == 440
    assert (full["n"], full["accuracy mean"], full["accuracy std"]) == ("1", "0.25", "")
    assert (full["NLL mean"], full["NLL std"]) == ("", "")


def test_the_markdown_file_is_the_markdown(tmp_path):
    comparison = Comparison.of([a_record(), failed()])
    comparison.write(tmp_path)
    assert (tmp_path / "table.md").read_text() == comparison.markdown()


# The command


def sweep(root, *records):
    for index, record in enumerate(records):
        (root / str(index)).mkdir(parents=True)
        record.save(root / str(index))
    return root


def test_the_command_compares_a_sweep_and_writes_beside_it(tmp_path, capsys):
    root = sweep(tmp_path / "sweep", a_record(seed=0), a_record(seed=1, accuracy=0.75), a_record("full"))
    assert main([str(root)]) == 0
    shift = row_of((root / "comparison" / "table.md").read_text(), "shift")
    assert shift["accuracy"].startswith("0.625")
    assert "0.625" in capsys.readouterr().out


def test_the_command_joins_folders_and_writes_where_it_is_told(tmp_path):
    one, two = sweep(tmp_path / "one", a_record(seed=0)), sweep(tmp_path / "two", a_record(seed=5))
    assert main([str(one), str(two), "--output", str(tmp_path / "out")]) == 0
    assert row_of((tmp_path / "out" / "table.md").read_text(), "shift")["seeds"] == "0, 5 (n=2)"
    assert not (one / "comparison").exists()


def test_the_command_fails_where_a_run_failed(tmp_path, capsys):
    root = sweep(tmp_path / "sweep", a_record(), failed())
    assert main([str(root)]) == 1
    assert "lr=nan: must be above 0 and finite" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["empty", "missing", "broken"])
def test_the_command_says_in_one_line_that_there_is_nothing_to_compare(tmp_path, capsys, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "record.json").write_text("{")
    assert main([str(tmp_path / name)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert str(tmp_path / name) in said
    assert said.count("\n") == 1
