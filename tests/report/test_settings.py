"""One rule says which settings decide a result, for sweeps and comparisons alike."""

from dataclasses import replace

import pytest
from records import a_record

from ensemble_transfer.report.rows import rows_of
from ensemble_transfer.report.settings import decisive, flat

CONFIG = {
    "seed": 0,
    "strategy": {"_target_": "ensemble_transfer.transfer.strategies.shift.Shift", "donors": 1},
    "trainer": {"precision": "32-true", "threads": 1, "accelerator": "cpu"},
    "store": {"root": "a"},
    "logger": {"kind": "none"},
}


def run(seed, config):
    return a_record(seed=seed, config=config)


def test_settings_decide_a_result_unless_they_say_where_and_how_it_is_computed():
    elsewhere = {"precision": "32-true", "threads": 4, "executor": "loop", "workers": 2}
    for change in ({"store": {"root": "b"}}, {"logger": {"kind": "wandb"}}, {"trainer": elsewhere}):
        assert decisive(CONFIG | change) == decisive(CONFIG)
    own = {"_target_": "ensemble_transfer.transfer.strategies.full.Full", "donors": 1}
    for change in ({"seed": 1}, {"strategy": own}, {"budget": 1.0}, {"evaluation": {"test": False}}, {"new": 1}):
        assert decisive(CONFIG | change) != decisive(CONFIG)


@pytest.mark.parametrize(("name", "value"), [("precision", "bf16-mixed"), ("tf32", True), ("channels_last", True)])
def test_a_comparison_keeps_apart_what_rounds_differently(name, value):
    usual = CONFIG | {"trainer": CONFIG["trainer"] | {name: CONFIG["trainer"].get(name, False)}}
    other = CONFIG | {"trainer": CONFIG["trainer"] | {name: value}}
    rows, repeated = rows_of([run(0, usual), run(1, usual), run(0, other)])
    assert [row.seeds for row in rows] == [(0, 1), (0,)]
    assert rows[1].label == f"shift (trainer.{name}={value})"
    assert not repeated


def with_tasks(target="ensemble_transfer.tasks.folder.ImageFolder", **options):
    task = {"_target_": target, "path": "photos"} | options
    return CONFIG | {"dataset": {"source": task, "target": task}, "evaluation": {"ood": {"far": task}}}


def test_where_images_are_kept_does_not_decide_a_result():
    plain = decisive(with_tasks())
    assert decisive(with_tasks(memory="disk", cache="elsewhere")) == decisive(with_tasks(memory="ram")) == plain
    assert decisive(with_tasks(path="others")) != plain
    own = [decisive(with_tasks("mine.Task", memory=memory)) for memory in ("long", "short")]  # whatever it means there
    assert own[0] != own[1]


def test_a_configuration_is_not_changed():
    config = {"trainer": {"threads": 1}, "store": {"root": "a"}, "strategy": {"_target_": "mine.Strategy"}}
    assert decisive(config) == {"trainer": {}, "strategy": {"_target_": "mine.Strategy"}}
    assert config["trainer"] == {"threads": 1}


def test_a_draw_of_labels_that_follows_the_seed_does_not_part_rows():
    def rows(*draws):
        configs = [CONFIG | {"dataset": {"target": {"seed": draw}}} for draw in draws]
        return [row.seeds for row in rows_of(run(seed, config) for seed, config in enumerate(configs))[0]]

    assert rows(0, 1, 2) == rows(0, 0, 0) == [(0, 1, 2)]
    assert rows(0, 1, 5) == [(0,), (1,), (2,)]
    following = [run(seed, CONFIG | {"dataset": {"target": {"seed": seed}}}) for seed in (0, 1)]
    fixed = replace(run(1, CONFIG | {"dataset": {"target": {"seed": 0}}}), dataset="a -> b")
    assert [row.seeds for row in rows_of([*following, fixed])[0]] == [(0, 1), (1,)]


def test_a_whole_number_is_the_same_however_it_is_written():
    written = {"budget": 2.0, "strategy": {"scales": [1.0, 1.5]}, "flag": True, "lr": 0.5}
    assert dict(flat(decisive(written))) == {"budget": "2", "strategy.scales": "[1, 1.5]", "flag": "True", "lr": "0.5"}
