"""The user's Lightning callbacks in the runner's own fits."""

import re
from dataclasses import replace

import pytest
import torch
from pytorch_lightning import callbacks as lightning
from pytorch_lightning.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from refusals import refusal
from same import equal
from torch.nn.functional import cross_entropy

from ensemble_transfer import Recipe, SettingError, TrainerSettings
from ensemble_transfer.training.batches import Batches
from ensemble_transfer.training.course import Course
from ensemble_transfer.training.executors import Loop
from ensemble_transfer.training.fit import Start
from ensemble_transfer.training.spec import FitSpec
from ensemble_transfer.training.store import Unfinished
from ensemble_transfer.training.watch import Watch
from ensemble_transfer.training.workers import number_of_workers

RECIPE = Recipe(6)


class Counts(Callback):
    def __init__(self):
        self.fits = self.steps = 0

    def on_train_start(self, trainer, pl_module):
        self.fits += 1

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps += 1


class Stops(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.should_stop = pl_module.step == 3


class Zeroes(Callback):
    def on_train_end(self, trainer, pl_module):
        with torch.no_grad():
            for parameter in pl_module.parameters():
                parameter.zero_()


@pytest.fixture
def train(train):
    return lambda callbacks, *rest, **changes: train(range(3), RECIPE, *rest, callbacks=callbacks, **changes)


def test_callbacks_see_every_step_and_change_nothing_by_themselves(train):
    counts = Counts()
    with_them, without = train([counts], group_size=2), train([], group_size=2)
    assert (counts.fits, counts.steps) == (2, 12)  # groups of two members and of one
    assert all(map(equal, with_them.weights, without.weights))
    fits = train([Stops()])  # which cost what they took
    assert [fitted.cost.steps for fitted in fits.fitted] == [3, 3, 3]
    assert [fitted.cost.examples for fitted in fits.fitted] == [3 * 32] * 3


def test_the_store_is_neither_read_nor_written(train, store):
    changed = train([Zeroes()], store)
    assert all(float(weights["head.weight"].abs().max()) == 0 for weights in changed.weights)
    plain = train([], store)
    assert not any(fitted.reused for fitted in plain.fitted)
    assert float(plain.weights[0]["head.weight"].abs().max()) > 0
    counts = Counts()
    again = train([counts], store)
    assert counts.steps == 6
    assert not any(fitted.reused for fitted in again.fitted)
    assert [fitted.key for fitted in again.fitted] == [fitted.key for fitted in plain.fitted]
    assert all(fitted.reused for fitted in train([], store).fitted)


class Rows:
    """A run at a logger."""

    def __init__(self, folder):
        self.folder, self.rows, self.points = folder, [], []

    def curve(self, phase, step, losses, also=None):
        self.points.append((step, losses, also))

    def metrics(self, phase, step, values):
        self.rows.append((phase, step, values))


def test_what_callbacks_log_goes_to_the_runs_logger_with_phase_and_step(train, tmp_path):
    line = r"^callbacks=\['LearningRateMonitor'\]: cannot be used .* no logger but the run's \(logger=csv [^\n]*$"
    with pytest.raises(SettingError, match=line):
        train([LearningRateMonitor()])
    run = Rows(tmp_path)
    train([LearningRateMonitor()], tracker=run, group_size=3)
    assert [(phase, step) for phase, step, _ in run.rows] == [("full", step) for step in range(RECIPE.steps)]
    rates = [values["lr-AdamW/encoder"] for _, _, values in run.rows]
    assert rates == pytest.approx([RECIPE.lr * RECIPE.rate(step) for step in range(RECIPE.steps)])


def test_validation_loss_is_on_the_steps_of_the_training_loss_and_changes_nothing(
    train, tmp_path, architecture, source_task, store
):
    run, split = Rows(tmp_path), source_task.validation
    fits = train([], store, run, group_size=3)
    assert all(map(equal, fits.weights, train([], group_size=3).weights))
    assert run.rows == []
    assert all(set(losses) == {0, 1, 2} for _, losses, _ in run.points)
    rates = [also["lr"] for _, _, also in run.points]
    assert rates == pytest.approx([RECIPE.lr * RECIPE.rate(step) for step in range(RECIPE.steps)])
    assert [step for step, _, also in run.points if "validation_loss/member_03" in also] == [*range(RECIPE.steps)]
    with torch.inference_mode():
        logits = architecture.classifier(fits.weights[1]).eval()(split.images)
    expected = float(cross_entropy(logits, split.labels))
    assert run.points[-1][2]["validation_loss/member_02"] == pytest.approx(expected, rel=1e-4)
    accuracy = float((logits.argmax(-1) == split.labels).float().mean())
    assert run.points[-1][2]["validation_accuracy/member_02"] == pytest.approx(accuracy)
    again = Rows(tmp_path)
    train([], store, again, group_size=3)
    assert [(step, losses, also["lr"]) for step, losses, also in again.points] == [
        (step, pytest.approx(losses), also["lr"]) for step, losses, also in run.points
    ]


@pytest.fixture
def fit(source_ensemble, source_task, settings, tmp_path):
    """Return a fit of one member with its watch, and the run that it tells."""

    def begin(recipe, validation, interrupted=()):
        run, data = Rows(tmp_path), source_task.train
        spec = FitSpec(source_ensemble.architecture, data, recipe, "full", validation=validation)
        starts = {"key": Start(0, source_ensemble.members[0], 0)}
        watch = Watch(spec, starts, settings, tracker=run)
        batches, group = Batches(data.images, data.labels, 32, [0]), Loop([source_ensemble.classifier(0)])
        return Course(group, batches, recipe, settings, interrupted, watch), run

    return begin


LOSSES = torch.tensor([1.25])


@pytest.mark.parametrize("steps", [1, 9, 20, 50, 60, 150, 200, 300, 997, 3000])
def test_a_fit_of_any_length_has_some_ten_points_of_validation_loss(steps, fit, source_task):
    course, run = fit(Recipe(steps), source_task.validation.take(torch.arange(2)))
    for _ in range(steps):
        course.stepped(LOSSES, LOSSES, LOSSES)
    validated = [step for step, _, also in run.points if "validation_loss/member_01" in also]
    assert validated[-1] == steps - 1
    assert min(steps, 8) <= len(validated) <= 11


def test_a_fit_that_goes_on_sends_its_earlier_points_without_a_validation_loss_of_now(fit, source_task):
    before = Unfinished({}, {}, torch.tensor([[0.0, 2.0], [1.0, 1.5]]), 2, 1.0, 1.0)
    course, run = fit(RECIPE, source_task.validation, [before])
    course.stepped(LOSSES, LOSSES, LOSSES)
    assert [(step, losses) for step, losses, _ in run.points] == [(0, {0: 2.0}), (1, {0: 1.5}), (2, {0: 1.25})]
    assert ["validation_loss/member_01" in also for *_, also in run.points] == [False, False, True]


@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization")
def test_checkpoints_are_written_for_each_fit_and_can_monitor_the_mean_loss_of_its_members(train, tmp_path):
    best = ModelCheckpoint(monitor="train/loss", filename="best", every_n_train_steps=1, save_last=True)
    fits = train([best], tracker=Rows(tmp_path), group_size=2)
    means = torch.stack([fitted.curve[:, 1] for fitted in fits.fitted[:2]]).mean(0)
    folder = tmp_path / "checkpoints"
    files = [f"{group}-{which}.ckpt" for group in ("member_3", "members_1-2") for which in ("best", "last")]
    assert sorted(path.name for path in folder.iterdir()) == [f"full_fine-tuning-{file}" for file in files]
    path = folder / "full_fine-tuning-members_1-2-best.ckpt"
    [kept] = torch.load(path, weights_only=True)["callbacks"].values()
    assert float(kept["best_model_score"]) == pytest.approx(float(means.min()), rel=1e-5)
    assert kept["best_model_path"] == str(path)


def test_weights_are_averaged_over_steps(train, tmp_path):
    averaged = train([lightning.EMAWeightAveraging(decay=0.5)], tracker=Rows(tmp_path), progress=True)
    for one, other in zip(averaged.weights, train([]).weights, strict=True):
        assert not torch.equal(one["head.weight"], other["head.weight"])


def test_a_summary_is_shown_and_lightning_is_quiet_otherwise(train, caplog):
    with caplog.at_level("INFO", "pytorch_lightning"):
        train([lightning.ModelSummary()], group_size=3)
    own = [record.name for record in caplog.records if not record.name.startswith("ensemble_transfer")]
    assert own == ["pytorch_lightning.callbacks.model_summary"]
    assert "Total params" in caplog.text


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: lightning.EarlyStopping("loss"), "'EarlyStopping': stops at the end of an epoch .*recipe.full.steps"),
        (lightning.RichProgressBar, "'RichProgressBar': shows a bar"),
        (lightning.LearningRateFinder, "'LearningRateFinder': .*hydra/sweeper=tune"),
        (lambda: ModelCheckpoint(monitor="loss"), "'ModelCheckpoint': monitors 'loss', and a fit logs 'train/loss'"),
    ],
)
def test_what_a_fit_cannot_do_is_said_before_anything_is_loaded(make, line):
    assert re.match(f"callbacks={line}", str(refusal(TrainerSettings, callbacks=[make()])))


def test_callbacks_live_in_one_process(settings, source_ensemble, source_task):
    with pytest.raises(SettingError, match="workers=2: must be 1 or auto with callbacks"):
        TrainerSettings(workers=2, callbacks=[Counts()])
    with pytest.raises(SettingError, match="callbacks='loud': must be Lightning callbacks"):
        TrainerSettings(callbacks=["loud"])
    spec = FitSpec(source_ensemble.architecture, source_task.train, Recipe(10**9), "full")
    assert number_of_workers(replace(settings, callbacks=[Counts()]), spec, 8) == 1
