"""The store caches fits by a hash of their inputs.

Each finished fit is one safetensors file, named by its key. The member's weights and its training curve are tensors;
key, cost and origin are in the header, with a checksum over all. A file that is damaged, or that belongs to another
key, is reported, and the fit is computed again.
Interrupted fits have files of the same kind, so that any group of members can go on with them. A file that cannot be
read at the moment is not damaged, and stays.
"""

import hashlib
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from filelock import Timeout
from torch import Tensor

from ensemble_transfer.errors import SettingError, one_line
from ensemble_transfer.layout import lock_of, make_below, replacing
from ensemble_transfer.tensor_files import tensors_of, write_tensors
from ensemble_transfer.training.cost import Cost
from ensemble_transfer.weights import Weights, below, fingerprint, joined

SCHEMA = 3
"""Version of what a key means. Raise it whenever the same inputs would give another result.

It is 3 since files hold their keys: older ones cannot be told from one another.
"""

ENSEMBLES = "ensembles"
"""Folder of the source ensembles below a store's root."""

CHECKPOINT = "last.ckpt"
"""Name of a checkpoint in the folder of an unfinished fit."""

ABANDONED = 30 * 24 * 3600.0
"""Seconds after which an unfinished fit or a lock that nobody holds is removed."""

log = logging.getLogger(__name__)

Found = TypeVar("Found")


@dataclass(frozen=True)
class Fitted:
    """One member's finished fit.

    Attributes:
        weights: The member's weights.
        curve: Training loss (points, 2): step and loss.
        cost: What the fit spent when it was computed.
        key: Its key; None where nothing is stored.
        reused: Whether it was found in the store.
    """

    weights: Weights = field(repr=False)
    curve: Tensor = field(repr=False)
    cost: Cost
    key: str | None = None
    reused: bool = False


@dataclass(frozen=True)
class Unfinished:
    """The state of one member's fit between two steps.

    Attributes:
        weights: Weights of the module that is trained.
        optimizer: The optimizer's tensors, named ``slot.parameter``.
        curve: Training loss so far (points, 2): step and loss.
        step: Number of steps taken.
        seconds: Wall-clock seconds spent, the member's share of its group's.
        cpu_seconds: Processor seconds spent, likewise.
    """

    weights: Weights
    optimizer: Weights
    curve: Tensor
    step: int
    seconds: float
    cpu_seconds: float


