"""Artifacts for W&B: the files of a run with their lineage."""

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
class RunArtifact:
    """A W&B artifact of a run, before it is logged.

    Attributes:
        name: Name in the project.
        type: ``ensemble``, ``shift`` or ``record``.
        files: Files of the artifact: name in the artifact -> path on disk.
        texts: Further files: name in the artifact -> text.
        metadata: Plain data, shown beside the artifact.
        consumed: Whether the run used it instead of producing it.
    """

    name: str
    type: str
    files: Mapping[str, Path] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    consumed: bool = False


def artifacts_of(record: Record, folder: Path) -> list[RunArtifact]:
    """Return the artifacts of a run, from the files in its folder.

    A run consumes the source ensemble, and an extension also the shift vector. It produces everything else.
    """
    about = {"strategy": record.strategy, "seed": record.seed, "dataset": record.dataset, "backbone": record.backbone}
    items = []
    provenance: dict[str, Any] = {}
    shift, ensemble = folder / SHIFT, folder / ENSEMBLE
    if shift.is_file():
        provenance = read_tensors(shift)[1]
        extension = "added" in record.cost  # it applies the earlier run's vector
        items.append(RunArtifact(_name("shift", record), "shift", {SHIFT: shift}, {}, about | provenance, extension))
    if ensemble.is_dir():
        history = json.loads((ensemble / DESCRIPTION).read_text(encoding="utf-8")).get("history", {})
        provenance |= history
        files = {path.name: path for path in sorted(ensemble.iterdir())}
        headline = {key: n for key, n in record.metrics.items() if key.startswith("target/test/ensemble/")}
        metadata = about | dict(record.ensemble) | {"history": history, "metrics": headline}
        items.append(RunArtifact(_name("ensemble", record), "ensemble", files, metadata=metadata))
    if (folder / RECORD).is_file():
        metadata = about | {"status": record.status, "command": record.command}
        items.append(RunArtifact(_name("record", record), "record", {RECORD: folder / RECORD}, metadata=metadata))
    return items + _source(record, provenance)


def _source(record: Record, provenance: Mapping[str, Any]) -> list[RunArtifact]:
    """Return the source ensemble, named by its fingerprint, so that all runs that start from it share it.

    Its files come from the run's store. If they are gone, the artifact still identifies the ensemble. Without a source
    task there is none.
    """
    fingerprint = provenance.get("source_ensemble")
    if fingerprint is None or not record.has_source:
        return []
    about = {name: provenance[name] for name in ("source", "seed") if name in provenance} | dict(record.ensemble)
    about |= {"backbone": record.backbone, "fingerprint": fingerprint}
    text = json.dumps(about, indent=2, sort_keys=True) + "\n"
    folder = Path(record.config.get("store", {}).get("root", "")).expanduser() / ENSEMBLES / fingerprint
    files = {path.name: path for path in sorted(folder.glob("[!.]*"))}
    return [RunArtifact(f"source-{fingerprint[:12]}", "ensemble", files, {"source.json": text}, about, consumed=True)]


def _name(kind: str, record: Record) -> str:
    """Return a name of characters that W&B allows; runs of the same experiment become its versions."""
    words = (kind, record.strategy, record.dataset, record.backbone, f"seed{record.seed}")
    return "-".join(re.sub(r"[^A-Za-z0-9._]+", "-", word).strip("-") for word in words)[:128]
