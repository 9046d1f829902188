"""What an experiment loads, and what is told before it starts."""

import logging
from dataclasses import replace

import pytest
import torch

from ensemble_transfer import Digits, EnsembleSettings, Few, HeadOnly, SettingError
from ensemble_transfer.machine import SECONDS_A_STEP
from ensemble_transfer.runs.evaluation_settings import EvaluationSettings
from ensemble_transfer.runs.experiment import RARE, Dataset, Experiment, load_tasks, warn_of_rare_classes
from ensemble_transfer.runs.run import DAY, expected_seconds, prepare, warn_of_days

FEW = {"train": 20, "validation": 10, "test": 12}


@pytest.fixture
def experiment(backbone, recipes, fitter):
    def build(source, target, /, **ood):
        data = Dataset(*(Digits(classes=list(classes), **FEW) for classes in (source, target)), 8, 1)
        others = {name: Digits(classes=list(classes), **FEW) for name, classes in ood.items()}
        settings = EnsembleSettings(2), HeadOnly(), recipes, EvaluationSettings(), fitter
        return Experiment(data, backbone, *settings, ood=others)

    return build


@pytest.fixture
def loaded(experiment):
    return lambda *classes, **ood: load_tasks(experiment(*classes, **ood))


def test_what_a_run_refuses_to_pay_names_its_strategy(experiment):
    bench = prepare(replace(experiment("01", "23"), budget=0.5), None).bench
    with pytest.raises(
        SettingError, match=r"^budget=0\.5: leaves 0\.5 fine-tunings, and phase 'full' of head takes 2$"
    ):
        bench.fine_tune_fully(bench.encoders)


def test_images_of_other_classes_are_out_of_distribution(loaded):
    tasks = loaded("01", "23", more="45")
    assert {name: len(split) for name, split in tasks.ood.items()} == {"source": 12, "more": 12}
    assert tasks.notes() == []
    partly = loaded("012", "01")  # one class of three is another
    assert torch.equal(partly.ood["source"].images, partly.source.test.images[partly.source.test.labels == 2])


def test_unbalanced_classes_are_told(caplog):
    task = Digits(classes=["0", "1"], train=100, validation=10, test=10).load(8, 1)
    zeros, ones = ((task.train.labels == label).nonzero()[:, 0] for label in (0, 1))
    for few, told in ((zeros[:3], True), (zeros[:4], False)):
        caplog.clear()
        warn_of_rare_classes(replace(task, train=task.train.take(torch.cat([few, ones[: 3 * RARE]]))))
        assert ("'0' has 3 training images, '1' has 30" in caplog.text) == told


def test_test_images_that_members_were_trained_on_are_told(experiment, caplog):
    asked = experiment("01", "01")
    assert load_tasks(asked)
    assert "the source is the target" in caplog.text
    assert "different test images" not in caplog.text
    other = replace(asked.dataset, source=replace(asked.dataset.source, classes=["1", "0"], train=200, seed=1))
    asked = replace(asked, dataset=other)
    tasks = load_tasks(asked)
    trained = {image.numpy().tobytes() for image in tasks.source.train.images}
    known = sum(image.numpy().tobytes() in trained for image in tasks.target.test.images)
    assert known > 2
    text = f"{known} of the 12 different test images are among the source's training images too"
    assert caplog.messages[-1] == text
    caplog.clear()
    load_tasks(replace(asked, evaluation=EvaluationSettings(test=False)))
    assert "test images are among" not in caplog.text


def test_images_of_the_same_classes_are_not(loaded):
    assert not loaded("01", "012").ood
    tasks = loaded("01", "10", more="45")
    assert set(tasks.ood) == {"more"}
    same = "the target has all 2 classes of the source"
    assert tasks.notes() == [f"Images of the source are not counted as out of distribution: {same}."]
    named = loaded("01", "01", source="45")  # a task that the user calls so
    assert set(named.ood) == {"source"}
    assert named.notes() == []


@pytest.fixture
def one_run(experiment):
    return replace(experiment("01", "23"), strategy=Few(), budget=1.0)


@pytest.mark.parametrize("phase", ["ancestor", "source", "full"])
def test_days_are_told(one_run, recipes, caplog, phase):
    long = replace(one_run, recipes=replace(recipes, **{phase: replace(getattr(recipes, phase), steps=10**8)}))
    assert expected_seconds(long) > DAY > 1000 * expected_seconds(one_run)
    with caplog.at_level(logging.WARNING):
        warn_of_days(one_run)
        assert not caplog.messages
        warn_of_days(long)
    [said] = caplog.messages
    assert said.startswith("this run may take ")
    assert "days on this machine" in said


def test_members_of_a_given_folder_are_not_expected_to_be_trained(one_run, source_ensemble, tmp_path):
    source_ensemble.save(tmp_path)
    given = replace(one_run, ensemble=EnsembleSettings(members=[str(tmp_path)]))
    assert given.ensemble.count == 3
    assert expected_seconds(given) < expected_seconds(one_run)


def test_what_is_expected_grows_with_what_is_done(one_run, recipes):
    one = expected_seconds(one_run)
    full = expected_seconds(replace(one_run, budget=2.0)) - one
    assert full == pytest.approx(recipes.full.steps * SECONDS_A_STEP, rel=0.5)
    more = expected_seconds(replace(one_run, ensemble=EnsembleSettings(3))) - one
    assert more == pytest.approx(recipes.source.steps * SECONDS_A_STEP, rel=0.5)
    apart = expected_seconds(replace(one_run, ensemble=EnsembleSettings(2, "independent"))) - one
    assert apart == pytest.approx(recipes.ancestor.steps * SECONDS_A_STEP, rel=0.5)
