"""What a record says of the files beside it: they are those of its run, or nobody uses them.

Torch is imported when something is read, so that a mistyped folder is reported at once.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from ensemble_transfer.errors import SettingError, one_line, require
from ensemble_transfer.inference import saved
from ensemble_transfer.inference.saved import SavedEnsemble
from ensemble_transfer.layout import DESCRIPTION, ENSEMBLE, RECORD, SHIFT
from ensemble_transfer.report.record import Record, finished_run


def _of_ensemble(path: Path) -> str:
    from ensemble_transfer.models.description import read_description

    stated: str = read_description(path)["checksum"]
    return stated


def _of_shift(path: Path) -> str:
    from ensemble_transfer.tensor_files import read_tensors

    return read_tensors(path)[1]["sha256"]


_CHECKSUMS: Mapping[str, Callable[[Path], str]] = {f"{ENSEMBLE}/{DESCRIPTION}": _of_ensemble, SHIFT: _of_shift}
"""How a file states the checksum over all of it; those who use the file hold its content against that."""


def fingerprints(folder: Path) -> dict[str, str]:
    """Return the fingerprints of the files of a run that others start from, for its record.

    Raises:
        SettingError: If a file is damaged.
    """
    return {name: _stated(folder / name, of) for name, of in _CHECKSUMS.items() if (folder / name).exists()}


def _stated(path: Path, of: Callable[[Path], str]) -> str:
    try:
        return of(path)
    except SettingError:
        raise
    except Exception as error:  # a stranger's file may hold anything
        raise SettingError("RUN", str(path), f"cannot be read: {one_line(error)}") from error


def require_own(folder: Path, record: Record) -> None:
    """Raise a SettingError if a file in the folder of a run is not the one that its record names."""
    rule = f"is not the one that {RECORD} beside it names: it belongs to another run, or to one that did not finish"
    for name, found in fingerprints(folder).items():
        require(record.files.get(name) == found, "RUN", str(folder / name), rule)


def own_run(folder: Path) -> Record:
    """Return the record of a finished run whose files are its own.

    Raises:
        SettingError: If the folder holds none, or a file of another run.
    """
    record = finished_run(folder)
    require_own(folder, record)
    return record


def open_saved(run: str | Path, device: str = "auto") -> SavedEnsemble:
    """Read the ensemble of a run, or a saved ensemble, with the calibration beside it; nothing in it is executed.

    Args:
        run: Folder of a run, or of a saved ensemble.
        device: Where it predicts: ``cpu``, ``cuda``, or ``auto``: on a GPU if there is one.

    Raises:
        SettingError: If there is no ensemble, a file is damaged or belongs to another ensemble or run, or there is no
            such device.
    """
    ensemble = saved.ensemble_folder(Path(run).expanduser())
    place = ensemble.absolute()
    if place.name == ENSEMBLE and (place.parent / RECORD).exists():
        own_run(place.parent)
    return saved.read(ensemble, device)
