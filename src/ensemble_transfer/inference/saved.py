"""An ensemble read from a folder, with its calibration: the input of ``predict`` and ``export``.

Torch is imported when something is read, so that a mistyped folder is reported at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ensemble_transfer.errors import SettingError
from ensemble_transfer.layout import CALIBRATION, DESCRIPTION, ENSEMBLE

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


def read(folder: Path) -> SavedEnsemble:
    """Read a saved ensemble with the calibration beside it; nothing in it is executed.

    Raises:
        SettingError: If there is no ensemble, or a file is damaged or belongs to another ensemble.
    """
    from ensemble_transfer.inference.calibration import Calibration
    from ensemble_transfer.models.ensemble import Ensemble

    ensemble = Ensemble.load(folder)
    known = (folder / CALIBRATION).exists()
    return SavedEnsemble(folder, ensemble, Calibration.load(folder, ensemble.fingerprint) if known else None)
