"""The sweep over all combinations: what has finished is left out, and one line says how far it is."""

import copy
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from itertools import chain, count
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from ensemble_transfer.cli.changes import outdated
from ensemble_transfer.cli.finished import finished_in, identity, taken
from ensemble_transfer.cli.sweep_progress import SweepProgress
from ensemble_transfer.errors import SettingError, require, require_uninterrupted

_NUMBER = "${hydra.job.num}"
"""What stands for the number of a job in the name of its folder."""


class Composer:
    """Composes jobs of a sweep as Hydra does, but for the node ``hydra``.

    Hydra takes a tenth of a second for a job, nearly all of it for groups, so each choice of groups is composed once.

    Args:
        loader: Hydra's loader of configurations.
        sweep: The sweep's configuration.
    """

    def __init__(self, loader: ConfigLoader, sweep: DictConfig) -> None:
        assert isinstance(loader, ConfigLoaderImpl)  # Hydra has no other
        self._loader, self._sweep = loader, sweep
        self._parsed = cache(OverridesParser.create(config_loader=loader).parse_override)
        self._composed = cache(self._compose)

    def configuration(self, overrides: Sequence[str]) -> DictConfig:
        """Return the configuration of a job.

        Raises:
            HydraException: If Hydra cannot compose it.
        """
        try:
            values = [self._parsed(override) for override in overrides]
            exists = self._loader.repository.group_exists
            groups = [o for o in values if not isinstance(o.value(), dict) and exists(o.key_or_group)]
            config = copy.deepcopy(self._composed(*(group.input_line or "" for group in groups)))
            ConfigLoaderImpl._apply_overrides_to_config([o for o in values if o not in groups], config)
        except (HydraException, OmegaConfBaseException):  # Hydra's own words are about all overrides
            return self._compose(*overrides)
        return config

    def _compose(self, *overrides: str) -> DictConfig:
        config = self._loader.load_sweep_config(self._sweep, list(overrides))
        with open_dict(config):
            del config["hydra"]
        return config


class Grid(BasicSweeper):
    """Hydra's basic sweeper, but that jobs that have finished before are not given to the launcher.

    Args:
        max_batch_size: Jobs that the launcher gets at a time; None for all.
        params: What is swept over besides the command line.
    """

    def __init__(self, max_batch_size: int | None = None, params: dict[str, str] | None = None) -> None:
        self.max_batch_size, self.params = max_batch_size, params or {}  # not by super: Hydra loads that class anew

    def sweep(self, arguments: list[str]) -> Any:  # noqa: ANN401  # as Hydra has it
        """Run the jobs that are missing."""
        assert self.launcher is not None
        assert self.hydra_context is not None
        assert self.config is not None
        _require_launcher(self.config.hydra.launcher)
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        loader = self.hydra_context.config_loader
        given = [*self._parse_config(), *arguments]
        parsed = OverridesParser.create(config_loader=loader).parse_overrides(given)
        jobs = [*dict.fromkeys(map(tuple, *BasicSweeper.split_arguments(parsed, None)))]  # the same one twice is one
        composer = Composer(loader, self.config)
        composer.configuration(jobs[0])  # a mistake in all of them comes before any other line
        sys.stderr.write(f"sweep of {len(jobs)} job{'s' * (len(jobs) != 1)} in {folder}\n")
        done = finished_in(folder)
        missing = _missing(jobs, done, composer)
        subdir = str(self.config.hydra.sweep._get_node("subdir"))
        places_taken = {record.parent for records in done.values() for record in records if record.is_file()}
        numbers = _numbered(missing, len(jobs), subdir, places_taken, folder)
        places = [subdir.replace(_NUMBER, str(number)) for number in numbers]
        with SweepProgress(folder, len(jobs), places, since=(folder / "multirun.yaml").stat().st_mtime_ns):
            left = [_in_place(jobs[job], subdir, number) for job, number in zip(missing, numbers, strict=True)]
            size = self.max_batch_size or max(1, len(left))
            starts = range(0, len(left), size)
            returned = [self.launcher.launch(left[first : first + size], initial_job_idx=first) for first in starts]
            for result in chain.from_iterable(returned):
                _ = result.return_value  # raises what a job has raised, once all have had their turn
        return returned


def _missing(jobs: Sequence[Sequence[str]], done: Mapping[str, Sequence[Path]], composer: Composer) -> list[int]:
    """Return the numbers of the jobs that have not finished, and compose all of them, which shows mistakes.

    A record stands for one job: jobs that differ in threads alone are jobs of their own.
    """
    wanted: dict[int, tuple[str, dict[str, Any]]] = {}
    for number, job in enumerate(jobs):
        require_uninterrupted()
        config = composer.configuration(job)
        settings = _recorded(config) if done else None
        if settings is not None:
            wanted[number] = identity(settings), settings
    left, kept = {key: list(records) for key, records in done.items()}, dict[int, Path]()
    for alike in (True, False):
        for number in [number for number in wanted if number not in kept]:
            key, settings = wanted[number]
            if (record := taken(left.get(key, []), settings, alike)) is not None:
                kept[number] = record
    gone = outdated((wanted[number][1], record) for number, record in kept.items())
    return [number for number in range(len(jobs)) if kept.get(number) in {None, *gone}]


def _numbered(missing: Sequence[int], jobs: int, subdir: str, taken: Collection[Path], folder: Path) -> list[int]:
    """Return the numbers in the names of the missing jobs' folders.

    They are those of the jobs, unless another job has finished there, as where overrides stood in another order or a
    seed was added; then it is the next that is free.
    """
    if _NUMBER not in subdir:  # a name for all that says something else, or nothing
        return [*missing]
    free = (number for number in count(jobs) if folder / subdir.replace(_NUMBER, str(number)) not in taken)
    return [next(free) if folder / subdir.replace(_NUMBER, str(job)) in taken else job for job in missing]


def _require_launcher(launcher: DictConfig) -> None:
    """Raise a SettingError for a launcher that does harm, and set what one reads from the environment alone."""
    rule = "starts all jobs at once and leaves them behind after Ctrl-C; use hydra/launcher=jobs"
    require(not launcher._target_.endswith("submitit_launcher.LocalLauncher"), "hydra/launcher", "submitit_local", rule)
    if "ray" in launcher:
        os.environ.setdefault("RAY_worker_niceness", "0")  # 15 by default: anything else on the machine would go first


def _recorded(config: DictConfig) -> dict[str, Any] | None:
    """Return a configuration as a record keeps it; None for one that cannot have finished."""
    from ensemble_transfer.cli.build import as_recorded

    try:
        return as_recorded(config)
    except (SettingError, OmegaConfBaseException):  # the job says what is wrong with it
        return None


def _in_place(job: Sequence[str], subdir: str, number: int) -> list[str]:
    """Return a job's overrides with the name of its folder: launchers count only the jobs that they get."""
    own = subdir.replace(_NUMBER, str(number))
    return [*job] if own == subdir else [*job, f"hydra.sweep.subdir='{own}'"]
