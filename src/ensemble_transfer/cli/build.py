"""From the settings of a run to the objects of an experiment, checked on the way.

The dataclasses of the library are the schema: their annotations give the types, their ``__post_init__`` the rules.
Those that compute nothing are built first, before torch is imported; then tasks, which need torch, and the backbone,
which needs timm.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.errors import HydraException
from hydra.utils import instantiate

from ensemble_transfer.errors import SettingError, require, settings_under
from ensemble_transfer.report.tracking import LoggerSettings
from ensemble_transfer.runs.evaluation_settings import EvaluationSettings
from ensemble_transfer.runs.settings import UNSET, build, class_of, group, named
from ensemble_transfer.source.settings import EnsembleSettings
from ensemble_transfer.tasks.limits import require_shape, require_there
from ensemble_transfer.training.recipe import Recipes
from ensemble_transfer.training.settings import TrainerSettings, is_callback

if TYPE_CHECKING:
    from ensemble_transfer.runs.experiment import Experiment

log = logging.getLogger(__name__)

_GROUPS = ("dataset", "backbone", "ensemble", "strategy", "recipe", "trainer", "logger", "store", "evaluation", "sweep")


@dataclass(frozen=True)
class _Run:
    seed: int
    budget: Any = None  # a number, or a time such as 10min: the experiment checks it
    verbose: bool = False


@dataclass(frozen=True)
class _Images:
    image_size: int
    channels: int

    def __post_init__(self) -> None:
        require_shape(self.image_size, self.channels)


@dataclass(frozen=True)
class _Store:
    root: str
    reuse: bool = True

    def __post_init__(self) -> None:
        require(self.root.strip() != "", "root", self.root, "must be a folder")


@dataclass(frozen=True)
class _Sweep:
    stop_at_failure: bool = False


def build_experiment(settings: Mapping[str, Any]) -> "Experiment":
    """Return the experiment that resolved settings describe.

    Raises:
        SettingError: If a key is unknown, or a value has a wrong type or is not allowed. Nothing has started then.
    """
    for name in ("backbone", "ensemble", "recipe", "strategy"):
        group(settings.get(name), name)
    data, evaluation = group(settings.get("dataset"), "dataset"), group(settings.get("evaluation"), "evaluation")
    ood = group(evaluation.get("ood", {}), "evaluation.ood")
    run = build(_Run, _without(settings, *_GROUPS), "")
    build(_Sweep, settings.get("sweep", {}), "sweep")
    images = build(_Images, _without(data, "source", "target"), "dataset")
    ensemble, recipes = (
        build(EnsembleSettings, settings["ensemble"], "ensemble"),
        build(Recipes, settings["recipe"], "recipe"),
    )
    evaluated = build(EvaluationSettings, _without(evaluation, "ood"), "evaluation")
    trainer, store = _trainer(settings.get("trainer")), build(_Store, settings.get("store"), "store")
    for name in ("source", "target"):
        _require_images(data.get(name), f"dataset.{name}")

    source = None if data.get("source") is None else named(data["source"], "dataset.source")
    target = named(data.get("target"), "dataset.target")
    others = {name: named(task, f"evaluation.ood.{name}") for name, task in ood.items()}
    from ensemble_transfer.models.backbone import Backbone

    backbone = build(Backbone, settings["backbone"], "backbone")
    strategy = named(settings["strategy"], "strategy")
    from ensemble_transfer.runs.experiment import Dataset, Experiment
    from ensemble_transfer.training.fit import Fitter
    from ensemble_transfer.training.store import Store

    with settings_under("store"):
        fitter = Fitter(trainer, Store(Path(store.root), store.reuse))
    pair = Dataset(source, target, images.image_size, images.channels)
    return Experiment(
        pair, backbone, ensemble, strategy, recipes, evaluated, fitter, others, seed=run.seed, budget=run.budget
    )


def build_logger(settings: Mapping[str, Any]) -> LoggerSettings:
    """Return the logger's settings; a logger of the user's is made by Hydra, as callbacks are."""
    given = group(settings.get("logger"), "logger")
    own = given.get("lightning")
    if own is None or given.get("kind") != "lightning":
        return build(LoggerSettings, given, "logger")
    made = _made(own, "logger.lightning", lambda cls: hasattr(cls, "log_metrics"), "a Lightning logger")
    others = _without(given, "lightning") | {"kind": "none"}
    with settings_under("logger"):
        return replace(build(LoggerSettings, others, "logger"), kind="lightning", lightning=made)


def _trainer(settings: object) -> TrainerSettings:
    node = group(settings, "trainer")
    trainer, given = build(TrainerSettings, _without(node, "callbacks"), "trainer"), node.get("callbacks") or []
    rule = "must be a list, such as [{_target_: package.module.Class}]"
    require(isinstance(given, list), "trainer.callbacks", given, rule)
    what = is_callback, "a Lightning callback"
    callbacks = [_made(one, f"trainer.callbacks.{place}", *what) for place, one in enumerate(given)]
    if callbacks:
        log.info("trainer.callbacks: all fits are computed anew, and none is kept in the store")
    with settings_under("trainer"):
        return replace(trainer, callbacks=callbacks)


def _made(settings: object, path: str, is_one: Callable[[type], bool], what: str) -> object:
    """Return the callback or logger that settings name as ``_target_``, by Hydra's own ``instantiate``.

    The class is looked at before it is called: what else the name leads to, such as a function, is left alone.
    """
    given = group(settings, path)
    cls, setting = class_of(given, path), f"{path}._target_"
    require(is_one(cls), setting, given["_target_"], f"must be {what}")
    try:
        return instantiate(given, _convert_="all")
    except Exception as error:  # what a constructor raises
        cause: BaseException = error
        while cause.__cause__ is not None and isinstance(cause, HydraException):
            cause = cause.__cause__
        line = f"{type(cause).__name__}: {' '.join(str(cause).split())}"
        raise SettingError(setting, given["_target_"], f"cannot be made: {line}") from error


def _require_images(task: object, path: str) -> None:
    """Refuse a task of the framework whose file or folder is not there, before torch is imported to read it."""
    given = group({} if task is None else task, path)
    where, own = given.get("path"), str(given.get("_target_")).startswith("ensemble_transfer.")
    if own and isinstance(where, str) and where != UNSET:
        with settings_under(path):
            require_there(where)


def _without(settings: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in names}
