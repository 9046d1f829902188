"""A budget in time becomes one in fine-tunings, which repeats the run."""

from dataclasses import replace

import pytest

from ensemble_transfer import Auto, Digits, EnsembleSettings, Few, Recipe, SettingError
from ensemble_transfer.runs import costs, minutes
from ensemble_transfer.runs.costs import seconds_a_fine_tuning
from ensemble_transfer.runs.evaluation import images_of
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
    monkeypatch.setattr(minutes, "_seconds_an_image", lambda *_: 0.5)
    monkeypatch.setattr(minutes, "perf_counter", lambda: 7.0)
    tasks = load_tasks(experiment)
    images = 10 + 3 * 12 + 12  # validation, test plain and changed twice, and those of the source
    paid = (600 - 3 * images * 0.5) / 50  # by two members and a soup
    assert minutes.fine_tunings_in("10min", experiment, tasks) == pytest.approx(paid, abs=0.01)
    with pytest.raises(SettingError) as error:
        minutes.fine_tunings_in("80s", experiment, tasks)
    assert (error.value.setting, error.value.value) == ("budget", "80s")


def test_a_fine_tuning_is_timed_at_the_size_of_the_members_and_takes_as_long_as_its_flops(
    experiment, source_ensemble, fitter, monkeypatch
):
    target = load_tasks(experiment).target.sealed()
    bench = Workbench(source_ensemble, target, 0, replace(experiment.recipes, image_size=16), fitter)
    assert bench.prices.unit > bench.prices.full  # images are stored at 8 pixels, and timed at them
    timed = []
    monkeypatch.setattr(costs, "_seconds_a_step", lambda bench, _: timed.append(bench.architecture.image_size) or 2.0)
    assert seconds_a_fine_tuning(bench) == pytest.approx(2 * bench.prices.unit / bench.prices.step)
    larger = replace(experiment, dataset=replace(experiment.dataset, image_size=16), strategy=Few(2, image_size=8))
    for changed, size in ((experiment, 8), (larger, 8), (replace(larger, strategy=Few(2)), 16)):
        minutes.fine_tunings_in("10min", changed, load_tasks(changed))
        assert timed.pop() == size


def test_as_many_members_are_evaluated_as_auto_grows(experiment, monkeypatch):
    monkeypatch.setattr(minutes, "seconds_a_fine_tuning", lambda _: 10.0)
    monkeypatch.setattr(minutes, "_seconds_an_image", lambda *_: 1.0)
    monkeypatch.setattr(minutes, "perf_counter", lambda: 7.0)
    pretrained = replace(experiment.recipes, pretrained=True, full=Recipe(60))
    seen = replace(experiment, strategy=Auto(), recipes=pretrained, ensemble=EnsembleSettings(3))
    tasks = load_tasks(seen)
    tasks = replace(tasks, target=replace(tasks.target, validation=tasks.target.train))
    images = images_of(tasks, seen.evaluation)
    for seconds, networks in ((12, 1), (25, 3), (50, 4)):
        budget = minutes.fine_tunings_in(f"{seconds + networks * images}s", seen, tasks)
        assert 10 * budget == pytest.approx(seconds, abs=0.2)


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
