import csv
import io
from dataclasses import replace

import numpy as np
import pytest
import records
from records import failed
from rich.console import Console
from scipy import stats

from ensemble_transfer.report import page, terminal
from ensemble_transfer.report.comparison import Comparison
from ensemble_transfer.report.reference import is_baseline
from ensemble_transfer.report.rows import NAMED
from ensemble_transfer.report.tables import Table, words

ACCURACY, NLL = "target/test/ensemble/accuracy", "target/test/ensemble/nll"
CALIBRATED = "target/test/calibrated/nll"


def a_record(strategy="shift", seed=0, accuracy=0.5, nll=1.0, pair="digits -> mnist", steps=440, **config):
    total = {"steps": steps, "flops": steps * 10**9, "seconds": 2.0 * steps}
    cost = {"total": total, "prediction": {"networks": 8}}
    defaults = {
        "seed": seed,
        "budget": None,
        "strategy": {"name": strategy, "donors": 1, "scale": 1.0} if strategy == "shift" else {"name": strategy},
        "recipe": {"tiny": {"steps": 20, "lr": 0.003}},
        "ensemble": {"size": 8},
        "store": {"root": "store", "reuse": True},
        "trainer": {"threads": 1},
        "logger": {"mode": "offline"},
    }
    metrics = {ACCURACY: accuracy, NLL: nll, CALIBRATED: nll}
    curves = {"ensemble_size": {"calibrated_nll": [1.0 + seed, 0.75 + seed, 0.625 + seed, 0.5 + seed]}}
    return records.a_record(strategy, seed, pair, metrics=metrics, cost=cost, curves=curves, config=defaults | config)


def labels(*records):
    return [row.label for row in Comparison.of(records).rows]


def test_a_job_that_has_finished_in_another_folder_since_is_no_failure():
    done = a_record("full", seed=7)
    before = replace(failed(), config=done.config)
    assert Comparison.of([before, done]).failed == ()
    assert Comparison.of([before, replace(done, config=done.config | {"seed": 8})]).failed == (before,)
    unknown = failed()
    assert Comparison.of([unknown, replace(done, config={})]).failed == (unknown,)


def test_an_ensemble_is_worth_so_many_fully_fine_tuned_members_of_the_same_seed():
    runs = (("shift", 0, 0.75), ("shift", 1, 1.625), ("shift", 2, 0.1), ("full", 0, 0.5), ("full", 1, 1.5))
    records = [a_record(strategy, seed, nll=nll) for strategy, seed, nll in runs]
    rows = Comparison.of([*records, a_record("full", 2, nll=2.5)]).rows
    assert [row.mean("worth") for row in rows] == [(2 + 3 + 4) / 3, 4]
    [alone] = Comparison.of(records[:1]).rows
    assert "worth" not in alone.numbers


LONGER = a_record(recipe={"tiny": {"steps": 40, "lr": 0.003}})
MORE = replace(a_record(), config=a_record().config | {"strategy": {"name": "shift", "donors": 2, "scale": 1.0}})


def few(members, budget=None):
    record = a_record("few", budget=budget)
    return replace(record, config=record.config | {"strategy": {"name": "few", "members": members}})


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([a_record(), a_record("full")], ["shift", "full"]),
        ([a_record(), LONGER], ["shift (recipe.tiny.steps=20)", "shift (recipe.tiny.steps=40)"]),
        ([a_record(), MORE, a_record("full")], ["shift (donors=1)", "shift (donors=2)", "full"]),  # own kind
        ([a_record(), a_record(ensemble={"size": None})], ["shift (ensemble.size=8)", "shift"]),
        (
            [a_record(), a_record(recipe={"tiny": {"steps": 40, "lr": 0.003}}), a_record(ensemble={"size": None})],
            ["shift (ensemble.size=8)", "shift (recipe.tiny.steps=40, ensemble.size=8)", "shift"],
        ),
        ([a_record(), a_record("full"), LONGER], ["shift", "full", "shift (recipe.tiny.steps=40)"]),  # most are shorter
        (
            [a_record(budget=b) for b in (1, None)] + [a_record("full")],
            ["shift (budget=1)", "shift (no budget)", "full (no budget)"],
        ),
        (  # also where most have as many
            [few(1), few(1, 0.97), few(2, 0.97)],
            ["few (no budget, members=1)", "few (budget=0.97, members=1)", "few (budget=0.97, members=2)"],
        ),
        ([a_record(), a_record(pair="mnist -> f")], ["shift (digits -> mnist)", "shift (mnist -> f)"]),
    ],
)
def test_a_label_names_the_setting_that_differs_and_no_other(records, expected):
    assert labels(*records) == expected


