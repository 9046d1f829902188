"""The members before a transfer: trained on the source task, given, or without that task copies of one encoder."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from ensemble_transfer.errors import SettingError, require, settings_under
from ensemble_transfer.layout import DESCRIPTION, make_below
from ensemble_transfer.models.architecture import Architecture
from ensemble_transfer.models.backbone import Backbone
from ensemble_transfer.models.ensemble import COPIES, Ensemble
from ensemble_transfer.seeding import derive
from ensemble_transfer.source.existing import architecture_for, count_members, read_members
from ensemble_transfer.source.settings import MIXED, EnsembleSettings, lineage_alone
from ensemble_transfer.tasks.task import Task
from ensemble_transfer.training.cost import Entry, Ledger
from ensemble_transfer.training.fit import Fits, Fitter, Start
from ensemble_transfer.training.recipe import Recipe, Recipes
from ensemble_transfer.training.store import Store
from ensemble_transfer.weights import Weights, below, fingerprint, joined

log = logging.getLogger(__name__)


def train_source(
    settings: EnsembleSettings,
    backbone: Backbone,
    task: Task,
    seed: int = 0,
    recipes: Recipes = Recipes(),  # noqa: B008  # frozen
    fitter: Fitter = Fitter(),  # noqa: B008  # frozen
) -> tuple[Ensemble, Ledger]:
    """Train an ensemble on the source task and return it with what it cost.

    Every member is trained by the recipes ``ancestor`` and ``source``; in a shared or snapshot lineage all members have
    one ancestor. So lineages differ only in what members share, and a larger ensemble contains the smaller. Members
    that exist already are not trained; those without a head for the task get one, on frozen features.

    Args:
        settings: Size and lineage.
        backbone: The members' encoder, and what it starts from.
        task: The source task.
        seed: Of all that is random.
        recipes: What the fits may spend.
        fitter: Where and how they are computed and remembered.
    """
    with settings_under("ensemble"):
        settings.check(backbone)
    training = _SourceTraining(settings, backbone, task, seed, _forked(recipes, settings.fork), fitter)
    given, entries, lineage = training.existing_members(settings.members, 0)
    added, more, _ = training.existing_members(settings.added, settings.count - count_members(settings.added))
    number, trained = settings.count - len(given) - len(added), list[Weights]()
    entries, fits = [*entries, *more], list[Fits]()
    if number:
        fits, lineage = training.trained_members(number, len(given)), MIXED if given or added else settings.lineage
        trained = [weights for fit in fits[1:] for weights in fit.weights]
    elif added or not lineage:
        lineage = settings.lineage
    members, history = (*given, *trained, *added), {"source": task.name, "seed": seed}
    lineage = COPIES if _are_copies([below(member, "encoder") for member in members]) else lineage
    ensemble = Ensemble(training.architecture, members, task.classes, lineage, history)
    return ensemble, Ledger([*(entry for fit in fits for entry in fit.entries()), *entries])


def keep_source(ensemble: Ensemble, store: Store) -> Path | None:
    """Keep a source ensemble in the store, for all runs that start from it.

    A copy that is damaged, or has other classes or another normalisation, is written again.

    Returns:
        The ensemble's folder, if it was written now. None if it was there and intact, or if the store cannot be
        written: no run needs this copy.
    """
    folder = store.ensemble(ensemble.fingerprint)
    try:
        if (folder / DESCRIPTION).exists():
            try:
                kept = Ensemble.load(folder)
                if kept.fingerprint != ensemble.fingerprint:
                    log.warning("%s is damaged (it holds another ensemble); it is written again", folder)
                elif (kept.architecture, kept.classes) == (ensemble.architecture, ensemble.classes):
                    return None
            except SettingError as error:
                log.warning("%s is damaged (%s); it is written again", folder, error)
        with store.locked([folder.name]):
            make_below(store.root, folder)
            ensemble.save(folder)
    except (SettingError, OSError) as error:
        log.info("the source ensemble is not kept: %s", error)
        return None
    return folder


def _forked(recipes: Recipes, fork: float | None) -> Recipes:
    """Return the recipes with their steps divided between ancestor and members, of which the members take some."""
    if fork is None:
        return recipes
    steps = recipes.ancestor.steps + recipes.source.steps
    common = round(fork * steps)
    rule = f"leaves members none of the {steps} steps of recipe.ancestor and recipe.source"
    require(common < steps or not steps, "ensemble.fork", fork, rule)
    return replace(
        recipes, ancestor=replace(recipes.ancestor, steps=common), source=replace(recipes.source, steps=steps - common)
    )


@dataclass(frozen=True)
class _SourceTraining:
    """The arguments of :func:`train_source`, and the steps that it takes with them."""

    settings: EnsembleSettings
    backbone: Backbone
    task: Task
    seed: int
    recipes: Recipes
    fitter: Fitter

    @cached_property
    def architecture(self) -> Architecture:
        return architecture_for(self.backbone, self.task)

    def existing_members(self, paths: Sequence[str], first: int) -> tuple[list[Weights], list[Entry], str]:
        """Return members that exist, from the index ``first`` on; those without a head get one, on frozen features.

        Returns:
            Their weights, the cost of the heads that some lacked, and the lineage of the saved ensemble that they all
            come from; empty if they come from several places or none.
        """
        if not paths:
            return [], [], ""
        with settings_under("ensemble"):
            found = read_members(paths, self.backbone, self.architecture, self.task, self.fitter.settings.device)
        starts = [
            Start(
                member,
                joined(encoder=existing.encoder, head=self._head(member)),
                derive(self.seed, "source head", member),
            )
            for member, existing in enumerate(found, first)
            if existing.head is None
        ]
        heads = self._fit(starts, self.recipes.head, "source head", heads=True)
        probed = iter(heads.weights)
        weights = [next(probed) if m.head is None else joined(encoder=m.encoder, head=m.head) for m in found]
        return weights, heads.entries(), found[0].lineage if len(paths) == 1 else ""

    def trained_members(self, number: int, first: int) -> list[Fits]:
        """Return the fits of the ancestors, and then those of so many members, whose indices begin with ``first``."""
        if first:
            log.info("%d given, %d to be trained", first, number)
        ancestors = range(number) if self.settings.lineage == "independent" else range(1)
        starts = [
            Start(first + index, weights, derive(self.seed, "ancestor", index))
            for index, weights in zip(ancestors, self._initial(ancestors), strict=True)
        ]
        done = [self._fit(starts, self.recipes.ancestor, "ancestor")]
        apart = [
            Start(first + index, done[0].weights[index % len(ancestors)], derive(self.seed, "source", index))
            for index in range(number)
        ]
        if self.settings.lineage != "snapshot":
            return [*done, self._fit(apart, self.recipes.source, "source")]
        for start in apart:  # each from where the one before ended: one run with a cyclic learning rate
            done.append(self._fit([replace(start, weights=done[-1].weights[0])], self.recipes.source, "source"))
        return done

    def _fit(self, starts: Sequence[Start], recipe: Recipe, phase: str, heads: bool = False) -> Fits:
        with self.recipes.naming(recipe, "head" if heads else phase):
            return self.fitter.fit(self.architecture, starts, self.task, recipe, phase, heads)

    def _initial(self, ancestors: Sequence[int]) -> list[Weights]:
        """Return the ancestors' initial weights: random, or the pretrained encoder with a random head."""
        if not self.backbone.has_weights:
            return [self.architecture.initial(derive(self.seed, "initial", index)) for index in ancestors]
        with settings_under("backbone"):
            encoder = self.backbone.pretrained_parts(self.architecture)[0]
        return [joined(encoder=encoder, head=self._head(index)) for index in ancestors]

    def _head(self, member: int) -> Weights:
        return self.architecture.fresh_head(derive(self.seed, "initial head", member))


