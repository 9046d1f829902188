"""The snippets of the guide to a task of one's own run as they are."""

import re
import sys
import types
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml

from ensemble_transfer.errors import SettingError
from ensemble_transfer.runs.settings import named

GUIDE = Path(__file__).parents[2] / "docs" / "own_task.md"
COMMON = Path(__file__).parents[2] / "conf" / "task" / "_common.yaml"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture
def guide(monkeypatch, capsys):
    """What the guide's Python defines, as the module that its YAML names."""
    module = types.ModuleType("my_package")
    monkeypatch.setitem(sys.modules, "my_package", module)
    for block in blocks("python"):
        exec(block, module.__dict__)
    module.printed = capsys.readouterr().out
    return module


def test_the_task_of_the_guide_is_one(guide):
    assert (len(guide.task.train), len(guide.task.test)) == (40, 100)
    assert guide.task.train.images.shape[1:] == (1, 16, 16)
    assert torch.bincount(guide.task.train.labels).tolist() == [20, 20]
    assert [len(task.test) for task in guide.folds] == [80] * 5
    assert guide.printed == f"{guide.task!r}\n"
    assert guide.Stripes(noise=80, test=100, per_class=20).load(16, 1).fingerprint == guide.task.fingerprint


def test_the_yaml_of_the_guide_builds_it(guide):
    [text] = blocks("yaml")
    node = {
        name: v for name, v in (yaml.safe_load(COMMON.read_text()) | yaml.safe_load(text)).items() if name != "defaults"
    }
    assert set(node) == {field.name for field in fields(guide.Stripes)} | {"_target_"}
    assert named(node, "dataset.target") == guide.Stripes()
    with pytest.raises(SettingError, match=r"dataset\.target\.noise='loud': must be a number"):
        named(node | {"noise": "loud"}, "dataset.target")
