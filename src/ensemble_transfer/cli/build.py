"""From a composed configuration to the objects of an experiment, checked on the way.

The dataclasses of the library are the schema: their annotations give the types, their ``__post_init__`` the rules.
"""

import logging
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ensemble_transfer.errors import SettingError, require, settings_under
from ensemble_transfer.models.backbone import Backbone
from ensemble_transfer.report.tracking import LoggerSettings
from ensemble_transfer.runs.evaluation import EvaluationSettings
from ensemble_transfer.runs.experiment import Dataset, Experiment
from ensemble_transfer.source.settings import EnsembleSettings
from ensemble_transfer.training.fit import Fitter
from ensemble_transfer.training.recipe import Recipes
from ensemble_transfer.training.settings import TrainerSettings, is_callback
from ensemble_transfer.training.store import Store

log = logging.getLogger(__name__)

T = TypeVar("T")

_VALUES = ["seed", "budget"]
_GROUPS = ["dataset", "backbone", "ensemble", "strategy", "recipe", "trainer", "logger", "store", "evaluation", "sweep"]


@dataclass(frozen=True)
class _Run:
    seed: int
    budget: Any = None  # a number, or a time such as 10min: the experiment checks it


@dataclass(frozen=True)
class _Images:
    image_size: int
    channels: int


@dataclass(frozen=True)
class _Store:
    root: str
    reuse: bool = True


@dataclass(frozen=True)
class _Sweep:
    stop_at_failure: bool = False


def build_experiment(cfg: DictConfig) -> Experiment:
    """Return the experiment that a configuration describes.

    Raises:
        SettingError: If a key is unknown, or a value has a wrong type or is not allowed. Nothing has started then.
    """
    _settings(cfg, "", [*_VALUES, *_GROUPS])
    data, evaluation = _settings(cfg.dataset, "dataset"), _settings(cfg.evaluation, "evaluation")
    ood = _settings(evaluation.get("ood", OmegaConf.create()), "evaluation.ood")
    run = build(_Run, _without(cfg, *_GROUPS), "")
    build(_Sweep, cfg.get("sweep", OmegaConf.create()), "sweep")
    images = build(_Images, _without(data, "source", "target"), "dataset")
    source = None if data.get("source") is None else named(data.source, "dataset.source")
    target = named(data.get("target"), "dataset.target")
    with settings_under("dataset"):
        dataset = Dataset(source, target, images.image_size, images.channels)
    return Experiment(
        dataset=dataset,
        backbone=build(Backbone, cfg.backbone, "backbone"),
        ensemble=build(EnsembleSettings, cfg.ensemble, "ensemble"),
        strategy=named(cfg.strategy, "strategy"),
        recipes=build(Recipes, cfg.recipe, "recipe"),
        evaluation=build(EvaluationSettings, _without(evaluation, "ood"), "evaluation"),
        fitter=Fitter(_trainer(cfg.trainer), _store(cfg.store)),
        ood={str(name): named(task, f"evaluation.ood.{name!s}") for name, task in ood.items()},
        seed=run.seed,
        budget=run.budget,
    )


def resolved(cfg: DictConfig) -> DictConfig:
    """Return a configuration in which every reference to another setting, ``${...}``, is replaced by its value.

    The size of the ensemble, too, is a number then: as many as there are given members, or the default.

    Raises:
        SettingError: If a reference leads nowhere, or a given member is missing.
    """
    node = cfg.get("ensemble")
    if isinstance(node, DictConfig) and "size" in node and node.get("size") is None:
        settings, cfg = build(EnsembleSettings, node, "ensemble"), cfg.copy()
        with settings_under("ensemble"):
            cfg.ensemble.size = settings.count
    try:
        return OmegaConf.create(plain(cfg, resolve=True))
    except OmegaConfBaseException as error:
        key = str(getattr(error, "full_key", None) or "configuration")
        written: Any = plain(cfg)
        for part in key.split("."):
            written = written.get(part) if isinstance(written, dict) else None
        raise SettingError(key, written, f"cannot be resolved: {str(error).splitlines()[0]}") from error


