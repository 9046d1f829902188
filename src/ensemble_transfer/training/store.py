"""The store remembers finished fits by what decided them.

A fit lives in one safetensors file named by its key: the member's weights and its training curve as tensors, what it
cost and where it came from in the header, with a checksum over both. A damaged file is reported and computed again.
"""

import hashlib
import json
import logging
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor

from ensemble_transfer.errors import SettingError
from ensemble_transfer.tensor_files import read_tensors, write_tensors
from ensemble_transfer.training.cost import Cost, plain
from ensemble_transfer.weights import Weights, below, copied, fingerprint, joined

SCHEMA = 1
"""Version of what a key means; raised whenever the same inputs would give another result."""

ENSEMBLES = "ensembles"
"""Folder of the source ensembles below a store's root."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fitted:
    """One member's finished fit.

    Attributes:
        weights: The member's weights.
        curve: Training loss (points, 2): step and loss.
        cost: What the fit spent when it was computed.
        key: Its key; None where nothing is remembered.
        reused: Whether it was found in the store.
    """

    weights: Weights
    curve: Tensor
    cost: Cost
    key: str | None = None
    reused: bool = False


def key_of(**decides: object) -> str:
    """Return the key of a fit: a SHA-256 over everything that decides its result, given as plain data."""
    text = json.dumps({"schema": SCHEMA, **decides}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Store:
    """A folder of finished fits, shared by all runs and all concurrent jobs.

    Args:
        root: The folder; made if missing.
        reuse: Whether to look fits up. Without it everything is computed afresh, and then remembered.

    Raises:
        SettingError: If the folder cannot be written.
    """

    def __init__(self, root: Path, reuse: bool = True) -> None:
        self.root = root.absolute()
        self.reuse = reuse
        try:
            for folder in ("fits", "locks", "unfinished"):
                (self.root / folder).mkdir(parents=True, exist_ok=True)
            probe = self.root / f".writable-{uuid.uuid4().hex}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise SettingError("root", str(root), f"must be a folder that can be written: {error.strerror}") from error

    def get(self, key: str) -> Fitted | None:
        """Return the finished fit with this key, or None where there is none that can be trusted."""
        path = self._path(key)
        if not self.reuse or not path.exists():
            return None
        try:
            tensors, header = read_tensors(path)
            if header["checksum"] != _checksum(header["about"], tensors):
                raise ValueError("the checksum does not match")
            cost = Cost(**json.loads(header["about"])["cost"])
        except (ValueError, KeyError, TypeError) as error:
            log.warning("%s is damaged (%s); the fit is computed again", path, error)
            return None
        return Fitted(below(tensors, "weights"), tensors["curve"], cost, key, reused=True)

    def put(self, key: str, fitted: Fitted, about: Mapping[str, Any]) -> None:
        """Remember a finished fit under its key, with plain data about where it came from."""
        tensors = joined(weights=copied(fitted.weights)) | {"curve": fitted.curve.contiguous()}
        text = json.dumps({"cost": plain(fitted.cost), **about}, sort_keys=True)
        path = self._path(key)
        path.parent.mkdir(exist_ok=True)
        write_tensors(path, tensors, {"about": text, "checksum": _checksum(text, tensors)})

    @contextmanager
    def locked(self, keys: Sequence[str]) -> Iterator[None]:
        """Hold these fits, so that concurrent jobs wait for one another instead of computing them twice.

        Locks are taken in one order by all, so that no two jobs wait for each other, and the system gives them back
        when a job is killed.
        """
        with ExitStack() as held:
            for key in sorted(set(keys)):
                lock = FileLock(self.root / "locks" / f"{key}.lock")
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    log.info("another job computes a fit that this one needs; waiting for it")
                    lock.acquire()
                held.callback(lock.release)
            yield

    def ensemble(self, fingerprint: str) -> Path:
        """Return the folder of a source ensemble that runs share."""
        return self.root / ENSEMBLES / fingerprint

    def unfinished(self, group: Sequence[str]) -> Path:
        """Return the folder for the checkpoints of a group of fits, named by what its state depends on."""
        return self.root / "unfinished" / key_of(group=list(group))

    def _path(self, key: str) -> Path:
        return self.root / "fits" / key[:2] / f"{key}.safetensors"


def _checksum(about: str, tensors: Weights) -> str:
    return hashlib.sha256((about + fingerprint(tensors)).encode()).hexdigest()
