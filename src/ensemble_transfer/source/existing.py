"""Members that exist already: files of a timm architecture, or ensembles that this package saved."""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.layout import DESCRIPTION, ENSEMBLE
from ensemble_transfer.models.architecture import Architecture
from ensemble_transfer.models.backbone import Backbone
from ensemble_transfer.models.description import read_description
from ensemble_transfer.models.ensemble import FINE_TUNED, Ensemble, Network, probabilities
from ensemble_transfer.models.sizes import encoder_at
from ensemble_transfer.tasks.task import Split, Task
from ensemble_transfer.weights import Weights, below, fingerprint, joined

log = logging.getLogger(__name__)

NO_BETTER = (
    "is no better than chance on the source's validation images: it gets a new one; if that is a surprise, "
    "dataset.image_size, backbone.mean or backbone.std may be others than in training"
)


@dataclass(frozen=True)
class ExistingMember:
    """A member that exists already.

    Attributes:
        encoder: Its encoder's weights.
        head: Its head's weights; None if it has no head for the classes of the source task, or if there is none.
        lineage: Lineage of the saved ensemble that it comes from, as its members are now; empty for a file.
    """

    encoder: Weights
    head: Weights | None
    lineage: str = ""


def architecture_for(backbone: Backbone, task: Task) -> Architecture:
    """Return the architecture of members for a task's images and classes."""
    channels, size = task.train.images.shape[1], task.train.images.shape[-1]
    return backbone.architecture(size, channels, len(task.classes))


def count_members(paths: Sequence[str]) -> int:
    """Return how many members files and folders hold, of which no weights are read.

    A folder that holds no ensemble counts as one member: what is wrong with it is said where it is read.

    Raises:
        SettingError: If a path is missing.
    """
    number = 0
    for where in map(_found, paths):
        try:
            number += len(read_description(where / DESCRIPTION)["members"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            number += 1
    return number


def member_files(paths: Sequence[str]) -> list[Path]:
    """Return the files that tell given members from others: theirs, or the description of an ensemble.

    Raises:
        SettingError: If a path is missing.
    """
    return [where / DESCRIPTION if where.is_dir() else where for where in map(_found, paths)]


def _found(path: str) -> Path:
    """Return the file, or the folder of the ensemble: that in a run's folder, or the folder itself.

    Raises:
        SettingError: If there is neither.
    """
    where = Path(path).expanduser()
    require(where.exists(), "members", path, "is no file or folder")
    return where / ENSEMBLE if (where / ENSEMBLE).is_dir() else where


def read_members(
    paths: Sequence[str],
    backbone: Backbone,
    architecture: Architecture,
    task: Task | None = None,
    device: torch.device | str = "cpu",
) -> list[ExistingMember]:
    """Read members, in the order of the paths; a warning says if some are copies of others.

    Args:
        paths: Files of the backbone's encoder, with timm's names of tensors or ours, or folders of saved ensembles or
            of runs.
        backbone: The encoder that files must fit, strictly.
        architecture: Of the members.
        task: The source task. A saved ensemble of the same classes keeps its heads. So does a file whose head has as
            many outputs, if it is better than chance on the validation images: a file does not name its classes. None:
            there is no source task, and no member keeps a head.
        device: Where heads are tried.

    Raises:
        SettingError: If a path is missing, or what it holds does not fit the backbone; the path is named.
    """
    members = [member for path in paths for member in _read(path, backbone, architecture, task, device)]
    different = len({fingerprint(member.encoder) for member in members})
    if 1 < different < len(members):
        log.warning("the %d given members are %d encoders: the others are copies of them", len(members), different)
    return members


def _read(
    path: str, backbone: Backbone, architecture: Architecture, task: Task | None, device: torch.device | str
) -> Iterator[ExistingMember]:
    where = _found(path)
    if where.is_dir():
        yield from _read_ensemble(where, path, architecture, task.classes if task else ())
        return
    try:
        alone = replace(backbone, pretrained=False, checkpoint=str(where))
        encoder, head = alone.pretrained_parts(architecture)
    except SettingError as error:
        raise SettingError("members", path, error.rule) from error
    if task is None or head is None:
        yield ExistingMember(encoder, None)
        return
    knows = _beats_chance(architecture, joined(encoder=encoder, head=head), task.validation, device)
    level, told = (logging.INFO, "is kept") if knows else (logging.WARNING, NO_BETTER)
    log.log(level, "%s: its head of %d classes %s", path, architecture.classes, told)
    yield ExistingMember(encoder, head if knows else None)


def _beats_chance(architecture: Architecture, weights: Weights, validation: Split, device: torch.device | str) -> bool:
    """Return whether a member is right more often than the most frequent class is, by two standard errors."""
    [predicted] = probabilities(Network(architecture.classifier(weights)), validation.images, device)
    right = float((predicted.argmax(-1) == validation.labels).double().mean())
    chance = float(torch.bincount(validation.labels).max()) / len(validation)
    return right > chance + 2 * math.sqrt(chance * (1 - chance) / len(validation))


def _read_ensemble(
    folder: Path, path: str, architecture: Architecture, classes: Sequence[str]
) -> Iterator[ExistingMember]:
    try:
        saved = Ensemble.load(folder)
    except SettingError as error:
        raise SettingError("members", path, f"holds no usable ensemble: {error}") from error
    same = replace(saved.architecture, classes=architecture.classes)
    rule = f"is an ensemble of another architecture ({_words(same)}) than this run's ({_words(architecture)})"
    require(same == architecture, "members", path, rule)
    same_encoder = len({fingerprint(below(member, "encoder")) for member in saved.members}) == 1
    lineage = saved.lineage if same_encoder else FINE_TUNED.get(saved.lineage, saved.lineage)
    keeps = set(saved.classes) == set(classes)
    order = [saved.classes.index(name) for name in classes] if keeps else []
    for index, member in enumerate(saved.members):
        encoder = encoder_at(below(member, "encoder"), saved.architecture_of(index), architecture.image_size)
        head = {name: tensor[order] for name, tensor in below(member, "head").items()} if keeps else None
        yield ExistingMember(encoder, head, lineage)


def _words(architecture: Architecture) -> str:
    plain = architecture.plain()
    plain.pop("classes")
    return ", ".join(f"{name}={value}" for name, value in plain.items())
