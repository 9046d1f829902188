"""Every file of conf/ composes, says what it is, and builds the objects that it names."""

from dataclasses import fields

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from ensemble_transfer.cli.build import build_logger
from ensemble_transfer.cli.configuration import plain, resolved
from ensemble_transfer.errors import SettingError
from ensemble_transfer.models.backbone import Backbone
from ensemble_transfer.runs.presets import conf_folder, preset_names
from ensemble_transfer.runs.settings import build, named
from ensemble_transfer.source.settings import EnsembleSettings
from ensemble_transfer.training.recipe import Recipes
from ensemble_transfer.training.settings import TrainerSettings

FILES = sorted(path.relative_to(conf_folder()) for path in conf_folder().rglob("*.yaml"))


def composed(*overrides: str, name: str = "config"):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose(name, overrides=list(overrides))


def test_every_file_opens_with_a_line_that_says_what_it_is():
    assert not [path for path in FILES if not (conf_folder() / path).read_text().startswith("# ")]


def build_task(node):
    for key in [key for key, value in node.items() if value == "???"]:
        node[key] = "MNIST" if key == "name" else "some/path"
    loader = named(node, "task")
    assert set(node) == {"_target_", *(field.name for field in fields(loader))}, "an option is not in the file"


def build_pair(node):
    for task in filter(None, (node["source"], node["target"])):
        build_task(task)


BUILD = {
    "task": build_task,
    "dataset": build_pair,
    "backbone": lambda node: build(Backbone, {**node, "name": node["name"].replace("???", "resnet18")}, "backbone"),
    "ensemble": lambda node: build(EnsembleSettings, node, "ensemble"),
    "strategy": lambda node: named(node, "strategy").check(8, Backbone().architecture(28, 1, 10)),
    "recipe": lambda node: build(Recipes, node, "recipe"),
    "trainer": lambda node: node["accelerator"] == "gpu" or build(TrainerSettings, node, "trainer"),
    "logger": lambda node: build_logger({"logger": node}),
}


@pytest.mark.parametrize("group", BUILD)
def test_every_choice_of_a_group_builds(group):
    for name in preset_names(group):
        BUILD[group](plain(composed(name=f"{group}/{name}")[group], resolve=group != "task"))


@pytest.mark.parametrize("name", preset_names("experiment"))
def test_an_experiment_composes_and_builds(name):
    cfg = resolved(composed(f"+experiment={name}", "strategy=shift"))
    build_pair(cfg["dataset"])
    for group in ("backbone", "ensemble", "recipe", "trainer", "logger"):
        BUILD[group](cfg[group])


EMBEDDED = {
    "digits": (10, 1297, 200, 300),
    "mnist_few": (10, 500, 100, 3500),
    "mnist_sample": (10, 3500, 500, 1000),
    "mnist_low": (5, 1750, 250, 500),
    "mnist_high": (5, 250, 250, 500),
}


def test_embedded_tasks_have_the_stated_sizes():
    for name, sizes in EMBEDDED.items():
        cfg = resolved(composed(f"task@dataset.target={name}", "strategy=full"))
        task = named(cfg["dataset"]["target"], "dataset.target").load(8, 1)
        assert (len(task.classes), len(task.train), len(task.validation), len(task.test)) == sizes


def test_the_size_of_the_ensemble_is_resolved_to_a_number(tmp_path):
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).touch()
    given = f"ensemble.members=[{tmp_path / 'a.pt'},{tmp_path / 'b.pt'}]"
    for overrides, size in (([], 8), (["ensemble.size=3"], 3), ([given], 2), ([given, "ensemble.size=5"], 5)):
        cfg = composed("strategy=shift", "strategy.donors=${ensemble.size}", *overrides)
        assert resolved(cfg)["ensemble"]["size"] == resolved(cfg)["strategy"]["donors"] == size
    few = build(EnsembleSettings, plain(composed("strategy=shift", given, "ensemble.size=1").ensemble), "ensemble")
    with pytest.raises(SettingError, match=r"^size=1: must be 2 or more, as many as ensemble.members names"):
        _ = few.count


def test_the_files_list_every_option_and_agree_with_the_library():
    cfg = plain(composed("strategy=shift"))
    assert build(Recipes, cfg["recipe"], "recipe") == Recipes()
    for cls, group in ((TrainerSettings, "trainer"), (EnsembleSettings, "ensemble"), (Backbone, "backbone")):
        assert set(cfg[group]) == {field.name for field in fields(cls)}
    assert build(TrainerSettings, cfg["trainer"], "trainer") == TrainerSettings()
    assert build(EnsembleSettings, cfg["ensemble"], "ensemble") == EnsembleSettings()
    for name in ("full", "head", "few", "shift", "tiny"):
        node = plain(composed(f"strategy={name}").strategy)
        strategy = named(node, "strategy")
        assert strategy == type(strategy)()
        assert strategy.name == name
        assert set(node) - {"_target_"} == {field.name for field in fields(strategy)}
