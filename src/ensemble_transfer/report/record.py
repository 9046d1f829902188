"""The record: one JSON file with all results of one run.

Fields, in the order of the file:

- ``schema_version``: of this format; readers refuse newer ones.
- ``status``: ``finished``, ``failed`` or ``interrupted``. Runs that did not finish have ``error``, one line, and what
  was known by then; a ``seed`` that is not a number is null there.
- ``strategy``, its ``role`` in comparisons and what it is ``about``, in a line (older records lack both); ``seed``;
  ``dataset`` (``source -> target``, or ``target`` without a source task), ``backbone``, ``ensemble``
  (``size``, ``lineage`` and, where they are known, the names of the ``classes``).
- ``metrics``: flat, the keys of the metrics under ``target/test/`` (unless ``evaluation.test`` is false),
  ``target/validation/`` and, with a source task, ``source/test/``; null where undefined.
- ``cost``: ``phases``, ``total``, ``per_member``, ``marginal`` (one more member), and, with a source task, ``source``
  (the source ensemble, which no strategy pays for); each with the fields of
  :class:`~ensemble_transfer.training.cost.Cost`, and in full fine-tunings of one member: ``fine_tunings`` by FLOPs
  and ``fine_tunings_by_time`` by seconds of computation. ``prediction``:
  ``networks`` and ``flops`` for one image.
- ``reused_fits``: phase, member and key of the fits that came from the store.
- ``curves``: data for figures, so that drawing needs no predictions; ``confusion`` counts test examples by class and
  prediction.
- ``config``: the resolved configuration. ``environment``: versions, hardware, git commit, time. ``command``.
- ``data``: fingerprints of images and labels, of the ``target`` and, with a source task, the ``source``; older records
  have none.
- ``images``: fingerprints of all images with labels that ``target`` and ``source`` were drawn from, whatever seed, fold
  and sizes chose of them; tasks that were given as such have none.
- ``inputs``: what tells the files and the code of one's own that the run read from others, by setting: files are known
  by size, place and times. A sweep takes no finished job whose inputs have changed. Null in older records.
- ``files``: fingerprints of the files beside it that others start from: ``ensemble/ensemble.json``, which names the
  members' own, and ``shift.safetensors``. Commands refuse other files there.
- ``notes``: why something was not evaluated that a reader would look for, a sentence each.
- ``checksum``: SHA-256 of all other fields. It is no signature: it shows that a file is not what was written. A record
  without one is read too.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.layout import RECORD, checksum, replacing
from ensemble_transfer.report.checks import check, check_depth
from ensemble_transfer.report.escape import all_printable

if TYPE_CHECKING:
    from pandas import DataFrame

SCHEMA_VERSION = 2

FORMER_ROLES = {"few": "rival", "snapshots": "rival", "full": "reference"} | dict.fromkeys(
    ("tiny", "random_shift", "scratch"), "control"
)
"""Roles of the strategies of records that do not say them: older ones, and runs that failed before they were known."""

LARGEST = 64 * 2**20
"""Bytes of a record at most; a run of 100 members takes a hundredth."""


@dataclass(frozen=True)
class Record:
    """One strategy on one target with one seed; the fields are described above."""

    status: str
    strategy: str
    seed: int
    dataset: str
    backbone: str
    ensemble: Mapping[str, Any]
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    cost: Mapping[str, Any] = field(default_factory=dict)
    reused_fits: list[Mapping[str, Any]] = field(default_factory=list)
    curves: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    error: str | None = None
    data: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, str] | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    about: str = ""
    role: str = ""
    schema_version: int = SCHEMA_VERSION

    def save(self, folder: Path) -> Path:
        """Write ``record.json`` into a folder in one move, and return its path."""
        data = _finite({"schema_version": self.schema_version} | asdict(self))
        path = folder / RECORD
        data["checksum"] = checksum(json.loads(json.dumps(data, allow_nan=False)))  # as it will be read
        text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        with replacing(path) as beside:
            beside.write_text(text, encoding="utf-8")
        return path

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a record.

        Raises:
            ValueError: If the file is not a record, or one of a newer schema; the file is named.
        """
        try:
            data = _read(path)
            version = data["schema_version"]
            if isinstance(version, bool) or not isinstance(version, int):
                raise ValueError(f"schema_version={version!r} must be a whole number")
            if version > SCHEMA_VERSION:
                raise ValueError(f"schema_version={version} is newer than {SCHEMA_VERSION}, the newest known here")
            check_depth(data)
            if data.get("checksum") not in (None, checksum(data)):
                raise ValueError("its checksum does not match: it was edited or damaged after it was written")
            own = {f.name: data[f.name] for f in fields(cls) if f.name in data}
            check(own)
            return cls(**own)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{path} is not a readable record: {error}") from error

    def printable(self) -> Self:
        """Return the same record for showing: no text of it moves the cursor of a terminal, or hides or turns text."""
        texts = {f.name: all_printable(getattr(self, f.name)) for f in fields(self)}
        return replace(self, **texts)

    @property
    def known_role(self) -> str:
        """Role of the strategy; that of its name where the record does not say it."""
        return self.role or FORMER_ROLES.get(self.strategy, "method")

    @property
    def tested(self) -> bool:
        """Whether the run was to be evaluated on the target's test split; a trial of a search is not."""
        evaluation = self.config.get("evaluation")
        return not isinstance(evaluation, Mapping) or evaluation.get("test") is not False

    @property
    def has_source(self) -> bool:
        """Whether there was a source task; else ``dataset`` is the target's name alone."""
        return " -> " in self.dataset

    def reproducible(self) -> dict[str, Any]:
        """Return what the same config and seed give again: all but timings, memory, reuse and environment."""
        incidental = ("environment", "inputs", "reused_fits", "command")
        kept = {name: value for name, value in asdict(self).items() if name not in incidental}
        data: dict[str, Any] = _finite(kept | {"cost": _without_timings(self.cost)})
        return data


