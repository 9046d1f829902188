"""The types of the settings of :class:`~ensemble_transfer.runs.estimator.TransferEnsemble`."""

from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from types import NoneType

from ensemble_transfer.errors import require
from ensemble_transfer.models.backbone import Backbone
from ensemble_transfer.training.recipe import Recipes
from ensemble_transfer.training.settings import TrainerSettings
from ensemble_transfer.training.store import Store

_TYPES: Mapping[str, tuple[tuple[type, ...], str]] = {
    "budget": ((Real, NoneType), "must be a number of fine-tunings, or None"),
    "size": ((Integral, NoneType), "must be a whole number, or None"),
    "lineage": ((str,), "must be a word"),
    "members": ((list, tuple), "must be a list of files or folders"),
    "backbone": ((str, Backbone, NoneType), "must be a name, a Backbone or None"),
    "recipe": ((str, Recipes, NoneType), "must be a name, Recipes or None"),
    "trainer": ((str, TrainerSettings), "must be a name or TrainerSettings"),
    "store": ((str, Path, Store, NoneType), "must be a folder, a Store or None"),
    "image_size": ((Integral, NoneType), "must be a number of pixels, or None"),
    "channels": ((Integral, NoneType), "must be 1, 3 or None"),
    "validation": ((Real,), "must be a share or a number of images"),
    "seed": ((Integral,), "must be a whole number"),
}


def check_types(settings: Mapping[str, object]) -> None:
    """Raise a SettingError for a setting of a wrong type; the classes that take the settings check the rest."""
    for name, (types, rule) in _TYPES.items():
        value = settings[name]
        require(isinstance(value, types) and not isinstance(value, bool), name, value, rule)
    strategy = settings["strategy"]
    whole = hasattr(strategy, "plan") and not isinstance(strategy, type)
    known = isinstance(strategy, str) or whole
    require(known, "strategy", strategy, "must be the name of a strategy, or a strategy such as Shift()")
