"""The command line of :mod:`ensemble_transfer.rivals`: the rivals of a finished run at its cost, and the comparison.

Experiments are rebuilt from the configuration in the run's record, as an extension is: nothing that it names is
imported unless the command repeats it.
"""

import argparse
import logging
import math
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ensemble_transfer.cli.command import command as as_command
from ensemble_transfer.cli.command import complain, some_path
from ensemble_transfer.cli.extend import as_data, changes_of, live_progress
from ensemble_transfer.errors import Interrupted, RunError, SettingError, require
from ensemble_transfer.layout import RECORD, SUMMARY
from ensemble_transfer.report.record import Record, finished_run
from ensemble_transfer.report.settings import decisive

if TYPE_CHECKING:
    from ensemble_transfer.report.tracking import LoggerSettings
    from ensemble_transfer.runs.experiment import Experiment

log = logging.getLogger(__name__)

FOLDER = "rivals"
"""Folder below a run's for its rivals, so that a comparison of the run finds them."""

OPEN = ("trainer", "store", "logger")
"""Groups of the run's configuration that the command may change: none that decides what is compared."""

BASELINE = "baseline"
"""Name of the folder of the baseline."""

SIZES = (1, 2, 4, 8)
"""Numbers of members that ``few`` is tried with."""

SHARE = 0.25
"""Smallest share of a member of ``few``, in fine-tunings."""

TRIED = 2
"""How many of the numbers are tried: the largest whose members have that share.

On the 33 pairs and budgets of ``benchmarks/frontier`` the better of the two is 0.024 nats behind the best of one to
eight members, for a mean over seeds of the calibrated NLL; two members alone are 0.087 behind. A third number gains
nothing more. The command costs twice the run for these.
"""

MOST_SEEDS = 1000


@dataclass(frozen=True)
class Job:
    """One run to do.

    Attributes:
        name: Name of its strategy in the comparison's folder, such as ``few_2``.
        seed: Seed.
        cfg: Its configuration.
    """

    name: str
    seed: int
    cfg: DictConfig

    @property
    def place(self) -> Path:
        """Its folder, below that of the rivals."""
        return Path(self.name, f"seed_{self.seed}")