STRATEGIES = ("full", "shift")
OOD = {"_target_": "tasks.embedded.MnistSample", "rotate": 90, "test": 1000}


def test_a_row_that_lacks_what_most_rows_have_is_told_by_what_they_have():
    with_ood = {"evaluation": {"ood": {"turned": OOD}}}
    longer = a_record("full", recipe={"tiny": {"steps": 40, "lr": 0.003}}, **with_ood)
    told = labels(a_record("full", **with_ood), longer, a_record("full", evaluation={"ood": {}}))
    assert told[0] == "full (OOD turned)"
    assert told[2] == "full"


def test_a_baseline_is_found_on_the_page_of_its_pair():
    names = [(pair, s, seed) for pair in ("a -> b", "b -> c") for s in STRATEGIES for seed in (0, 1)]
    records = [a_record(s, seed, 0.5, seed / 9, pair) for pair, s, seed in names]
    pairs = Comparison.of(records, "shift (a -> b)").by_pair()
    assert [line["baseline"].text for line in pairs["a -> b"].differences.lines] == ["shift"]
    assert pairs["b -> c"].baseline == "shift (a -> b)"


def test_a_heading_does_not_break_a_markdown_table():
    [heading, *_] = Table("", [{"a|b <c>": words("x")}]).markdown().splitlines()
    assert heading == r"| a\|b &lt;c> |"


def test_names_are_whole_in_a_terminal():
    rates = [a_record(recipe={"full": {"learning_rate_of_heads": lr}}) for lr in (0.03, 0.00333)]
    lines = Console(file=io.StringIO(), width=80, record=True)
    lines.print(*terminal.tables(Comparison.of(rates)))
    told = "".join(line.split(" ")[1] for line in lines.export_text().splitlines() if line.startswith(" "))
    assert all(row.label.replace(" ", "") in told for row in Comparison.of(rates).rows)


def test_markup_in_a_name_is_printed_as_it_is():
    odd = [a_record("x[/red]", seed) for seed in (0, 1)] + [a_record("full", seed) for seed in (0, 1)]
    lines = Console(file=io.StringIO(), width=120, record=True)
    lines.print(*terminal.tables(Comparison.of(odd, baseline="x[/red]")))
    assert "minus x[/red]" in lines.export_text()


def test_a_label_names_a_further_task_once_and_its_settings_where_all_have_it():
    more = a_record("full", evaluation={"ood": {"turned": OOD}})
    assert labels(a_record("full", evaluation={"ood": {}}), more) == ["full", "full (OOD turned)"]
    less = a_record("full", evaluation={"ood": {"turned": OOD | {"rotate": 45}}})
    assert labels(less, more) == ["full (OOD turned.rotate=45)", "full (OOD turned.rotate=90)"]


def test_a_label_shortens_a_tasks_class_to_its_name_and_a_path_to_its_end():
    tasks = {"_target_": "ensemble_transfer.tasks.idx.Idx"}, {"_target_": "ensemble_transfer.tasks.images.Images"}
    records = [a_record("full", dataset={"target": task}) for task in tasks]
    records += [a_record("head", dataset={"target": {"path": 40 * "x/" + name}}) for name in "ab"]
    first, second, third, _ = labels(*records)
    assert (first, second) == ("full (target=Idx)", "full (target=Images)")
    assert third.endswith("/x/x/a)")
    assert len(third) < 50


def test_rows_that_have_seen_other_images_are_named():
    data = {"source": "a" * 64, "target": "b" * 64}
    own = [replace(a_record(seed=seed), data=data) for seed in (0, 1)]
    changed = [
        replace(a_record("full"), data=data),
        replace(a_record("full", 1), data=data | {"target": "c" * 64}),
    ]
    assert Comparison.of([*own, *changed]).failures() == [
        "at seed 1, full saw other images or labels than shift: their difference is not paired"
    ]
    assert Comparison.of([*own, changed[0], a_record("head", 1)]).failures() == []  # of older records nothing is known