def finished_run(folder: Path) -> Record:
    """Return the record of a finished run.

    Raises:
        SettingError: If the folder holds none.
    """
    path = folder / RECORD
    require(path.is_file(), "RUN", str(folder), f"must be the folder of a run, with {RECORD}")
    try:
        record = Record.load(path)
    except ValueError as error:
        raise SettingError("RUN", str(folder), str(error)) from error
    require(record.status == "finished", "RUN", str(folder), "must be a run that has finished")
    return record


def read_records(folders: Iterable[Path], refused: list[ValueError] | None = None) -> dict[Path, Record]:
    """Return the records below folders by their run's folder, in the order of the paths.

    Raises:
        ValueError: If a folder is missing, or a record cannot be read. With a list as ``refused``, that takes the
            errors of records, which are left out.
    """
    found: dict[Path, Record] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder of runs")
        for path in sorted(folder.rglob(RECORD), key=_natural):
            try:
                found[path.parent] = Record.load(path)
            except ValueError as error:
                if refused is None:
                    raise
                refused.append(error)
    return found


def as_frame(records: Mapping[Path, Record]) -> "DataFrame":
    """Return records as a table for notebooks: ``as_frame(read_records([Path("multirun")]))``.

    Returns:
        A row for each run, finished or failed, indexed by ``folder``. Columns are the record's plain fields, then its
        nested ones, flat: ``ensemble/size``, the metrics under their own keys, ``cost/total/flops``,
        ``cost/phases/tiny/seconds``, ``config/recipe/tiny/lr``, ``environment/versions/torch``. NaN or None where a
        run has no such value. Curves, reused fits and notes stay in the records.
    """
    from pandas import Index, json_normalize

    left_out = ("curves", "reused_fits", "notes")
    rows = [{f.name: getattr(r, f.name) for f in fields(r) if f.name not in left_out} for r in records.values()]
    folders = Index([str(folder) for folder in records], name="folder", dtype="str")
    frame = json_normalize(rows, sep="/").set_index(folders)
    return frame.rename(columns=lambda name: name.removeprefix("metrics/"))


def _read(path: Path) -> dict[str, Any]:
    """Return the parsed file of a record."""
    if not path.is_file():  # a pipe would be waited for
        raise ValueError("it is not a file")
    if path.stat().st_size > LARGEST:
        raise ValueError(f"it has more than {LARGEST // 2**20} MiB")
    text = path.read_text(encoding="utf-8")
    data = json.loads(text, parse_constant=_no_constant)
    if "\\ud" in text.lower():  # escapes of half characters, which no file can hold
        json.dumps(data, ensure_ascii=False).encode("utf-8")
    if not isinstance(data, dict):
        raise ValueError("it must hold an object")
    return data


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort job 10 after job 9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in path.parts]


def _finite(data: Any) -> Any:  # noqa: ANN401
    """Return plain data with null for what JSON has no number for."""
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def _without_timings(data: Any) -> Any:  # noqa: ANN401
    if not isinstance(data, Mapping):
        return data
    timings = ("seconds", "cpu_seconds", "peak_memory_bytes", "fine_tunings_by_time", "full_seconds")
    return {key: _without_timings(value) for key, value in data.items() if key not in timings}
