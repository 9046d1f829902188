"""Tasks from the Hugging Face hub, read with the library ``datasets`` (extra ``hf``)."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from io import BytesIO
from pathlib import Path
from textwrap import shorten
from typing import Any, ClassVar

from PIL import Image

from ensemble_transfer.errors import require
from ensemble_transfer.machine import offline_unless_the_hub_answers
from ensemble_transfer.tasks.loader import SPLITS
from ensemble_transfer.tasks.picture_loader import Labelled, PictureLoader
from ensemble_transfer.tasks.pictures import Pictures

Part = Any
"""A ``datasets.Dataset``; its type is known only where the library is installed."""

OURS = ("train", "validation", "test")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HuggingFace(PictureLoader):
    """A data set of the Hugging Face hub, or a folder that ``save_to_disk`` wrote. No code of the data set is executed.

    Args:
        name: Name on the hub (``uoft-cs/cifar10``), or the folder.
        config: Configuration of the data set; None if it has only one.
        image: Column of the images; None if only one column holds images.
        label: Column of the labels; None if only one column holds class labels.
        splits: Names of its splits by ours, such as ``{test: validation}``. Empty: those named train, validation, test.
    """

    _setting: ClassVar[str] = "name"

    name: str
    config: str | None = None
    image: str | None = None
    label: str | None = None
    splits: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = not self.splits or ("train" in self.splits and set(self.splits) <= set(OURS))
        require(fits, "splits", self.splits, "must have the keys train, and perhaps validation and test")

    def _find(self) -> Labelled:
        try:
            library: Any = import_module("datasets")
        except ImportError as error:
            raise self._refuse(f"needs a library: pip install 'datasets>=4' ({error})") from error
        if not hasattr(library, "load_dataset"):  # a folder of that name where Python runs is a module too
            raise self._refuse("needs a library: pip install 'datasets>=4' (datasets is a folder here)")
        parts = self._chosen(self._read(library))
        features = parts["train"].features
        image = self._column("image", features, library.Image)
        classes, labels = self._labels(parts, self._column("label", features, library.ClassLabel))
        pictures = _pictures(library, {ours: parts[ours] for ours in labels}, image)
        return Labelled(Path(self.name).name, classes, pictures, labels)

    def _read(self, library: Any) -> Mapping[str, Part]:  # noqa: ANN401
        """Return the data set's splits by their own names."""
        folder = Path(self.name).expanduser()
        try:
            if folder.is_dir():
                found = library.load_from_disk(str(folder))
            else:
                with offline_unless_the_hub_answers(library.config):
                    found = library.load_dataset(self.name, self.config)
        except Exception as error:  # it raises anything: of pyarrow, httpx, fsspec, its own
            rule = "is not a folder that save_to_disk wrote" if folder.is_dir() else "cannot be had from the hub"
            raise self._refuse(f"{rule} ({shorten(str(error), 240)})") from error
        return found if isinstance(found, dict) else {"train": found}

    def _chosen(self, found: Mapping[str, Part]) -> dict[str, Part]:
        """Return the splits by our names."""
        for theirs in self.splits.values():
            require(theirs in found, "splits", self.splits, f"names {theirs!r}; the data set has {', '.join(found)}")
        known = {theirs: SPLITS.get(theirs.casefold()) for theirs in reversed([*found])}
        wanted = self.splits or {ours: theirs for theirs, ours in known.items() if ours}
        if "train" not in wanted:
            raise self._refuse(f"has no split train: set splits={{train:NAME}}; it has {', '.join(found)}")
        return {ours: found[wanted[ours]] for ours in OURS if ours in wanted}

    def _column(self, what: str, features: Mapping[str, Any], kind: type) -> str:
        """Return the column of the images or of the labels: the one given, or the only one of its kind."""
        given = getattr(self, what)
        fitting = [name for name, feature in features.items() if isinstance(feature, kind)]
        allowed = fitting if what == "image" else [*features]
        if given is not None:
            require(given in allowed, what, given, f"must be one of the columns {', '.join(allowed)}")
            return str(given)
        if len(fitting) != 1:
            many = ", ".join(fitting or features)
            raise self._refuse(f"has {len(fitting)} columns of the kind {what}: set {what}=COLUMN to one of {many}")
        return fitting[0]

    def _labels(self, parts: Mapping[str, Part], column: str) -> tuple[tuple[str, ...], dict[str, list[int]]]:
        """Return the names of the classes, and the labels of every split that has labels."""
        values = {ours: part.select_columns([column])[:][column] for ours, part in parts.items()}
        names = getattr(parts["train"].features[column], "names", None)
        known = list(range(len(names))) if names else sorted({v for v in values["train"] if v is not None})
        require(len(known) > 1, "name", self.name, f"must have two or more classes in {column}; it has {known}")
        positions, labels = {value: place for place, value in enumerate(known)}, {}
        for ours, found in values.items():
            missing = set(found) - set(known)
            if ours != "train" and set(found) <= {None, -1}:
                log.warning("%s: left out its %s split, which has no labels", self.name, ours)
                continue
            rule = f"its {ours} split has labels that are no class of train: {sorted(map(str, missing))[:5]}"
            require(not missing, "name", self.name, rule)
            labels[ours] = [positions[value] for value in found]
        return tuple(map(str, names or known)), labels


def _pictures(library: Any, parts: Mapping[str, Part], column: str) -> Pictures:  # noqa: ANN401
    """Return the encoded images of a data set's splits, one after another."""
    identity = repr([(part._fingerprint, len(part), column) for part in parts.values()])
    alone = library.concatenate_datasets([part.select_columns([column]) for part in parts.values()])
    rows = alone.cast_column(column, library.Image(decode=False))

    def opened(place: int) -> Image.Image:
        image = rows[place][column]
        if not image or not (image["bytes"] or image["path"]):
            raise OSError("no image")
        return Image.open(BytesIO(image["bytes"]) if image["bytes"] else image["path"])

    names = [f"{ours}[{row}]" for ours, part in parts.items() for row in range(len(part))]
    return Pictures(names, opened, lambda: identity)
