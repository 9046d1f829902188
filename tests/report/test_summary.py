import math
from dataclasses import replace
from io import StringIO

import pytest
from records import a_record
from rich.console import Console

from ensemble_transfer.report.explanations import next_step
from ensemble_transfer.report.summary import markdown, screen, show, write

QUALITY = (
    "ensemble/accuracy",
    "ensemble/nll",
    "ensemble/brier",
    "calibration/ece",
    "calibrated/nll",
    "member/accuracy",
    "member/nll",
    "member/brier",
    "member/ece",
    "member/accuracy_min",
    "member/accuracy_max",
    "diversity/disagreement",
    "diversity/disagreement_normalised",
    "diversity/mutual_information",
)
# every number is another, so that each can be found
TARGET = {f"target/test/{name}": 0.101 + index / 100 for index, name in enumerate(QUALITY)}
SOURCE = {f"source/test/{name}": 0.501 + index / 100 for index, name in enumerate(QUALITY)}


def cost(steps, spent=None):
    return {
        "steps": steps,
        "flops": steps * 10**9,
        "seconds": steps / 10,
        "peak_memory_bytes": steps * 10**6,
        "fine_tunings": spent,
        "fine_tunings_by_time": spent and spent * 1.05,
    }


@pytest.fixture
def record():
    costs = {
        "phases": {"full": cost(300, 1.0), "tiny": cost(140)},
        "total": cost(1440, 1.413),
        "marginal": cost(21),
        "source": cost(1700),
        "prediction": {"networks": 3, "flops": 10**6},
    }
    command = "python -m ensemble_transfer +strategy=shift seed=4"
    return a_record(seed=4, metrics=TARGET | SOURCE, cost=costs, command=command)


@pytest.fixture
def told(record, tmp_path):
    """The summary of the record, with other metrics besides its own, and other fields."""

    def told(more=(), **changes):
        return markdown(replace(record, **{"metrics": record.metrics | dict(more)} | changes), tmp_path)

    return told


