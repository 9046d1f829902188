"""Recipes: optimizer, schedule and number of steps of a fit."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from math import cos, pi
from numbers import Real
from operator import index
from typing import Any

from ensemble_transfer.errors import SettingError, require, settings_under
from ensemble_transfer.tasks import limits

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("cosine", "constant")
BATCHNORM = ("batch", "frozen")
AUGMENTATIONS = ("flip", "crop", "crop_flip", "resized_crop", "trivial")
BALANCED = "balanced"

LARGEST_STEPS = 1_000_000_000
"""Steps of a fit at the most; a GPU takes months for as many."""

FLOAT32_MIN, FLOAT32_MAX = 1e-38, 1e38
"""About the smallest and the largest positive number that float32 holds with full precision."""

_RANGE = f" (float32 holds {FLOAT32_MIN:g} to {FLOAT32_MAX:g})"


def _holds(value: float) -> bool:
    """Return whether float32 holds a positive number."""
    return FLOAT32_MIN <= value <= FLOAT32_MAX


@dataclass(frozen=True)
class Recipe:
    """Optimizer, schedule and number of steps of one fit.

    Attributes:
        steps: Optimizer steps.
        batch_size: Examples in a step; all of the task where it has fewer.
        optimizer: ``adamw`` or ``sgd`` (with Nesterov momentum).
        lr: Highest learning rate of the encoder.
        head_lr_factor: The head's learning rate is this many times the encoder's.
        weight_decay: Decoupled for AdamW, L2 for SGD.
        momentum: Of SGD.
        schedule: ``cosine`` (down to 0 at the last step) or ``constant``.
        warmup: Fraction of the steps in which the learning rate rises linearly from 0.
        clip: Highest norm of a member's gradient; null for no clipping.
        batchnorm: What BatchNorm normalises by while a whole member is trained: the statistics of the ``batch``, which
            its running ones follow; or ``frozen``, its running statistics, which stay as they are. Its weights are
            trained either way.
        label_smoothing: Share of the label's probability that is spread over all classes.
        class_weights: How much each class counts in the training loss: ``balanced``, inversely to the number of its
            training images, as scikit-learn has it; a list of one number per class, in the order of the classes; or
            None, all the same. Losses on validation and the temperature have no weights.
        augment: Augmentation of the images, drawn anew at every step: ``none``, ``flip`` (left to right), ``crop``
            (moved by an eighth at most), ``crop_flip``, ``resized_crop`` (a part, scaled to the whole, and ``flip``),
            ``trivial`` (TrivialAugment).
        views: For a head on features, which are computed once: the number of augmented views of each image.
    """

    steps: int
    batch_size: int = 32
    optimizer: str = "adamw"
    lr: float = 5e-3
    head_lr_factor: float = 1.0
    weight_decay: float = 0.01
    momentum: float = 0.9
    schedule: str = "cosine"
    warmup: float = 0.0
    clip: float | None = None
    batchnorm: str = "batch"
    label_smoothing: float = 0.0
    class_weights: Any = None
    augment: str = "none"
    views: int = 1

    def __post_init__(self) -> None:
        self._convert()
        self._convert_class_weights()
        require(0 <= self.steps <= LARGEST_STEPS, "steps", self.steps, f"must be in 0..{LARGEST_STEPS:,}")
        require(self.batch_size > 0, "batch_size", self.batch_size, "must be above 0")
        allowed = {
            "optimizer": OPTIMIZERS,
            "schedule": SCHEDULES,
            "batchnorm": BATCHNORM,
            "augment": ("none", *AUGMENTATIONS),
        }
        for name, values in allowed.items():
            value = getattr(self, name)
            require(value in values, name, value, f"must be one of {', '.join(values)}")
        self._check_rates()
        require(0 <= self.momentum < 1, "momentum", self.momentum, "must be in [0, 1)")
        require(0 <= self.warmup <= 1, "warmup", self.warmup, "must be in [0, 1]")
        usable = self.clip is None or _holds(self.clip)
        require(usable, "clip", self.clip, f"must be above 0 and finite, or null{_RANGE}")
        require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "must be in [0, 1)")
        require(self.views >= 1, "views", self.views, "must be at least 1")
        require(self.views == 1 or self.augment != "none", "views", self.views, "needs an augmentation: set augment")

    def _convert(self) -> None:
        """Make numbers Python's own, of the declared types: equal recipes have one key in the store."""
        for f in fields(self):
            value = getattr(self, f.name)
            if f.type is str or f.name == "class_weights" or value is None:
                continue
            kind, rule = (index, "must be a whole number") if f.type is int else (float, "must be a number")
            try:
                object.__setattr__(self, f.name, kind(value))
            except (TypeError, ValueError) as error:
                raise SettingError(f.name, value, rule) from error

    def _convert_class_weights(self) -> None:
        """Make weights a tuple of floats; raise a SettingError for others than those that are allowed."""
        given = self.class_weights
        if given is None or given == BALANCED:
            return
        several = isinstance(given, Sequence) and not isinstance(given, str) and len(given) > 0
        usable = several and all(isinstance(w, Real) and not isinstance(w, bool) and _holds(float(w)) for w in given)
        rule = f"must be {BALANCED}, a list of one number above 0 and finite for each class, or null{_RANGE}"
        require(usable, "class_weights", given, rule)
        object.__setattr__(self, "class_weights", tuple(map(float, given)))

    def _check_rates(self) -> None:
        """Raise a SettingError for rates that float32 does not hold, also as the optimizer multiplies them."""
        lr, factor, decay = self.lr, self.head_lr_factor, self.weight_decay
        first = 10.0 if self.optimizer == "adamw" else 1.0  # times the rate, as AdamW corrects the bias of its moments
        usable = _holds(lr) and _holds(lr * first)
        require(usable, "lr", lr, f"must be above 0 and finite{_RANGE}")
        require(_holds(factor), "head_lr_factor", factor, f"must be above 0 and finite{_RANGE}")
        usable = _holds(lr * factor) and _holds(lr * factor * first)
        require(usable, "head_lr_factor", factor, f"gives the head a rate of {lr * factor:g}{_RANGE}")
        require(decay == 0 or _holds(decay), "weight_decay", decay, f"must be 0 or more and finite{_RANGE}")
        shrinks = lr * max(1.0, factor) * decay
        require(shrinks <= FLOAT32_MAX, "weight_decay", decay, f"times the learning rate is {shrinks:g}{_RANGE}")

    def decisive(self) -> dict[str, Any]:
        """Return what decides a fit, as plain data; without what is as in all fits before there was a choice."""
        before = (("batchnorm", "batch"), ("class_weights", None))
        return {name: value for name, value in asdict(self).items() if (name, value) not in before}

    def check_head(self) -> None:
        """Raise a SettingError if this recipe cannot train a head on the features of a frozen encoder."""
        self.check_trains()
        rule = "must be 2 or more with an augmentation: the features of every view are computed once"
        require(self.augment == "none" or self.views > 1, "views", self.views, rule)

    def check_whole(self) -> None:
        """Raise a SettingError if this recipe cannot train a whole member."""
        require(self.views == 1, "views", self.views, "must be 1: only a head is trained on views that are kept")

    def check_trains(self) -> None:
        """Raise a SettingError if this recipe has no step."""
        require(self.steps > 0, "steps", self.steps, "must be above 0")

    def rate(self, step: int) -> float:
        """Return the learning rate of a step as a share of ``lr``."""
        rising = self.warmup * self.steps
        if step < rising:
            return (step + 1) / (rising + 1)
        if self.schedule == "constant":
            return 1.0
        return 0.5 * (1 + cos(pi * (step - rising) / max(1.0, self.steps - rising)))


