"""What W&B is given of finished work: files of a run as artifacts with lineage, and the table of a comparison."""

import csv
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ensemble_transfer.layout import DESCRIPTION, ENSEMBLE, RECORD, SHIFT
from ensemble_transfer.report.record import Record
from ensemble_transfer.tensor_files import read_tensors
from ensemble_transfer.training.store import ENSEMBLES


@dataclass(frozen=True)
class Described:
    """An artifact that is still to be logged.

    Attributes:
        name: Its name in the project.
        type: ``ensemble``, ``shift`` or ``record``.
        files: Files that it holds, by their name in it.
        texts: Further files, by their text.
        metadata: What is known of it, as plain data.
        consumed: Whether the run used it instead of producing it.
    """

    name: str
    type: str
    files: Mapping[str, Path] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    consumed: bool = False


def described(record: Record, folder: Path) -> list[Described]:
    """Return the artifacts of a run, from what its folder holds.

    The source ensemble is consumed, and so is the shift vector of an extension; everything else is produced.

    Args:
        record: Of the run.
        folder: Of the run.
    """
    about = {"strategy": record.strategy, "seed": record.seed, "dataset": record.dataset, "backbone": record.backbone}
    items = []
    provenance: dict[str, Any] = {}
    shift, ensemble = folder / SHIFT, folder / ENSEMBLE
    if shift.is_file():
        provenance = read_tensors(shift)[1]
        files, extension = {shift.name: shift}, "added" in record.cost  # which applies the vector of the run before
        items.append(Described(_name("shift", record), "shift", files, {}, about | provenance, consumed=extension))
    if ensemble.is_dir():
        text = json.loads((ensemble / DESCRIPTION).read_text(encoding="utf-8"))
        history = text.get("history", {})
        provenance |= history
        files = {path.name: path for path in sorted(ensemble.iterdir())}
        metadata = about | dict(record.ensemble) | {"history": history, "metrics": _headline(record)}
        items.append(Described(_name("ensemble", record), "ensemble", files, metadata=metadata))
    file = folder / RECORD
    if file.is_file():
        metadata = about | {"status": record.status, "command": record.command}
        items.append(Described(_name("record", record), "record", {RECORD: file}, metadata=metadata))
    return items + _source(record, provenance)


def _source(record: Record, provenance: Mapping[str, Any]) -> list[Described]:
    """Return the source ensemble, known by its fingerprint: the same in every run that starts from it.

    Its files are in the run's store; where they are gone, the artifact still says which ensemble it was.
    """
    fingerprint = provenance.get("source_ensemble")
    if fingerprint is None:
        return []
    names = ("source", "seed")
    about = {name: provenance[name] for name in names if name in provenance} | dict(record.ensemble)
    about |= {"backbone": record.backbone, "fingerprint": fingerprint}
    text = json.dumps(about, indent=2, sort_keys=True) + "\n"
    name = f"source-{fingerprint[:12]}"
    folder = Path(record.config.get("store", {}).get("root", "")) / ENSEMBLES / fingerprint
    files = {path.name: path for path in sorted(folder.glob("[!.]*"))}
    return [Described(name, "ensemble", files, {"source.json": text}, about, consumed=True)]


def _headline(record: Record) -> dict[str, float | None]:
    return {key: value for key, value in record.metrics.items() if key.startswith("target/test/ensemble/")}


def _name(kind: str, record: Record) -> str:
    """Return a name of the letters that W&B allows; versions are runs of the same experiment."""
    words = (kind, record.strategy, record.dataset, record.backbone, f"seed{record.seed}")
    return "-".join(re.sub(r"[^A-Za-z0-9._]+", "-", word).strip("-") for word in words)[:128]


def read_table(path: Path) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows of a CSV file; a column is of numbers where all of it is, with None where it is empty."""
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    columns = [_numbers(column) for column in zip(*rows, strict=True)]
    return header, [list(row) for row in zip(*columns, strict=True)]


def _numbers(column: tuple[str, ...]) -> list[float | None] | list[str]:
    try:
        return [float(value) if value else None for value in column]
    except ValueError:
        return list(column)
