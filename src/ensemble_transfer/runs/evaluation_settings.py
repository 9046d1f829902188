"""What a transferred ensemble is evaluated on."""

from dataclasses import dataclass, field

from ensemble_transfer.errors import require
from ensemble_transfer.tasks.limits import SEVERITIES

KEPT = ("members", "ensemble", "none")


@dataclass(frozen=True)
class EvaluationSettings:
    """What the transferred ensemble is evaluated on besides the target's test images.

    Attributes:
        corruptions: Corruptions of the test images; an empty list for none, ``[all]`` for all.
        severities: Severities of the corruptions, 1 to 5.
        keep: What ``predictions.npz`` keeps: the predictions of all ``members``, those of the ``ensemble`` alone, or
            ``none``. All metrics are computed first, from all members in full precision.
        diagnostics: Whether to measure what a shift did before any fine-tuning, on validation.
        test: Whether to evaluate on the target's test images; without, on its validation images alone.
    """

    corruptions: list[str] = field(default_factory=list)
    severities: list[int] = field(default_factory=lambda: list(SEVERITIES))
    diagnostics: bool = True
    test: bool = True
    keep: str = "members"

    def __post_init__(self) -> None:
        require(self.keep in KEPT, "keep", self.keep, f"must be {', '.join(KEPT[:-1])} or {KEPT[-1]}")
        for name in self.kinds:
            rule = f"must be [all] alone or some of {', '.join(_known())}"
            require(name in _known(), "corruptions", self.corruptions, rule)
        usable = bool(self.severities) or not self.corruptions
        require(usable, "severities", self.severities, "must name at least one, or corruptions=[]")
        for severity in self.severities:
            require(severity in SEVERITIES, "severities", severity, "must be whole numbers from 1 to 5")

    @property
    def kinds(self) -> list[str]:
        """Names of the corruptions."""
        return _known() if self.corruptions == ["all"] else self.corruptions


def _known() -> list[str]:
    """Return the names of all corruptions; torch, which they compute with, is imported only where some are named."""
    from ensemble_transfer.tasks.corruptions import CORRUPTIONS

    return list(CORRUPTIONS)
