"""The command line of :mod:`ensemble_transfer.extend`: a run, then overrides of its configuration.

A run may come from elsewhere: what its record names is neither imported nor resolved, and what it says of tracking is
left out.
"""

import argparse
import logging
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ensemble_transfer.cli.command import command as as_command
from ensemble_transfer.cli.command import complain, some_path
from ensemble_transfer.errors import Interrupted, RunError, SettingError, require
from ensemble_transfer.report.escape import PrintableFormatter
from ensemble_transfer.report.record import Record

OPEN = ("trainer", "store", "logger", "evaluation")
"""Groups of the run's configuration that an extension may change: none that decides what members are."""


_NEEDED = ("dataset", "backbone", "ensemble", "strategy", "recipe", *OPEN)
_OWN_CLASS = re.compile(r"ensemble_transfer\.(tasks|transfer\.strategies)\.\w+\.\w+")
_TARGET = "._target_"
_OF_A_LIST = re.compile(r"\.\d+\.(.*\.)?_target_$")
"""A class that an item of a list names: an override of it repeats what the record says, and changes nothing."""


@as_command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for an error, 130 after Ctrl-C, 143 after SIGTERM."""
    parser = argparse.ArgumentParser(
        prog="python -m ensemble_transfer.extend",
        description="Add members to a finished run of strategy shift or turns: new source members, shifted as those of "
        "the run were, and the evaluation of the larger ensemble.",
    )
    parser.add_argument("run", type=some_path, metavar="RUN", help="folder of the run")
    parser.add_argument(
        "overrides",
        nargs="+",
        metavar="OVERRIDE",
        help="ensemble.add=N (how many), ensemble.members=[FILES] (existing source members instead of training), "
        "and settings of " + ", ".join(OPEN),
    )
    parser.add_argument("--output", type=some_path, help="folder of the larger run; by default RUN/extended_SIZE")
    parser.add_argument(
        "--against-full",
        action="store_true",
        help="fine-tune the new members fully as well, only to compare: this takes longer than adding them",
    )
    options = parser.parse_intermixed_args(arguments)
    command = shlex.join(["python", "-m", "ensemble_transfer.extend", *(arguments or sys.argv[1:])])
    try:
        with live_progress():
            _extend(options.run, options.overrides, options.output, options.against_full, command)
    except Interrupted as stop:
        sys.stderr.write(f"{stop}\n")
        return stop.exit_code
    except (SettingError, RunError, OmegaConfBaseException, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        complain(error)
        return 2
    return 0


@contextmanager
def live_progress() -> Iterator[None]:
    """Print what the package logs, as Hydra does for a run, and take everything back afterwards."""
    logger, handler = logging.getLogger("ensemble_transfer"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _extend(folder: Path, overrides: Sequence[str], output: Path | None, against_full: bool, command: str) -> None:
    changes = changes_of(overrides, OPEN, ("ensemble.add", "ensemble.members"), "an extension")
    add = _added(changes)
    from ensemble_transfer.cli.build import build_experiment, build_logger, resolved
    from ensemble_transfer.cli.job import recorded, require_free, show
    from ensemble_transfer.report.tracked_run import TrackedRun
    from ensemble_transfer.report.tracking import tracking
    from ensemble_transfer.runs.extension import Run, extend
    from ensemble_transfer.runs.run import Origin

    run = Run.load(folder)
    before = as_data(folder, run.record, overrides, changes)
    cfg = resolved(_larger(before, changes, len(run.ensemble), add))
    experiment, logger = build_experiment(cfg), build_logger(cfg)  # every mistake shows before anything is written
    size = cfg.ensemble.size
    where = output or folder / f"extended_{size}"
    where.mkdir(parents=True, exist_ok=True)
    config: Any = OmegaConf.to_container(cfg)
    require_free(where, config, "--output")

    def unfinished(status: str, error: str) -> Record:
        own = {"status": status, "error": error, "config": config, "command": command}
        known = {name: getattr(run.record, name) for name in ("strategy", "seed", "dataset", "backbone")}
        return Record(ensemble=dict(run.record.ensemble) | {"size": size}, **known, **own)

    strategy, group = run.record.strategy, f"{run.record.dataset}, {run.record.backbone}"
    name = f"{strategy} extended to {size}, seed {cfg.seed}"
    with recorded(where, unfinished):
        with tracking(logger, TrackedRun(where, name, group, strategy, config)) as tracker:
            record = extend(run, experiment, where, against_full, Origin(config, command, tracker))
            if tracker is not None:
                tracker.record(record)
        show(record, where)


def changes_of(overrides: Sequence[str], groups: Sequence[str], names: Sequence[str], what: str) -> DictConfig:
    """Return the changes that overrides make to the configuration of a record.

    Raises:
        SettingError: For a setting that may not change, or a value that cannot be read.
    """
    parsed = []
    for override in overrides:
        example = f"{(*names, f'{groups[0]}.threads')[0]}=3"
        require("=" in override, "OVERRIDE", override, f"must be name=value, such as {example}")
        name, _, value = override.partition("=")
        known = name in names or name.split(".")[0] in groups
        rule = f"cannot change for {what}; allowed: {', '.join([*names, *groups])}"
        require(known or name.endswith(_TARGET), name, value, rule)
        require(name not in groups, name, value, f"is a group of settings; change one of them: {name}.NAME=VALUE")
        if known and not _OF_A_LIST.search(name):
            parsed.append(_parsed(override))
    return OmegaConf.unsafe_merge(OmegaConf.create(), *parsed)  # type: ignore[return-value]  # of groups


def _parsed(override: str) -> DictConfig:
    try:
        return OmegaConf.from_dotlist([override])
    except Exception as error:  # YAML's parser and OmegaConf's raise what they like
        name, _, value = override.partition("=")
        raise SettingError(name, value, "cannot be read; does it need quotes?") from error


def as_data(folder: Path, record: Record, overrides: Sequence[str], changes: DictConfig) -> dict[str, Any]:
    """Return the configuration of a record, once it is known to be data alone.

    Callbacks of the record give way to those of the command line.

    Raises:
        SettingError: For a configuration that is not whole, names a foreign class, or refers to something.
    """
    config: dict[str, Any] = deepcopy(dict(record.config))
    config["logger"] = {"kind": "none"}  # a record talks to nobody: tracking is what the command line says
    if OmegaConf.select(changes, "trainer.callbacks") is not None and isinstance(config.get("trainer"), dict):
        config["trainer"]["callbacks"] = []
    _require_data(folder, config, overrides)
    return config


def _require_data(folder: Path, config: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Raise a SettingError for a configuration that is not whole, or that reaches outside itself."""
    for group in _NEEDED:
        require(isinstance(config.get(group), Mapping), "RUN", str(folder), f"its record has no configuration {group}")
    for name, value in _texts(config, ""):
        require("${" not in value, name, value, "refers to something; a record is data, and nothing is resolved")
        own = not name.endswith(_TARGET) or _OWN_CLASS.fullmatch(value)
        rule = "is no class of ensemble_transfer; a record is data, and nothing that it names is imported. "
        rule += f"If you trust it, add {name}={value} to the command"
        require(bool(own) or f"{name}={value}" in overrides, name, value, rule)


