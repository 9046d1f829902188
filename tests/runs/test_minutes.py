"""A budget in time becomes one in fine-tunings, which repeats the run."""

from dataclasses import replace

import pytest

from ensemble_transfer import Digits, EnsembleSettings, Few, SettingError
from ensemble_transfer.runs import minutes
from ensemble_transfer.runs.costs import seconds_a_fine_tuning
from ensemble_transfer.runs.evaluation_settings import EvaluationSettings
from ensemble_transfer.runs.experiment import Dataset, Experiment, load_tasks
from ensemble_transfer.runs.run import Origin, run
from ensemble_transfer.transfer.budget import seconds_of
from ensemble_transfer.transfer.workbench import Workbench


@pytest.fixture
def experiment(backbone, recipes, fitter):
    source, target = (Digits(classes=list(classes), train=20, validation=10, test=12) for classes in ("01", "23"))
    settings = EnsembleSettings(3), Few(2), recipes, EvaluationSettings(corruptions=["contrast"], severities=[1, 3])
    return Experiment(Dataset(source, target, 8, 1), backbone, *settings, fitter, budget="10min")


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10min", 600), ("1.5h", 5400), (" 2 min ", 120)])
def test_a_time_is_read(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "10m", "0s", "-1min", "1e3s", "٣s", "1min2s", "nan s"])
def test_what_is_no_time_is_refused(text, experiment):
    with pytest.raises(SettingError) as error:
        replace(experiment, budget=text)
    assert (error.value.setting, error.value.value) == ("budget", text)


def test_the_evaluation_is_paid_first(experiment, monkeypatch):
    monkeypatch.setattr(minutes, "seconds_a_fine_tuning", lambda _: 50.0)
    monkeypatch.setattr(minutes, "_seconds_an_image", lambda _: 0.5)
    monkeypatch.setattr(minutes, "perf_counter", lambda: 7.0)
    tasks = load_tasks(experiment)
    images = 10 + 3 * 12 + 12  # validation, test plain and changed twice, and those of the source
    paid = (600 - 3 * images * 0.5) / 50  # by two members and a soup
    assert minutes.fine_tunings_in("10min", experiment, tasks) == pytest.approx(paid, abs=0.01)
    with pytest.raises(SettingError) as error:
        minutes.fine_tunings_in("80s", experiment, tasks)
    assert (error.value.setting, error.value.value) == ("budget", "80s")


def test_a_fine_tuning_takes_as_long_as_its_flops_at_the_size_it_is_counted_at(experiment, source_ensemble, fitter):
    target = load_tasks(experiment).target.sealed()
    bench = Workbench(source_ensemble, target, 0, replace(experiment.recipes, image_size=16), fitter)
    assert bench.prices.unit > bench.prices.full  # images are stored at 8 pixels, and timed at them
    assert seconds_a_fine_tuning(bench) > 0


def test_a_record_has_the_number_that_repeats_the_run_and_what_was_asked(experiment, monkeypatch, tmp_path):
    monkeypatch.setattr(minutes, "seconds_a_fine_tuning", lambda _: 300.0)
    for name in ("timed", "again"):
        (tmp_path / name).mkdir()
    record = run(experiment, tmp_path / "timed", Origin(config={"budget": "10min"}))
    budget = record.config["budget"]
    assert 0 < budget < 2
    assert record.cost["asked"] == "10min"
    again = run(replace(experiment, budget=budget), tmp_path / "again")
    assert again.metrics == pytest.approx(record.metrics, nan_ok=True)
    assert again.cost["total"]["flops"] == record.cost["total"]["flops"] <= budget * record.cost["full_flops"]
