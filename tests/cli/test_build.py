"""The line about a class that cannot be imported or made names the cause."""

import pytest
from omegaconf import OmegaConf

from ensemble_transfer.cli.build import _made, as_recorded, named
from ensemble_transfer.errors import SettingError


def made(node, path):
    return _made(node, path, lambda _: True, "anything")


BROKEN = {
    "import nobodys_package": "ModuleNotFoundError: No module named 'nobodys_package'",
    "from math import square_root": "ImportError: cannot import name 'square_root' from 'math'",
    "x = 1 +": "SyntaxError: invalid syntax (",
    "raise OSError('libx.so: cannot open\\nshared object')": "OSError: libx.so: cannot open shared object",
}


def test_an_import_error_keeps_its_cause(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for number, (text, line) in enumerate(BROKEN.items()):
        (tmp_path / f"own_{number}.py").write_text(f"{text}\nclass Mine: pass\n")
        target = f"own_{number}.Mine"
        for make in (named, made):
            with pytest.raises(SettingError) as caught:
                make(OmegaConf.create({"_target_": target}), "strategy")
            said = f"strategy._target_='{target}': is not a class that can be imported: {line}"
            assert str(caught.value).startswith(said)
            assert "\n" not in str(caught.value)


def test_a_key_that_the_loggers_settings_name_is_in_no_record(monkeypatch):
    monkeypatch.setenv("OWN_KEY", "s3cret")
    own = {"seed": "${size}", "size": 3, "trainer": {}, "logger": {"lightning": {"api_key": "${oc.env:OWN_KEY}"}}}
    recorded = as_recorded(OmegaConf.create(own))
    assert recorded["logger"] == own["logger"]
    assert recorded["seed"] == 3


def test_what_is_no_class_and_what_a_constructor_refuses_are_told_too():
    with pytest.raises(SettingError, match=r"^strategy._target_='math.pi': is not a class$"):
        named(OmegaConf.create({"_target_": "math.pi"}), "strategy")
    with pytest.raises(SettingError, match=r"^x._target_='fractions.Fraction': cannot be made: ZeroDivisionError: "):
        made(OmegaConf.create({"_target_": "fractions.Fraction", "numerator": 1, "denominator": 0}), "x")
