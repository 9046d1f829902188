"""What is said of the members before a transfer: how many, of what lineage, and which exist already."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ensemble_transfer.errors import require

if TYPE_CHECKING:
    from ensemble_transfer.models.backbone import Backbone

LINEAGES = ("shared", "snapshot", "independent")
"""Lineages that are trained."""

MIXED = "mixed"
"""Lineage of given members together with trained ones."""

SIZE = 8
"""Members of an ensemble where neither their number nor given ones say it."""

LARGEST_SIZE = 10_000
"""Members of an ensemble at the most: all of them are held in memory."""


@dataclass(frozen=True)
class EnsembleSettings:
    """How many members there are, and what they have in common.

    Attributes:
        size: Number of members; None for as many as are given, or else 8.
        lineage: ``shared`` members are trained apart from one ancestor, ``snapshot`` ones one after another, each from
            the one before (Huang et al. 2017, arXiv 1704.00109), ``independent`` ones from random starts of their own
            (or from the backbone's pretrained weights with heads of their own). ``mixed`` allows given members beside
            others that are trained from random weights.
        fork: Of shared and snapshot members, the share of a member's steps that its ancestor takes, below 1; null for
            what the recipes ``ancestor`` and ``source`` say. The two recipes' steps are divided anew, their sum stays.
        members: Weights of members that exist, instead of training: files of the backbone's timm architecture
            (``.safetensors``, ``.pt``, ``.pth``, ``.ckpt``), or folders of runs or ensembles that were saved here.
            Heads that they bring are kept where they fit the classes of the source task. They are the first members,
            and so the donors of a shift; where ``size`` is larger, the others are trained. Their lineage is what
            ``lineage`` says, but for a single folder that makes up the whole ensemble, which says it itself; given and
            trained ones together are ``mixed``.
        added: The same as the last members: those that an extension adds.
    """

    size: int | None = None
    lineage: str = "shared"
    fork: float | None = None
    members: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        size = SIZE if self.size is None else self.size
        require(0 < size <= LARGEST_SIZE, "size", size, f"must be in 1..{LARGEST_SIZE}")
        known = (*LINEAGES, MIXED)
        require(self.lineage in known, "lineage", self.lineage, f"must be one of {', '.join(known)}")
        named = all(member.strip() for member in (*self.members, *self.added))
        require(named, "members", self.members, "must name files or folders, none of them empty")
        given = bool(self.members or self.added)
        rule = "is for members that are given, beside others that are trained: ensemble.members=[...]"
        require(given or self.lineage != MIXED, "lineage", self.lineage, rule)
        if self.fork is not None:
            require(0 <= self.fork < 1, "fork", self.fork, "must be in [0, 1), or null for what the recipes say")
            apart = self.lineage == "independent"
            require(not apart, "fork", self.fork, "must be null: independent members have no common ancestor")
            alone = given and len(self.members) + len(self.added) >= (self.size or 0)
            require(not alone, "fork", self.fork, "must be null: members that exist are not trained")

    @property
    def count(self) -> int:
        """Number of members; folders are looked into for how many they hold.

        Raises:
            SettingError: If a given member is missing, or there are more than ``size`` says.
        """
        given = _counted(self.members, self.added)
        count = self.size or given or SIZE
        rule = f"must be {given} or more, as many as ensemble.members names, or null for as many"
        require(count >= given, "size", count, rule)
        return count

    def check(self, backbone: "Backbone") -> None:
        """Raise a SettingError if members would be trained from random weights beside given ones, unasked."""
        count, given = self.count, _counted(self.members)
        trained = count - given - _counted(self.added)
        idle = self.fork is not None and not trained  # a folder holds more members than one
        require(not idle, "fork", self.fork, "must be null: members that exist are not trained")
        asked = not given or not trained or backbone.has_weights or self.lineage == MIXED
        rule = f"is more than the {given} given members, and {trained} would be trained from random weights beside "
        require(asked, "size", count, f"{rule}them; leave it out, or ask for that with ensemble.lineage=mixed")


def lineage_alone(settings: EnsembleSettings, backbone: "Backbone") -> str:
    """Return the lineage of the members without a source task.

    Raises:
        SettingError: If a setting says how members are trained on a source task.
    """
    from ensemble_transfer.models.ensemble import COPIES, UNTRAINED

    given = bool(settings.members or settings.added)
    no_task = "there is no source task to train members on (dataset.source=null)"
    require(settings.fork is None, "fork", settings.fork, f"must be null: {no_task}")
    known = settings.lineage == "shared" or (given and settings.lineage != MIXED)
    require(known, "lineage", settings.lineage, f"must be left out: {no_task}")
    if not given:
        return COPIES if backbone.has_weights else UNTRAINED
    number = _counted(settings.members, settings.added)
    require(settings.count == number, "size", settings.size, f"is more than the {number} given members, and {no_task}")
    return settings.lineage


def _counted(*paths: list[str]) -> int:
    """Return how many members are given; torch is imported only where some are."""
    if not any(paths):
        return 0
    from ensemble_transfer.source.existing import count_members

    return sum(map(count_members, paths))
