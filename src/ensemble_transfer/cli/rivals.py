"""The command line of ``rivals``: the rivals of a finished run at its cost, and the comparison."""

import argparse
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from ensemble_transfer.cli.command import parser_of, print_error, resumable, some_path, written
from ensemble_transfer.cli.configuration import plain
from ensemble_transfer.cli.from_record import as_data, changes_of, live_progress, merge_changes
from ensemble_transfer.errors import RunError, SettingError, require
from ensemble_transfer.layout import RECORD, owned
from ensemble_transfer.report.record import Record
from ensemble_transfer.report.settings import decisive
from ensemble_transfer.runs.files import own_run

if TYPE_CHECKING:
    from ensemble_transfer.report.tracking import LoggerSettings
    from ensemble_transfer.runs.experiment import Experiment

log = logging.getLogger(__name__)

FOLDER, BASELINE = "rivals", "baseline"
"""Folder below a run's for its rivals, so that a comparison of the run finds them, and that of the baseline in it."""

OPEN = ("trainer", "store", "logger")
"""Groups of the run's configuration that the command may change: none that decides what is compared."""

SIZES, SHARE, WHOLE, TRIED = (1, 2, 4, 8), 0.25, 0.95, 2
"""Numbers of members that ``few`` is tried with: the largest two whose members have this share of a fine-tuning.

Members of pretrained networks want nearly a whole one, small nets with few labels more members. Two sizes cost twice
the run.
"""

SEEDS, MOST_SEEDS = 3, 1000
"""Seeds by default, the least that an interval says something with, and at most."""


@dataclass(frozen=True)
class Job:
    """One run to do.

    Attributes:
        name: Name of its strategy in the comparison's folder, such as ``few_2``.
        settings: Its configuration.
    """

    name: str
    settings: dict[str, Any]

    @property
    def place(self) -> Path:
        """Its folder, below that of the rivals."""
        return Path(self.name, f"seed_{self.settings['seed']}")