def rows(text):
    """Rows of all Markdown tables, by their first cell."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {line[0]: line[1:] for line in lines}


def test_the_summary_says_what_was_run_its_quality_its_diversity_and_its_cost(told):
    text = told()
    assert text.startswith("# shift: digits -> mnist\n\n8 members of shared lineage, resnet10t, seed 4. `python -m ens")
    found = rows(text)
    assert found["ensemble on target"] == ["0.101", "0.111", "0.121", "0.131", "0.141"]
    assert found["its members, mean (accuracy 0.191 to 0.201)"] == ["0.151", "0.161", "0.171", "0.181", "-"]
    assert found["ensemble on source, before"] == ["0.501", "0.511", "0.521", "0.531", "0.541"]
    assert found["its members, mean (accuracy 0.591 to 0.601)"] == ["0.551", "0.561", "0.571", "0.581", "-"]
    assert found["target"] == ["0.211", "0.221", "0.231"]
    assert found["source, before"] == ["0.611", "0.621", "0.631"]
    assert found["full"] == ["300", "300.0", "1.00", "1.05", "30.0", "300"]
    assert found["tiny"] == ["140", "140.0", "-", "-", "14.0", "140"]
    assert found["**total**"] == ["1,440", "1,440.0", "1.41", "1.48", "144.0", "1,440"]
    assert found["one more member"] == ["21", "21.0", "-", "-", "2.1", "21"]
    assert found["source ensemble (not counted)"][0] == "1,700"
    assert "came from the store" not in text
    assert "corrupted" not in text


def test_undefined_metrics_are_a_dash(told):
    found = rows(told({"target/test/ensemble/nll": None, "target/test/diversity/disagreement_normalised": math.nan}))
    assert found["ensemble on target"][1] == "-"
    assert found["target"] == ["0.211", "-", "0.231"]


def test_the_result_has_the_interval_of_its_accuracy_where_it_is_known(told):
    known = {"target/test/ensemble/accuracy_low": 0.0123, "target/test/ensemble/accuracy_high": 0.3}
    said = (
        "**Result**: accuracy 0.101 (on other images 0.012 to 0.300, with 95% confidence), calibrated NLL 0.141 on test"
    )
    assert said in told(known)


def test_the_screen_has_result_one_table_cost_and_what_to_do_next(record, tmp_path):
    folder, member = tmp_path / ("long" * 30) / "a b", dict.fromkeys(("full", "tiny"), cost(300, 0.5))
    folder.mkdir(parents=True)
    record = replace(record, cost=record.cost | {"phases": member, "marginal": cost(21, 0.05)})
    said = screen(record, folder).rstrip().split("\n\n")
    assert said[0] == (
        "**shift, digits -> mnist, seed 4**: accuracy 0.101, calibrated NLL 0.141 on test, for 1.41 fine-tunings. "
        "A prediction runs 3 networks with 8 heads."
    )
    assert [list(rows(part)) for part in said if part[:1] == "|"] == [
        ["on test", "---", "the ensemble", "a member (0.191 to 0.201)"]
    ]
    assert "**Cost**: 1.41 fine-tunings in 144 s (full 0.50, tiny 0.50); one more member 0.05." in said
    command = f"python -m ensemble_transfer rivals '{folder}'"
    assert [part for part in said if part.startswith("    ")] == [f"    {command}", f"    {folder}/summary.md"]
    write(record, folder)
    whole = (folder / "summary.md").read_text()
    assert whole == markdown(record, folder)
    assert whole.index("**Result**") < whole.index("**Next**") < whole.index("| test split")
    for all_of_it in (False, True):
        shown = StringIO()
        show(record, folder, all_of_it, Console(file=shown, width=60))
        assert command in shown.getvalue().splitlines()  # on one line, however narrow the terminal is
        assert ("disagreement" in shown.getvalue()) == all_of_it


def test_a_soup_that_is_worse_than_every_member_is_warned_of(told):
    said = "The soup is worse than every member"
    assert said not in told()
    assert said in told({"target/test/soup/accuracy": 0.15})
    assert said not in told({"target/test/soup/accuracy": 0.195})


def test_the_screen_has_warnings_and_what_was_taken(record, tmp_path):
    apart = replace(record, ensemble={"size": 8, "lineage": "independent"}, curves={"choice": {"candidates": [TAKEN]}})
    said = screen(apart, tmp_path)
    assert "**Warning**: members of independent lineage" in said
    assert "**Taken**: 2 fine-tuned." in said


@pytest.mark.parametrize(
    ("by_time", "said"), [(1.2, " by FLOPs, but 1.20 by time."), (0.8, " by FLOPs, but 0.80 by time."), (1.09, ".")]
)
def test_a_cost_by_time_that_differs_from_that_by_flops_is_named(told, record, by_time, said):
    total = cost(1440, 1.0) | {"fine_tunings_by_time": by_time}
    assert f"for 1.00 fine-tunings{said}" in told(cost=record.cost | {"total": total})


@pytest.mark.parametrize(
    "changes",
    [
        {"role": "reference"},
        {"role": "control"},
        {"cost": {"added": {"members": 1}}},
        {"command": "python -m ensemble_transfer rivals RUN --seeds 2"},
        {"config": {"evaluation": {"test": False}}},
        {"cost": {"total": cost(1440)}},
    ],
    ids=["the reference", "a control", "an extension", "run as a rival", "not on test", "without fine-tunings"],
)
def test_some_runs_have_no_rivals_to_run(record, changes, tmp_path):
    assert next_step(record, tmp_path)
    assert next_step(replace(record, role="rival"), tmp_path)
    assert not next_step(replace(record, **changes | {"cost": {**record.cost, **changes.get("cost", {})}}), tmp_path)


def test_the_rivals_command_names_the_classes_of_the_user_that_the_run_had(record, tmp_path):
    own = {"strategy": {"_target_": "ensemble_transfer.transfer.strategies.shift.Shift"}, "budget": None}
    task = {"dataset": {"target": {"_target_": "my_package.Stripes", "train": 500}}}
    loggers = {"logger": {"other": [{"_target_": "my_package.Log"}]}}
    [_, command] = next_step(replace(record, config=own | task | loggers), tmp_path)
    assert command == f"    python -m ensemble_transfer rivals {tmp_path} dataset.target._target_=my_package.Stripes"


def probed(shifted=0.8, unshifted=0.7, random=0.6, **more):
    probes = {"": shifted, "_no_shift": unshifted, "_random": random}
    return {f"shift/probe_accuracy{name}": value for name, value in probes.items()} | more


ZERO_SHOT = {"shift/zero_shot_accuracy": 0.75, "shift/zero_shot_accuracy_no_shift": 0.31, "shift/relative_norm": 0.63}


@pytest.mark.parametrize(
    ("probes", "verdict", "reason"),
    [
        ((0.8, 0.7, 0.6), "helps", "they reach 0.750 (0.310 without the shift): the donor's head reads"),
        ((0.8, 0.7, 0.81), "does not help", "Any direction of that length"),
        ((0.8, 0.81, 0.7), "does not help", "serve a new head as well"),
    ],
)
def test_the_shift_helps_where_it_beats_no_shift_and_a_random_one_and_reasons_follow(told, probes, verdict, reason):
    text = told(probed(*probes, **ZERO_SHOT))
    assert f"The shift **{verdict}** a new head" in text
    assert all(f"{value:.3f}" in text for value in probes)
    assert reason in text
    assert text.index("The shift **") > text.index("source ensemble (not counted)")
    assert "share no ancestor" not in text
    assert "The shift **" not in told(probed(*probes), role="control")


def test_warnings_come_first_and_sentences_are_three_at_most(told):
    apart = {"size": 8, "lineage": "independent"}
    text = told(probed(**ZERO_SHOT), ensemble=apart)
    [said] = [part for part in text.split("\n\n") if part.startswith("The shift **")]
    assert said.index("**Warning**: members of independent lineage") < said.index("Under the donor's head")
    assert "as long as the weights" not in said
    pretrained = {"backbone": {"pretrained": True}}
    assert "share no ancestor" not in told(probed(**ZERO_SHOT), ensemble=apart, config=pretrained)
    assert "63% as long as the weights" in told(probed(**ZERO_SHOT))
    assert "the donor's head does not read" in told(probed(**ZERO_SHOT | {"shift/zero_shot_accuracy": 0.3}))


def test_a_shift_of_no_length_is_said_not_to_have_been_made(told):
    none = told(probed(**{"shift/scale": 0.0}))
    assert "**No shift was made**" in none
    assert "The shift **" not in none
    assert "No shift was made" not in told(probed(**{"shift/scale": 0.5}))


@pytest.mark.parametrize(("barrier", "loss", "warned"), [(0.5, 0.56, False), (0.6, 0.56, True), (0.05, 0.01, False)])
def test_a_barrier_is_warned_of_where_it_exceeds_the_members_own_loss_and_is_not_little(told, barrier, loss, warned):
    text = told(probed(**{"source/validation/barrier": barrier, "source/test/member/nll": loss}))
    assert f"the source loss rises by {barrier:.2f} nats" in text
    assert ("**Warning**" in text) == warned
    assert ("they share a basin, as the method assumes" in text) != warned


@pytest.mark.parametrize(("chance", "warned"), [(0.4, True), (0.6, False), (None, False)])
def test_a_source_ensemble_at_chance_is_warned_of(told, chance, warned):
    known = {"source/validation/barrier": 0.0, "source/test/member/nll": 0.5, "source/chance_nll": chance}
    text, other = told(probed(**known)), told(known, strategy="full")
    said = "the source ensemble has learnt nothing: its members' loss is 0.50 on their own task, and guessing has 0.40"
    assert (said in text) == (said in other) == warned
    assert ("they share a basin, as the method assumes" in text) != warned


@pytest.mark.parametrize(
    ("rivals", "errors", "noise"),
    [((0.65, 0.5), (0.03, 0.01), True), ((0.65, 0.5), (0.01, 0.2), False), ((0.5, 0.65), (0.01, 0.03), True)],
)
def test_noise_is_told_by_the_paired_errors(told, rivals, errors, noise):
    keys = "shift/probe_gain_error", "shift/probe_gain_over_random_error"
    text = told(probed(0.7, *rivals, **dict(zip(keys, errors, strict=True))))
    line = "+0.050 against the better of the two, where two standard errors, paired by validation image, are 0.060."
    assert (f"That is **within noise**: {line}" in text) == noise


def test_reused_fits_are_counted_once_each_and_named(told):
    reused = [{"phase": phase, "member": member, "key": "k"} for phase in ("full", "tiny") for member in (0, 1)]
    assert "4 fits came from the store (full, tiny)" in told(reused_fits=[*reused, reused[0]])


def test_out_of_distribution_and_corruptions_have_tables_where_there_are_any(told):
    scores = ("max_probability", "entropy", "mutual_information")
    outside = {f"target/test/ood/source/{score}/auroc": 0.91 + i / 100 for i, score in enumerate(scores)}
    worse = {
        f"target/test/corruption/mean/5/{name}": 0.5 + i / 100 for i, name in enumerate(("accuracy", "nll", "ece"))
    }
    text = told(outside | worse)
    assert "| source | 0.910 | 0.920 | 0.930 |" in text
    assert "| severity 5 | 0.500 | 0.510 | 0.520 |" in text


# What was chosen

TAKEN = {"name": "2 fine-tuned", "members": 2, "accuracy": 0.812, "nll": 0.5, "taken": True, "low": 0.0}
CLOSE = {"name": "heads alone", "members": 8, "accuracy": 0.801, "nll": 0.51, "taken": False}
CLOSE |= {"behind": 0.01, "low": -0.02, "high": 0.04}
PILOTS = [
    {"lr": 0.03, "steps": 18, "training": 1.03, "taken": True},
    {"lr": 0.09, "steps": 18, "training": None, "taken": False},
]


def test_a_run_that_chose_tells_its_candidates_and_rates(told):
    choice = {"candidates": [TAKEN, CLOSE], "pilots": PILOTS, "lr": [0.01, 0.03], "steps": [125, 124]}
    text = told(curves={"choice": choice})
    assert "| 2 fine-tuned | 2 | 0.812 | 0.500 | taken |" in text
    assert "| heads alone | 8 | 0.801 | 0.510 | +0.010 [-0.020, +0.040] |" in text
    assert "fine-tuned for 125, 124 steps with recipe.full.lr=0.01, 0.03, by the training loss of pilots of 18" in text
    assert "steps: 1.03 at 0.03, diverged at 0.09." in text
    assert "since its interval includes zero: heads alone." in text
    alone = told(curves={"choice": choice | {"candidates": [TAKEN], "pilots": [], "lr": [0.01]}})
    assert "with recipe.full.lr=0.01: no other was tried." in alone
    grown = [{"image_size": 128, "steps": 49, "training": 0.8, "starved": True}]
    of_sizes = {"grown": [*grown, {"image_size": 64, "steps": 200, "training": 0.01, "starved": False}], "pilots": []}
    lacking = (
        "128 pixels for 49 steps, training loss 0.80 (it lacked steps: near the loss on validation); 64 pixels for"
    )
    assert lacking in told(curves={"choice": choice | of_sizes})
    assert "128 pixels for 49 steps" in told(curves={"choice": choice | {"candidates": [], "grown": grown}})
    assert "too small to pay for heads and a choice" in told(curves={"choice": choice | {"candidates": []}})


def test_turns_tells_its_scale(told):
    assert "Members after the donors are shifted by 1.5 times the donors' moves." in told(
        curves={"turns": {"scale": 1.5}}
    )
