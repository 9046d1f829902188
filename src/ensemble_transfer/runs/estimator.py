"""A transfer in five lines, in the manner of scikit-learn."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import RLock
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from ensemble_transfer.errors import SettingError, require, settings_under
from ensemble_transfer.inference.calibration import Calibration, Decisions, decide
from ensemble_transfer.inference.model_card import write_card
from ensemble_transfer.inference.saved import SavedEnsemble
from ensemble_transfer.models.architecture import Architecture
from ensemble_transfer.models.backbone import Backbone
from ensemble_transfer.runs.costs import costs
from ensemble_transfer.runs.evaluation_settings import EvaluationSettings
from ensemble_transfer.runs.experiment import Dataset, Experiment
from ensemble_transfer.runs.given import (
    Given,
    GivenTask,
    Labels,
    check_types,
    labels_of,
    saved_architecture,
    saved_folder,
    shape_of,
)
from ensemble_transfer.runs.presets import preset_names
from ensemble_transfer.runs.run import prepare
from ensemble_transfer.runs.settings import preset_object
from ensemble_transfer.source.settings import EnsembleSettings
from ensemble_transfer.tasks.given_images import GivenImages, read_pictures
from ensemble_transfer.tasks.loader import TaskLoader
from ensemble_transfer.tasks.task import Task
from ensemble_transfer.training.fit import Fitter
from ensemble_transfer.training.recipe import Recipes
from ensemble_transfer.training.settings import TrainerSettings
from ensemble_transfer.training.store import Store
from ensemble_transfer.transfer.base import Strategy

_ONE_AT_A_TIME = RLock()
"""Fits of several threads, as nested jobs of joblib are, would draw from one generator of torch and share workers."""


class TransferEnsemble(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """An ensemble for a new task, from pretrained networks or one that was trained on a source task.

    It is a classifier of scikit-learn: ``clone``, ``cross_val_score``, ``GridSearchCV`` and ``Pipeline`` take it.

    Examples:
        >>> from sklearn.datasets import load_digits
        >>> scans = load_digits()
        >>> model = TransferEnsemble(budget=1, progress=False)
        >>> model = model.fit(scans.images[:500] / 16, scans.target[:500])  # doctest: +SKIP
        >>> model.score(scans.images[500:] / 16, scans.target[500:])  # doctest: +SKIP

    Settings are checked when ``fit`` is called, before anything is trained. Fitted attributes:

    - ``ensemble_``: the transferred :class:`~ensemble_transfer.models.ensemble.Ensemble`.
    - ``classes_``: the labels that predictions are given in, in the order of the probabilities.
    - ``cost_``: what the transfer cost, as in a record: by ``phases``, in ``total``, of one more member (``marginal``),
      and, where there is one, of the ``source`` ensemble; each in FLOPs, seconds and fine-tunings, among others.
    - ``calibration_``: the temperature, which was fitted on the target's validation images.
    - ``source_ensemble_``: the ensemble before the transfer.

    Args:
        strategy: How to transfer: a strategy of the command line by its name, such as ``few``, ``auto`` or ``shift``,
            or an object that has options of its own, such as ``Few(members=3)``, also of your own class.
        budget: What the transfer may spend, in full fine-tunings of one member. None: what the recipe says.
        size: Number of members; None for as many as are given, or else 8.
        source: The source task, on which the members are trained before: a
            :class:`~ensemble_transfer.tasks.task.Task`, a loader, a pair ``(images, labels)`` of arrays, or the path of
            a folder of images. Or a saved ensemble, whose members are taken as they are: its folder, or what
            :func:`~ensemble_transfer.runs.files.open_saved` returns. None: there is none, and the members are
            ``members``, or copies of the pretrained backbone.
        lineage: What members have in common: ``shared``, ``snapshot`` or ``independent``.
        members: Members that exist, instead of training: files of the backbone's architecture, or folders of runs or
            saved ensembles.
        backbone: A preset of the command line such as ``efficientnet_lite0``, a timm architecture, or a
            :class:`~ensemble_transfer.models.backbone.Backbone`. None: that of a saved ensemble, or ``small_resnet``,
            which starts from random weights.
        recipe: A preset of the command line, or :class:`~ensemble_transfer.training.recipe.Recipes`. None:
            ``pretrained`` where the backbone starts from weights, else ``default``.
        trainer: ``auto``, ``cpu``, ``gpu``, or :class:`~ensemble_transfer.training.settings.TrainerSettings`.
        store: Folder, or :class:`~ensemble_transfer.training.store.Store`, in which finished fits are kept, so that
            nothing is trained twice. None: nothing is kept.
        image_size: Height and width that images are brought to, in pixels. None: those of the target's arrays, and 128
            for files. A strategy may have sizes of its own, none larger: ``Few(image_size=[64, 128])``.
        channels: 1 for gray, 3 for RGB. None: what the images have.
        validation: Share of arrays and folders that is set apart to select on, or how many images. None: 0.15, or the
            whole validation split that a folder has.
        seed: Decides all randomness but which images are set apart for validation.
        progress: Whether to show progress bars.
    """

    def __init__(  # noqa: PLR0913  # parameters as scikit-learn has them, keywords all
        self,
        strategy: str | Strategy = "few",
        budget: float | None = None,
        size: int | None = None,
        *,
        source: Given | SavedEnsemble | None = None,
        lineage: str = "shared",
        members: Sequence[str | Path] = (),
        backbone: str | Backbone | None = None,
        recipe: str | Recipes | None = None,
        trainer: str | TrainerSettings = "auto",
        store: str | Path | Store | None = None,
        image_size: int | None = None,
        channels: int | None = None,
        validation: float | None = None,
        seed: int = 0,
        progress: bool = True,
    ) -> None:
        self.strategy = strategy
        self.budget = budget
        self.size = size
        self.source = source
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

    def fit(self, images: GivenImages | Task | TaskLoader, labels: Labels | None = None) -> Self:
        """Fit the ensemble to the target task, after it was trained on the source task, if there is one.

        Args:
            images: An array of images (see :func:`~ensemble_transfer.tasks.arrays.task_from_arrays`) or a list of
                files; or, without labels, a :class:`~ensemble_transfer.tasks.task.Task`, a loader, or the path of a
                folder with a folder of images for each class.
            labels: The class of each image, (N,): integers or texts.

        Nothing is trained or selected on the test split of a task; a warning says where it has training images. Of
        arrays, files and folders nothing is set apart to report on, but for a single image: score images of your own.

        Raises:
            SettingError: If a setting or a task cannot be used; one line says which, and what is allowed.
        """
        target: Any = images if labels is None else (images, labels)
        with _ONE_AT_A_TIME, _own_names(), _threads_kept():
            prepared = prepare(self._experiment(target), None)
            result = prepared.experiment.strategy.run(prepared.bench)
            self.cost_ = costs(result, prepared.source_ledger, prepared.bench)
            task, self.device_ = prepared.tasks.target, str(prepared.bench.fitter.settings.device)
            self.source_ensemble_, self.ensemble_ = prepared.bench.source, result.ensemble
            held_out = result.ensemble.predict(task.validation.images, self.device_)
        self.calibration_ = Calibration.fit(held_out, task.validation.labels, result.ensemble.by_encoder)
        self.classes_ = labels_of(target, task)
        self._examples = {"train": len(task.train), "validation": len(task.validation)}
        return self

    def predict_proba(self, images: GivenImages) -> NDArray[np.float64]:
        """Return the probability of every class (images, classes), the mean over members after the temperature.

        Args:
            images: An array as ``fit`` takes it, of any size; or a file, a folder of pictures,
                the bytes of a file, or a list of files or of bytes.

        Raises:
            SettingError: If they are no images, or a file cannot be read.
        """
        probabilities: NDArray[np.float64] = self._decide(images).probabilities.numpy()
        return probabilities

    def predict(self, images: GivenImages) -> NDArray[Any]:
        """Return the most probable class of each image (images,), as ``classes_`` has it; see :meth:`predict_proba`."""
        decisions = self._decide(images)
        found: NDArray[Any] = self.classes_[decisions.label.numpy()]
        return found

    def score(self, images: GivenImages, labels: Sequence[Any] | NDArray[Any]) -> float:
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

        :func:`~ensemble_transfer.runs.files.open_saved` reads it; so do the commands ``predict`` and ``export``.
        """
        check_is_fitted(self, "ensemble_")
        where = Path(folder).expanduser()
        self.ensemble_.save(where)
        self.calibration_.save(where, self.ensemble_.fingerprint)
        write_card(where, self.ensemble_, cost=self.cost_, examples=self._examples)

    def _decide(self, images: GivenImages) -> Decisions:
        check_is_fitted(self, "ensemble_")
        architecture = self.ensemble_.architecture
        pictures = read_pictures(images, architecture.image_size, architecture.channels)
        with _ONE_AT_A_TIME:
            return decide(self.ensemble_.predict(pictures, self.device_), self.calibration_.temperature)

    def _experiment(self, target: Given) -> Experiment:
        """Return the experiment that the settings describe, before anything is loaded."""
        check_types(self.get_params(deep=False))
        folder = saved_folder(self.source)
        members = [*([] if folder is None else [str(folder)]), *map(str, self.members)]
        saved = saved_architecture(members) if self.backbone is None else None
        after = GivenTask(target, "target", self.validation)
        given: Any = None if folder is not None else self.source
        before = None if given is None else GivenTask(given, "source", self.validation)
        own = (None, None) if saved is None else (saved.image_size, saved.channels)
        tasks = [after] if before is None else [after, before]
        size, channels = shape_of(tasks, self.image_size or own[0], self.channels or own[1])
        backbone, named = self._backbone(saved), self.trainer
        trainer = named if isinstance(named, TrainerSettings) else preset_object("trainer", named)
        store = self.store if isinstance(self.store, Store | None) else Store(Path(self.store).expanduser())
        return Experiment(
            dataset=Dataset(before, after, size, channels),
            backbone=backbone,
            ensemble=EnsembleSettings(self.size, self.lineage, members=members),
            strategy=preset_object("strategy", self.strategy) if isinstance(self.strategy, str) else self.strategy,
            recipes=self._recipes(backbone),
            evaluation=EvaluationSettings(keep="none"),
            fitter=Fitter(replace(trainer, progress=bool(self.progress) and trainer.progress), store),
            seed=int(self.seed),
            budget=self.budget,
        )

    def _backbone(self, saved: Architecture | None) -> Backbone:
        """Return the backbone; without one, that of a saved ensemble."""
        if saved is not None:
            return Backbone(saved.backbone, dict(saved.options), mean=list(saved.mean), std=list(saved.std))
        named = self.backbone or "small_resnet"
        if isinstance(named, Backbone):
            return named
        if named in preset_names("backbone"):
            made: Backbone = preset_object("backbone", named)
            return made
        with settings_under("backbone"):
            return Backbone(named)

    def _recipes(self, backbone: Backbone) -> Recipes:
        named = self.recipe or ("pretrained" if backbone.has_weights else "default")
        return named if isinstance(named, Recipes) else preset_object("recipe", named)


@contextmanager
def _own_names() -> Iterator[None]:
    """Give settings that are refused in the block the names that they have here, where there are no groups."""
    try:
        yield
    except SettingError as error:
        name = error.setting
        for group in ("dataset.", "ensemble.", "target."):
            name = name.removeprefix(group)
        name = "images" if name == "target" else name
        raise SettingError(name, error.value, error.rule) from error


@contextmanager
def _threads_kept() -> Iterator[None]:
    """Leave the number of torch's threads as it was."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