def as_recorded(cfg: DictConfig) -> dict[str, Any]:
    """Return a configuration as the record of its run keeps it: resolved, as plain data, with the layout of the fits.

    The logger stays as it was written: ``${oc.env:...}`` in it may stand for a key that nobody should read.

    Raises:
        SettingError: If it cannot be resolved, or its trainer is refused.
    """
    recorded = without_keys(cfg)
    trainer = _settings(OmegaConf.create(recorded).get("trainer"), "trainer")
    settings = build(TrainerSettings, _without(trainer, "callbacks"), "trainer")
    recorded["trainer"]["channels_last"] = settings.lays_channels_last  # null decides nothing by itself
    return recorded


def without_keys(cfg: DictConfig) -> dict[str, Any]:
    """Return a configuration resolved and as plain data, but for its logger."""
    return plain(resolved(cfg)) | {"logger": plain(cfg).get("logger")}


def plain(cfg: DictConfig, resolve: bool = False) -> dict[str, Any]:
    """Return a configuration as plain data, its references to other settings replaced if that is asked for."""
    return {str(name): value for name, value in OmegaConf.to_container(cfg, resolve=resolve).items()}  # type: ignore[union-attr]


def build_logger(cfg: DictConfig) -> LoggerSettings:
    """Return the logger's settings; a logger of the user's is made by Hydra, as callbacks are."""
    node = _settings(cfg.logger, "logger")
    own = node.get("lightning")
    if own is None or node.get("kind") != "lightning":
        return build(LoggerSettings, node, "logger")
    made = _made(own, "logger.lightning", lambda cls: hasattr(cls, "log_metrics"), "a Lightning logger")
    others = OmegaConf.merge(_without(node, "lightning"), {"kind": "none"})
    with settings_under("logger"):
        return replace(build(LoggerSettings, others, "logger"), kind="lightning", lightning=made)


def build(cls: type[T], node: Any, path: str) -> T:  # noqa: ANN401
    """Return a dataclass from the node of a configuration.

    Raises:
        SettingError: If a key is unknown or missing, or a value has a wrong type or is refused by the dataclass.
    """
    hints = get_type_hints(cls)
    declared = {f.name: f for f in fields(cls) if f.init}  # type: ignore[arg-type]  # T is a dataclass
    node = _settings(node, path, declared)
    for name, f in declared.items():
        lacks = name not in node and f.default is MISSING and f.default_factory is MISSING
        full = _join(path, name)
        require(not (lacks or OmegaConf.is_missing(node, name)), full, None, f"is required: {full}=...")
    given = {name: node[name] for name in declared if name in node}
    inner = {n: build(hints[n], v, _join(path, n)) for n, v in given.items() if is_dataclass(hints[n])}
    try:
        values = _typed(cls, {name: value for name, value in given.items() if name not in inner}, path)
        with settings_under(path):
            return cls(**values, **inner)
    except OSError as error:  # a path that no file system has
        raise SettingError(path, error.filename, f"cannot be looked for: {error.strerror}") from error


def named(node: Any, path: str) -> Any:  # noqa: ANN401
    """Return an object of the dataclass that a node names as ``_target_``; its other keys are the fields."""
    node = _settings(node, path)
    cls = _class_of(node, path)
    require(is_dataclass(cls), f"{path}._target_", node["_target_"], "must be a dataclass: its fields are the options")
    return build(cls, _without(node, "_target_"), path)


def _class_of(node: DictConfig, path: str) -> type:
    """Return the class that a node names as ``_target_``; it is imported, not called."""
    setting, target = f"{path}._target_", node.get("_target_")
    require(isinstance(target, str), setting, target, "must name a class, such as package.module.Class")
    module, _, name = target.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except Exception as error:  # a module may raise anything when it is imported
        raise SettingError(setting, target, f"is not a class that can be imported: {_reason(error)}") from error
    require(isinstance(found, type), setting, target, "is not a class")
    cls: type = found
    return cls


