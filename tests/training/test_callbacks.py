"""The user's Lightning callbacks in the runner's own fits."""

from dataclasses import replace

import pytest
import torch
from pytorch_lightning.callbacks import Callback, LearningRateMonitor, ModelCheckpoint

from ensemble_transfer.errors import SettingError
from ensemble_transfer.training.fit import Fitter, Start
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.training.settings import TrainerSettings
from ensemble_transfer.training.trained_part import WholeMember
from ensemble_transfer.training.work import Work
from ensemble_transfer.training.workers import number_of_workers


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
def train(source_ensemble, source_task, settings):
    starts = [Start(member, weights, member) for member, weights in enumerate(source_ensemble.members)]

    def run(callbacks, store=None, **changes):
        fitter = Fitter(replace(settings, callbacks=callbacks, **changes), store)
        return fitter.fit(source_ensemble.architecture, starts, source_task.train, Recipe(6), "full")

    return run


def test_callbacks_see_every_step_and_change_nothing_by_themselves(train):
    counts = Counts()
    with_them, without = train([counts], group_size=2), train([], group_size=2)
    assert (counts.fits, counts.steps) == (2, 12)  # groups of two members and of one
    for one, other in zip(with_them.weights, without.weights, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_fit_that_a_callback_ends_costs_what_it_took(train):
    fits = train([Stops()])
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


@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization")
def test_a_checkpoint_callback_writes_its_files(train, tmp_path):
    train([ModelCheckpoint(tmp_path, every_n_train_steps=3)])
    assert list(tmp_path.glob("*.ckpt"))


def test_a_callback_that_needs_a_logger_is_refused_in_one_line(train):
    with pytest.raises(SettingError, match=r"^callbacks=\['LearningRateMonitor'\]: cannot be used .* no logger[^\n]*$"):
        train([LearningRateMonitor()])


def test_callbacks_live_in_one_process(settings, source_ensemble, source_task):
    with pytest.raises(SettingError, match="workers=2: must be 1 or auto with callbacks"):
        TrainerSettings(workers=2, callbacks=[Counts()])
    with pytest.raises(SettingError, match="callbacks='loud': must be Lightning callbacks"):
        TrainerSettings(callbacks=["loud"])
    work = Work(WholeMember(source_ensemble.architecture), source_task.train, Recipe(10**9), "full")
    assert number_of_workers(replace(settings, callbacks=[Counts()]), work, 8) == 1
