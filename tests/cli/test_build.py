"""The line about a class that cannot be imported or made names the cause."""

import pytest
from omegaconf import OmegaConf

from ensemble_transfer.cli.build import _made, named
from ensemble_transfer.errors import SettingError


def made(node, path):
    return _made(node, path, lambda _: True, "anything")


BROKEN = {
    "import a_package_that_nobody_has": (
        ModuleNotFoundError,
        "ModuleNotFoundError: No module named 'a_package_that_nobody_has'",
    ),
    "from math import square_root": (ImportError, "ImportError: cannot import name 'square_root' from 'math'"),
    "x = 1 +": (SyntaxError, "SyntaxError: invalid syntax ("),
    "raise OSError('libx.so: cannot open\\nshared object')": (OSError, "OSError: libx.so: cannot open shared object"),
}


@pytest.mark.parametrize("make", [named, made])
@pytest.mark.parametrize("text", BROKEN)
def test_an_import_error_keeps_its_cause(tmp_path, monkeypatch, make, text):
    kind, line = BROKEN[text]
    module = f"own_{abs(hash(tmp_path))}"
    (tmp_path / f"{module}.py").write_text(f"{text}\nclass Mine: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingError) as caught:
        make(OmegaConf.create({"_target_": f"{module}.Mine"}), "strategy")
    assert str(caught.value).startswith(
        f"strategy._target_='{module}.Mine': is not a class that can be imported: {line}"
    )
    assert "\n" not in str(caught.value)
    chain = [caught.value.__cause__]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    assert type(chain[-1]) is kind


def test_what_is_no_class_and_what_a_constructor_refuses_are_told_too():
    with pytest.raises(SettingError, match=r"^strategy._target_='math.pi': .*non-class of type 'float'"):
        named(OmegaConf.create({"_target_": "math.pi"}), "strategy")
    with pytest.raises(SettingError, match=r"^x._target_='fractions.Fraction': cannot be made: ZeroDivisionError: "):
        made(OmegaConf.create({"_target_": "fractions.Fraction", "numerator": 1, "denominator": 0}), "x")