def _are_copies(encoders: Sequence[Weights]) -> bool:
    return len(encoders) > 1 and len({fingerprint(encoder) for encoder in encoders}) == 1


def members_alone(settings: EnsembleSettings, backbone: Backbone, target: Task, seed: int = 0) -> Ensemble:
    """Return the members before a transfer that has no source task.

    They are the given ones, or copies of the backbone's pretrained encoder, or, where it has no weights, random starts
    of their own. Their heads are zero, and nobody uses them: every member gets a head of its own on the target.

    Raises:
        SettingError: If a setting needs a source task, or weights cannot be read.
    """
    with settings_under("ensemble"):
        lineage = lineage_alone(settings, backbone)
    architecture, paths = architecture_for(backbone, target), [*settings.members, *settings.added]
    if paths:
        with settings_under("ensemble"):
            found = read_members(paths, backbone, architecture)
        encoders: Sequence[Weights] = [member.encoder for member in found]
        lineage = (found[0].lineage or lineage) if len(paths) == 1 else lineage
        lineage = COPIES if _are_copies(encoders) else lineage
    elif lineage == COPIES:
        with settings_under("backbone"):
            encoders = [backbone.pretrained_parts(architecture)[0]] * settings.count
        log.info("members start as copies of the pretrained %s", backbone.name)
    else:
        starts = (architecture.initial(derive(seed, "initial", member)) for member in range(settings.count))
        encoders = [below(start, "encoder") for start in starts]
        log.info("%s starts from random weights: neither a source task nor pretrained weights are given", backbone.name)
    head = {name: torch.zeros_like(tensor) for name, tensor in architecture.fresh_head(0).items()}
    members = tuple(joined(encoder=encoder, head=head) for encoder in encoders)
    return Ensemble(architecture, members, target.classes, lineage, {"seed": seed})
