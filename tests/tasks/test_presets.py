from dataclasses import fields
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from ensemble_transfer.tasks.loader import TaskLoader

CONF = Path(__file__).parents[2] / "conf"
TASKS = sorted(path.stem for path in (CONF / "task").glob("[!_]*.yaml"))
DATASETS = sorted(path.stem for path in (CONF / "dataset").glob("*.yaml"))
UNSET = {"path": "somewhere", "name": "MNIST"}


@pytest.fixture
def composed(tmp_path):
    main = {
        "defaults": [{"dataset": "digits_to_mnist"}, "_self_"],
        "hydra": {"searchpath": [f"file://{CONF}"]},
    }
    OmegaConf.save(OmegaConf.create(main), tmp_path / "config.yaml")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        yield lambda *overrides: compose("config", overrides=list(overrides)).dataset


def source(node):
    """Build a source through its schema, with a value for what the user has to give."""
    kind = get_class(node._target_)
    values = {key: UNSET[key] if OmegaConf.is_missing(node, key) else node[key] for key in node if key != "_target_"}
    built = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), values))
    assert instantiate({"_target_": node._target_, **vars(built)}, _convert_="all") == built
    return built


@pytest.mark.parametrize("name", TASKS)
def test_every_task_composes_with_each_of_its_options(composed, name):
    node = composed(f"task@dataset.target={name}").target
    assert isinstance(source(node), TaskLoader)
    assert set(node) == {field.name for field in fields(source(node))} | {"_target_"}


@pytest.mark.parametrize("name", DATASETS)
def test_every_pair_composes(composed, name):
    pair = composed(f"dataset={name}")
    assert sorted(pair) == ["channels", "image_size", "source", "target"]
    assert (pair.source is None) == (name == "target")
    assert pair.source is None or isinstance(source(pair.source), TaskLoader)
    assert isinstance(source(pair.target), TaskLoader)


@pytest.mark.parametrize("path", [*(CONF / "task").glob("*.yaml"), *(CONF / "dataset").glob("*.yaml")], ids=str)
def test_every_preset_opens_with_what_it_is(path):
    assert path.read_text(encoding="utf-8").startswith("# ")


def test_any_two_tasks_can_be_paired(composed):
    pair = composed("task@dataset.source=mnist_low", "task@dataset.target=image_folder", "dataset.target.path=/mine")
    assert source(pair.source).classes == list("01234")
    assert source(pair.target).path == "/mine"


def test_options_can_be_set_without_a_plus(composed):
    pair = composed("dataset.target.per_class=5", "dataset.target.classes=[1,7]", "dataset.source.test=0.1")
    assert source(pair.target).per_class == 5
    assert source(pair.target).classes == ["1", "7"]
    assert source(pair.source).test == 0.1


EMBEDDED = {
    "digits": (10, 1297, 200, 300),
    "mnist_few": (10, 500, 100, 3500),
    "mnist_sample": (10, 3500, 500, 1000),
    "mnist_low": (5, 1750, 250, 500),
    "mnist_high": (5, 250, 250, 500),
}


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_tasks_have_the_stated_sizes(composed, name):
    task = source(composed(f"task@dataset.target={name}").target).load(28, 1)
    sizes = (len(task.classes), len(task.train), len(task.validation), len(task.test))
    assert sizes == EMBEDDED[name]