@as_command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    It is 0, 1 if a rival failed, 2 for an error, 130 after Ctrl-C, 143 after SIGTERM.
    """
    parser = argparse.ArgumentParser(
        prog="python -m ensemble_transfer.rivals",
        description="Run what a finished run has to beat, with its tasks, recipes and seed: the baseline, one member "
        "fully fine-tuned; and at the run's own cost few members fully fine-tuned, and snapshots of one. Ends with "
        "the comparison. Goes on where it stopped, and takes from the store what is there.",
    )
    parser.add_argument("run", type=some_path, metavar="RUN", help="folder of the run")
    parser.add_argument(
        "overrides", nargs="*", metavar="OVERRIDE", help=f"settings of {', '.join(OPEN)}, such as trainer.threads=1"
    )
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="repeat all, the run too, with N-1 further seeds"
    )
    parser.add_argument("--output", type=some_path, help=f"folder of the rivals; by default RUN/{FOLDER}")
    options = parser.parse_intermixed_args(arguments)  # settings may stand behind options
    command = shlex.join(["python", "-m", "ensemble_transfer.rivals", *(arguments or sys.argv[1:])])
    try:
        with live_progress():
            return _rivals(options, command)
    except Interrupted as stop:
        sys.stderr.write(f"{stop}\n")
        return stop.exit_code
    except (SettingError, OmegaConfBaseException, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        complain(error)
        return 2


def _rivals(options: argparse.Namespace, command: str) -> int:
    require(1 <= options.seeds <= MOST_SEEDS, "--seeds", options.seeds, f"must be in 1..{MOST_SEEDS}")
    changes = changes_of(options.overrides, OPEN, (), "rivals")
    record = _finished(options.run)
    config = as_data(options.run, record, options.overrides, changes)
    output: Path = options.output or options.run / FOLDER
    jobs = list(_jobs(record, config, changes, options.seeds))
    spent = record.cost["total"]["fine_tunings"]
    cost = sum(1.0 if job.name == BASELINE else job.cfg.budget or spent for job in jobs)
    names = ", ".join(dict.fromkeys(job.name for job in jobs))
    text = "%s spent %.2f fine-tunings; to run: %s; %.1f fine-tunings in all, less what the store has"
    log.info(text, record.strategy, spent, names, cost)
    from ensemble_transfer.cli.build import build_experiment, build_logger

    built = [(job, build_experiment(job.cfg), build_logger(job.cfg)) for job in jobs]  # mistakes show here
    output.mkdir(parents=True, exist_ok=True)
    failed = 0
    for number, (job, experiment, logger) in enumerate(built, 1):
        log.info("%d of %d: %s, seed %d", number, len(jobs), job.name, job.seed)
        try:
            _run(job, experiment, logger, output, replace(record, command=command))
        except (SettingError, RunError) as error:
            failed += 1
            complain(f"{error} ({job.place})")
    from ensemble_transfer.cli.compare import compare

    within = output.resolve().is_relative_to(options.run.resolve())
    code = compare([options.run] if within else [options.run, output], output / "comparison")
    return max(code, 1) if failed else code


def _finished(folder: Path) -> Record:
    """Return the record of a run whose rivals can be named.

    Raises:
        SettingError: If the folder holds none.
    """
    record = finished_run(folder)
    require(record.tested, "RUN", str(folder), "must be evaluated on test: run it with evaluation.test=true")
    require("added" not in record.cost, "RUN", str(folder), "is an extension; name the run that was extended")
    known = bool((record.cost.get("total") or {}).get("fine_tunings"))
    require(known, "RUN", str(folder), "has no cost in fine-tunings; run it again with this version")
    return record


def _jobs(record: Record, config: Mapping[str, Any], changes: DictConfig, seeds: int) -> Iterator[Job]:
    """Yield what is to be run: seed by seed the baseline, the rivals, and the run itself with further seeds."""
    spent = _budget(record.cost["total"]["fine_tunings"])
    size = _members(config)
    numbers = [n for n in SIZES if n <= size and (n == 1 or spent / n >= SHARE)][-TRIED:]
    rivals = {f"few_{n}": (_preset("few") | {"members": n}, spent) for n in numbers if (n, spent) != (1, 1.0)}
    rivals["snapshots"] = _preset("snapshots"), spent
    others = {name: node for name, node in rivals.items() if name.partition("_")[0] != record.strategy}
    own = config["strategy"], config.get("budget")
    baseline = _preset("few") | {"members": 1}, None
    for seed in range(record.seed, record.seed + seeds):
        again = {record.strategy: own} if seed != record.seed else {}
        for name, (strategy, budget) in {BASELINE: baseline, **others, **again}.items():
            cfg = OmegaConf.create(deepcopy(dict(config)) | {"strategy": strategy, "budget": budget, "seed": seed})
            for group in OPEN:
                if group in changes:
                    cfg[group] = OmegaConf.merge(cfg[group], changes[group])
            job = Job(name, seed, cfg)
            if decisive(_plain(cfg)) != decisive(record.config):
                yield job


def _budget(spent: float) -> float:
    """Return the cost of a run as a budget: rounded up to three digits, in favour of the rivals."""
    unit = 10.0 ** (math.floor(math.log10(spent)) - 2)
    return float(f"{math.ceil(spent / unit - 1e-6) * unit:.3g}")


def _members(config: Mapping[str, Any]) -> int:
    """Return how many members the source ensemble has: its size, or the number of those that are given."""
    ensemble = config["ensemble"]
    size = ensemble.get("size")
    return size if isinstance(size, int) else len(ensemble.get("members") or [])


def _preset(name: str) -> dict[str, Any]:
    from ensemble_transfer.runs.presets import preset

    return preset("strategy", name)


def _run(job: Job, experiment: "Experiment", logger: "LoggerSettings", output: Path, of: Record) -> None:
    """Run a job, unless its folder has finished it, and leave its record also if it fails.

    Args:
        job: The job.
        experiment: Its experiment.
        logger: Where it is logged.
        output: Folder of the rivals.
        of: Record of the run whose rivals these are, with the command that asks for them.
    """
    from ensemble_transfer.cli.job import recorded, require_free
    from ensemble_transfer.cli.sweep import finished
    from ensemble_transfer.report import summary
    from ensemble_transfer.report.tracked_run import TrackedRun
    from ensemble_transfer.report.tracking import tracking
    from ensemble_transfer.runs.run import Origin, run

    folder, config, strategy = output / job.place, _plain(job.cfg), experiment.strategy.name
    done, what = finished(folder / RECORD)
    if done is not None and what == decisive(config):
        log.info("finished before")
        return
    folder.mkdir(parents=True, exist_ok=True)
    require_free(folder, config, "--output")

    def unfinished(status: str, error: str) -> Record:
        own: dict[str, Any] = {"status": status, "error": error, "config": config, "command": of.command}
        return Record(strategy=strategy, seed=job.seed, dataset=of.dataset, backbone=of.backbone, ensemble={}, **own)

    with recorded(folder, unfinished):
        about = TrackedRun(folder, f"{job.name}, seed {job.seed}", f"{of.dataset}, {of.backbone}", strategy, config)
        with tracking(logger, about) as tracker:
            record = run(experiment, folder, Origin(config, of.command, tracker))
            if tracker is not None:
                tracker.record(record)
        (folder / SUMMARY).write_text(summary.markdown(record, folder), encoding="utf-8")


def _plain(cfg: DictConfig) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(cfg)
    return {str(key): value for key, value in plain.items()}
