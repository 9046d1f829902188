"""The result of a strategy that has a shift vector."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ensemble_transfer.transfer.shift.diagnostics import diagnose_shift, shift_line
from ensemble_transfer.transfer.shift.vector import ShiftVector
from ensemble_transfer.transfer.workbench import TransferResult, Workbench
from ensemble_transfer.weights import Weights


@dataclass(frozen=True)
class ShiftResult(TransferResult):
    """A transferred ensemble, its shift vector, and its recipients right after the shift.

    Attributes:
        shift: The shift vector.
        shifted: Encoders of the recipients after the shift, before any fine-tuning.
    """

    shift: ShiftVector
    shifted: Mapping[int, Weights] = field(default_factory=dict, repr=False)

    def diagnose(self, bench: Workbench) -> tuple[dict[str, float], dict[str, Any]]:
        """Compute the metrics ``shift/...`` and the curve ``shift_line``; none for ``random_shift``, the control."""
        if self.shift.options["direction"] == "random":
            return {}, {}
        bench = bench.at(self.ensemble.image_sizes[0])  # all have one
        donors = {m: w for m, w in enumerate(self.ensemble.members) if m not in self.recipients}
        line = shift_line(bench, self.ensemble.members[min(donors)], self.shifted)
        return diagnose_shift(bench, self.shift, donors, self.shifted), {"shift_line": line}

    def save(self, folder: Path) -> None:
        """Write ``shift.safetensors`` into a run's folder."""
        self.shift.save(folder)