@resumable
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    It is 0, 1 if a rival failed, 2 for an error, 130 after Ctrl-C, 143 after SIGTERM.
    """
    parser = parser_of(
        "rivals",
        "Run what a finished run has to beat, with its tasks, recipes and seed: the baseline, one member "
        "fully fine-tuned; and at the run's own cost few members fully fine-tuned, and snapshots of one. Ends with "
        "the comparison. Goes on where it stopped, and takes from the store what is there.",
    )
    parser.add_argument("run", type=some_path, metavar="RUN", help="folder of the run")
    settings = f"settings of {', '.join(OPEN)}, such as trainer.threads=1"
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=settings)
    seeds = "repeat all, the run too, with N-1 further seeds; by default 3, for intervals; 1 takes the least time"
    parser.add_argument("--seeds", type=int, default=SEEDS, metavar="N", help=seeds)
    parser.add_argument("--output", type=some_path, help=f"folder of the rivals; by default RUN/{FOLDER}")
    options = parser.parse_intermixed_args(arguments)  # settings may stand behind options
    with live_progress():
        return _rivals(options, written("rivals", arguments))


def _rivals(options: argparse.Namespace, command: str) -> int:
    require(1 <= options.seeds <= MOST_SEEDS, "--seeds", options.seeds, f"must be in 1..{MOST_SEEDS}")
    changes = changes_of(options.overrides, OPEN, (), "rivals")
    record = _finished(options.run)
    config = as_data(options.run, record, options.overrides, changes)
    jobs = list(_jobs(record, config, changes, options.seeds))
    _tell_time(record, jobs, options.seeds)
    from ensemble_transfer.cli.build import build_experiment, build_logger
    from ensemble_transfer.cli.compare import compare

    built = [(job, build_experiment(job.settings), build_logger(job.settings)) for job in jobs]  # mistakes show here
    output: Path = options.output or options.run / FOLDER
    output.mkdir(parents=True, exist_ok=True)
    failed = 0
    for number, (job, experiment, logger) in enumerate(built, 1):
        log.info("%d of %d: %s, seed %d", number, len(jobs), job.name, job.settings["seed"])
        try:
            _run(job, experiment, logger, output / job.place, replace(record, command=command))
        except (SettingError, RunError) as error:
            failed += 1
            print_error(f"{error} ({job.place})")
    within = output.resolve().is_relative_to(options.run.resolve())
    code = compare([options.run] if within else [options.run, output], output / "comparison")
    return max(code, 1) if failed else code


def _tell_time(record: Record, jobs: Sequence[Job], seeds: int) -> None:
    """Say what will be run, and how long that takes at the pace of the run."""
    spent, unit = record.cost["total"]["fine_tunings"], record.cost.get("full_seconds")
    names = ", ".join(dict.fromkeys(job.name for job in jobs))
    log.info("%s spent %.2f fine-tunings; to be run beside it: %s", record.strategy, spent, names)
    if unit is None:
        return
    costs = [(job, 1.0 if job.name == BASELINE else job.settings["budget"] or spent) for job in jobs]
    source = record.cost.get("source", {}).get("seconds", 0.0)  # a source ensemble for each further seed
    first = sum(cost for job, cost in costs if job.settings["seed"] == record.seed) * unit / 60
    every = sum(cost for _, cost in costs) * unit / 60 + (seeds - 1) * source / 60
    shorter = f"; --seeds 1 takes {_minutes(first)}" if seeds > 1 else ""
    with_seeds = "1 seed" if seeds == 1 else f"{seeds} seeds"
    log.info("with %s this takes %s, less what the store has%s", with_seeds, _minutes(every), shorter)


def _minutes(minutes: float) -> str:
    return "less than a minute" if minutes < 1 else f"about {math.ceil(minutes)} minutes"


def _finished(folder: Path) -> Record:
    """Return the record of a run whose rivals can be named.

    Raises:
        SettingError: If the folder holds none.
    """
    record = own_run(folder)
    require(record.tested, "RUN", str(folder), "must be evaluated on test: run it with evaluation.test=true")
    require("added" not in record.cost, "RUN", str(folder), "is an extension; name the run that was extended")
    known = bool((record.cost.get("total") or {}).get("fine_tunings"))
    require(known, "RUN", str(folder), "has no cost in fine-tunings; run it again with this version")
    return record


def _jobs(record: Record, config: Mapping[str, Any], changes: DictConfig, seeds: int) -> Iterator[Job]:
    """Yield what is to be run: seed by seed the baseline, the rivals, and the run itself with further seeds."""
    from ensemble_transfer.runs.presets import preset

    spent, few = _budget(record.cost["total"]["fine_tunings"]), preset("strategy", "few")
    size = config["ensemble"].get("size")
    size = size if isinstance(size, int) else len(config["ensemble"].get("members") or [])
    members, alone, one = _image_sizes(record, config)
    few |= {"image_size": members}
    share = WHOLE if config["recipe"].get("pretrained") else SHARE
    numbers = [n for n in SIZES if n <= size and (n == 1 or spent / n >= share)][-TRIED:]
    rivals = {f"few_{n}": (few | {"members": n}, spent) for n in numbers if (n, spent) != (1, 1.0)}
    rivals["snapshots"] = preset("strategy", "snapshots") | {"image_size": alone}, spent
    own = config["strategy"], config.get("budget")
    itself = f"few_{own[0].get('members')}" if record.strategy == "few" else record.strategy
    others = {name: node for name, node in rivals.items() if name != itself}
    baseline = few | {"members": 1, "image_size": alone}, one
    for seed in range(record.seed, record.seed + seeds):
        again = {record.strategy: own} if seed != record.seed else {}
        for name, (strategy, budget) in {BASELINE: baseline, **others, **again}.items():
            cfg = OmegaConf.create(deepcopy(dict(config)) | {"strategy": strategy, "budget": budget, "seed": seed})
            merge_changes(cfg, changes, OPEN)
            if decisive(settings := plain(cfg)) != decisive(record.config):
                yield Job(name, settings)


def _image_sizes(record: Record, config: Mapping[str, Any]) -> tuple[int | list[int] | None, int | None, float | None]:
    """Return the image sizes of rivals with several members, that of others, and the budget of the baseline.

    They are the sizes of the run, from the largest; null is that of the dataset. Where a fine-tuning is counted at
    another size, a budget of one says how long the baseline's schedule is.
    """
    stored = config["dataset"].get("image_size")
    found = sorted(set(record.ensemble.get("image_sizes") or [stored]), reverse=True)
    alone = None if found[0] == stored else found[0]
    counted = config["recipe"].get("image_size") or stored
    return (found if len(found) > 1 else alone), alone, (None if counted == found[0] else 1.0)


def _budget(spent: float) -> float:
    """Return the cost of a run as a budget: rounded up to three digits, in favour of the rivals."""
    unit = 10.0 ** (math.floor(math.log10(spent)) - 2)
    return float(f"{math.ceil(spent / unit - 1e-6) * unit:.3g}")


def _run(job: Job, experiment: "Experiment", logger: "LoggerSettings", folder: Path, of: Record) -> None:
    """Run a rival of a run, with the command that asks for it, unless its folder has finished it."""
    from ensemble_transfer.cli.changes import outdated
    from ensemble_transfer.cli.finished import finished, identity
    from ensemble_transfer.cli.job import follow, require_free
    from ensemble_transfer.report.tracked_run import TrackedRun
    from ensemble_transfer.runs.run import run

    config, strategy, seed = job.settings, experiment.strategy.name, experiment.seed
    done = finished(folder / RECORD)
    same = done is not None and identity(done.config) == identity(config)
    if same and not outdated([(config, folder / RECORD)]):
        log.info("finished before")
        return
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = Record("failed", strategy, seed, of.dataset, of.backbone, {}, config=config, command=of.command)
    about = TrackedRun(folder, f"{job.name}, seed {seed}", f"{of.dataset}, {of.backbone}", strategy, config)
    with owned(folder, "--output"):
        require_free(folder, config, "--output")
        follow(about, logger, unfinished, lambda origin: run(experiment, folder, origin), printed=False)
