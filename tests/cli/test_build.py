"""What Hydra makes is told in a line where it fails, and no record has a key."""

import pytest
from omegaconf import OmegaConf

from ensemble_transfer.cli.build import _made
from ensemble_transfer.cli.configuration import as_written, resolved
from ensemble_transfer.errors import SettingError


def test_a_key_that_the_loggers_settings_name_is_in_no_record(monkeypatch):
    monkeypatch.setenv("OWN_KEY", "s3cret")
    own = {"seed": "${size}", "size": 3, "logger": {"lightning": {"api_key": "${oc.env:OWN_KEY}"}}}
    cfg = OmegaConf.create(own)
    assert resolved(cfg)["logger"]["lightning"]["api_key"] == "s3cret"
    assert as_written(resolved(cfg), cfg) == own | {"seed": 3}


def test_what_a_constructor_refuses_is_told():
    with pytest.raises(SettingError, match=r"^x\._target_='fractions\.Fraction': cannot be made: ZeroDivisionError: "):
        _made({"_target_": "fractions.Fraction", "numerator": 1, "denominator": 0}, "x", lambda _: True, "anything")
