"""Folders of images: a user's own data."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.tasks.images import fit, require_shape
from ensemble_transfer.tasks.source import Collection, Source, existing_folder
from ensemble_transfer.tasks.task import Split, Task

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
SPLITS = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
"""Names that split folders go by."""

BROKEN = (
    OSError,  # truncated, empty, unreadable, dangling link
    SyntaxError,  # Pillow's word for a broken PNG
    ValueError,
    EOFError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageFolder(Source):
    """A folder with one folder of images for each class, or train, validation and test folders of these.

    Class folders may be nested and hold links; hidden files and other files are passed over. Images of any
    size and mode are decoded once: turned upright by their EXIF tag, the largest centred square scaled to the
    image size, transparency on white. They are read in the order of their names.

    Args:
        path: The folder.
        broken: What to do about images that cannot be read: stop (``error``) or leave them out with a warning
            (``skip``).

    Raises:
        SettingError: ``broken`` is neither.
    """

    path: str
    broken: str = "error"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.broken in ("error", "skip"), "broken", self.broken, "must be error or skip")

    def load(self, image_size: int, channels: int) -> Task:
        """Return the task; see :class:`~ensemble_transfer.tasks.task.TaskSource`."""
        require_shape(image_size, channels)
        root = existing_folder(self.path)
        files = {split: _files_by_class(folder) for split, folder in _split_folders(root).items()}
        classes = tuple(files["train"])
        self._require_classes(files, classes)
        splits = {split: self._read(found, classes, image_size, channels) for split, found in files.items()}
        return self._make_task(root.resolve().name, Collection(classes, **splits), image_size, channels)

    def _require_classes(self, files: Mapping[str, Mapping[str, list[Path]]], classes: Sequence[str]) -> None:
        rule = "must hold two or more folders of images, one for each class"
        require(len(classes) > 0, "path", self.path, rule)
        require(len(classes) > 1, "path", self.path, f"{rule}; it holds only {classes[0]!r}")
        for split, found in files.items():
            for name, paths in found.items():
                known = f"its {split} folder has the class {name!r}, which the train folder lacks"
                require(name in classes, "path", self.path, known)
                empty = f"its class folder {name!r} ({split}) holds no image ({', '.join(SUFFIXES)})"
                require(bool(paths), "path", self.path, empty)

    def _read(self, found: Mapping[str, list[Path]], classes: Sequence[str], size: int, channels: int) -> Split:
        paths = [path for files in found.values() for path in files]
        labels = torch.tensor([classes.index(name) for name, files in found.items() for _ in files])
        images, broken = read_images(paths, size, channels)
        if broken:
            self._report({paths[place]: reason for place, reason in broken.items()})
        whole = torch.tensor([place not in broken for place in range(len(paths))])
        require(bool(whole.any()), "path", self.path, "holds no image that can be read")
        return Split(images[whole], labels[whole])

    def _report(self, broken: Mapping[Path, str]) -> None:
        root = Path(self.path).expanduser()
        lines = [f"{path.relative_to(root)} ({reason})" for path, reason in broken.items()]
        shown = ", ".join(lines[:10]) + (f" and {len(lines) - 10} more" if len(lines) > 10 else "")
        if self.broken == "error":
            rule = f"images that cannot be read: {shown}; repair or remove them, or set broken=skip"
            raise SettingError("path", self.path, rule)
        log.warning("%s: left out %d images that cannot be read: %s", self.path, len(lines), shown)


def read_images(paths: Sequence[Path], image_size: int, channels: int) -> tuple[Tensor, dict[int, str]]:
    """Decode image files.

    Returns:
        Images, (len(paths), channels, image_size, image_size) uint8, black where a file is broken; and what
        is wrong with every broken file, by position.
    """
    images = torch.zeros(len(paths), channels, image_size, image_size, dtype=torch.uint8)
    broken = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for place, path in enumerate(paths):
            try:
                images[place] = _read_image(path, image_size, channels)
            except BROKEN as error:
                broken[place] = _reason(path, error)
    return images, broken


def _read_image(path: Path, image_size: int, channels: int) -> Tensor:
    with Image.open(path) as image:
        # JPEGs decode faster at 1/2, 1/4 or 1/8 of their size; twice the image size leaves room to filter.
        image.draft(None, (2 * image_size, 2 * image_size))
        return fit(ImageOps.exif_transpose(image), image_size, channels)


def _reason(path: Path, error: BaseException) -> str:
    if not path.exists():
        return "a link to nothing"
    if path.stat().st_size == 0:
        return "an empty file"
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"more than {Image.MAX_IMAGE_PIXELS} pixels"
    return str(error).partition("\n")[0]


def _split_folders(root: Path) -> dict[str, Path]:
    """Map split names to folders; a folder without splits is all ``train``."""
    folders = {folder.name: folder for folder in _visible(root) if folder.is_dir()}
    known = {name: folder for name, folder in folders.items() if name in SPLITS}
    if not known or (len(known) == 1 < len(folders)):
        return {"train": root}
    require("train" in known, "path", str(root), f"must hold a train folder beside {', '.join(known)}")
    splits = {SPLITS[name]: folder for name, folder in known.items()}
    require(len(splits) == len(known), "path", str(root), f"must hold one validation folder: {', '.join(known)}")
    others = sorted(folders.keys() - known.keys())
    if others:
        log.warning("%s: passed over the folders beside train and test: %s", root, ", ".join(others))
    return splits


def _files_by_class(folder: Path) -> dict[str, list[Path]]:
    return {entry.name: list(_image_files(entry)) for entry in _visible(folder) if entry.is_dir()}


def _image_files(folder: Path) -> Iterator[Path]:
    for entry in _visible(folder):
        # A link to a folder above would lead round in circles.
        if entry.is_dir() and not folder.resolve().is_relative_to(entry.resolve()):
            yield from _image_files(entry)
        elif entry.suffix.lower() in SUFFIXES:
            yield entry


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