def _texts(node: Any, path: str) -> Iterator[tuple[str, str]]:  # noqa: ANN401
    """Yield the texts of nested data with their dotted paths."""
    if isinstance(node, str):
        yield path, node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield f"{path}.{key}:", str(key)
            yield from _texts(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _texts(value, f"{path}.{index}")


def _added(changes: DictConfig) -> int:
    """Return how many members are added: as many as are given, or as ``ensemble.add`` says."""
    given, add = OmegaConf.select(changes, "ensemble.members"), OmegaConf.select(changes, "ensemble.add")
    rule = "must be a list of files, such as [a.safetensors,b.safetensors]"
    require(given is None or isinstance(given, ListConfig), "ensemble.members", given, rule)
    add = len(given) if add is None and given is not None else add
    whole = isinstance(add, int) and not isinstance(add, bool) and add > 0
    require(whole, "ensemble.add", add, "must be a whole number above 0: how many members to add")
    assert isinstance(add, int)
    rule = f"must name {add} files, as many as ensemble.add"
    require(given is None or len(given) == add, "ensemble.members", given and list(given), rule)
    return add


def _larger(config: Any, changes: DictConfig, members: int, add: int) -> DictConfig:  # noqa: ANN401
    """Return the run's configuration with the larger ensemble and the changes."""
    cfg = OmegaConf.create(config)
    assert isinstance(cfg, DictConfig)
    given = OmegaConf.select(changes, "ensemble.members")
    added = list(OmegaConf.select(cfg, "ensemble.added") or [])
    before = [*(OmegaConf.select(cfg, "ensemble.members") or []), *added]
    rule = "is required: the run's own members were given, so the new ones must be too"
    require(not before or given is not None, "ensemble.members", None, rule)
    cfg.ensemble.size = members + add
    cfg.ensemble.added = [*added, *(given or [])]
    for group in OPEN:
        if group in changes:
            cfg[group] = OmegaConf.merge(cfg[group], changes[group])
    return cfg
