"""The settings of a run, and the run once its tasks are loaded and its source ensemble is trained."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property

import torch

from ensemble_transfer.errors import require, settings_under
from ensemble_transfer.models.architecture import Architecture
from ensemble_transfer.models.backbone import Backbone
from ensemble_transfer.models.flops import step_flops
from ensemble_transfer.runs.evaluation import Tasks
from ensemble_transfer.runs.evaluation_settings import EvaluationSettings
from ensemble_transfer.source.settings import EnsembleSettings, lineage_alone
from ensemble_transfer.tasks.limits import require_shape
from ensemble_transfer.tasks.loader import TaskLoader
from ensemble_transfer.tasks.mapped import chunks
from ensemble_transfer.tasks.task import Loader, Split, Task
from ensemble_transfer.training.cost import Ledger
from ensemble_transfer.training.fit import Fitter
from ensemble_transfer.training.recipe import Recipes
from ensemble_transfer.transfer.base import Strategy, check_strategy
from ensemble_transfer.transfer.budget import read_budget
from ensemble_transfer.transfer.workbench import Workbench

log = logging.getLogger(__name__)

RARE = 10
"""Times the training images of the smallest class that the largest has, from which classes are called unbalanced."""


@dataclass(frozen=True)
class Dataset:
    """A pair of source and target task, or a target alone, and the format of the images.

    Attributes:
        source: Loader of the source task; None for a target alone.
        target: Loader of the target task.
        image_size: Height and width of the images, in pixels.
        channels: 1 for gray, 3 for RGB.
    """

    source: Loader | None
    target: Loader
    image_size: int
    channels: int

    def __post_init__(self) -> None:
        require_shape(self.image_size, self.channels)


@dataclass(frozen=True)
class Experiment:
    """The settings of one run. They are checked together, before anything is loaded.

    Attributes:
        dataset: Source and target task.
        backbone: Encoder of the members.
        ensemble: Size and lineage of the ensemble.
        strategy: Strategy of the transfer.
        recipes: Optimizers, schedules and steps of the fits.
        evaluation: Settings of the evaluation.
        fitter: Computes fits and caches them.
        ood: Out-of-distribution tasks by name, besides the source task.
        seed: Seed of all randomness.
        budget: Maximum cost of the transfer, in fine-tunings, or a time for transfer and evaluation, such as ``10min``;
            None to use the recipes unchanged.

    Raises:
        SettingError: If settings do not fit together.
    """

    dataset: Dataset
    backbone: Backbone
    ensemble: EnsembleSettings
    strategy: Strategy
    recipes: Recipes
    evaluation: EvaluationSettings
    fitter: Fitter
    ood: Mapping[str, Loader] = field(default_factory=dict)
    seed: int = 0
    budget: float | str | None = None

    def __post_init__(self) -> None:
        require(self.seed >= 0, "seed", self.seed, "must be 0 or more")
        budget = read_budget(self.budget)
        with settings_under("backbone"):
            step_flops(self.architecture)
        with settings_under("ensemble"):
            if self.dataset.source is None:
                lineage = lineage_alone(self.ensemble, self.backbone)
            else:
                self.ensemble.check(self.backbone)
                lineage = self.ensemble.lineage
            size = self.ensemble.count
        check_strategy(self.strategy, size, self.architecture, lineage, budget)
        with settings_under("trainer"):
            self.fitter.check(self.architecture)

    @cached_property
    def architecture(self) -> Architecture:
        """The members' architecture, with a head of two classes until the tasks are known."""
        return self.backbone.architecture(self.dataset.image_size, self.dataset.channels, classes=2)


@dataclass(frozen=True)
class PreparedRun:
    """A run whose tasks are loaded and whose members are there, trained on the source task if there is one.

    Attributes:
        experiment: Its settings.
        tasks: Source, target and out-of-distribution images.
        bench: The workbench of the transfer.
        source_ledger: Cost of the source ensemble; None without a source task.
        inputs: What told its files and code from others, before they were read.
    """

    experiment: Experiment
    tasks: Tasks
    bench: Workbench
    source_ledger: Ledger | None
    inputs: Mapping[str, str]


def load_tasks(experiment: Experiment) -> Tasks:
    """Load source, target and out-of-distribution tasks. Errors name the full path of the setting.

    Images of the source are out of distribution, but for those of classes that the target has too.
    """
    dataset = experiment.dataset

    def load(source: Loader, setting: str) -> Task:
        with settings_under(setting):
            return source.load(dataset.image_size, dataset.channels)

    source = None if dataset.source is None else load(dataset.source, "dataset.source")
    target = load(dataset.target, "dataset.target")
    ood = {name: load(task, f"evaluation.ood.{name}").test for name, task in experiment.ood.items()}
    for what, task in (("source", source), ("target", target)):
        if task is not None:
            sizes = (len(task.train), len(task.validation), len(task.test), len(task.classes))
            log.info("%s task %s: %d train, %d validation, %d test images, %d classes", what, task.name, *sizes)
    if source is not None and (source.fingerprint == target.fingerprint or _same(dataset.source, dataset.target)):
        log.warning("the source is the target, so that nothing is transferred; leave the source out: dataset=target")
    elif experiment.evaluation.test:  # else nobody reads the test images, for this neither
        _warn_of_known_images(source, target)
    warn_of_rare_classes(target)
    return Tasks(source, target, ({} if source is None else _foreign(source, target)) | ood)


def _warn_of_known_images(source: Task | None, target: Task) -> None:
    """Log a warning for test images of the target that members were trained on, pixel for pixel."""
    trained = {"the target's training images": target.train}
    trained |= {} if source is None else {"the source's training images": source.train}
    tested = _hashes(target.test)
    for name, split in trained.items():
        if known := len(tested & _hashes(split)):
            log.warning("%d of the %d different test images are among %s too", known, len(tested), name)


def warn_of_rare_classes(target: Task) -> None:
    """Log a warning if the target's largest class has many times the training images of its smallest."""
    counts = target.train.labels.bincount(minlength=len(target.classes)).tolist()
    least, most = min(counts), max(counts)
    if most >= RARE * least:
        names = [f"{target.classes[counts.index(count)]!r} has {count}" for count in (least, most)]
        text = "classes are unbalanced: %s training images, %s; see balanced accuracy beside accuracy, and "
        log.warning(text + "recipe.full.class_weights=balanced, if rare classes are to count as much", *names)


def _hashes(split: Split) -> set[int]:
    """Return a hash of every image; of none where they take more than a gigabyte."""
    if split.images[:1].numel() * len(split) > 2**30:
        return set()
    return {hash(image.numpy().tobytes()) for part in chunks(split.images) for image in part.contiguous()}


def _foreign(source: Task, target: Task) -> dict[str, Split]:
    """Return the source's test images of classes that the target lacks, by the name ``source``; nothing if none."""
    lacking = torch.tensor([name not in target.classes for name in source.classes])
    places = lacking[source.test.labels].nonzero()[:, 0]
    return {"source": source.test.take(places)} if len(places) else {}


DIVISION = ("train", "validation", "test", "per_class", "seed", "folds", "fold", "broken", "memory", "cache")
"""Settings of a task that do not say which data it is."""


def _same(source: object, target: object) -> bool:
    """Return whether two loaders read the same data, however they divide it."""
    if not isinstance(source, TaskLoader) or type(source) is not type(target):
        return False
    names = [field.name for field in fields(source) if field.name not in DIVISION]
    return all(getattr(source, name) == getattr(target, name) for name in names)
