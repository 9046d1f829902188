"""The members before a transfer where there is no source task: copies of one encoder, or given ones."""

import logging
from collections.abc import Sequence

import torch

from ensemble_transfer.errors import require, settings_under
from ensemble_transfer.models.backbone import Backbone
from ensemble_transfer.models.ensemble import COPIES, UNTRAINED, Ensemble
from ensemble_transfer.seeding import derive
from ensemble_transfer.source.existing import architecture_for, count_members, read_members
from ensemble_transfer.source.train import MIXED, EnsembleSettings
from ensemble_transfer.tasks.task import Task
from ensemble_transfer.weights import Weights, below, fingerprint, joined

log = logging.getLogger(__name__)


def lineage_alone(settings: EnsembleSettings, backbone: Backbone) -> str:
    """Return the lineage of the members without a source task.

    Raises:
        SettingError: If a setting says how members are trained on a source task.
    """
    given = bool(settings.members or settings.added)
    no_task = "there is no source task to train members on (dataset.source=null)"
    require(settings.fork is None, "fork", settings.fork, f"must be null: {no_task}")
    known = settings.lineage == "shared" or (given and settings.lineage != MIXED)
    require(known, "lineage", settings.lineage, f"must be left out: {no_task}")
    if not given:
        return COPIES if backbone.has_weights else UNTRAINED
    number = count_members([*settings.members, *settings.added])
    require(settings.count == number, "size", settings.size, f"is more than the {number} given members, and {no_task}")
    return settings.lineage


def members_alone(settings: EnsembleSettings, backbone: Backbone, target: Task, seed: int = 0) -> Ensemble:
    """Return the members before a transfer that has no source task.

    They are the given ones, or copies of the backbone's pretrained encoder, or, where it has no weights, random starts
    of their own. Their heads are zero, and nobody uses them: every member gets a head of its own on the target.

    Args:
        settings: Size, and given members.
        backbone: The members' encoder, and what it starts from.
        target: The target task, for the shape of the images and the names of the classes.
        seed: Seed of random starts.

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
        if len(encoders) > 1 and len({fingerprint(encoder) for encoder in encoders}) == 1:
            lineage = COPIES
    elif lineage == COPIES:
        with settings_under("backbone"):
            encoders = [backbone.pretrained_encoder(architecture)] * settings.count
        log.info("%d members, all copies of the pretrained %s", settings.count, backbone.name)
    else:
        starts = (architecture.initial(derive(seed, "initial", member)) for member in range(settings.count))
        encoders = [below(start, "encoder") for start in starts]
        log.info("%s starts from random weights: neither a source task nor pretrained weights are given", backbone.name)
    head = {name: torch.zeros_like(tensor) for name, tensor in architecture.fresh_head(0).items()}
    members = tuple(joined(encoder=encoder, head=head) for encoder in encoders)
    return Ensemble(architecture, members, target.classes, lineage, {"seed": seed})
