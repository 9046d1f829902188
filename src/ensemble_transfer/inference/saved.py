"""A transferred ensemble as a run left it, or as somebody was given it: what ``predict`` and ``export`` open.

Torch is imported when something is read, so that a mistyped folder is told at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ensemble_transfer.errors import SettingError
from ensemble_transfer.layout import CALIBRATION, DESCRIPTION, ENSEMBLE, PREDICTIONS

if TYPE_CHECKING:
    from pathlib import Path

    from ensemble_transfer.inference.calibration import Calibration
    from ensemble_transfer.models.ensemble import Ensemble


@dataclass(frozen=True)
class Saved:
    """An ensemble from disk.

    Attributes:
        folder: Where it lies.
        ensemble: The ensemble.
        calibration: Its temperature and validation predictions; None where nothing is known of them.
    """

    folder: Path
    ensemble: Ensemble
    calibration: Calibration | None

    @property
    def temperature(self) -> float:
        """The fitted temperature, or 1."""
        return self.calibration.temperature if self.calibration else 1.0

    def about_temperature(self) -> str:
        """Return a line about what the probabilities are scaled with."""
        if self.calibration is None:
            return f"{self.folder}: no validation predictions, so no temperature and no threshold is known"
        return f"temperature {self.temperature:.3f}, fitted on {len(self.calibration.confidence)} validation images"


def ensemble_folder(run: Path) -> Path:
    """Return where the ensemble of a run lies: in ``ensemble/`` of the run's folder, or in the folder itself.

    Raises:
        SettingError: If it is in neither.
    """
    for folder in (run, run / ENSEMBLE):
        if (folder / DESCRIPTION).is_file():
            return folder
    raise SettingError("RUN", str(run), "must be the folder of a run (with ensemble/) or of a saved ensemble")


def open_saved(run: Path) -> Saved:
    """Read the ensemble of a run, or a saved one; nothing in it is executed.

    The calibration is the file beside the ensemble; without one, it is fitted on the ``predictions.npz`` of the run.

    Args:
        run: Folder of a run, or of a saved ensemble.

    Raises:
        SettingError: If there is no ensemble, or a file is damaged or not of this ensemble.
    """
    from ensemble_transfer.inference.calibration import Calibration
    from ensemble_transfer.metrics.archive import read_predictions
    from ensemble_transfer.models.ensemble import Ensemble

    folder = ensemble_folder(run)
    ensemble = Ensemble.load(folder)
    if (folder / CALIBRATION).exists():
        return Saved(folder, ensemble, Calibration.load(folder, ensemble.fingerprint))
    predictions = run / PREDICTIONS
    if not predictions.is_file():
        return Saved(folder, ensemble, None)
    try:
        validation = read_predictions(str(predictions))[0]["validation"]
        if validation is None:
            return Saved(folder, ensemble, None)
        arrays, labels = validation
        fitted = Calibration.fit(arrays, labels, members=len(ensemble), classes=len(ensemble.classes))
    except (ValueError, MemoryError) as error:
        raise SettingError(PREDICTIONS, str(predictions), str(error)) from error
    return Saved(folder, ensemble, fitted)
