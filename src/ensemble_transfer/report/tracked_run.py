"""Describe a run for W&B, and keep the id under which it continues after a stop."""

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ensemble_transfer.layout import replacing

RUN_ID = "wandb/run_id.json"
"""File in a run's folder that keeps the id of its W&B run, so that a restarted run continues it."""


@dataclass(frozen=True)
class TrackedRun:
    """Description of a run for W&B.

    Attributes:
        folder: Folder of the run; W&B writes below it.
        name: Name of the run.
        group: Group of the run, unless the settings name one.
        job_type: Kind of run: the strategy, or ``comparison``. It joins the configuration as ``strategy_name``.
        config: Resolved configuration.
    """

    folder: Path
    name: str
    group: str
    job_type: str
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tags(self) -> list[str]:
        """Tags that are known when the run starts: strategy and budget. A comparison has none."""
        if not self.config:
            return []
        budget = self.config.get("budget")
        return [self.job_type, "no budget" if budget is None else f"budget {budget:g}"]

    def id(self) -> str:
        """Return the id of the W&B run: the one that the folder keeps for this configuration, else a new one.

        The id is random and kept, not computed, so that equal folders on two machines are two runs.
        """
        path = self.folder / RUN_ID
        kept = {name: value for name, value in self.config.items() if name != "logger"}
        digest = hashlib.sha256(json.dumps([self.job_type, kept], sort_keys=True).encode()).hexdigest()
        known = _kept(path)
        if known.get("config") != digest or not str(known.get("id", "")).isalnum():
            known = {"id": uuid.uuid4().hex[:12], "config": digest}
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as beside:
                beside.write_text(json.dumps(known), encoding="utf-8")
        return str(known["id"])


def _kept(path: Path) -> dict[str, Any]:
    """Return what a file keeps; nothing if it is missing or damaged: the run is a new one then."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}
