"""The record: one JSON file with all results of one run.

Fields, in the order of the file:

- ``schema_version``: of this format; readers refuse any other.
- ``status``: ``finished``, ``failed`` or ``interrupted``. Runs that did not finish have ``error``, one line, and what
  was known by then; a ``seed`` that is not a number is null there.
- ``strategy``, its ``role`` in comparisons and what it is ``about``, in a line; ``seed``;
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
- ``data``: fingerprints of images and labels, of the ``target`` and, with a source task, the ``source``.
- ``images``: fingerprints of all images with labels that ``target`` and ``source`` were drawn from, whatever seed, fold
  and sizes chose of them; tasks that were given as such have none.
- ``inputs``: what tells the files and the code of one's own that the run read from others, by setting: files are known
  by size, place and times. A sweep takes no finished job whose inputs have changed. Null where none was read.
- ``files``: fingerprints of the files beside it that others start from: ``ensemble/ensemble.json``, which names the
  members' own, and ``shift.safetensors``. Commands refuse other files there.
- ``notes``: why something was not evaluated that a reader would look for, a sentence each.
- ``checksum``: SHA-256 of all other fields. It is no signature: it shows that a file is not what was written.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypedDict

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.layout import RECORD, checksum, replacing
from ensemble_transfer.report.checks import Rule, check, check_depth, check_ranges, hints
from ensemble_transfer.report.escape import all_printable

if TYPE_CHECKING:
    from pandas import DataFrame

SCHEMA_VERSION = 2

LARGEST = 64 * 2**20
"""Bytes of a record at most; a run of 100 members takes a hundredth."""


Amount = Annotated[float, Rule("0 or more", lambda value: value >= 0)]
Count = Annotated[int, Rule("0 or more", lambda value: value >= 0)]
Amounts = Mapping[str, Amount | None]
Numbers = list[float | None]
Square = Rule("a square: as many columns as lines", lambda lines: all(len(line) == len(lines) for line in lines))


class Members(TypedDict, total=False):
    """The field ``ensemble``."""

    size: Annotated[int, Rule("above 0", lambda value: value > 0)]
    lineage: str
    classes: list[str]


class Costs(TypedDict, total=False):
    """The field ``cost``."""

    phases: Mapping[str, Amounts]
    total: Amounts
    per_member: Amounts
    marginal: Amounts | None
    source: Amounts
    prediction: Amounts
    full_flops: Amount
    full_seconds: Amount


Columns = Annotated[
    Mapping[str, Numbers], Rule("lists of numbers of one length", lambda curve: len(set(map(len, curve.values()))) <= 1)
]
"""A curve: numbers by name, point by point."""


class Curves(TypedDict, total=False):
    """The field ``curves``; what strategies decided stands there too."""

    reliability: Columns
    reliability_calibrated: Columns
    ensemble_size: Columns
    shift_line: Columns
    learning: Mapping[str, Columns]
    confusion: Annotated[list[list[Count]], Square]
    member_accuracy: Numbers


class Ensemble(TypedDict, total=False):
    """What is read of the settings of an ensemble."""

    fork: Amount | None


class Config(TypedDict, total=False):
    """What is read of a configuration."""

    dataset: Mapping[str, Any]
    backbone: Mapping[str, Any]
    ensemble: Ensemble
    strategy: Mapping[str, Any]
    recipe: Mapping[str, Any]
    trainer: Mapping[str, Any]
    logger: Mapping[str, Any]
    store: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    budget: Amount | None


class Environment(TypedDict, total=False):
    """What is read of the field ``environment``."""

    versions: Mapping[str, Any]


class Finished(TypedDict, total=False):
    """What the fields of the record of a finished run are besides; others may lack what was not known."""

    seed: Count
    ensemble: Members
    metrics: Mapping[str, float | None]
    cost: Costs
    curves: Curves
    config: Config
    environment: Environment


@dataclass(frozen=True)
class Record:
    """One strategy on one target with one seed; the fields are described above."""

    status: Literal["finished", "failed", "interrupted"]
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
        path = folder / RECORD
        text = json.dumps(self.plain(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        with replacing(path) as beside:
            beside.write_text(text, encoding="utf-8")
        return path

    def plain(self) -> dict[str, Any]:
        """Return what its file holds, the checksum with it."""
        data: dict[str, Any] = _finite({"schema_version": self.schema_version} | asdict(self))
        return data | {"checksum": checksum(json.loads(json.dumps(data, allow_nan=False)))}  # as it will be read

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a record.

        Raises:
            ValueError: If the file is not a record, or one of another schema; the file is named.
        """
        try:
            data = _read(path)
            version = data["schema_version"]
            if isinstance(version, bool) or not isinstance(version, int):
                raise ValueError(f"schema_version={version!r} must be a whole number")
            if version != SCHEMA_VERSION:
                raise ValueError(f"schema_version={version}: {SCHEMA_VERSION} is known here")
            check_depth(data)
            if data["checksum"] != checksum(data):
                raise ValueError("its checksum does not match: it was edited or damaged after it was written")
            own = {f.name: data[f.name] for f in fields(cls) if f.name in data}
            _check(own)
            return cls(**own)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{path} is not a readable record: {error}") from error

    def printable(self) -> Self:
        """Return the same record for showing: no text of it moves the cursor of a terminal, or hides or turns text."""
        texts = {f.name: all_printable(getattr(self, f.name)) for f in fields(self)}
        return replace(self, **texts)

    @property
    def tested(self) -> bool:
        """Whether the run was to be evaluated on the target's test split; a trial of a search is not."""
        return self.config.get("evaluation", {}).get("test") is not False

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


def _check(fields: Mapping[str, Any]) -> None:
    """Raise a ValueError that names the first field of a record's file that is not what it must be."""
    finished = fields["status"] == "finished"
    for name, kind in hints(Record).items():
        if name in fields and (finished or name != "seed"):  # the mistake may be in the seed
            check(fields[name], kind, name)
    if finished:
        check(fields, Finished)
        check_ranges(fields.get("metrics", {}))


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
