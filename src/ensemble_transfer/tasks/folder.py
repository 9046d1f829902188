"""Tasks from folders of images."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ensemble_transfer.errors import require
from ensemble_transfer.tasks.inputs import files_below, visible
from ensemble_transfer.tasks.loader import SPLITS, existing_folder
from ensemble_transfer.tasks.picture_loader import Labelled, Listed, PictureLoader, labelled

_USUAL = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
SUFFIXES = (*_USUAL, ".avif", ".heic", ".heif", ".jfif", ".jpe")
"""Endings of images. Some that Pillow may not be able to read are among them: they are told, not passed over."""

_RAW = (".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".raw", ".rw2")
UNREAD = (".dcm", ".exr", ".j2k", ".jp2", ".jpx", ".jxl", ".psd", ".svg", ".tga", *_RAW)
"""Endings of pictures that are not read: how many there are is told."""

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

    def _find(self) -> Labelled:
        try:
            root = existing_folder(self.path)
            folders = _split_folders(root)
            classes = tuple(folder.name for folder in _folders(folders["train"]))
            rule = "must hold two or more folders of images, one for each class"
            require(len(classes) > 1, "path", self.path, f"{rule}; it holds {', '.join(classes) or 'none'}")
            listed = [file for split, folder in folders.items() for file in self._listed(root, split, folder, classes)]
        except OSError as error:
            raise self._refuse(f"cannot be read: {error.strerror} ({error.filename})") from error
        for split in folders.keys() - {file.split for file in listed}:
            log.warning("%s: its %s folder has no folder of a class, and is not used", root, folders[split].name)
        warn_of_unread(root)
        return labelled(root.resolve().name, classes, self._once(listed))

    def _once(self, listed: Sequence[Listed]) -> list[Listed]:
        """Return every file once: one that a link leads to again would be in training and test."""
        found: dict[tuple[int, int | str], Listed] = {}
        for file in listed:
            place: tuple[int, int | str] = (0, str(file.path))
            with suppress(OSError):  # a link that leads nowhere is told when it is opened
                stat = file.path.stat()
                place = (stat.st_dev, stat.st_ino) if stat.st_ino else place
            found.setdefault(place, file)
        if again := len(listed) - len(found):
            log.warning(
                "%s: %d of %d images are there twice, by links; each is used once", self.path, again, len(listed)
            )
        return list(found.values())

    def _listed(self, root: Path, split: str, folder: Path, classes: tuple[str, ...]) -> Iterator[Listed]:
        """Yield the images of a split's folder, class by class."""
        for of_class in _folders(folder):
            name, files = of_class.name, list(image_files(of_class))
            unknown = f"its {split} folder has the class {name!r}, which the train folder lacks"
            require(name in classes, "path", self.path, unknown)
            empty = f"its class folder {name!r} ({split}) holds no image ({', '.join(SUFFIXES)})"
            require(bool(files), "path", self.path, empty)
            yield from (Listed(path, str(path.relative_to(root)), name, split) for path in files)


def _split_folders(root: Path) -> dict[str, Path]:
    """Map split names to folders; a folder without splits is all ``train``."""
    folders = {folder.name: folder for folder in _folders(root)}
    known = {name: folder for name, folder in folders.items() if name.casefold() in SPLITS}
    if not known or (len(known) == 1 < len(folders)):
        for name, folder in known.items():
            if len(_folders(folder)) > 1:
                beside = ", ".join(sorted(folders.keys() - {name}))
                log.warning("%s: %s is taken for a class, as %s; move what is no class away", root, name, beside)
        return {"train": root}
    splits = {SPLITS[name.casefold()]: folder for name, folder in known.items()}
    alone = "train" in splits and len(splits) == len(known)
    require(alone, "path", str(root), f"must hold a train folder, and one validation folder; it has {', '.join(known)}")
    others = sorted(folders.keys() - known.keys())
    if others:
        log.warning("%s: passed over the folders beside %s: %s", root, ", ".join(sorted(known)), ", ".join(others))
    return splits


def image_files(folder: Path, unreadable: Callable[[OSError], None] | None = None) -> Iterator[Path]:
    """Yield the image files of a folder and of all folders below it; see :func:`files_below`."""
    return (path for path in files_below(folder, unreadable) if path.suffix.lower() in SUFFIXES)


def warn_of_unread(folder: Path) -> None:
    """Log a warning that counts the pictures below a folder whose endings are none of those that are read."""
    endings = (path.suffix.lower() for path in files_below(folder, lambda _: None))
    found = Counter(ending for ending in endings if ending in UNREAD)
    if found:
        counts = ", ".join(f"{number} {ending}" for ending, number in sorted(found.items()))
        log.warning("%s: pictures that are not read: %s; convert them to PNG or JPEG", folder, counts)


def _folders(folder: Path) -> list[Path]:
    return [entry for entry in visible(folder) if entry.is_dir()]