@dataclass(frozen=True)
class Recipes:
    """The recipes of a run, by phase. Those of ``ancestor`` and ``source`` may have no step: nothing is trained then.

    Attributes:
        ancestor: From a random start on the source task: the shared ancestor, or each independent member.
        source: Each member on the source task, after its ancestor.
        full: Full fine-tuning on the target task.
        tiny: Tiny fine-tuning on the target task.
        probe: The head on frozen features, before a tiny fine-tuning.
        head: The head on frozen features, where that is all (strategy ``head``).
        statistics: Images that BatchNorm's statistics are estimated on, of the target's training images; null for all.
            None are where ``full`` keeps the statistics frozen.
        image_size: Image size at which a fine-tuning is counted, the unit of cost, in pixels; null for that of the
            dataset. It changes no fit.
        pretrained: Whether they are for networks that start from pretrained weights, for which the rate of ``full`` was
            tuned. Strategy ``auto`` then tries none. It changes no fit.
    """

    ancestor: Recipe = field(default_factory=lambda: Recipe(steps=500))
    source: Recipe = field(default_factory=lambda: Recipe(steps=150))
    full: Recipe = field(default_factory=lambda: Recipe(steps=300, lr=1e-2))
    tiny: Recipe = field(default_factory=lambda: Recipe(steps=20, lr=3.5e-3))
    probe: Recipe = field(default_factory=lambda: Recipe(steps=200, lr=1e-2))
    head: Recipe = field(default_factory=lambda: Recipe(steps=500, lr=4e-2))
    statistics: int | None = 256
    image_size: int | None = None
    pretrained: bool = False

    def __post_init__(self) -> None:
        known = self.statistics is None or self.statistics > 1
        require(known, "statistics", self.statistics, "must be at least 2 images, or null for all training images")
        size = self.image_size
        rule = f"must be {limits.MIN_SIZE} to {limits.MAX_SIZE} pixels, or null for dataset.image_size"
        require(size is None or limits.MIN_SIZE <= size <= limits.MAX_SIZE, "image_size", size, rule)
        for name in ("full", "tiny"):
            with settings_under(name):
                getattr(self, name).check_trains()
        for name in ("ancestor", "source", "full", "tiny"):
            with settings_under(name):
                getattr(self, name).check_whole()
        for name in ("probe", "head"):
            with settings_under(name):
                getattr(self, name).check_head()

    @property
    def keeps_statistics(self) -> bool:
        """Whether fine-tuning keeps BatchNorm's statistics; those of shifted encoders are kept as well then."""
        return self.full.batchnorm == "frozen"

    @contextmanager
    def naming(self, recipe: Recipe, phase: str) -> Iterator[None]:
        """Give a setting that a fit in the block refuses its full name, such as ``recipe.full.lr``.

        Args:
            recipe: Recipe of the fit: one of these, with any number of steps. Another one has no name.
            phase: Phase of the fit. It decides between recipes that are alike.
        """
        try:
            yield
        except SettingError as error:
            names = ("full", "tiny", "probe", "head", "ancestor", "source")
            alike = [name for name in names if replace(getattr(self, name), steps=recipe.steps) == recipe]
            if not alike or error.setting not in {f.name for f in fields(recipe)}:
                raise
            name = min(alike, key=lambda name: (name != phase, getattr(self, name) != recipe))
            raise error.under(f"recipe.{name}") from error
