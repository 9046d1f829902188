"""The command line of ``extend``: a run, then overrides of its configuration."""

import argparse
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from ensemble_transfer.cli.command import parser_of, resumable, some_path, written
from ensemble_transfer.cli.from_record import as_data, changes_of, live_progress, merge_changes
from ensemble_transfer.errors import require
from ensemble_transfer.layout import owned
from ensemble_transfer.report.record import Record

OPEN = ("trainer", "store", "logger", "evaluation")
"""Groups of the run's configuration that an extension may change: none that decides what members are."""


@resumable
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for an error, 130 after Ctrl-C, 143 after SIGTERM."""
    parser = parser_of(
        "extend",
        "Add members to a finished run of strategy shift, zero_shot or turns: new source members, shifted as those of "
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
    full = "fine-tune the new members fully as well, only to compare: this takes longer than adding them"
    parser.add_argument("--against-full", action="store_true", help=full)
    options = parser.parse_intermixed_args(arguments)
    with live_progress():
        _extend(options, written("extend", arguments))
    return 0


def _extend(options: argparse.Namespace, command: str) -> None:
    changes = changes_of(options.overrides, OPEN, ("ensemble.add", "ensemble.members"), "an extension")
    add = _added(changes)
    from ensemble_transfer.cli.build import build_experiment, build_logger
    from ensemble_transfer.cli.configuration import resolved
    from ensemble_transfer.cli.job import follow, require_free
    from ensemble_transfer.report.tracked_run import TrackedRun
    from ensemble_transfer.runs.extension import Run, extend

    run = Run.load(options.run)
    record, before = run.record, as_data(options.run, run.record, options.overrides, changes)
    size = len(run.ensemble) + add
    config = resolved(_larger(before, changes, size, add))
    experiment, logger = (
        build_experiment(config),
        build_logger(config),
    )  # mistakes show here
    folder = options.output or options.run / f"extended_{size}"
    folder.mkdir(parents=True, exist_ok=True)
    name, group = f"{record.strategy} extended to {size}, seed {record.seed}", f"{record.dataset}, {record.backbone}"
    ensemble = dict(record.ensemble) | {"size": size}
    known = record.strategy, record.seed, record.dataset, record.backbone, ensemble
    about = TrackedRun(folder, name, group, record.strategy, config)
    unfinished = Record("failed", *known, config=config, command=command)
    with owned(folder, "--output"):
        require_free(folder, config, "--output")
        against = options.against_full
        follow(about, logger, unfinished, lambda origin: extend(run, experiment, folder, add, against, origin))


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


def _larger(config: Any, changes: DictConfig, size: int, add: int) -> DictConfig:  # noqa: ANN401
    """Return the run's configuration with the larger ensemble and the changes.

    Of given members a run may have transferred some alone: all of them stay in its source ensemble.
    """
    from ensemble_transfer.source.existing import count_members

    cfg: DictConfig = OmegaConf.create(config)
    given = OmegaConf.select(changes, "ensemble.members")
    added = list(cfg.ensemble.get("added") or [])
    rule = "is required: the run's own members were given, so the new ones must be too"
    require(not (added or cfg.ensemble.get("members")) or given is not None, "ensemble.members", None, rule)
    before = [*(cfg.ensemble.get("members") or []), *added]
    cfg.ensemble.size = (cfg.ensemble.get("size") or count_members(before)) + add if before else size
    cfg.ensemble.added = [*added, *(given or [])]
    merge_changes(cfg, changes, OPEN)
    return cfg