def key_of(**decides: object) -> str:
    """Return the key of a fit: a SHA-256 over everything that decides its result, given as plain data."""
    text = json.dumps({"schema": SCHEMA, **decides}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Store:
    """A folder of finished fits, shared by all runs and all concurrent jobs.

    A folder that cannot be written serves the fits that it has; only a fit that is missing is an error then.

    Args:
        root: The folder; made if missing.
        reuse: Whether to look fits up. Without it every fit is computed anew, and then stored.

    Raises:
        SettingError: If the folder is missing and cannot be made.
    """

    def __init__(self, root: Path, reuse: bool = True) -> None:
        self.root = root.expanduser().absolute()
        self.reuse = reuse
        try:
            self._make_folders()
        except OSError as error:
            if not os.path.isdir(self.root) or not reuse:  # noqa: PTH112  # Path raises for names that are too long
                raise self._unwritable(error) from error
        else:
            self._remove_abandoned()

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r}, reuse={self.reuse})"

    def get(self, key: str) -> Fitted | None:
        """Return the finished fit with this key, or None if there is none that can be trusted."""

        def fitted(tensors: Weights, about: Mapping[str, Any]) -> Fitted:
            return Fitted(below(tensors, "weights"), tensors["curve"], Cost(**about["cost"]), key, reused=True)

        return self._looked_up(self._path(key), key, fitted, "is computed again")

    def put(self, key: str, fitted: Fitted, about: Mapping[str, Any]) -> None:
        """Store a finished fit under its key, with plain data about its origin, and drop its checkpoint."""
        tensors = joined(weights=fitted.weights) | {"curve": fitted.curve}
        self._write(self._path(key), tensors, {**about, "key": key, "cost": asdict(fitted.cost)})
        self.drop_unfinished(key)

    def unfinished(self, key: str) -> Unfinished | None:
        """Return the state of an interrupted fit, or None if there is none that can be trusted."""

        def state(tensors: Weights, about: Mapping[str, Any]) -> Unfinished:
            parts = below(tensors, "weights"), below(tensors, "optimizer"), tensors["curve"]
            return Unfinished(*parts, int(about["step"]), float(about["seconds"]), float(about["cpu_seconds"]))

        return self._looked_up(self._checkpoint(key), key, state, "starts again")

    def put_unfinished(self, key: str, state: Unfinished) -> None:
        """Store the state of a fit under its key; it replaces the one before."""
        tensors = joined(weights=state.weights, optimizer=state.optimizer) | {"curve": state.curve}
        about = {"key": key, "step": state.step, "seconds": state.seconds, "cpu_seconds": state.cpu_seconds}
        self._write(self._checkpoint(key), tensors, about)

    def drop_unfinished(self, key: str) -> None:
        """Remove the checkpoint of a fit, if there is one."""
        shutil.rmtree(self._checkpoint(key).parent, ignore_errors=True)

    def seconds(self, key: str) -> float | None:
        """Return the seconds that :meth:`put_seconds` kept under a key; None if there are none that can be trusted."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads(self._timing(key).read_text(encoding="utf-8"))
            if self.reuse and kept["key"] == key and 0 < kept["seconds"] < math.inf:
                return float(kept["seconds"])
        return None

    def put_seconds(self, key: str, seconds: float) -> None:
        """Keep how long something takes; where the store cannot be written, it is measured again next time."""
        with suppress(OSError):
            make_below(self.root, self._timing(key).parent)
            with replacing(self._timing(key)) as beside:
                beside.write_text(json.dumps({"key": key, "seconds": seconds}), encoding="utf-8")

    @contextmanager
    def locked(self, keys: Sequence[str]) -> Iterator[None]:
        """Hold these fits, so that concurrent jobs wait for one another instead of computing them twice.

        All jobs take locks in the same order, so that no two wait for each other. The system releases the locks of a
        job that is killed.

        Raises:
            SettingError: If the store cannot be written.
        """
        with ExitStack() as held:
            for key in sorted(set(keys)):
                try:
                    self._make_folders()
                    lock = lock_of(self.root / "locks" / f"{key}.lock")
                    lock.acquire(timeout=0)
                except Timeout:
                    log.info("another job computes a fit that this one needs; waiting for it")
                    lock.acquire()
                except OSError as error:
                    raise self._unwritable(error) from error
                held.callback(lock.release)
            yield

    def ensemble(self, fingerprint: str) -> Path:
        """Return the folder of a source ensemble that runs share."""
        return self.root / ENSEMBLES / fingerprint

    def _looked_up(
        self, path: Path, key: str, parsed: Callable[[Weights, Mapping[str, Any]], Found], otherwise: str
    ) -> Found | None:
        """Return what a file holds; None if there is none, or, with a warning, none that can be read or trusted."""
        if not self.reuse:
            return None
        try:
            found = _read(path, key)
            return None if found is None else parsed(*found)
        except OSError as error:
            log.warning("%s cannot be read now (%s); the fit %s", path, error.strerror, otherwise)
        except (ValueError, KeyError, TypeError) as error:
            log.warning("%s is damaged (%s); the fit %s", path, one_line(error), otherwise)
            if path.name == CHECKPOINT:
                shutil.rmtree(path.parent, ignore_errors=True)
        return None

    def _write(self, path: Path, tensors: Weights, about: Mapping[str, Any]) -> None:
        """Write tensors and plain data, with a checksum over both, in one move."""
        text = json.dumps(about, sort_keys=True)
        make_below(self.root, path.parent)
        write_tensors(path, tensors, {"about": text, "checksum": _checksum(text, tensors)})

    def _path(self, key: str) -> Path:
        return self.root / "fits" / key[:2] / f"{key}.safetensors"

    def _timing(self, key: str) -> Path:
        return self.root / "timings" / f"{key}.json"

    def _checkpoint(self, key: str) -> Path:
        return self.root / "unfinished" / key / CHECKPOINT

    def _make_folders(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        for folder in ("fits", "locks", "unfinished"):
            make_below(self.root, self.root / folder)

    def _unwritable(self, error: OSError) -> SettingError:
        return SettingError("root", str(self.root), f"must be a folder that can be written: {error.strerror}")

    def _remove_abandoned(self) -> None:
        """Remove old files that were not finished, old checkpoints, and old locks that nobody holds."""
        oldest = time.time() - ABANDONED
        for path in (self.root / "fits").glob("*/.*"):  # what a killed job was writing
            with suppress(OSError):
                if path.stat().st_mtime < oldest:
                    path.unlink()
        for path in [*(self.root / "locks").glob("*.lock"), *(self.root / "unfinished").iterdir()]:
            with suppress(OSError, Timeout):  # another job may remove the same file
                if path.stat().st_mtime < oldest:
                    with lock_of(self.root / "locks" / f"{path.stem}.lock").acquire(timeout=0) as lock:
                        shutil.rmtree(path) if path.is_dir() else path.unlink()
                        Path(lock.lock_file).unlink(missing_ok=True)


def _read(path: Path, key: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return tensors and plain data of the file of a key, or None if it does not exist.

    Raises:
        ValueError: If the file is damaged, or belongs to another key.
        KeyError: If its header lacks a field.
        OSError: If the system cannot read it, now: too many open files, a network that does not answer.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is not a regular file")
    try:
        data = path.read_bytes()  # not mapped: an error of the disk would then be a signal that ends the process
    except FileNotFoundError:
        return None
    tensors, header = tensors_of(data)
    if header["checksum"] != _checksum(header["about"], tensors):
        raise ValueError("the checksum does not match")
    about = json.loads(header["about"])
    if about["key"] != key:
        raise ValueError(f"it belongs to the key {about['key']}")
    return tensors, about


def _checksum(about: str, tensors: Weights) -> str:
    return hashlib.sha256((about + fingerprint(tensors)).encode()).hexdigest()