def test_seeds_that_were_drawn_from_other_images_are_named_in_table_and_page():
    old, new, drawn = {"target": "a" * 64}, {"target": "b" * 64}, iter("123456")
    runs = [
        replace(a_record(name, seed), images=images, data={"target": next(drawn) if name == "shift" else str(seed + 1)})
        for name in ("shift", "full")
        for seed, images in enumerate((old, new, old))
    ]
    said = [
        f"{name}, seed 1: drawn from other images than seed 0 of shift; do not pool them" for name in ("shift", "full")
    ]
    comparison = Comparison.of(runs)
    assert comparison.failures() == said
    assert all(line in comparison.markdown() and line in comparison.latex() for line in said)
    assert Comparison.of([replace(run, images=old) for run in runs]).failures() == []


def test_the_soup_has_a_column_only_where_a_run_has_one():
    assert "soup" not in Comparison.of([a_record(), a_record("full")]).markdown().lower()
    souped = a_record()
    souped.metrics["target/test/soup/accuracy"] = 0.625
    text = Comparison.of([souped, a_record("full")]).markdown()
    assert [row_of(text, name)["soup accuracy"] for name in ("shift", "full")] == ["0.625", "-"]
    assert "whose weights are the mean of the members' weights" in text


def test_failed_runs_are_named_and_count_in_no_row():
    stopped = replace(failed(), status="interrupted", error="stopped")
    comparison = Comparison.of([a_record(seed=0), failed(), stopped, a_record(seed=1)])
    [row] = comparison.rows
    assert row.seeds == (0, 1)
    assert "failed: full, digits -> mnist, seed 7: lr=nan: must be above 0 and finite" in comparison.markdown()
    assert "interrupted: full, digits -> mnist, seed 7: stopped" in comparison.markdown()
    assert Comparison.of([failed()]).markdown().startswith("No run has finished.\n\nfailed: full")


def row_of(text, label):
    """Cells of a row of the Markdown tables that are indexed by strategy alone, by the heading of the column."""
    found = {}
    for part in text.split("\n\n"):
        lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line[:1] == "|"]
        if lines and "seeds" in lines[0]:
            [row] = [dict(zip(lines[0], line, strict=True)) for line in lines[2:] if line[0] == label]
            found |= row
    return found


def test_the_csv_gives_every_number_in_full(tmp_path):
    accuracies = [0.8123456789, 0.9, 0.7]
    found = [a_record(seed=seed, accuracy=a, steps=440 + seed) for seed, a in enumerate(accuracies)]
    Comparison.of([*found, a_record("full", accuracy=0.25, nll=None)]).write(tmp_path / "new" / "comparison")
    with (tmp_path / "new" / "comparison" / "table.csv").open(newline="") as file:
        shift, full = csv.DictReader(file)
    assert (shift["strategy"], shift["n"], shift["seeds"]) == ("shift", "3", "0 1 2")
    assert float(shift["accuracy mean"]) == pytest.approx(np.mean(accuracies), rel=1e-15)
    assert float(shift["accuracy std"]) == pytest.approx(np.std(accuracies, ddof=1), rel=1e-12)
    for column, mean in (("steps", 441), ("GFLOPs", 441), ("seconds", 882)):
        assert (float(shift[f"{column} mean"]), float(shift[f"{column} std"])) == (mean, mean / 441)
    assert (full["n"], full["accuracy mean"], full["accuracy std"]) == ("1", "0.25", "")
    assert (full["NLL mean"], full["NLL std"]) == ("", "")


# Baseline, differences, marks


def three_seeds(strategy, accuracies, **config):
    return [a_record(strategy, seed, accuracy=a, **config) for seed, a in enumerate(accuracies)]


def one_member(budget=None, spent=1.0):
    record = replace(a_record("few", budget=budget), ensemble={"size": 1, "lineage": "shared"})
    record.cost["total"]["fine_tunings"] = spent
    return record


CLEAR = three_seeds("shift", (0.8, 0.81, 0.83)) + three_seeds("full", (0.9, 0.92, 0.91))


