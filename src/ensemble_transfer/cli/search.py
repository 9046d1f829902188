"""A search by Optuna that goes on where it was killed, and whose winner alone is evaluated on test."""

import math
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from omegaconf import DictConfig

from ensemble_transfer.cli.finished import finished
from ensemble_transfer.layout import RECORD
from ensemble_transfer.report.record import Record

WINNER = "winner_"
"""In a search's folder: how the folder is named in which the best trial is evaluated on test."""

OBJECTIVE = "target/validation/calibrated/nll"
"""What a search minimises, as every choice on validation does: the NLL after cross-calibration, in nats."""


def is_search(hydra: HydraConf) -> bool:
    """Return whether a sweep is a search by Optuna.

    Args:
        hydra: Hydra's own configuration of the sweep.
    """
    return "study_name" in hydra.sweeper


def resume(config: DictConfig) -> str | None:
    """Let a search go on with the trials that its storage has, and return the names of the new trials' folders.

    Finished trials count. Those that were killed or have failed are tried again, in folders of their own.

    Args:
        config: The sweep's configuration, whose settings of the sweeper are changed.

    Returns:
        The names as Hydra writes them, with the number of the trial; None where the search starts.
    """
    sweeper, folder = config.hydra.sweeper, Path(config.hydra.sweep.dir)
    if sweeper.storage is None or sweeper.study_name is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    optuna: Any = import_module("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=sweeper.study_name, storage=sweeper.storage, direction=str(sweeper.direction), load_if_exists=True
    )
    states, trials = optuna.trial.TrialState, study.trials
    if not trials:
        return None
    done = [t.params for t in trials if t.state == states.COMPLETE and math.isfinite(t.value)]
    waiting = [t.system_attrs.get("fixed_params") for t in trials if t.state == states.WAITING]
    for trial in trials:
        if trial.state == states.RUNNING:
            study.tell(trial.number, state=states.FAIL)
        if trial.state != states.WAITING and trial.params not in [*done, *waiting]:
            study.enqueue_trial(trial.params)
            waiting.append(trial.params)
    sweeper.n_trials = max(0, sweeper.n_trials - len(done))
    if sweeper.sampler.get("seed") is not None:
        sweeper.sampler.seed += len(trials)  # or it would propose what it has proposed before
    return f"{len(trials)}_${{hydra.job.num}}"


def winner(folder: Path) -> list[str] | None:
    """Return the command line that evaluates the best trial of a search on test.

    Args:
        folder: Folder of the search.

    Returns:
        Arguments; None if no trial has finished, or the best has been evaluated.
    """
    found: list[tuple[Path, Record]] = []
    for path in sorted(folder.glob(f"*/{RECORD}")):
        record = finished(path)[0]
        if record is not None and not record.tested and record.metrics.get(OBJECTIVE) is not None:
            found.append((path.parent, record))
    if not found:
        return None
    trial, best = min(found, key=lambda item: item[1].metrics[OBJECTIVE])  # type: ignore[arg-type,return-value]  # not None
    where = folder / f"{WINNER}{trial.name}"
    if finished(where / RECORD)[0] is not None:
        return None
    words = [word for word in shlex.split(best.command)[3:] if not word.lstrip("+").startswith("evaluation.test=")]
    return [*words, "evaluation.test=true", f"hydra.run.dir={where}", "hydra.mode=RUN"]
