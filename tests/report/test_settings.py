"""One rule says which settings decide a result, for sweeps and comparisons alike."""

import pytest

from ensemble_transfer.report.record import Record
from ensemble_transfer.report.rows import rows_of
from ensemble_transfer.report.settings import current_name, decisive

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
        {"trainer": {"precision": "32-true", "channels_last": True}},
        {"strategy": {"_target_": "ensemble_transfer.strategies.shift.Shift", "donors": 1}},
    ],
)
def test_settings_that_do_not_decide_a_result_are_left_out(change):
    assert decisive(CONFIG | change) == decisive(CONFIG)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"trainer": {"precision": "bf16-mixed"}},
        {"strategy": {"_target_": "ensemble_transfer.strategies.full.Full", "donors": 1}},
        {"new": 1},
    ],
)
def test_settings_that_decide_a_result_are_kept(change):
    assert decisive(CONFIG | change) != decisive(CONFIG)


def test_a_configuration_is_not_changed():
    config = {"trainer": {"threads": 1}, "strategy": {"_target_": "ensemble_transfer.strategies.full.Full"}}
    assert decisive(config)["strategy"] == {"_target_": "ensemble_transfer.transfer.strategies.full.Full"}
    assert config["strategy"]["_target_"] == "ensemble_transfer.strategies.full.Full"


def test_classes_that_have_not_moved_keep_their_path():
    assert current_name("mine.Strategy") == "mine.Strategy"


def test_a_comparison_keeps_precisions_apart_and_older_paths_together():
    half = CONFIG | {"trainer": {"precision": "bf16-mixed"}}
    older = CONFIG | {"strategy": {"_target_": "ensemble_transfer.strategies.shift.Shift", "donors": 1}}
    records = [a_record(0, CONFIG), a_record(1, older), a_record(0, half)]
    rows, repeated = rows_of(records)
    assert [row.seeds for row in rows] == [(0, 1), (0,)]
    assert [row.label for row in rows] == ["shift (trainer.precision=32-true)", "shift (trainer.precision=bf16-mixed)"]
    assert not repeated