@pytest.mark.parametrize(
    ("records", "baseline", "expected"),
    [
        (CLEAR, None, "full"),
        (CLEAR, "shift", "shift"),
        (three_seeds("tiny", (0.8,)) + three_seeds("head", (0.9,)), None, "tiny"),
        ([one_member(), *CLEAR, a_record("snapshots", nll=0.1)], None, "baseline"),
        ([a_record("few", nll=0.9), a_record("snapshots", nll=0.8), *CLEAR], None, "snapshots"),
        ([a_record("few"), a_record("few", 1), a_record("snapshots", nll=0.8)], None, "few"),  # more seeds
        (
            [a_record(ensemble={"size": 8}), a_record("full", ensemble={"size": 4})],
            "full (ensemble.size=4)",
            "full (ensemble.size=4)",
        ),
    ],
)
def test_the_baseline_is_named_or_one_member_or_a_rival_or_full_or_the_first(records, baseline, expected):
    comparison = Comparison.of(records, baseline)
    assert {comparison.reference(row).label for row in comparison.rows} == {expected}


@pytest.mark.parametrize(
    ("budget", "spent", "expected"),
    [(1, 1.015, True), (1.4, 1.4, False), (None, 1.4, False), (None, None, True), (0.9, 0.9, False)],
)
def test_one_member_is_the_baseline_unless_a_budget_stretches_it(budget, spent, expected):
    record = one_member(budget, spent)
    assert is_baseline(record) == expected
    assert not is_baseline(replace(record, ensemble={}))
    assert not is_baseline(replace(record, role="method"))
    assert not is_baseline(replace(record, ensemble={"size": 2}))


def test_a_row_is_compared_with_the_best_rival_of_its_own_budget():
    places = (("few", 1.0, 0.6), ("snapshots", 1.0, 0.5), ("few", 2.0, 0.3), ("snapshots", 2.0, 0.4))
    records = [a_record(name, nll=nll, budget=budget) for name, budget, nll in places]
    comparison = Comparison.of([*records, a_record("auto", budget=1.0), a_record("auto", budget=2.0)])
    references = [comparison.reference(row).label for row in comparison.rows if row.strategy == "auto"]
    assert references == ["snapshots (budget=1)", "few (budget=2)"]


def test_a_worth_beyond_the_reference_is_a_lower_bound_and_below_one_member_there_is_none():
    full = [a_record("full", seed, nll=0.5 + seed) for seed in (0, 1)]  # worth 4 of its 4 members, exactly
    better = [a_record("shift", seed, nll=nll) for seed, nll in ((0, 0.1), (1, 1.75))]
    for record in (*full, *better):
        record.cost["total"]["fine_tunings"] = 2.0
    text = Comparison.of([*full, *better, a_record("head", 0, nll=0.9), a_record("head", 1, nll=2.1)]).markdown()
    assert [row_of(text, name)["worth"] for name in ("full", "shift", "head")] == ["4.00", "≥ 3", "-"]
    assert [row_of(text, name)["worth / cost"] for name in ("full", "shift", "head")] == ["2.00", "≥ 1.50", "-"]
    assert "≥ 3" in Comparison.of([*full, *better]).latex().replace(r"$\geq$", "≥")


def test_both_costs_and_the_networks_of_a_prediction_have_columns():
    new, old = a_record("few"), a_record("shift", steps=2400)
    new.cost["total"] |= {"fine_tunings": 1.5, "fine_tunings_by_time": 1.8}
    new.cost["prediction"] = {"networks": 2, "flops": 10**6}
    text = Comparison.of([new, old]).markdown()
    columns = ("fine-tunings", "fine-tunings by time", "networks", "steps")
    assert [row_of(text, "few")[name] for name in columns] == ["1.50", "1.80", "2", "440"]
    assert [row_of(text, "shift")[name] for name in columns] == ["-", "-", "8", "2,400"]


def test_a_strategy_as_baseline_is_its_row_nearest_in_the_other_settings():
    sizes = {"ensemble": {"size": 4}}, {"ensemble": {"size": 16}}
    comparison = Comparison.of([a_record(strategy, **size) for strategy in ("full", "shift") for size in sizes])
    assert [comparison.reference(row).settings["ensemble.size"] for row in comparison.rows] == ["4", "16", "4", "16"]


def test_rows_of_other_tasks_are_not_compared():
    records = [
        a_record(s, seed, dataset={"target": {"train": n}}) for n in (1, 5) for s in STRATEGIES for seed in (0, 1)
    ]
    comparison = Comparison.of(records)
    assert [row.label for row in comparison.rows] == [f"{s} (target.train={n})" for n in (1, 5) for s in STRATEGIES]
    assert [comparison.reference(row).task == row.task for row in comparison.rows] == [True] * 4


