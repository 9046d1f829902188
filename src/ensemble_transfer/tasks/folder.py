"""Tasks from folders of images."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.tasks.images import require_shape
from ensemble_transfer.tasks.loader import SPLITS, existing_folder
from ensemble_transfer.tasks.picture_loader import Listed, PictureLoader
from ensemble_transfer.tasks.task import Task, is_text

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageFolder(PictureLoader):
    """A folder with one folder of images per class, or with train, validation and test folders of such folders.

    Class folders may contain folders and links. Hidden files, and files that are not images, are ignored. Images of any
    size and mode are decoded once: they are turned upright by their EXIF tag, transparent pixels become white, and the
    largest centred square is scaled to the image size. They are read in the order of their names.

    Args:
        path: The folder.
    """

    path: str

    def load(self, image_size: int, channels: int) -> Task:
        """Return the task; see :class:`~ensemble_transfer.tasks.task.Loader`."""
        require_shape(image_size, channels)
        try:
            root = existing_folder(self.path)
            files = {
                split: {entry.name: list(image_files(entry)) for entry in _visible(folder) if entry.is_dir()}
                for split, folder in _split_folders(root).items()
            }
        except OSError as error:
            raise SettingError("path", self.path, f"cannot be read: {error.strerror} ({error.filename})") from error
        classes = tuple(files["train"])
        self._require_classes(files, classes)
        listed = {
            split: [Listed(path, str(path.relative_to(root)), name) for name, paths in found.items() for path in paths]
            for split, found in files.items()
        }
        return self._task_of_files(root.resolve().name, listed, classes, image_size, channels)

    def _require_classes(self, files: Mapping[str, Mapping[str, list[Path]]], classes: Sequence[str]) -> None:
        rule = "must hold two or more folders of images, one for each class"
        require(len(classes) > 0, "path", self.path, rule)
        self._require_text(Path(self.path).expanduser().resolve().name, "the folder")
        require(len(classes) > 1, "path", self.path, f"{rule}; it holds only {classes[0]!r}")
        for split, found in files.items():
            for name, paths in found.items():
                self._require_text(name, f"its class folder ({split})")
                known = f"its {split} folder has the class {name!r}, which the train folder lacks"
                require(name in classes, "path", self.path, known)
                empty = f"its class folder {name!r} ({split}) holds no image ({', '.join(SUFFIXES)})"
                require(bool(paths), "path", self.path, empty)

    def _require_text(self, name: str, what: str) -> None:
        hint = "rename it; or, if your names are fine, the locale is not UTF-8: set PYTHONUTF8=1"
        require(is_text(name), "path", self.path, f"{what} has a name that is not UTF-8, {name!a}: {hint}")


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


def image_files(folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Yield the image files of a folder and of all folders below it, sorted, without hidden ones.

    Args:
        folder: Where to search.
        above: Resolved folders that are not entered again, as a link might lead to them.
    """
    here = folder.resolve()
    above |= {here, *here.parents}
    for entry in _visible(folder):
        if not entry.is_dir():
            if entry.suffix.lower() in SUFFIXES:
                yield entry
        elif entry.resolve() not in above:  # a link may lead back up
            yield from image_files(entry, above)


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
