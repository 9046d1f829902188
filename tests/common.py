"""Small real data and a small net for all tests. None may depend on which net exactly comes out of a training."""

import os
from pathlib import Path

import hypothesis
import pytest
import torch
from forks import Forks

from ensemble_transfer.models.backbone import Backbone
from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.source.settings import EnsembleSettings
from ensemble_transfer.source.train import train_source
from ensemble_transfer.tasks.embedded import Digits
from ensemble_transfer.tasks.task import Task
from ensemble_transfer.training.fit import Fitter
from ensemble_transfer.training.recipe import Recipe, Recipes
from ensemble_transfer.training.settings import TrainerSettings
from ensemble_transfer.training.store import Store

hypothesis.settings.register_profile("any machine", deadline=None)  # a busy one needs longer than 200 ms an example
hypothesis.settings.load_profile("any machine")

SMALL_NET = {"channels": [4, 8, 8, 8], "stem_width": 4, "output_stride": 8}


THREADS = int(os.environ["OMP_NUM_THREADS"])


@pytest.fixture(scope="session", autouse=True)
def _threads():
    torch.set_num_threads(THREADS)


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory):
    """Starts commands in processes of their own, at once."""
    return Forks(tmp_path_factory.mktemp("forks"))


@pytest.fixture(scope="session")
def settings() -> TrainerSettings:
    return TrainerSettings(accelerator="cpu", threads=THREADS, progress=False)


@pytest.fixture(scope="session")
def fitter(settings) -> Fitter:
    """A fitter that remembers nothing."""
    return Fitter(settings)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(scope="session")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Fits that tests share with each other, also with those that pytest-xdist runs in other processes."""
    base = tmp_path_factory.getbasetemp()
    return Store((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared_store")


@pytest.fixture(scope="session")
def backbone() -> Backbone:
    return Backbone("resnet10t", SMALL_NET)


@pytest.fixture(scope="session")
def source_task() -> Task:
    """Digits 0 to 4, 8x8."""
    return Digits(classes=["0", "1", "2", "3", "4"], train=200, validation=40, test=60).load(8, 1)


@pytest.fixture(scope="session")
def target_task() -> Task:
    """Digits 5 to 9, 8x8: other classes."""
    return Digits(classes=["5", "6", "7", "8", "9"], train=100, validation=40, test=60).load(8, 1)


@pytest.fixture(scope="session")
def recipes() -> Recipes:
    return Recipes(
        ancestor=Recipe(30),
        source=Recipe(8),
        full=Recipe(12, lr=1e-2),
        tiny=Recipe(3, lr=3e-3),
        probe=Recipe(10, lr=1e-2),
        head=Recipe(15, lr=1e-2),
    )


@pytest.fixture(scope="session")
def source_ensemble(backbone, source_task, recipes, settings, shared_store) -> Ensemble:
    """Three members of shared lineage, trained once for all processes of a run of the tests."""
    return train_source(EnsembleSettings(3), backbone, source_task, 0, recipes, Fitter(settings, shared_store))[0]
