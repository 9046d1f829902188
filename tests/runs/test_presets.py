"""Presets that are read without Hydra are those that Hydra composes."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ensemble_transfer import SettingError
from ensemble_transfer.runs.presets import conf_folder, preset, preset_names


def test_presets_are_those_of_hydra():
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        for group in ("strategy", "recipe", "backbone", "trainer"):
            for name in preset_names(group):
                composed = OmegaConf.to_container(compose(f"{group}/{name}")[group])
                assert preset(group, name) == composed, name


def test_an_unknown_preset_is_one_line():
    with pytest.raises(SettingError, match=r"^strategy='shfit': must be one of auto, few, full, head, [a-z_, ]+$"):
        preset("strategy", "shfit")
    with pytest.raises(SettingError, match=r"^recipe='../strategy/full': must be one of default, pretrained$"):
        preset("recipe", "../strategy/full")
    assert "_common" not in preset_names("backbone")
