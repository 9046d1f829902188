"""The shift vector: its tensors, its provenance, and its file."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.layout import SHIFT
from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.tasks.task import Task
from ensemble_transfer.tensor_files import checksum, read_tensors, write_tensors
from ensemble_transfer.training.features import is_statistic
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.weights import Weights, below, fingerprint, floating

FORMAT = "4"


@dataclass(frozen=True, repr=False)
class ShiftVector:
    """A shift vector and its provenance.

    Attributes:
        vector: Difference of the encoder's floating-point tensors.
        scale: How far recipients are shifted along it.
        provenance: Texts by name: ``source_ensemble`` (fingerprint), ``donors`` (indices), ``donor_weights``
            (fingerprints before the transfer), ``target_task`` (fingerprint), ``target`` (name), ``options`` of the
            strategy (JSON) and ``recipe`` of the donors' fine-tuning (JSON). A transfer within a budget adds ``budget``
            (fine-tunings) and ``tiny``, the recipe of the recipients (JSON).
    """

    vector: Weights
    scale: float
    provenance: Mapping[str, str]

    def __repr__(self) -> str:
        numbers = sum(tensor.numel() for tensor in self.vector.values())
        origin = f"donors {self.provenance.get('donors')}, target {self.provenance.get('target')!r}"
        return f"ShiftVector({numbers:,} numbers in {len(self.vector)} tensors, {origin}, scale {self.scale:g})"

    def scaled(self) -> dict[str, Tensor]:
        """Return the vector, multiplied by the scale."""
        return {name: self.scale * tensor for name, tensor in self.vector.items()}

    @property
    def donors(self) -> tuple[int, ...]:
        """Indices of the donors in the source ensemble."""
        return tuple(int(donor) for donor in self.provenance["donors"].split(","))

    @property
    def options(self) -> dict[str, Any]:
        """Options of the strategy that computed the vector."""
        options: dict[str, Any] = json.loads(self.provenance["options"])
        return options

    @property
    def tiny(self) -> Recipe | None:
        """Recipe of the recipients within a budget; None to use the run's recipe for tiny fine-tuning."""
        kept = self.provenance.get("tiny")
        return Recipe(**json.loads(kept)) if kept else None

    def save(self, folder: Path) -> Path:
        """Write ``shift.safetensors``, with provenance and a checksum in its header, and return its path."""
        header = dict(self.provenance) | {"scale": repr(self.scale), "format": FORMAT}
        path = folder / SHIFT
        write_tensors(path, self.vector, header | {"sha256": checksum(self.vector, header)})
        return path

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a shift vector that :meth:`save` wrote.

        Raises:
            SettingError: If the file is missing, damaged, of another format, or fails its checksum.
        """
        try:
            vector, header = read_tensors(path)
            require(header.get("format", "1") == FORMAT, "shift", str(path), f"must have format {FORMAT}")
            if header.pop("sha256") != checksum(vector, header):
                raise ValueError("does not have the checksum that its header states")
            del header["format"]
            shift = cls(vector, float(header.pop("scale")), header)
            shift._require_usable()
        except SettingError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SettingError("shift", str(path), f"is not a readable shift vector: {error}") from error
        return shift

    def _require_usable(self) -> None:
        """Raise an error for numbers that are not finite, and for provenance that is missing or cannot be read."""
        if not all(bool(tensor.isfinite().all()) for tensor in self.scaled().values()):
            raise ValueError("it holds numbers that are not finite")
        if min(self.donors) < 0 or not isinstance(self.options, dict):
            raise ValueError("its provenance is damaged")
        for name in ("target_task", "donor_weights"):
            self.provenance[name]
        _ = self.tiny

    def require_fit(self, source: Ensemble, target: Task) -> None:
        """Raise a SettingError unless the vector belongs to this target and to donors of this ensemble.

        The ensemble may have grown since; only the donors must be the same.
        """
        value = self.provenance.get("target", "") or self.provenance["target_task"][:12]
        rule = f"was made for another task than {target.name} of this run"
        require(self.provenance["target_task"] == target.fingerprint, "shift", value, rule)
        encoder = floating(below(source.members[0], "encoder"))
        shapes = {name: tensor.shape for name, tensor in encoder.items()}
        fits = shapes == {name: tensor.shape for name, tensor in self.vector.items()}
        require(fits, "shift", value, f"has other tensors than the encoder {source.architecture.backbone}")
        require(max(self.donors) < len(source), "shift", self.provenance["donors"], "names donors that are no members")
        rule = f"was made from other donors than members {self.provenance['donors']} of this ensemble"
        require(self.provenance["donor_weights"] == donor_weights(source, self.donors), "shift", value, rule)


def donor_weights(source: Ensemble, donors: Iterable[int]) -> str:
    """Return the fingerprints of donors before the transfer, joined by commas."""
    return ",".join(fingerprint(source.members[donor]) for donor in donors)


def learned(vector: Weights) -> dict[str, Tensor]:
    """Return the tensors that are trained; running statistics are estimated from data."""
    return {name: tensor for name, tensor in vector.items() if not is_statistic(name)}
