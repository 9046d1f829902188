"""A transfer in five lines, in the manner of scikit-learn."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from numbers import Integral, Real
from pathlib import Path
from types import NoneType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from ensemble_transfer.errors import SettingError, require, settings_under
from ensemble_transfer.inference.calibration import Calibration, Decisions, decide
from ensemble_transfer.inference.model_card import write_card
from ensemble_transfer.models.backbone import Backbone
from ensemble_transfer.runs.conclusion import costs
from ensemble_transfer.runs.evaluation import EvaluationSettings
from ensemble_transfer.runs.experiment import Dataset, Experiment
from ensemble_transfer.runs.given import Given, GivenTask, Pictures, labels_of, read_pictures, shape_of
from ensemble_transfer.runs.presets import preset, preset_names, preset_object
from ensemble_transfer.runs.run import prepare
from ensemble_transfer.tasks.images import require_shape
from ensemble_transfer.training.fit import Fitter
from ensemble_transfer.training.recipe import Recipe, Recipes
from ensemble_transfer.training.settings import TrainerSettings
from ensemble_transfer.training.source import EnsembleSettings
from ensemble_transfer.training.store import Store
from ensemble_transfer.transfer.base import Strategy


class TransferEnsemble(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """An ensemble that is trained on a source task and moved to a target task, as a classifier of scikit-learn.

    Examples:
        >>> from sklearn.datasets import load_digits
        >>> from ensemble_transfer import MnistSample
        >>> scans = load_digits()
        >>> target = MnistSample(train=200, validation=200, test=500).load(image_size=16, channels=1)
        >>> model = TransferEnsemble(strategy="shift", size=2, progress=False)
        >>> model = model.fit((scans.images / 16, scans.target), target)  # doctest: +SKIP
        >>> model.score(target.test.images, target.test.labels)  # doctest: +SKIP

    Settings are checked when ``fit`` is called, before anything is trained. Fitted attributes:

    - ``ensemble_``: the transferred :class:`~ensemble_transfer.models.ensemble.Ensemble`.
    - ``classes_``: the labels that predictions are given in, in the order of the probabilities.
    - ``cost_``: what the transfer cost, as in a record: by ``phases``, in ``total``, of one more member (``marginal``),
      and of the ``source`` ensemble; each in FLOPs, seconds and fine-tunings, among others.
    - ``calibration_``: the temperature, which was fitted on the target's validation images.
    - ``source_ensemble_``: the ensemble before the transfer.

    Args:
        strategy: How to transfer: a strategy of the command line by its name, such as ``shift``, ``few`` or ``auto``,
            or an object that has options of its own, such as ``Shift(scale=1.5)``.
        budget: What the transfer may spend, in full fine-tunings of one member. None: what the recipe says.
        size: Number of members.
        lineage: What members have in common: ``shared``, ``snapshot`` or ``independent``.
        members: Source members that exist, instead of training: files of the backbone's architecture, or folders of
            runs or saved ensembles.
        backbone: A preset of the command line such as ``small_resnet``, a timm architecture, or a
            :class:`~ensemble_transfer.models.backbone.Backbone`.
        recipe: A preset of the command line, or :class:`~ensemble_transfer.training.recipe.Recipes`. None:
            ``pretrained`` where the backbone starts from weights, else ``default``.
        trainer: ``auto``, ``cpu``, ``gpu``, or :class:`~ensemble_transfer.training.settings.TrainerSettings`.
        store: Folder, or :class:`~ensemble_transfer.training.store.Store`, in which finished fits are kept, so that
            nothing is trained twice. None: nothing is kept.
        image_size: Height and width that images are brought to, in pixels. None: those of the target's arrays.
        channels: 1 for gray, 3 for RGB. None: what the images have.
        validation: Share of arrays and folders that is set apart to select on, or how many images.
        seed: Decides all randomness.
        progress: Whether to show progress bars.
    """

    def __init__(  # noqa: PLR0913  # parameters as scikit-learn has them, keywords all
        self,
        strategy: str | Strategy = "shift",
        budget: float | None = None,
        size: int = 8,
        *,
        lineage: str = "shared",
        members: Sequence[str | Path] = (),
        backbone: str | Backbone = "small_resnet",
        recipe: str | Recipes | None = None,
        trainer: str | TrainerSettings = "auto",
        store: str | Path | Store | None = None,
        image_size: int | None = None,
        channels: int | None = None,
        validation: float = 0.15,
        seed: int = 0,
        progress: bool = True,
    ) -> None:
        self.strategy = strategy
        self.budget = budget
        self.size = size
        self.lineage = lineage
        self.members = members
        self.backbone = backbone
        self.recipe = recipe
        self.trainer = trainer
        self.store = store
        self.image_size = image_size
        self.channels = channels
        self.validation = validation
        self.seed = seed
        self.progress = progress

    def fit(self, source: Given, target: Given) -> Self:
        """Train an ensemble on the source task and transfer it to the target task.

        Args:
            source: A :class:`~ensemble_transfer.tasks.task.Task`, a pair ``(images, labels)`` of arrays (see
                :func:`~ensemble_transfer.tasks.arrays.task_from_arrays`), the path of a folder of images (see
                :class:`~ensemble_transfer.tasks.folder.ImageFolder`), or another loader.
            target: The same. The test split of a task is not read. Of arrays and folders nothing is set apart to report
                on, but for a single image: score images of your own.

        Raises:
            SettingError: If a setting or a task cannot be used; one line says which, and what is allowed.
        """
        with _own_names(), _threads_kept():
            prepared = prepare(self._experiment(source, target), None)
            result = prepared.experiment.strategy.run(prepared.work)
        task, self.device_ = prepared.tasks.target, str(prepared.work.fitter.settings.device)
        self.source_ensemble_, self.ensemble_ = prepared.work.source, result.ensemble
        self.cost_ = costs(result, prepared.source_ledger, prepared.work.prices.full)
        held_out = result.ensemble.predict(task.validation.images, self.device_)
        self.calibration_ = Calibration.fit(held_out, task.validation.labels)
        self.classes_ = labels_of(target, task)
        self._examples = {"train": len(task.train), "validation": len(task.validation)}
        return self

    def predict_proba(self, images: Pictures) -> NDArray[np.float64]:
        """Return the probability of every class (images, classes), the mean over members after the temperature.

        Args:
            images: An array as ``fit`` takes it, of any size; or a file, a folder of pictures, or a list of files.

        Raises:
            SettingError: If they are no images, or a file cannot be read.
        """
        probabilities: NDArray[np.float64] = self._decide(images).probabilities.numpy()
        return probabilities

    def predict(self, images: Pictures) -> NDArray[Any]:
        """Return the most probable class of each image (images,), as ``classes_`` has it; see :meth:`predict_proba`."""
        decisions = self._decide(images)
        found: NDArray[Any] = self.classes_[decisions.label.numpy()]
        return found

    def score(self, images: Pictures, labels: Sequence[Any] | NDArray[Any]) -> float:
        """Return the accuracy.

        Args:
            images: As for :meth:`predict_proba`.
            labels: The right class of each image, as ``classes_`` has it; where that has names, numbers are positions
                in it.

        Raises:
            SettingError: If there is not one label an image.
        """
        predicted, truth = self.predict(images), np.asarray(labels).reshape(-1)
        rule = f"must be one for each of {len(predicted)} images"
        require(len(truth) == len(predicted), "labels", len(truth), rule)
        if truth.dtype.kind in "iu" and self.classes_.dtype.kind not in "iu":
            within = bool(((truth >= 0) & (truth < len(self.classes_))).all())
            require(within, "labels", int(truth.max()), f"must be names, or positions 0 to {len(self.classes_) - 1}")
            truth = self.classes_[truth]
        return float((predicted == truth).mean())

    def save(self, folder: str | Path) -> None:
        """Write the ensemble with its calibration and a model card into a folder, which is made if missing.

        :func:`~ensemble_transfer.inference.saved.open_saved` reads it; so do the commands ``predict`` and ``export``.
        """
        check_is_fitted(self, "ensemble_")
        where = Path(folder)
        self.ensemble_.save(where)
        self.calibration_.save(where, self.ensemble_.fingerprint)
        write_card(where, self.ensemble_, cost=self.cost_, examples=self._examples)

    def _decide(self, images: Pictures) -> Decisions:
        check_is_fitted(self, "ensemble_")
        architecture = self.ensemble_.architecture
        pictures = read_pictures(images, architecture.image_size, architecture.channels)
        return decide(self.ensemble_.predict(pictures, self.device_), self.calibration_.temperature)

    def _experiment(self, source: Given, target: Given) -> Experiment:
        """Return the experiment that the settings describe, before anything is loaded."""
        self._check_types()
        size, channels = shape_of(source, target, self.image_size, self.channels)
        require_shape(size, channels)
        backbone = self._backbone()
        trainer = _trainer(self.trainer)
        store = self.store if isinstance(self.store, Store | None) else Store(Path(self.store).expanduser())
        before, after = (GivenTask(g, n, self.validation) for n, g in (("source", source), ("target", target)))
        return Experiment(
            dataset=Dataset(before, after, size, channels),
            backbone=backbone,
            ensemble=EnsembleSettings(int(self.size), self.lineage, members=[str(path) for path in self.members]),
            strategy=preset_object("strategy", self.strategy) if isinstance(self.strategy, str) else self.strategy,
            recipes=self._recipes(backbone),
            evaluation=EvaluationSettings(),
            fitter=Fitter(replace(trainer, progress=bool(self.progress) and trainer.progress), store),
            seed=int(self.seed),
            budget=self.budget,
        )

    def _backbone(self) -> Backbone:
        named = self.backbone
        if isinstance(named, Backbone):
            return named
        if named in preset_names("backbone"):
            return Backbone(**preset("backbone", named))
        with settings_under("backbone"):
            return Backbone(named)

    def _recipes(self, backbone: Backbone) -> Recipes:
        named = self.recipe or ("pretrained" if backbone.has_weights else "default")
        if isinstance(named, Recipes):
            return named
        fields = dict(preset("recipe", named))
        statistics = fields.pop("statistics")
        return Recipes(**{phase: Recipe(**recipe) for phase, recipe in fields.items()}, statistics=statistics)

    def _check_types(self) -> None:
        """Raise a SettingError for a value of a wrong type; the classes that take the values check the rest."""
        for name, (types, rule) in _TYPES.items():
            value = getattr(self, name)
            require(isinstance(value, types) and not isinstance(value, bool), name, value, rule)
        whole = hasattr(self.strategy, "plan") and not isinstance(self.strategy, type)
        known = isinstance(self.strategy, str) or whole
        require(known, "strategy", self.strategy, "must be the name of a strategy, or a strategy such as Shift()")
        require(self.seed >= 0, "seed", self.seed, "must be 0 or more")


_TYPES: Mapping[str, tuple[tuple[type, ...], str]] = {
    "budget": ((Real, NoneType), "must be a number of fine-tunings, or None"),
    "size": ((Integral,), "must be a whole number"),
    "lineage": ((str,), "must be a word"),
    "members": ((list, tuple), "must be a list of files or folders"),
    "backbone": ((str, Backbone), "must be a name or a Backbone"),
    "recipe": ((str, Recipes, NoneType), "must be a name, Recipes or None"),
    "trainer": ((str, TrainerSettings), "must be a name or TrainerSettings"),
    "store": ((str, Path, Store, NoneType), "must be a folder, a Store or None"),
    "image_size": ((Integral, NoneType), "must be a number of pixels, or None"),
    "channels": ((Integral, NoneType), "must be 1, 3 or None"),
    "validation": ((Real,), "must be a share or a number of images"),
    "seed": ((Integral,), "must be a whole number"),
}


def _trainer(named: str | TrainerSettings) -> TrainerSettings:
    return named if isinstance(named, TrainerSettings) else TrainerSettings(**preset("trainer", named))


@contextmanager
def _own_names() -> Iterator[None]:
    """Give settings that are refused in the block the names that they have here: there is no group ``dataset``."""
    try:
        yield
    except SettingError as error:
        name = error.setting.removeprefix("dataset.").removeprefix("ensemble.")
        raise SettingError(name, error.value, error.rule) from error


@contextmanager
def _threads_kept() -> Iterator[None]:
    """Leave the number of torch's threads as it was."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
