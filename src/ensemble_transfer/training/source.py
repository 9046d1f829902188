"""The source ensemble: members of one lineage, trained on the source task."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ensemble_transfer.errors import SettingError, require, settings_under
from ensemble_transfer.layout import DESCRIPTION
from ensemble_transfer.models.backbone import Architecture, Backbone
from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.seeding import derive
from ensemble_transfer.tasks.task import Task
from ensemble_transfer.training.cost import Entry, Ledger
from ensemble_transfer.training.fit import Fits, Fitter, Start
from ensemble_transfer.training.given import read_members
from ensemble_transfer.training.recipe import Recipes
from ensemble_transfer.training.store import Store
from ensemble_transfer.weights import Weights, joined

log = logging.getLogger(__name__)

LINEAGES = ("shared", "snapshot", "independent")


@dataclass(frozen=True)
class EnsembleSettings:
    """How many members there are, and what they have in common.

    Attributes:
        size: Number of members.
        lineage: ``shared`` members are trained apart from one ancestor, ``snapshot`` ones one after another, each from
            the one before (Huang et al. 2017, arXiv 1704.00109), ``independent`` ones from random starts of their own
            (or from the backbone's pretrained weights with heads of their own).
        fork: Of shared and snapshot members, the share of a member's steps that its ancestor takes, below 1; null for
            what the recipes ``ancestor`` and ``source`` say. The two recipes' steps are divided anew, their sum stays.
        members: Weights of members that exist, instead of training: ``.safetensors`` or ``.pt`` files of the backbone's
            timm architecture, or folders of runs or ensembles that were saved here. They are the last members; where
            ``size`` is larger, those before them are trained. Their lineage is what ``lineage`` says, but for a single
            folder that makes up the whole ensemble, which says it itself.
    """

    size: int = 8
    lineage: str = "shared"
    fork: float | None = None
    members: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        require(self.size > 0, "size", self.size, "must be at least 1")
        require(self.lineage in LINEAGES, "lineage", self.lineage, f"must be one of {', '.join(LINEAGES)}")
        if self.fork is not None:
            require(0 <= self.fork < 1, "fork", self.fork, "must be in [0, 1), or null for what the recipes say")
            apart = self.lineage == "independent"
            require(not apart, "fork", self.fork, "must be null: independent members have no common ancestor")
            alone = bool(self.members) and len(self.members) >= self.size
            require(not alone, "fork", self.fork, "must be null: members that exist are not trained")


def train_source(
    settings: EnsembleSettings,
    backbone: Backbone,
    task: Task,
    seed: int = 0,
    recipes: Recipes = Recipes(),  # noqa: B008  # frozen
    fitter: Fitter = Fitter(),  # noqa: B008  # frozen
) -> tuple[Ensemble, Ledger]:
    """Train an ensemble on the source task and return it with what it cost.

    Every member goes through the recipes ``ancestor`` and ``source``; of a shared or snapshot lineage, all go through
    the first as one. So the lineages differ in nothing but what members share, and a larger ensemble contains the
    smaller. Members that are given are not trained; only those without a head for the task get one, on frozen features.

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
    given = _given(settings, backbone, architecture, task, seed, recipes, fitter)
    if len(given.weights) == settings.size:
        lineage = given.lineage or settings.lineage
        return _ensemble(lineage, architecture, given.weights, task, seed), Ledger([*given.entries])
    recipes = _forked(recipes, settings.fork)
    members = range(settings.size - len(given.weights))
    ancestors = list(members) if settings.lineage == "independent" else [0]
    starts = _initial(architecture, backbone, ancestors, seed)
    first = fitter.fit(architecture, starts, task.train, recipes.ancestor, "ancestor")
    apart = [
        Start(member, first.weights[member % len(ancestors)], derive(seed, "source", member)) for member in members
    ]
    if settings.lineage == "snapshot":
        second = _one_after_another(architecture, apart, task, recipes, fitter)
    else:
        second = [fitter.fit(architecture, apart, task.train, recipes.source, "source")]
    trained = [weights for fits in second for weights in fits.weights]
    ensemble = _ensemble(settings.lineage, architecture, [*trained, *given.weights], task, seed)
    return ensemble, Ledger([*(entry for fits in (first, *second) for entry in fits.entries()), *given.entries])


def keep_source(ensemble: Ensemble, store: Store) -> Path | None:
    """Keep a source ensemble in the store, for all runs that start from it.

    A copy that is damaged is written again.

    Returns:
        The ensemble's folder, if it was written now. None if it was there and intact, or if the store cannot be
        written: no run needs this copy.
    """
    folder = store.ensemble(ensemble.fingerprint)
    if (folder / DESCRIPTION).exists():
        try:
            if Ensemble.load(folder).fingerprint == ensemble.fingerprint:
                return None
            log.warning("%s is damaged (it holds another ensemble); it is written again", folder)
        except SettingError as error:
            log.warning("%s is damaged (%s); it is written again", folder, error)
    try:
        with store.locked([folder.name]):
            ensemble.save(folder)
    except SettingError as error:
        log.info("the source ensemble is not kept: %s", error)
        return None
    return folder


def _one_after_another(
    architecture: Architecture, starts: Sequence[Start], task: Task, recipes: Recipes, fitter: Fitter
) -> list[Fits]:
    """Train members in turn, each from where the one before ended: one run with a cyclic learning rate."""
    done: list[Fits] = []
    for start in starts:
        here = replace(start, weights=done[-1].weights[0]) if done else start
        done.append(fitter.fit(architecture, [here], task.train, recipes.source, "source"))
    return done


def _forked(recipes: Recipes, fork: float | None) -> Recipes:
    """Return the recipes with their steps divided between ancestor and members."""
    if fork is None:
        return recipes
    steps = recipes.ancestor.steps + recipes.source.steps
    common = round(fork * steps)
    return replace(
        recipes, ancestor=replace(recipes.ancestor, steps=common), source=replace(recipes.source, steps=steps - common)
    )


@dataclass(frozen=True)
class _Given:
    """Members that exist, what the heads that some lacked have cost, and the lineage that a single folder states."""

    weights: Sequence[Weights] = ()
    entries: Sequence[Entry] = ()
    lineage: str | None = None


def _given(
    settings: EnsembleSettings,
    backbone: Backbone,
    architecture: Architecture,
    task: Task,
    seed: int,
    recipes: Recipes,
    fitter: Fitter,
) -> _Given:
    """Return the members that exist; those without a head for the task get one, on frozen features."""
    if not settings.members:
        return _Given()
    with settings_under("ensemble"):
        found = read_members(settings.members, backbone, architecture, task.classes)
        rule = f"must be {len(found)} or more, as many as ensemble.members names"
        require(settings.size >= len(found), "size", settings.size, rule)
    indexed = dict(enumerate(found, start=settings.size - len(found)))
    starts = [
        Start(
            member,
            joined(encoder=given.encoder, head=architecture.fresh_head(derive(seed, "initial head", member))),
            derive(seed, "source head", member),
        )
        for member, given in indexed.items()
        if given.head is None
    ]
    heads = fitter.fit_heads(architecture, starts, task.train, recipes.head, "source head")
    probed = dict(zip(heads.members, heads.weights, strict=True))
    weights: list[Weights] = [
        probed[member] if given.head is None else joined(encoder=given.encoder, head=given.head)
        for member, given in indexed.items()
    ]
    return _Given(weights, heads.entries(), found[0].lineage if len(settings.members) == 1 else None)


def _ensemble(lineage: str, architecture: Architecture, members: Sequence[Weights], task: Task, seed: int) -> Ensemble:
    return Ensemble(architecture, tuple(members), task.classes, lineage, {"source": task.name, "seed": seed})


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
