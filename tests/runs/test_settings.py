"""Settings become the dataclasses that declare them, with their types, or are refused by name."""

from dataclasses import dataclass, field

import pytest

from ensemble_transfer.errors import SettingError
from ensemble_transfer.runs.settings import build, named
from ensemble_transfer.training.recipe import Recipes


@dataclass(frozen=True)
class Everything:
    whole: int
    number: float = 0.5
    text: str | None = None
    yes: bool = True
    share: int | float | None = None
    workers: int | str = "auto"
    names: list[str] = field(default_factory=list)
    rates: list[float] | None = None
    options: dict[str, object] = field(default_factory=dict)


def test_values_take_the_types_of_their_fields():
    given = {"whole": "3", "number": 2, "text": 7, "share": 0.5, "workers": 2, "names": [1, "b"], "rates": [1, "2e-3"]}
    made = build(Everything, given, "")
    assert made == Everything(3, 2.0, "7", share=0.5, workers=2, names=["1", "b"], rates=[1.0, 0.002])
    assert (type(made.number), type(made.whole)) == (float, int)
    assert build(Everything, {"whole": 1, "share": 4}, "").share == 4


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("whole", 1.5, "must be a whole number"),
        ("whole", True, "must be a whole number"),
        ("whole", float("inf"), "must be a whole number"),
        ("whole", None, "must be a whole number"),
        ("number", "abc", "must be a number"),
        ("text", [1], "must be a text or null"),
        ("yes", 1, "must be true or false"),
        ("yes", "false", "must be true or false"),
        ("share", "half", "must be a whole number or a number or null"),
        ("workers", 1.5, "must be a whole number or a text"),
        ("names", "a", "must be a list, such as [a,b]"),
        ("rates", 0.5, "must be a list of numbers, such as [0.5,0.5,0.5] or null"),
        ("options", "a", "must be a group of settings, not a single value"),
        ("whole", "???", "is required: group.whole=..."),
        ("other", 1, "is not a setting; group has whole, number, "),
    ],
)
def test_a_value_of_another_type_is_refused(name, value, rule):
    with pytest.raises(SettingError) as error:
        build(Everything, {"whole": 1} | {name: value}, "group")
    assert error.value.setting == f"group.{name}"
    assert error.value.rule.startswith(rule)


def test_a_part_of_a_group_changes_its_default():
    assert build(Recipes, {"full": {"steps": 7}}, "recipe").full.lr == Recipes().full.lr
    with pytest.raises(SettingError, match=r"^recipe\.tiny\.lr=-1\.0: "):
        build(Recipes, {"tiny": {"lr": -1}}, "recipe")


BROKEN = {
    "import nobodys_package": "ModuleNotFoundError: No module named 'nobodys_package'",
    "x = 1 +": "SyntaxError: invalid syntax (",
    "raise OSError('libx.so: cannot open\\nshared object')": "OSError: libx.so: cannot open shared object",
}


def test_a_class_that_cannot_be_imported_keeps_its_cause_in_a_line(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for number, (text, line) in enumerate(BROKEN.items()):
        (tmp_path / f"own_{number}.py").write_text(f"{text}\nclass Mine: pass\n")
        with pytest.raises(SettingError) as error:
            named({"_target_": f"own_{number}.Mine"}, "strategy")
        assert error.value.setting == "strategy._target_"
        assert line in error.value.rule
        assert "\n" not in str(error.value)
    with pytest.raises(SettingError, match=r"^strategy\._target_='math\.pi': is not a class$"):
        named({"_target_": "math.pi"}, "strategy")