def test_differences_are_paired_and_have_scipys_interval_in_every_format(tmp_path):
    comparison = Comparison.of(CLEAR)
    full = comparison.rows[1]
    test = stats.ttest_rel([0.8, 0.81, 0.83], [0.9, 0.92, 0.91])
    assert comparison.difference(full, NAMED["accuracy"]) is None
    comparison.write(tmp_path)
    assert "| shift | full | -0.097 [-0.135, -0.059] | +0.000 | +0.000 | 3 |" in (tmp_path / "table.md").read_text()
    assert r"shift & full & -0.097 [-0.135, -0.059] & +0.000 & +0.000 & 3 \\" in (tmp_path / "table.tex").read_text()
    with (tmp_path / "table.csv").open(newline="") as file:
        shift, full = csv.DictReader(file)
    assert shift["baseline"] == full["baseline"] == "full"
    assert float(shift["accuracy p"]) == pytest.approx(test.pvalue)
    assert (shift["accuracy difference n"], full["accuracy difference n"]) == ("3", "0")
    assert (full["accuracy low"], shift["NLL low"]) == ("", "")


def test_the_best_is_bold_where_significant_and_counts_of_cost_never():
    text = Comparison.of(CLEAR).markdown()
    assert row_of(text, "full")["accuracy"] == "**0.910 ± 0.010**"
    assert (row_of(text, "full")["seeds"], row_of(text, "shift")["accuracy"]) == ("3", "0.813 ± 0.015")
    assert text.count("**") == 2
    assert "\\textbf{0.910 $\\pm$ 0.010}" in Comparison.of(CLEAR).latex()


def test_nothing_is_bold_where_seeds_disagree_or_there_is_one():
    unsure = three_seeds("shift", (0.8, 0.95, 0.83)) + three_seeds("full", (0.9, 0.92, 0.91))
    assert "**" not in Comparison.of(unsure).markdown()
    assert "**" not in Comparison.of([a_record(accuracy=0.1), a_record("full", accuracy=0.9)]).markdown()


def test_a_seed_that_is_there_twice_counts_once_and_is_named():
    comparison = Comparison.of([a_record(accuracy=0.5), a_record(accuracy=0.7, store={"root": "other"})])
    [row] = comparison.rows
    assert row.numbers["accuracy"] == {0: 0.5}
    assert "left out, its seed is there already: shift, seed 0" in comparison.markdown()


def test_ood_is_the_mean_of_the_named_tasks_or_that_of_the_source():
    own, named = a_record(), a_record("full")
    for record, tasks in ((own, {"source": 0.5}), (named, {"source": 0.5, "a": 0.75, "b": 0.25})):
        record.metrics.update({f"target/test/ood/{task}/entropy/auroc": value for task, value in tasks.items()})
        record.metrics["target/test/ood/a/mutual_information/auroc"] = 0.0
    named.metrics["target/test/ood/b/entropy/auroc"] = 0.5
    assert [row.mean("OOD AUROC") for row in Comparison.of([own, named]).rows] == [0.5, 0.625]


def test_old_records_without_curves_and_metrics_compare():
    old = records.a_record("full")
    text = Comparison.of([old, a_record()]).markdown()
    assert row_of(text, "full")["accuracy"] == "-"
    assert Comparison.of([old]).latex().count(r"\toprule") == 3


def test_any_text_stays_inside_its_cell():
    comparison = Comparison.of([a_record("50%_$&#{}\\"), failed(error="x_1\n% gone")])
    assert r"50\%\_\$\&\#\{\}\textbackslash{} &" in comparison.latex()
    assert r"x\_1 \% gone" in comparison.latex()
    assert "\n| a\\|b c | 0.500 |" in Comparison.of([a_record("a|b\nc")]).markdown()


def test_a_search_is_not_said_to_have_finished_nothing():
    trial = a_record("few", evaluation={"test": False})
    told = Comparison.of([trial])
    assert told.markdown().startswith("No run has been evaluated on test.\n\nnot evaluated on test")
    assert "<title>Ensembles transferred: digits -&gt; mnist</title>" in page.html(told, [])
    assert Comparison.of([]).markdown() == "No run has finished.\n"
