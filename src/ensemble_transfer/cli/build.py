"""From a composed configuration to the objects of an experiment, checked on the way.

The dataclasses of the library are the schema: their annotations give the types, their ``__post_init__`` the rules.
"""

import json
import logging
from collections.abc import Callable, Collection
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from hydra.errors import HydraException
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ensemble_transfer.errors import SettingError, require, settings_under
from ensemble_transfer.models.backbone import Backbone
from ensemble_transfer.report.tracking import LoggerSettings
from ensemble_transfer.runs.evaluation import EvaluationSettings
from ensemble_transfer.runs.experiment import Dataset, Experiment
from ensemble_transfer.source.train import EnsembleSettings
from ensemble_transfer.tasks.images import require_shape
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
    budget: float | None = None

    def __post_init__(self) -> None:
        require(self.seed >= 0, "seed", self.seed, "must be 0 or more")


@dataclass(frozen=True)
class _Images:
    image_size: int
    channels: int

    def __post_init__(self) -> None:
        require_shape(self.image_size, self.channels)


@dataclass(frozen=True)
class _StoreSettings:
    root: str
    reuse: bool = True

    def __post_init__(self) -> None:
        require(self.root.strip() != "", "root", self.root, "must be a folder")


@dataclass(frozen=True)
class _SweepSettings:
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
    build(_SweepSettings, cfg.get("sweep", OmegaConf.create()), "sweep")
    images = build(_Images, _without(data, "source", "target"), "dataset")
    return Experiment(
        dataset=Dataset(
            None if data.get("source") is None else named(data.source, "dataset.source"),
            named(data.get("target"), "dataset.target"),
            images.image_size,
            images.channels,
        ),
        backbone=build(Backbone, cfg.backbone, "backbone"),
        ensemble=build(EnsembleSettings, cfg.ensemble, "ensemble"),
        strategy=named(cfg.strategy, "strategy"),
        recipes=build(Recipes, cfg.recipe, "recipe"),
        evaluation=build(EvaluationSettings, _without(cfg.evaluation, "ood"), "evaluation"),
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
    return OmegaConf.create(_resolved(cfg))


def as_recorded(cfg: DictConfig) -> dict[str, Any]:
    """Return a configuration as the record of its run keeps it: resolved, as plain data, with the layout of the fits.

    Raises:
        SettingError: If it cannot be resolved, or its trainer is refused.
    """
    plain = _resolved(cfg)
    trainer = plain.get("trainer")
    require(isinstance(trainer, dict), "trainer", trainer, "must be a group of settings, not a single value")
    assert isinstance(trainer, dict)
    alone = json.dumps({name: value for name, value in trainer.items() if name != "callbacks"})
    trainer["channels_last"] = _lays_channels_last(alone)  # null decides nothing by itself
    return plain


@cache
def _lays_channels_last(trainer: str) -> bool:
    """Return the layout of the fits of a trainer, given as JSON; hundreds of jobs have the same one."""
    return _trainer_alone(OmegaConf.create(json.loads(trainer))).lays_channels_last


def _resolved(cfg: DictConfig) -> dict[str, Any]:
    try:
        plain = OmegaConf.to_container(_sized(cfg), resolve=True)
    except OmegaConfBaseException as error:
        key = str(getattr(error, "full_key", None) or "configuration")
        rule = f"cannot be resolved: {str(error).splitlines()[0]}"
        raise SettingError(key, _written(cfg, key), rule) from error
    assert isinstance(plain, dict)  # a group stays a group
    return {str(name): value for name, value in plain.items()}


def _sized(cfg: DictConfig) -> DictConfig:
    """Return a configuration with the number of members that a size of null stands for."""
    node = cfg.get("ensemble")
    if not isinstance(node, DictConfig) or "size" not in node or node.get("size") is not None:
        return cfg
    settings, cfg = build(EnsembleSettings, node, "ensemble"), cfg.copy()
    with settings_under("ensemble"):
        cfg.ensemble.size = settings.count
    return cfg


def _written(cfg: DictConfig, key: str) -> object:
    """Return a setting as it was written, before references are resolved."""
    node: Any = OmegaConf.to_container(cfg)
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def build_logger(cfg: DictConfig) -> LoggerSettings:
    """Return the logger's settings; a logger of the user's is made by Hydra, as callbacks are."""
    node = _settings(cfg.logger, "logger")
    settings, own = _without(node, "lightning"), node.get("lightning")
    if own is None or node.get("kind") != "lightning":
        return build(LoggerSettings, node, "logger")
    made = _made(own, "logger.lightning", lambda cls: hasattr(cls, "log_metrics"), "a Lightning logger")
    settings.kind = "none"
    with settings_under("logger"):
        return replace(build(LoggerSettings, settings, "logger"), kind="lightning", lightning=made)


def build(cls: type[T], node: Any, path: str) -> T:  # noqa: ANN401
    """Return a dataclass from the node of a configuration.

    Raises:
        SettingError: If a key is unknown or missing, or a value has a wrong type or is refused by the dataclass.
    """
    hints = get_type_hints(cls)
    declared = {f.name: f for f in fields(cls) if f.init}  # type: ignore[arg-type]  # T is a dataclass
    node = _settings(node, path, declared)
    values: dict[str, Any] = {}
    for name, f in declared.items():
        if name not in node or OmegaConf.is_missing(node, name):
            has_default = f.default is not MISSING or f.default_factory is not MISSING
            require(
                has_default and name not in node,
                _join(path, name),
                None,
                f"is required: {_join(path, name)}=...",
            )
        elif is_dataclass(hints[name]):
            values[name] = build(hints[name], node[name], _join(path, name))
        else:
            values[name] = _typed(cls, name, node[name], path)
    try:
        with settings_under(path):
            return cls(**values)
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
    try:
        return _find_class(target)
    except Exception as error:  # a module may raise anything when it is imported
        raise SettingError(setting, target, f"is not a class that can be imported: {_reason(error)}") from error


def _find_class(name: str) -> type:
    logger = logging.getLogger("hydra.utils")
    logger.disabled = True  # Hydra logs the error that it raises
    try:
        return get_class(name)
    finally:
        logger.disabled = False


def _trainer_alone(node: DictConfig) -> TrainerSettings:
    return build(TrainerSettings, _without(node, "callbacks"), "trainer")


def _trainer(node: Any) -> TrainerSettings:  # noqa: ANN401
    node = _settings(node, "trainer")
    settings = _trainer_alone(node)
    given = node.get("callbacks", [])
    rule = "must be a list, such as [{_target_: package.module.Class}]"
    require(given is None or isinstance(given, ListConfig | list), "trainer.callbacks", _plain(given), rule)
    what = is_callback, "a Lightning callback"
    callbacks = [_made(one, f"trainer.callbacks.{place}", *what) for place, one in enumerate(given or [])]
    with settings_under("trainer"):
        settings = replace(settings, callbacks=callbacks)
    if callbacks:
        log.info("trainer.callbacks: all fits are computed anew, and none is kept in the store")
    return settings


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
    cause = error
    while cause.__cause__ is not None and (isinstance(cause, HydraException) or str(cause).startswith("Error loading")):
        cause = cause.__cause__
    text = " ".join(str(cause).split())
    return text if cause is error else f"{type(cause).__name__}: {text}"


def _store(node: Any) -> Store:  # noqa: ANN401
    settings = build(_StoreSettings, node, "store")
    with settings_under("store"):
        return Store(Path(settings.root), settings.reuse)


def _typed(cls: type, name: str, value: Any, path: str) -> Any:  # noqa: ANN401
    """Return a value converted to the type of its field, as plain containers."""
    hint = get_type_hints(cls)[name]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    yes_or_no = bool in (hint, *get_args(hint))  # OmegaConf would take any number for true
    require(not (yes_or_no and number), _join(path, name), value, "must be true or false")
    try:
        merged = OmegaConf.merge(_schema(cls), {name: value})
    except OmegaConfBaseException as error:
        numbers = "must be a list of numbers, such as [0.5,0.5,0.5]"
        rule = numbers if list[float] in (hint, *get_args(hint)) else _rule(str(error))
        raise SettingError(_join(path, name), _plain(value), rule) from error
    return _plain(OmegaConf.select(merged, name))


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


def _plain(value: Any) -> Any:  # noqa: ANN401
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _settings(node: Any, path: str, known: Collection[str] | None = None) -> DictConfig:  # noqa: ANN401
    """Return a node that must be a group of settings, of the known names where these are given."""
    require(isinstance(node, DictConfig), path, _plain(node), "must be a group of settings, not a single value")
    for key in node if known is not None else ():
        rule = f"is not a setting; {path or 'the configuration'} has {', '.join(known or ())}"
        require(key in (known or ()), _join(path, key), _plain(node._get_node(key)), rule)
    assert isinstance(node, DictConfig)
    return node


def _without(node: DictConfig, *names: str) -> DictConfig:
    return OmegaConf.masked_copy(node, [str(key) for key in node if key not in names])


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
