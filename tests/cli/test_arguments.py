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


@pytest.mark.parametrize("word", ["--seed=1", "--strategy.scale=0.5"])
def test_a_setting_written_as_an_option_is_refused_with_what_wandb_needs(word):
    with pytest.raises(SettingError) as caught:
        normalised(["strategy=shift", word])
    assert str(caught.value).endswith(
        f"is no option; a setting is {word[2:]}. In the command of a W&B sweep write ${{args_no_hyphens}}"
    )


def test_options_of_hydra_keep_their_values():
    options = ["--config-dir=conf", "--cfg=job", "--info=defaults", "--package=a", "--multirun", "-m"]
    assert normalised([*options, "seed=1"]) == [*options, "seed=1"]
