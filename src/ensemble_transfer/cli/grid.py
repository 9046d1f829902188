"""The sweep over all combinations: what has finished is left out, and one line says how far it is."""

import os
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import chain, count, product
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, Transformer
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from ensemble_transfer.cli.changes import outdated
from ensemble_transfer.cli.configuration import as_recorded, as_written, plain, resolved
from ensemble_transfer.cli.finished import finished_in, identity, taken
from ensemble_transfer.cli.sweep_progress import SweepProgress
from ensemble_transfer.errors import SettingError, require, require_uninterrupted

_NUMBER = "${hydra.job.num}"
"""What stands for the number of a job in the name of its folder."""

_SCALARS = (int, float, bool, type(None))

Choice = tuple[str, Any]
"""One value of an override, as it is written, ``seed=1``, and as it is."""


class Grid(Sweeper):
    """A sweep over all combinations, like Hydra's basic one, but for jobs that have finished before.

    Args:
        max_batch_size: Jobs that the launcher gets at a time; None for all.
        params: What is swept over besides the command line.
    """

    def __init__(self, max_batch_size: int | None = None, params: Mapping[str, Any] | None = None) -> None:
        whole = max_batch_size is None or (type(max_batch_size) is int and max_batch_size > 0)
        rule = "must be 1 or more jobs at a time, or null for all"
        require(whole, "hydra.sweeper.max_batch_size", max_batch_size, rule)
        known = params is None or isinstance(params, Mapping | DictConfig)
        require(known, "hydra.sweeper.params", params, "must be settings with their values, such as {seed: '0,1'}")
        self.max_batch_size, self.params = max_batch_size, params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Make the launcher."""
        _require_launcher(config.hydra.launcher)
        self.config, self.loader = config, hydra_context.config_loader
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:  # noqa: ANN401  # as Hydra has it
        """Run the jobs that are missing."""
        assert self.config is not None
        folder = Path(self.config.hydra.sweep.dir)
        jobs = Jobs([*self._given(), *arguments], self.loader, self.config)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        total = len(jobs.overrides)
        sys.stderr.write(f"sweep of {total} job{'s' * (total != 1)} in {folder}\n")
        done = finished_in(folder)
        missing = _missing(jobs, done)
        subdir = str(plain(self.config.hydra.sweep)["subdir"])
        places_taken = {record.parent for records in done.values() for record in records if record.is_file()}
        numbers = _numbered(missing, total, subdir, places_taken, folder)
        places = [subdir.replace(_NUMBER, str(number)) for number in numbers]
        with SweepProgress(folder, total, places, since=(folder / "multirun.yaml").stat().st_mtime_ns):
            left = [_in_place(jobs.overrides[job], subdir, n) for job, n in zip(missing, numbers, strict=True)]
            size = self.max_batch_size or max(1, len(left))
            starts = range(0, len(left), size)
            returned = [self.launcher.launch(left[first : first + size], initial_job_idx=first) for first in starts]
            for result in chain.from_iterable(returned):
                _ = result.return_value  # raises what a job has raised, once all have had their turn
        return returned

    def _given(self) -> Iterator[str]:
        """Yield what the sweeper's own settings sweep over, as overrides."""
        for name, value in self.params.items():
            simple = isinstance(value, int | float | str)
            require(simple, f"hydra.sweeper.params.{name}", value, "must be a text of values, such as '0,1'")
            yield f"{name}={value}"