def _trainer(node: Any) -> TrainerSettings:  # noqa: ANN401
    node = _settings(node, "trainer")
    settings, given = build(TrainerSettings, _without(node, "callbacks"), "trainer"), node.get("callbacks") or []
    rule = "must be a list, such as [{_target_: package.module.Class}]"
    require(isinstance(given, ListConfig | list), "trainer.callbacks", _as_written(given), rule)
    what = is_callback, "a Lightning callback"
    callbacks = [_made(one, f"trainer.callbacks.{place}", *what) for place, one in enumerate(given)]
    if callbacks:
        log.info("trainer.callbacks: all fits are computed anew, and none is kept in the store")
    with settings_under("trainer"):
        return replace(settings, callbacks=callbacks)


def _made(node: Any, path: str, is_one: Callable[[type], bool], what: str) -> object:  # noqa: ANN401
    """Return the callback or logger that a node names as ``_target_``, by Hydra's own ``instantiate``.

    The class is looked at before it is called: what else the name leads to, such as a function, is left alone.
    """
    node = _settings(node, path)
    cls = _class_of(node, path)
    target = node["_target_"]
    require(is_one(cls), f"{path}._target_", target, f"must be {what}")
    try:
        return instantiate(node, _convert_="all")
    except Exception as error:  # what a constructor raises
        raise SettingError(f"{path}._target_", target, f"cannot be made: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Return in one line what went wrong in a class or in its module, without Hydra's errors around it."""
    while error.__cause__ is not None and isinstance(error, HydraException):
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _store(node: Any) -> Store:  # noqa: ANN401
    settings = build(_Store, node, "store")
    require(settings.root.strip() != "", "store.root", settings.root, "must be a folder")
    with settings_under("store"):
        return Store(Path(settings.root), settings.reuse)


def _typed(cls: type, values: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return values converted to the types of their fields, as plain containers."""
    hints = get_type_hints(cls)
    for name, value in values.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        yes_or_no = bool in (hints[name], *get_args(hints[name]))  # OmegaConf would take any number for true
        require(not (yes_or_no and number), _join(path, name), value, "must be true or false")
    try:
        merged: Any = OmegaConf.to_container(OmegaConf.merge(_schema(cls), dict(values)))
    except OmegaConfBaseException as error:
        name = re.split(r"[.\[]", str(error.full_key))[0]
        numbers = list[float] in (hints[name], *get_args(hints[name]))
        rule = "must be a list of numbers, such as [0.5,0.5,0.5]" if numbers else _rule(str(error))
        raise SettingError(_join(path, name), _as_written(values[name]), rule) from error
    return {name: merged[name] for name in values}


@cache
def _schema(cls: type) -> DictConfig:
    schema: DictConfig = OmegaConf.structured(cls)
    return schema


def _rule(reason: str) -> str:
    """Return what is allowed, from OmegaConf's reason for a refusal."""
    rules = {
        "to Integer": "must be a whole number",
        "to Float": "must be a number",
        "valid bool": "must be true or false",
        "to string": "must be a text",
        "not a ListConfig": "must be a list, such as [a,b]",
        "value 'None'": "must not be null",
    }
    first = reason.splitlines()[0]
    return next((rule for words, rule in rules.items() if words in first), first)


def _as_written(value: Any) -> Any:  # noqa: ANN401
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _settings(node: Any, path: str, known: Collection[str] | None = None) -> DictConfig:  # noqa: ANN401
    """Return a node that must be a group of settings, of the known names where these are given."""
    require(isinstance(node, DictConfig), path, _as_written(node), "must be a group of settings, not a single value")
    for key in node if known is not None else ():
        rule = f"is not a setting; {path or 'the configuration'} has {', '.join(known or ())}"
        require(key in (known or ()), _join(path, key), _as_written(node._get_node(key)), rule)
    assert isinstance(node, DictConfig)
    return node


def _without(node: DictConfig, *names: str) -> DictConfig:
    return OmegaConf.masked_copy(node, [str(key) for key in node if key not in names])


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
