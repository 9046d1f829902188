"""What is rewritten or refused before Hydra reads a command line."""

import pytest

from ensemble_transfer.cli.arguments import normalised
from ensemble_transfer.errors import SettingError


def test_pythons_none_is_null():
    assert normalised(["+strategy=shift", "budget=None", "+a.b=None", "name=xNone", "None"]) == [
        "strategy=shift",
        "budget=null",
        "+a.b=null",
        "name=xNone",
        "None",
    ]


def test_white_space_around_an_override_is_left_out():
    assert normalised(["strategy=shift\n", " seed=1"]) == ["strategy=shift", "seed=1"]


def test_a_setting_written_as_an_option_is_refused_with_what_wandb_needs():
    with pytest.raises(SettingError) as caught:
        normalised(["strategy=shift", "--strategy.scale=0.5"])
    line = "is not an option; a setting is strategy.scale=0.5. In the command of a W&B sweep write ${args_no_hyphens}"
    assert str(caught.value).endswith(line)


def test_options_of_hydra_keep_their_values():
    options = ["--config-dir=conf", "--cfg=job", "--info=defaults", "--package=a", "--multirun", "-m"]
    assert normalised([*options, "seed=1"]) == [*options, "seed=1"]


def test_strategy_may_be_written_in_three_ways():
    for given in ("strategy=full", "+strategy=full", "++strategy=full"):
        assert normalised(["seed=1", given, "-m", "x=2"]) == ["-m", "seed=1", "strategy=full", "x=2"]
    assert normalised(["+strategy.scale=1", "+task@evaluation.ood.x=y"]) == [
        "+strategy.scale=1",
        "+task@evaluation.ood.x=y",
    ]


def test_options_of_hydra_may_stand_behind_overrides(tmp_path):
    given = ["seed=1", "--config-dir", str(tmp_path), "strategy=full", "-m", "x=2", "--info", "config"]
    options, overrides = ["--config-dir", str(tmp_path), "-m", "--info", "config"], ["seed=1", "strategy=full", "x=2"]
    assert normalised(given) == [*options, *overrides]
    assert normalised(["seed=1", "-cd", "a=b", "x=2"]) == ["-cd", "a=b", "seed=1", "x=2"]
