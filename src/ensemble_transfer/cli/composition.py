"""Configurations of a sweep's jobs, fast: each choice of groups is composed once."""

import copy
from collections.abc import Sequence

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException


class Composer:
    """Composes jobs of a sweep as Hydra does, but for the node ``hydra``.

    Hydra takes a tenth of a second for a job, nearly all of it for groups. Values are set afterwards, and jobs of a
    sweep differ mostly in values.

    Args:
        loader: Hydra's loader of configurations.
        sweep: The sweep's configuration.
    """

    def __init__(self, loader: ConfigLoader, sweep: DictConfig) -> None:
        assert isinstance(loader, ConfigLoaderImpl)  # Hydra has no other
        self._loader, self._sweep = loader, sweep
        self._parser = OverridesParser.create(config_loader=loader)
        self._parsed: dict[str, Override] = {}
        self._composed: dict[tuple[str, ...], DictConfig] = {}

    def configuration(self, overrides: Sequence[str]) -> DictConfig:
        """Return the configuration of a job.

        Args:
            overrides: Those of the job.

        Raises:
            HydraException: If Hydra cannot compose it.
        """
        try:
            parsed = [self._parse(override) for override in overrides]
            groups = tuple(o.input_line or "" for o in parsed if self._chooses(o))
            if groups not in self._composed:
                self._composed[groups] = self._compose(groups)
            config = copy.deepcopy(self._composed[groups])
            ConfigLoaderImpl._apply_overrides_to_config([o for o in parsed if not self._chooses(o)], config)
        except (HydraException, OmegaConfBaseException):  # Hydra's own words are about all overrides
            return self._compose(overrides)
        return config

    def _parse(self, override: str) -> Override:
        if override not in self._parsed:
            self._parsed[override] = self._parser.parse_override(override)
        return self._parsed[override]

    def _chooses(self, override: Override) -> bool:
        """Return whether an override chooses an option of a group, as Hydra tells it."""
        return not isinstance(override.value(), dict) and self._loader.repository.group_exists(override.key_or_group)

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        config = self._loader.load_sweep_config(self._sweep, list(overrides))
        with open_dict(config):
            del config["hydra"]
        return config
