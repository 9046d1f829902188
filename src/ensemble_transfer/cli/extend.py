"""The command line of :mod:`ensemble_transfer.extend`: a run, then overrides of its configuration."""

import argparse
import logging
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.report.settings import current

OPEN = ("trainer", "store", "logger", "evaluation")
"""Groups of the run's configuration that an extension may change: none that decides what members are."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, or 2 for an error."""
    parser = argparse.ArgumentParser(
        prog="python -m ensemble_transfer.extend",
        description="Add members to a finished run of strategy shift: new source members, the stored shift vector, a "
        "tiny fine-tuning each, and the evaluation of the larger ensemble.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument(
        "overrides",
        nargs="+",
        metavar="OVERRIDE",
        help="ensemble.add=N (how many), ensemble.members=[FILES] (existing source members instead of training), "
        "and settings of " + ", ".join(OPEN),
    )
    parser.add_argument("--output", type=Path, help="folder of the larger run; by default RUN/extended_SIZE")
    parser.add_argument(
        "--no-full", action="store_true", help="do not fine-tune the new members fully as well, to compare"
    )
    options = parser.parse_args(arguments)
    command = shlex.join(["python", "-m", "ensemble_transfer.extend", *(arguments or sys.argv[1:])])
    try:
        with _narrated():
            _extend(options.run, options.overrides, options.output, not options.no_full, command)
    except (SettingError, OmegaConfBaseException, OSError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    return 0


@contextmanager
def _narrated() -> Iterator[None]:
    """Print what the package logs, as Hydra does for a run, and take everything back afterwards."""
    logger, handler = logging.getLogger("ensemble_transfer"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _extend(folder: Path, overrides: Sequence[str], output: Path | None, against_full: bool, command: str) -> None:
    changes = _changes(overrides)
    add = _added(changes)
    from ensemble_transfer.cli.build import build_experiment, build_logger
    from ensemble_transfer.report import summary
    from ensemble_transfer.report.tracked_run import TrackedRun
    from ensemble_transfer.report.tracking import tracking
    from ensemble_transfer.runs.extension import Run, extend
    from ensemble_transfer.runs.run import Origin

    run = Run.load(folder)
    cfg = _larger(run.record.config, changes, len(run.ensemble), add)
    experiment = build_experiment(cfg)  # every mistake shows before anything starts
    size = cfg.ensemble.size
    where = output or folder / f"extended_{size}"
    where.mkdir(parents=True, exist_ok=True)
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    name, group = f"shift extended to {size}, seed {cfg.seed}", f"{run.record.dataset}, {run.record.backbone}"
    with tracking(build_logger(cfg), TrackedRun(where, name, group, "shift", config)) as tracker:
        record = extend(run, experiment, where, against_full, Origin(config, command, tracker))
        if tracker is not None:
            tracker.record(record)
    summary.write(record, where)


def _changes(overrides: Sequence[str]) -> DictConfig:
    for override in overrides:
        require("=" in override, "OVERRIDE", override, "must be name=value, such as ensemble.add=3")
        name = override.partition("=")[0]
        known = name in ("ensemble.add", "ensemble.members") or name.split(".")[0] in OPEN
        rule = f"cannot change for an extension; allowed: ensemble.add, ensemble.members, {', '.join(OPEN)}"
        require(known, name, override.partition("=")[2], rule)
    return OmegaConf.from_dotlist(list(overrides))


def _added(changes: DictConfig) -> int:
    """Return how many members are added: as many as are given, or as ``ensemble.add`` says."""
    given, add = OmegaConf.select(changes, "ensemble.members"), OmegaConf.select(changes, "ensemble.add")
    add = len(given) if add is None and given is not None else add
    whole = isinstance(add, int) and not isinstance(add, bool) and add > 0
    require(whole, "ensemble.add", add, "must be a whole number above 0: how many members to add")
    assert isinstance(add, int)
    rule = f"must name {add} files, as many as ensemble.add"
    require(given is None or len(given) == add, "ensemble.members", given and list(given), rule)
    return add


def _larger(config: Any, changes: DictConfig, members: int, add: int) -> DictConfig:  # noqa: ANN401
    """Return the run's configuration with the larger ensemble and the changes."""
    cfg = OmegaConf.create(current(config))
    assert isinstance(cfg, DictConfig)
    given = OmegaConf.select(changes, "ensemble.members")
    before = list(OmegaConf.select(cfg, "ensemble.members") or [])
    rule = "is required: the run's own members were given, so the new ones must be too"
    require(not before or given is not None, "ensemble.members", None, rule)
    cfg.ensemble.size = members + add
    cfg.ensemble.members = [*before, *(given or [])]
    for group in OPEN:
        if group in changes:
            cfg[group] = OmegaConf.merge(cfg[group], changes[group])
    return cfg
