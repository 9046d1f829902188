"""One rule says which settings decide a result, for sweeps and comparisons alike."""

import pytest

from ensemble_transfer.report.record import Record
from ensemble_transfer.report.rows import rows_of
from ensemble_transfer.report.settings import decisive

CONFIG = {
    "seed": 0,
    "strategy": {"_target_": "ensemble_transfer.transfer.strategies.shift.Shift", "donors": 1},
    "trainer": {"precision": "32-true", "threads": 1, "accelerator": "cpu"},
    "store": {"root": "a"},
    "logger": {"kind": "none"},
}


def a_record(seed, config):
    return Record("finished", "shift", seed, "digits -> mnist", "resnet10t", {"size": 8}, config=config)


@pytest.mark.parametrize(
    "change",
    [
        {"store": {"root": "b"}},
        {"logger": {"kind": "wandb"}},
        {"trainer": {"precision": "32-true", "threads": 4, "executor": "loop", "workers": 2}},
    ],
)
def test_settings_that_do_not_decide_a_result_are_left_out(change):
    assert decisive(CONFIG | change) == decisive(CONFIG)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"trainer": {"precision": "bf16-mixed"}},
        {"trainer": {"precision": "32-true", "tf32": True}},
        {"trainer": {"precision": "32-true", "channels_last": True}},
        {"strategy": {"_target_": "ensemble_transfer.transfer.strategies.full.Full", "donors": 1}},
        {"budget": 1.0},
        {"evaluation": {"test": False}},
        {"new": 1},
    ],
)
def test_settings_that_decide_a_result_are_kept(change):
    assert decisive(CONFIG | change) != decisive(CONFIG)


def with_tasks(target="ensemble_transfer.tasks.folder.ImageFolder", **options):
    task = {"_target_": target, "path": "photos"} | options
    return CONFIG | {"dataset": {"source": task, "target": task}, "evaluation": {"ood": {"far": task}}}


def test_where_images_are_kept_does_not_decide_a_result():
    plain = decisive(with_tasks())
    assert decisive(with_tasks(memory="disk", cache="elsewhere")) == decisive(with_tasks(memory="ram")) == plain
    assert decisive(with_tasks(path="others")) != plain
    own = [decisive(with_tasks("mine.Task", memory=memory)) for memory in ("long", "short")]  # whatever it means there
    assert own[0] != own[1]


def test_layouts_are_kept_apart_in_a_comparison():
    first, last = (CONFIG | {"trainer": {"precision": "32-true", "channels_last": value}} for value in (False, True))
    rows, _ = rows_of([a_record(0, first), a_record(1, first), a_record(0, last)])
    assert [row.seeds for row in rows] == [(0, 1), (0,)]
    assert [row.label for row in rows] == ["shift (trainer.channels_last=False)", "shift (trainer.channels_last=True)"]


def test_a_configuration_is_not_changed():
    config = {"trainer": {"threads": 1}, "store": {"root": "a"}, "strategy": {"_target_": "mine.Strategy"}}
    assert decisive(config) == {"trainer": {}, "strategy": {"_target_": "mine.Strategy"}}
    assert config["trainer"] == {"threads": 1}


def test_a_comparison_keeps_precisions_apart():
    half = CONFIG | {"trainer": {"precision": "bf16-mixed"}}
    records = [a_record(0, CONFIG), a_record(1, CONFIG), a_record(0, half)]
    rows, repeated = rows_of(records)
    assert [row.seeds for row in rows] == [(0, 1), (0,)]
    assert [row.label for row in rows] == ["shift (trainer.precision=32-true)", "shift (trainer.precision=bf16-mixed)"]
    assert not repeated
