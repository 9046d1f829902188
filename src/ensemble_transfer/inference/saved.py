"""An ensemble read from a folder, with its calibration: the input of ``predict`` and ``export``.

Torch is imported when something is read, so that a mistyped folder is reported at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ensemble_transfer.errors import SettingError
from ensemble_transfer.layout import CALIBRATION, DESCRIPTION, ENSEMBLE, PREDICTIONS

if TYPE_CHECKING:
    from ensemble_transfer.inference.calibration import Calibration
    from ensemble_transfer.models.ensemble import Ensemble


@dataclass(frozen=True)
class SavedEnsemble:
    """An ensemble read from disk.

    Attributes:
        folder: Folder of the ensemble.
        ensemble: The ensemble.
        calibration: Temperature and validation predictions; None where none were saved.
    """

    folder: Path
    ensemble: Ensemble
    calibration: Calibration | None

    @property
    def temperature(self) -> float:
        """The fitted temperature, or 1."""
        return self.calibration.temperature if self.calibration else 1.0

    def about_temperature(self) -> str:
        """Return a line that describes the temperature."""
        if self.calibration is None:
            return f"{self.folder}: no validation predictions, so no temperature and no threshold is known"
        return f"temperature {self.temperature:.3f}, fitted on {len(self.calibration.confidence)} validation images"


def ensemble_folder(run: Path) -> Path:
    """Return the folder of a run's ensemble: ``ensemble/`` in the run's folder, or the folder itself.

    Raises:
        SettingError: If neither holds an ensemble.
    """
    for folder in (run, run / ENSEMBLE):
        if (folder / DESCRIPTION).is_file():
            return folder
    raise SettingError("RUN", str(run), "must be the folder of a run (with ensemble/) or of a saved ensemble")


def open_saved(run: str | Path) -> SavedEnsemble:
    """Read the ensemble of a run, or a saved ensemble; nothing in it is executed.

    The calibration is read from the file beside the ensemble, or else fitted on the ``predictions.npz`` of the run.

    Args:
        run: Folder of a run, or of a saved ensemble.

    Raises:
        SettingError: If there is no ensemble, or a file is damaged or belongs to another ensemble.
    """
    from ensemble_transfer.inference.calibration import Calibration
    from ensemble_transfer.metrics.archive import read_predictions
    from ensemble_transfer.models.ensemble import Ensemble

    run = Path(run).expanduser()
    folder, predictions, calibration = ensemble_folder(run), run / PREDICTIONS, None
    ensemble = Ensemble.load(folder)
    if (folder / CALIBRATION).exists():
        calibration = Calibration.load(folder, ensemble.fingerprint)
    elif predictions.is_file():
        try:
            validation = read_predictions(str(predictions))[0]["validation"]
            if validation is not None:
                members = len(ensemble) if len(validation[0]) > 1 else None  # one: the run kept the ensemble's alone
                calibration = Calibration.fit(*validation, members=members, classes=len(ensemble.classes))
        except (ValueError, MemoryError) as error:
            raise SettingError(PREDICTIONS, str(predictions), str(error)) from error
    return SavedEnsemble(folder, ensemble, calibration)
