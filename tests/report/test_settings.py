"""One rule says which settings decide a result, for sweeps and comparisons alike."""

import pytest

from ensemble_transfer.report.record import Record
from ensemble_transfer.report.rows import rows_of
from ensemble_transfer.report.settings import current, current_name, decisive
from ensemble_transfer.transfer.strategies.shift import Shift

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
        {"trainer": {"precision": "32-true", "threads": 4, "executor": "loop", "workers": 2, "tf32": False}},
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
        {"trainer": {"precision": "32-true", "tf32": True}},
        {"trainer": {"precision": "32-true", "channels_last": True}},
        {"strategy": {"_target_": "ensemble_transfer.strategies.full.Full", "donors": 1}},
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


def test_recipes_of_older_runs_estimated_statistics_on_all_images():
    assert current({"recipe": {"full": {"steps": 3}}})["recipe"] == {"full": {"steps": 3}, "statistics": None}
    assert current({"recipe": {"statistics": 256}})["recipe"] == {"statistics": 256}
    assert "recipe" not in current({"seed": 0})


def test_a_configuration_is_not_changed():
    config = {"trainer": {"threads": 1}, "strategy": {"_target_": "ensemble_transfer.strategies.full.Full"}}
    assert decisive(config)["strategy"] == {"_target_": "ensemble_transfer.transfer.strategies.full.Full"}
    assert config["strategy"]["_target_"] == "ensemble_transfer.strategies.full.Full"


def test_older_runs_of_few_had_no_cycles():
    few = {"_target_": "ensemble_transfer.transfer.strategies.few.Few", "members": 2}
    assert decisive({"strategy": few}) == decisive({"strategy": few | {"cycles": []}})
    assert decisive({"strategy": few}) != decisive({"strategy": few | {"cycles": [0.5, 0.5]}})


def test_classes_that_have_not_moved_keep_their_path():
    assert current_name("mine.Strategy") == "mine.Strategy"


OLDER_SHIFT = {
    "_target_": "ensemble_transfer.strategies.shift.Shift",
    "donors": 1,
    "scale": 1.0,
    "search": "none",
    "scales": [0.5, 1.0],
    "search_budget": 0.05,
    "align": "none",
    "statistics": "reestimate",
    "head": "probe",
    "direction": "donor",
    "finish": "tiny",
}


@pytest.mark.parametrize(("search", "if_better"), [("none", False), ("probe", True)])
def test_options_of_an_older_shift_build_todays(search, if_better):
    renewed = current({"strategy": OLDER_SHIFT | {"search": search}})["strategy"]
    assert renewed.pop("_target_") == "ensemble_transfer.transfer.strategies.shift.Shift"
    assert Shift(**renewed) == Shift(if_better=if_better)


def test_a_search_that_is_gone_is_not_mistaken_for_a_run_of_today():
    renewed = current({"strategy": OLDER_SHIFT | {"search": "layers"}})["strategy"]
    assert renewed["search"] == "layers"
    with pytest.raises(TypeError, match="search"):
        Shift(**{name: value for name, value in renewed.items() if name != "_target_"})


def test_a_task_without_folds_is_that_of_version_0_1():
    older = {"_target_": "ensemble_transfer.tasks.npz.Npz", "path": "a.npz"}
    assert current(older | {"folds": None, "fold": 0}) == older
    assert current(older | {"folds": 5, "fold": 0})["folds"] == 5


def test_an_ensemble_to_which_nothing_was_added_is_that_of_older_records():
    older = {"size": 8, "lineage": "shared", "fork": None, "members": []}
    today = decisive(CONFIG | {"ensemble": older | {"added": []}})
    assert today == decisive(CONFIG | {"ensemble": older})
    assert decisive(CONFIG | {"ensemble": older | {"added": ["a.pt"]}}) != today


def test_a_configuration_without_a_budget_is_that_of_no_budget():
    assert decisive(CONFIG | {"budget": None}) == decisive(CONFIG) != decisive(CONFIG | {"budget": 1.0})


def test_a_comparison_keeps_precisions_apart_and_older_paths_together():
    half = CONFIG | {"trainer": {"precision": "bf16-mixed"}}
    older = CONFIG | {"strategy": {"_target_": "ensemble_transfer.strategies.shift.Shift", "donors": 1}}
    records = [a_record(0, CONFIG), a_record(1, older), a_record(0, half)]
    rows, repeated = rows_of(records)
    assert [row.seeds for row in rows] == [(0, 1), (0,)]
    assert [row.label for row in rows] == ["shift (trainer.precision=32-true)", "shift (trainer.precision=bf16-mixed)"]
    assert not repeated