class Jobs:
    """The jobs of a sweep, and their configurations.

    Hydra composes one job of each choice of groups, which takes a tenth of a second, and checks its settings. Jobs that
    differ from it in single numbers alone have these put in their place.

    Args:
        arguments: Overrides of the sweep.
        loader: Hydra's loader of configurations.
        sweep: The sweep's configuration.

    Attributes:
        overrides: Overrides of each job, each job once.

    Raises:
        HydraException: If Hydra cannot compose a job.
        SettingError: If nothing is swept over.
    """

    def __init__(self, arguments: Sequence[str], loader: ConfigLoader, sweep: DictConfig) -> None:
        self._loader, self._sweep = loader, sweep
        parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(arguments))
        last = {override.get_key_element(): override for override in parsed}  # as Hydra's own sweeper has it
        choices = [_choices(override) for override in last.values()]
        keys = [override.key_or_group for override in last.values()]
        alone = [self._is_alone(o, values, keys) for o, values in zip(last.values(), choices, strict=True)]
        self._jobs = {tuple(text for text, _ in job): job for job in product(*choices)}
        self._values = {
            texts: {key: value for key, (_, value), one in zip(keys, job, alone, strict=True) if one}
            for texts, job in self._jobs.items()
        }
        self._alone = alone
        self.overrides = list(self._jobs)
        self._composed: dict[tuple[str, ...], dict[str, Any]] = {}
        for job in self.overrides:  # mistakes come before any other line
            self._composed_like(job)

    def settings(self, job: tuple[str, ...]) -> dict[str, Any]:
        """Return the settings of a job, not resolved."""
        found = deepcopy(self._composed_like(job))
        for key, value in self._values[job].items():
            *path, name = key.split(".")
            node = found
            for part in path:
                node = node[part]
            node[name] = value
        return found

    def _composed_like(self, job: tuple[str, ...]) -> dict[str, Any]:
        """Return the settings of the first job that differs from a job in single numbers alone."""
        choice = tuple(text for text, one in zip(job, self._alone, strict=True) if not one)
        if choice not in self._composed:
            require_uninterrupted()
            composed = plain(self._loader.load_sweep_config(self._sweep, list(job)))
            del composed["hydra"]
            self._composed[choice] = composed
        return self._composed[choice]

    def _is_alone(self, override: Override, values: Sequence[Choice], keys: Sequence[str]) -> bool:
        """Return whether an override sweeps one existing setting over numbers, and no other touches it."""
        key = override.key_or_group
        if override.type != OverrideType.CHANGE or not override.is_sweep_override() or override.package is not None:
            return False
        touched = sum(f"{other}.".startswith(f"{key}.") or f"{key}.".startswith(f"{other}.") for other in keys)
        numbers = all(isinstance(value, _SCALARS) for _, value in values)
        return numbers and touched == 1 and not self._loader.get_group_options(key)


def _choices(override: Override) -> list[Choice]:
    """Return the values of an override: several if it is swept over.

    Raises:
        SettingError: If there is none, or the values are no list.
    """
    key, written = override.get_key_element(), str(override.input_line).partition("=")[2]
    if not override.is_sweep_override():
        return [(f"{key}={override.get_value_element_as_str()}", None)]
    require(override.is_discrete_sweep(), key, written, "has no list of values; such a sweep is for hydra/sweeper=tune")
    try:
        values = list(override.sweep_iterator())
    except (ValueError, TypeError, HydraException) as error:  # of ranges
        raise SettingError(key, written, f"cannot be swept over: {error}") from error
    require(bool(values), key, written, "gives no value to sweep over")
    return [(f"{key}={Transformer.str(value)}", value) for value in values]


def _missing(jobs: Jobs, done: Mapping[str, Sequence[Path]]) -> list[int]:
    """Return the numbers of the jobs that have not finished, and compose all of them, which shows mistakes.

    A record stands for one job: jobs that differ in threads alone are jobs of their own.
    """
    wanted: dict[int, tuple[str, dict[str, Any]]] = {}
    for number, job in enumerate(jobs.overrides):
        require_uninterrupted()
        settings = jobs.settings(job)
        recorded = _recorded(settings) if done else None
        if recorded is not None:
            wanted[number] = identity(recorded), recorded
    left, kept = {key: list(records) for key, records in done.items()}, dict[int, Path]()
    for alike in (True, False):
        for number in [number for number in wanted if number not in kept]:
            key, recorded = wanted[number]
            if (record := taken(left.get(key, []), recorded, alike)) is not None:
                kept[number] = record
    gone = outdated((wanted[number][1], record) for number, record in kept.items())
    return [number for number in range(len(jobs.overrides)) if kept.get(number) in {None, *gone}]


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
    """Refuse a launcher that does harm or cannot work, and set what one reads from the environment alone."""
    rule = "starts all jobs at once and leaves them behind after Ctrl-C; use hydra/launcher=jobs"
    require(not launcher._target_.endswith("submitit_launcher.LocalLauncher"), "hydra/launcher", "submitit_local", rule)
    lacks = launcher._target_.endswith("submitit_launcher.SlurmLauncher") and shutil.which("srun") is None
    require(not lacks, "hydra/launcher", "slurm", "needs SLURM, whose srun is not on the path here; use jobs")
    if "ray" in launcher:
        os.environ.setdefault("RAY_worker_niceness", "0")  # 15 by default: anything else on the machine would go first


def _recorded(settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return settings as a record keeps them; None for those that cannot have finished."""
    try:
        cfg = OmegaConf.create(settings)
        return as_recorded(as_written(resolved(cfg), cfg))
    except SettingError:  # the job says what is wrong with it
        return None


def _in_place(job: Sequence[str], subdir: str, number: int) -> list[str]:
    """Return a job's overrides with the name of its folder: launchers count only the jobs that they get."""
    own = subdir.replace(_NUMBER, str(number))
    return [*job] if own == subdir else [*job, f"hydra.sweep.subdir='{own}'"]
