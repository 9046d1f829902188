from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from ensemble_transfer.report.record import Record
from ensemble_transfer.report.summary import markdown, write
from ensemble_transfer.report.explanations import has_rivals, next_step

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


def cost(steps):
    return {
        "steps": steps,
        "examples": steps * 32,
        "flops": steps * 10**9,
        "seconds": steps / 10,
        "cpu_seconds": 0.0,
        "peak_memory_bytes": steps * 10**6,
        "trained_parameters": 1,
    }


@pytest.fixture
def record():
    costs = {
        "phases": {"full": cost(300), "tiny": cost(140)},
        "total": cost(1440),
        "per_member": cost(55),
        "marginal": cost(21),
        "source": cost(1700),
    }
    return Record(
        "finished",
        "shift",
        4,
        "digits -> mnist",
        "resnet10t",
        {"size": 8, "lineage": "shared"},
        metrics=TARGET | SOURCE,
        cost=costs,
        command="python -m ensemble_transfer +strategy=shift seed=4",
    )


def rows(text):
    """Rows of all Markdown tables, by their first cell."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {line[0]: line[1:] for line in lines}


def test_the_summary_says_what_was_run(record, tmp_path):
    text = markdown(record, tmp_path)
    assert text.startswith("# shift: digits -> mnist\n")
    for said in ("8 members of shared lineage", "resnet10t", "seed 4", "`python -m ensemble_transfer +strategy=shift"):
        assert said in text


def test_the_summary_holds_the_quality_of_ensemble_and_members(record, tmp_path):
    found = rows(markdown(record, tmp_path))
    assert found["ensemble on target"] == ["0.101", "0.111", "0.121", "0.131", "0.141"]
    assert found["its members (0.191 to 0.201)"] == ["0.151", "0.161", "0.171", "0.181", "-"]
    assert found["ensemble on source, before"] == ["0.501", "0.511", "0.521", "0.531", "0.541"]
    assert found["its members (0.591 to 0.601)"] == ["0.551", "0.561", "0.571", "0.581", "-"]


def test_the_summary_holds_the_diversity(record, tmp_path):
    found = rows(markdown(record, tmp_path))
    assert found["target"] == ["0.211", "0.221", "0.231"]
    assert found["source, before"] == ["0.611", "0.621", "0.631"]


def test_the_summary_holds_the_cost_by_phase_in_all_and_of_one_more_member(record, tmp_path):
    found = rows(markdown(record, tmp_path))
    assert found["full"] == ["300", "300.0", "-", "30.0", "300"]
    assert found["tiny"] == ["140", "140.0", "-", "14.0", "140"]
    assert found["**total**"] == ["1,440", "1,440.0", "-", "144.0", "1,440"]
    assert found["one more member"] == ["21", "21.0", "-", "2.1", "21"]
    assert found["source ensemble (not counted)"][0] == "1,700"


def test_undefined_metrics_are_a_dash(record, tmp_path):
    undefined = {"target/test/ensemble/nll": None, "target/test/diversity/disagreement_normalised": float("nan")}
    found = rows(markdown(replace(record, metrics=record.metrics | undefined), tmp_path))
    assert found["ensemble on target"][1] == "-"
    assert found["target"] == ["0.211", "-", "0.231"]


@pytest.mark.parametrize(
    ("shifted", "unshifted", "random", "verdict"),
    [(0.8, 0.7, 0.6, "helps"), (0.8, 0.7, 0.81, "does not help"), (0.8, 0.81, 0.7, "does not help")],
)
def test_the_shift_helps_where_it_beats_no_shift_and_a_random_one(
    record, tmp_path, shifted, unshifted, random, verdict
):
    probes = {"": shifted, "_no_shift": unshifted, "_random": random}
    metrics = record.metrics | {f"shift/probe_accuracy{name}": value for name, value in probes.items()}
    text = markdown(replace(record, metrics=metrics), tmp_path)
    assert f"The shift **{verdict}** a new head" in text
    assert "**pays**" not in text
    assert all(f"{value:.3f}" in text for value in probes.values())
    assert "share no ancestor" not in text
    apart = markdown(replace(record, metrics=metrics, ensemble={"size": 8, "lineage": "independent"}), tmp_path)
    assert "share no ancestor" in apart


def test_the_result_comes_first_then_the_one_thing_to_do(record, tmp_path):
    total = record.cost["total"] | {"fine_tunings": 1.413, "fine_tunings_by_time": 1.5}
    spent = replace(record, cost=record.cost | {"total": total, "prediction": {"networks": 3, "flops": 10**6}})
    text = markdown(spent, tmp_path / "a b")
    parts = text.split("\n\n")
    assert parts[2] == (
        "**Result**: accuracy 0.101, calibrated NLL 0.141 on test, for 1.41 fine-tunings. A prediction runs 3 networks."
    )
    assert parts[3].startswith("**Next**: whether this is better at equal cost, 1.41 fine-tunings, is not known yet.")
    assert parts[4] == f"    python -m ensemble_transfer.rivals '{tmp_path / 'a b'}'"
    assert rows(text)["**total**"][2:4] == ["1.41", "1.50"]
    assert next_step(replace(spent, strategy="few"), tmp_path) == []


def test_a_cost_by_time_that_differs_from_that_by_flops_is_named(record, tmp_path):
    def result(by_time):
        total = record.cost["total"] | {"fine_tunings": 1.0, "fine_tunings_by_time": by_time}
        return markdown(replace(record, cost=record.cost | {"total": total}), tmp_path).split("\n\n")[2]

    assert "for 1.00 fine-tunings by FLOPs, but 1.20 by time." in result(1.2)
    assert "for 1.00 fine-tunings by FLOPs, but 0.80 by time." in result(0.8)
    assert "for 1.00 fine-tunings." in result(1.09)


def test_a_command_is_printed_on_one_line_however_narrow_the_terminal_is(record, tmp_path):
    total = record.cost["total"] | {"fine_tunings": 1.5}
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    shown = StringIO()
    spent = replace(record, cost=record.cost | {"total": total})
    write(spent, folder, Console(file=shown, width=60))
    assert (folder / "summary.md").read_text() == markdown(spent, folder)
    assert f"python -m ensemble_transfer.rivals {folder}" in shown.getvalue().splitlines()


def test_explanations_of_the_shift_stand_after_the_cost_warnings_first_three_sentences_at_most(record, tmp_path):
    more = {"shift/zero_shot_accuracy": 0.75, "shift/zero_shot_accuracy_no_shift": 0.31, "shift/relative_norm": 0.63}
    alone = replace(shifted(record, **more), ensemble={"size": 8, "lineage": "independent"})
    text = markdown(alone, tmp_path)
    assert text.index("The shift **helps**") > text.index("source ensemble (not counted)")
    [said] = [part for part in text.split("\n\n") if part.startswith("The shift **")]
    assert said.index("**Warning**") < said.index("Under the donor's head")
    assert "as long as the weights" not in said


@pytest.fixture
def spent(record):
    total = record.cost["total"] | {"fine_tunings": 1.413}
    return replace(record, cost=record.cost | {"total": total})


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy": "few"},
        {"strategy": "snapshots"},
        {"strategy": "full"},
        {"cost": {"added": {"members": 1}}},
        {"command": "python -m ensemble_transfer.rivals RUN --seeds 2"},
        {"config": {"evaluation": {"test": False}}},
        {"cost": {"total": cost(1440)}},
    ],
    ids=["few", "snapshots", "full", "an extension", "run as a rival", "not on test", "without fine-tunings"],
)
def test_some_runs_have_no_rivals_to_run(spent, changes):
    assert has_rivals(spent)
    changes = changes | {"cost": {**spent.cost, **changes.get("cost", {})}}
    assert not has_rivals(replace(spent, **changes))


def shifted(record, probes=(0.8, 0.7, 0.6), strategy="shift", **more):
    names = ("", "_no_shift", "_random")
    metrics = {f"shift/probe_accuracy{name}": value for name, value in zip(names, probes, strict=True)}
    return replace(record, strategy=strategy, metrics={**record.metrics, **metrics, **more})


def test_a_shift_of_no_length_is_said_not_to_have_been_made(record, tmp_path):
    groups = ("conv1", "layer1")
    none = markdown(shifted(record, **{f"shift/scale/{group}": 0.0 for group in groups}), tmp_path)
    assert "**No shift was made**" in none
    assert "The shift **" not in none
    some = markdown(
        shifted(record, **dict(zip(map("shift/scale/{}".format, groups), (0.0, 1.0), strict=True))), tmp_path
    )
    assert "No shift was made" not in some


def test_the_verdict_says_why(record, tmp_path):
    zero_shot = {"shift/zero_shot_accuracy": 0.75, "shift/zero_shot_accuracy_no_shift": 0.31}
    text = markdown(shifted(record, **zero_shot, **{"shift/relative_norm": 0.63}), tmp_path)
    assert "they reach 0.750 (0.310 without the shift): the donor's head reads" in text
    assert "63% as long" in text
    worse = zero_shot | {"shift/zero_shot_accuracy": 0.3}
    assert "the donor's head does not read" in markdown(shifted(record, **worse), tmp_path)
    assert "serve a new head as well" in markdown(shifted(record, (0.7, 0.8, 0.6)), tmp_path)
    assert "Any direction of that length" in markdown(shifted(record, (0.7, 0.6, 0.8)), tmp_path)


@pytest.mark.parametrize(
    ("barrier", "loss", "warned"), [(0.0, 0.56, False), (0.5, 0.56, False), (0.6, 0.56, True), (0.05, 0.01, False)]
)
def test_a_barrier_is_warned_of_where_it_exceeds_the_members_own_loss(record, tmp_path, barrier, loss, warned):
    known = {"source/validation/barrier": barrier, "source/test/member/nll": loss}
    text = markdown(shifted(record, **known), tmp_path)
    assert f"the source loss rises by {barrier:.2f} nats" in text
    assert ("**Warning**" in text) == warned
    assert ("they share a basin" in text) != warned


@pytest.mark.parametrize(("chance", "warned"), [(0.4, True), (0.6, False), (None, False)])
def test_a_source_ensemble_at_chance_is_warned_of(record, tmp_path, chance, warned):
    known = {"source/validation/barrier": 0.0, "source/test/member/nll": 0.5, "source/chance_nll": chance}
    text = markdown(shifted(record, **known), tmp_path)
    said = "the source ensemble has learnt nothing: its members' loss is 0.50 on their own task, and guessing has 0.40"
    assert (said in text) == warned
    assert ("they share a basin, as the method assumes" in text) != warned
    other = markdown(replace(record, strategy="full", metrics=dict(record.metrics) | known), tmp_path)
    assert (said in other) == warned


def test_a_barrier_of_little_is_never_warned_of(record, tmp_path):
    small = {"source/validation/barrier": 0.05, "source/test/member/nll": 0.01}
    assert "**Warning**" not in markdown(shifted(record, **small), tmp_path)


@pytest.mark.parametrize(
    ("rivals", "errors", "noise"),
    [((0.65, 0.5), (0.03, 0.01), True), ((0.65, 0.5), (0.01, 0.2), False), ((0.5, 0.65), (0.01, 0.03), True)],
)
def test_noise_is_told_by_the_paired_errors(record, tmp_path, rivals, errors, noise):
    keys = "shift/probe_gain_error", "shift/probe_gain_over_random_error"
    measured = shifted(record, (0.7, *rivals), **dict(zip(keys, errors, strict=True)))
    text = markdown(measured, tmp_path)
    assert ("within noise" in text) == noise
    line = "+0.050 against the better of the two, where two standard errors, paired by validation image, are 0.060."
    assert (line in text) == noise


def test_a_random_shift_gets_no_verdict(record, tmp_path):
    assert "The shift **" in markdown(shifted(record), tmp_path)
    assert "The shift **" not in markdown(shifted(record, strategy="random_shift"), tmp_path)


def test_reused_fits_are_counted_once_each_and_named(record, tmp_path):
    assert "came from the store" not in markdown(record, tmp_path)
    reused = [{"phase": phase, "member": member, "key": "k"} for phase in ("full", "tiny") for member in (0, 1)]
    text = markdown(replace(record, reused_fits=[*reused, reused[0]]), tmp_path)
    assert "4 fits came from the store (full, tiny)" in text


def test_out_of_distribution_and_corruptions_have_tables_where_there_are_any(record, tmp_path):
    scores = ("max_probability", "entropy", "mutual_information")
    outside = {f"target/test/ood/source/{score}/auroc": 0.91 + i / 100 for i, score in enumerate(scores)}
    worse = {
        f"target/test/corruption/mean/{severity}/{measure}": severity / 10 + i / 100
        for severity in (1, 5)
        for i, measure in enumerate(("accuracy", "nll", "ece"))
    }
    text = markdown(replace(record, metrics=dict(record.metrics) | outside | worse), tmp_path)
    assert "| source | 0.910 | 0.920 | 0.930 |" in text
    assert "| severity 1 | 0.100 | 0.110 | 0.120 |" in text
    assert "| severity 5 | 0.500 | 0.510 | 0.520 |" in text
    assert "corrupted" not in markdown(record, tmp_path)
