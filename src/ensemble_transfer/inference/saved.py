"""An ensemble read from a folder, with its calibration: the input of ``predict`` and ``export``.

Torch is imported when something is read, so that a mistyped folder is reported at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.layout import CALIBRATION, DESCRIPTION, ENSEMBLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from ensemble_transfer.inference.calibration import Calibration, Decisions
    from ensemble_transfer.models.ensemble import Ensemble, Network
    from ensemble_transfer.tasks.given_images import GivenImages

DEVICES = ("auto", "cpu", "cuda")

_ONE_AT_A_TIME = Lock()
"""Threads of a server take turns: one prediction takes all cores, and torch's precision is a global setting."""


@dataclass(frozen=True)
class SavedEnsemble:
    """An ensemble read from disk, which predicts.

    Attributes:
        folder: Folder of the ensemble.
        ensemble: The ensemble.
        calibration: Temperature and validation predictions; None where none were saved.
        device: Where predictions are computed: ``cpu`` or ``cuda``.
    """

    folder: Path
    ensemble: Ensemble
    calibration: Calibration | None
    device: str = "cpu"

    def predict_proba(self, images: GivenImages) -> NDArray[np.float64]:
        """Return the probability of every class (images, classes), the mean over members after the temperature.

        The classes are in the order of :attr:`classes`. May be called from several threads.

        Args:
            images: A file, a folder of pictures, the bytes of a file, a list of files or of bytes; or an array or a
                tensor (N, H, W), (N, H, W, C) or (N, C, H, W), C 1 or 3, uint8 or floats in [0, 1]. They may have any
                size: the largest centred square of each is scaled, as before the training.

        Raises:
            SettingError: If they are no images, or a file cannot be read.
            ValueError: If the members' outputs are not probabilities, as with weights that are not finite.
        """
        import numpy as np

        return np.concatenate([part.probabilities.numpy() for part in self._decisions(images)])

    def predict(self, images: GivenImages) -> NDArray[np.str_]:
        """Return the most probable class of each image by its name (images,); see :meth:`predict_proba`."""
        import numpy as np

        labels = np.concatenate([part.label.numpy() for part in self._decisions(images)])
        found: NDArray[Any] = np.asarray(self.classes)[labels]
        return found

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the probabilities."""
        return self.ensemble.classes

    @cached_property
    def networks(self) -> tuple[Network, ...]:
        """The ensemble's networks, one for each encoder, built once."""
        return tuple(self.ensemble.networks())

    def members(self, images: Tensor) -> Tensor:
        """Return the members' probabilities (members, examples, classes), before the temperature; see :meth:`run`."""
        import torch

        return torch.stack(self.ensemble.in_order(self.run(network, images) for network in self.networks))

    def run(self, network: Network, images: Tensor) -> Tensor:
        """Return the probabilities of a network's members (members, examples, classes), before the temperature.

        Args:
            network: One of :attr:`networks`.
            images: (examples, channels, image size, image size) uint8.

        Raises:
            ValueError: If they are not probabilities, as with weights that are not finite.
        """
        import torch

        from ensemble_transfer.metrics.checks import as_probabilities
        from ensemble_transfer.models.ensemble import probabilities

        with _ONE_AT_A_TIME:
            found = torch.stack(list(probabilities(network, images, self.device)))
        as_probabilities(found)
        return found

    def _decisions(self, images: GivenImages) -> Iterator[Decisions]:
        from ensemble_transfer.inference.calibration import decide
        from ensemble_transfer.tasks.given_images import read_in_parts
        from ensemble_transfer.tasks.pictures import ahead

        architecture = self.ensemble.architecture
        for part in ahead(read_in_parts(images, architecture.image_size, architecture.channels)):
            yield decide(self.members(part), self.temperature)

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


def read(folder: Path, device: str = "auto") -> SavedEnsemble:
    """Read a saved ensemble with the calibration beside it; nothing in it is executed.

    Args:
        folder: Folder of the ensemble.
        device: Where it predicts: ``cpu``, ``cuda``, or ``auto``: on a GPU if there is one.

    Raises:
        SettingError: If there is no ensemble, a file is damaged or belongs to another ensemble, or there is no such
            device.
    """
    from ensemble_transfer.inference.calibration import Calibration
    from ensemble_transfer.models.ensemble import Ensemble

    ensemble = Ensemble.load(folder)
    known = (folder / CALIBRATION).exists()
    calibration = Calibration.load(folder, ensemble.fingerprint) if known else None
    return SavedEnsemble(folder, ensemble, calibration, _device(device))


def _device(name: str) -> str:
    import torch

    require(name in DEVICES, "device", name, f"must be one of {', '.join(DEVICES)}")
    available = torch.cuda.is_available()
    require(available or name != "cuda", "device", name, "torch finds no CUDA device here; use cpu or auto")
    return "cuda" if available and name != "cpu" else "cpu"
