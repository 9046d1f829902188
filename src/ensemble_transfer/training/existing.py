"""Members that exist already: files of a timm architecture, or ensembles that this package saved."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.layout import ENSEMBLE
from ensemble_transfer.models.backbone import Architecture, Backbone
from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.weights import Weights, below


@dataclass(frozen=True)
class ExistingMember:
    """A member that exists already.

    Attributes:
        encoder: Its encoder's weights.
        head: Its head's weights; None if it has no head for the classes of the source task.
        lineage: Lineage of the saved ensemble that it comes from; empty for a file.
    """

    encoder: Weights
    head: Weights | None
    lineage: str = ""


def read_members(
    paths: Sequence[str], backbone: Backbone, architecture: Architecture, classes: Sequence[str]
) -> list[ExistingMember]:
    """Read members, in the order of the paths.

    Args:
        paths: Files of the backbone's encoder, with timm's names of tensors, or folders of saved ensembles or of runs.
        backbone: The encoder that files must fit, strictly.
        architecture: Of the members.
        classes: Of the source task; a saved ensemble of the same classes keeps its heads.

    Raises:
        SettingError: If a path is missing, or what it holds does not fit the backbone; the path is named.
    """
    return [member for path in paths for member in _read(path, backbone, architecture, classes)]


def _read(
    path: str, backbone: Backbone, architecture: Architecture, classes: Sequence[str]
) -> Iterator[ExistingMember]:
    where = Path(path).expanduser()
    require(where.exists(), "members", path, "is no file or folder")
    if where.is_dir():
        yield from _read_ensemble(where, path, architecture, classes)
        return
    try:
        alone = replace(backbone, pretrained=False, checkpoint=str(where))
        yield ExistingMember(alone.pretrained_encoder(architecture), None)
    except SettingError as error:
        raise SettingError("members", path, error.rule) from error


def _read_ensemble(
    folder: Path, path: str, architecture: Architecture, classes: Sequence[str]
) -> Iterator[ExistingMember]:
    inside = folder / ENSEMBLE
    try:
        saved = Ensemble.load(inside if inside.is_dir() else folder)
    except SettingError as error:
        raise SettingError("members", path, f"holds no usable ensemble: {error}") from error
    same = replace(saved.architecture, classes=architecture.classes)
    rule = f"is an ensemble of another architecture ({_words(same)}) than this run's ({_words(architecture)})"
    require(same == architecture, "members", path, rule)
    keeps = tuple(saved.classes) == tuple(classes)
    for member in saved.members:
        yield ExistingMember(below(member, "encoder"), below(member, "head") if keeps else None, saved.lineage)


def _words(architecture: Architecture) -> str:
    plain = architecture.plain()
    plain.pop("classes")
    return ", ".join(f"{name}={value}" for name, value in plain.items())
