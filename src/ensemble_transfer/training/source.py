"""The source ensemble: members of one lineage, trained on the source task."""

from dataclasses import dataclass, replace

from ensemble_transfer.backbone import Architecture, Backbone
from ensemble_transfer.cost import Ledger
from ensemble_transfer.ensemble import Ensemble
from ensemble_transfer.errors import require, settings_under
from ensemble_transfer.seeding import derive
from ensemble_transfer.tasks.task import Task
from ensemble_transfer.training.fit import Fitter, Start
from ensemble_transfer.training.recipe import Recipes
from ensemble_transfer.weights import Weights, joined

LINEAGES = ("shared", "independent")


@dataclass(frozen=True)
class EnsembleSettings:
    """How many members there are, and what they have in common.

    Attributes:
        size: Number of members.
        lineage: ``shared`` members are trained apart from one ancestor, ``independent`` ones from random starts of
            their own (or from the backbone's pretrained weights with heads of their own).
    """

    size: int = 8
    lineage: str = "shared"

    def __post_init__(self) -> None:
        require(self.size > 0, "size", self.size, "must be at least 1")
        require(self.lineage in LINEAGES, "lineage", self.lineage, f"must be one of {', '.join(LINEAGES)}")


def train_source(
    settings: EnsembleSettings,
    backbone: Backbone,
    task: Task,
    seed: int = 0,
    recipes: Recipes = Recipes(),  # noqa: B008  # frozen
    fitter: Fitter = Fitter(),  # noqa: B008  # frozen
) -> tuple[Ensemble, Ledger]:
    """Train an ensemble on the source task and return it with what it cost.

    Every member goes through the recipes ``ancestor`` and ``source``; of a shared lineage, all go through the first
    as one. So the two lineages differ in nothing but what members share, and a larger ensemble contains the smaller.

    Args:
        settings: Size and lineage.
        backbone: The members' encoder, and what it starts from.
        task: The source task.
        seed: Of all that is random.
        recipes: What the fits may spend.
        fitter: Where and how they are computed and remembered.
    """
    size = task.train.images.shape[-1]
    architecture = backbone.architecture(size, task.train.images.shape[1], len(task.classes))
    members = range(settings.size)
    ancestors = [0] if settings.lineage == "shared" else list(members)
    starts = _initial(architecture, backbone, ancestors, seed)
    first = fitter.fit(architecture, starts, task.train, recipes.ancestor, "ancestor")
    apart = [
        Start(member, first.weights[member % len(ancestors)], derive(seed, "source", member)) for member in members
    ]
    second = fitter.fit(architecture, apart, task.train, recipes.source, "source")
    history = {"source": task.name, "seed": seed}
    ensemble = Ensemble(architecture, second.weights, task.classes, settings.lineage, history)
    return ensemble, Ledger([*first.entries(), *second.entries()])


def _initial(architecture: Architecture, backbone: Backbone, ancestors: list[int], seed: int) -> list[Start]:
    """Return where ancestors start: at random, or at the pretrained encoder with a random head."""
    starts = [
        Start(index, architecture.initial(derive(seed, "initial", index)), derive(seed, "ancestor", index))
        for index in ancestors
    ]
    if not backbone.has_weights:
        return starts
    with settings_under("backbone"):
        encoder: Weights = backbone.pretrained_encoder(architecture)
    heads = [architecture.fresh_head(derive(seed, "initial head", index)) for index in ancestors]
    return [
        replace(start, weights=joined(encoder=encoder, head=head)) for start, head in zip(starts, heads, strict=True)
    ]
