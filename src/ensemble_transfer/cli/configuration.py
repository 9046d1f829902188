"""A composed configuration as plain data, which all that follows works on, and as a record keeps it."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ensemble_transfer.errors import SettingError, settings_under


def plain(cfg: DictConfig, resolve: bool = False) -> dict[str, Any]:
    """Return a configuration as plain data, its references to other settings replaced if that is asked for."""
    return {str(name): value for name, value in OmegaConf.to_container(cfg, resolve=resolve).items()}  # type: ignore[union-attr]


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """Return a configuration as plain data in which every reference to another setting, ``${...}``, is its value.

    The size of the ensemble, too, is a number then: as many as there are given members, or the default.

    Raises:
        SettingError: If a reference leads nowhere, or a given member is missing.
    """
    node = cfg.get("ensemble")
    if isinstance(node, DictConfig) and "size" in node and node.get("size") is None:
        cfg = cfg.copy()
        cfg.ensemble.size = _count(without_references(node))
    return without_references(cfg)


def without_references(cfg: DictConfig) -> dict[str, Any]:
    """Return a configuration as plain data, its references replaced; see :func:`resolved` for the errors."""
    try:
        return plain(cfg, resolve=True)
    except OmegaConfBaseException as error:
        key = str(getattr(error, "full_key", None) or "configuration")
        written: Any = plain(cfg)
        for part in key.split("."):
            written = written.get(part) if isinstance(written, dict) else None
        raise SettingError(key, written, f"cannot be resolved: {str(error).splitlines()[0]}") from error


def as_written(settings: Mapping[str, Any], cfg: DictConfig) -> dict[str, Any]:
    """Return resolved settings with the logger as it was written.

    ``${oc.env:...}`` in it may stand for a key that nobody should read in a record.
    """
    return {**settings, "logger": plain(cfg).get("logger")}


def as_recorded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as the record of their run keeps them: with the layout of the fits, which null leaves open.

    Raises:
        SettingError: If the trainer is refused.
    """
    from ensemble_transfer.runs.settings import build, group
    from ensemble_transfer.training.settings import TrainerSettings

    trainer = group(settings.get("trainer"), "trainer")
    own = {name: value for name, value in trainer.items() if name != "callbacks"}
    layout = build(TrainerSettings, own, "trainer").lays_channels_last
    return {**settings, "trainer": {**trainer, "channels_last": layout}}


def _count(settings: Mapping[str, Any]) -> int:
    """Return the size of an ensemble that names none."""
    from ensemble_transfer.runs.settings import build
    from ensemble_transfer.source.settings import SIZE, EnsembleSettings

    if not (settings.get("members") or settings.get("added")):
        return SIZE
    with settings_under("ensemble"):
        return build(EnsembleSettings, settings, "").count
