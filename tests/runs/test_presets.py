"""Presets that are read without Hydra are those that Hydra composes."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ensemble_transfer import SettingError
from ensemble_transfer.runs.presets import conf_folder, preset, preset_names
from ensemble_transfer.runs.settings import preset_object


def test_presets_make_what_hydra_composes(monkeypatch):
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        names = [
            (group, name)
            for group in ("strategy", "recipe", "backbone")
            for name in preset_names(group)
            if name != "timm"
        ]
        own = {named: preset_object(*named) for named in names}
        for group, name in names:
            composed = OmegaConf.to_container(compose(f"{group}/{name}")[group])
            monkeypatch.setattr("ensemble_transfer.runs.settings.preset", lambda *_, whole=composed: whole)
            assert preset_object(group, name) == own[group, name], name


def test_an_unknown_preset_names_those_that_are_known():
    for group, name in (("strategy", "shfit"), ("recipe", "../strategy/full")):
        with pytest.raises(SettingError) as error:
            preset(group, name)
        assert (error.value.setting, error.value.value) == (group, name)
        assert error.value.rule == f"must be one of {', '.join(preset_names(group))}"
    assert "_common" not in preset_names("backbone")
