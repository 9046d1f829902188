"""The base class of loaders of encoded pictures: where pixels are kept, and how broken pictures are handled."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.machine import free_memory
from ensemble_transfer.tasks.inputs import digest_of
from ensemble_transfer.tasks.limits import require_shape
from ensemble_transfer.tasks.loader import Collection, TaskLoader
from ensemble_transfer.tasks.pictures import Pictures, appearance, decoded, decoded_on_disk, files
from ensemble_transfer.tasks.task import Split, Task

RAM_SHARE = 0.25
"""Share of the free memory that a task's images may take before they go to disk: there are two tasks, and choosing
images copies them once."""

DARK = 16
"""Brightest value of 255 below which pictures are nearly black, as those of 12 bits in files of 16 become."""

SLOW_DECODING = 20.0
"""Seconds of decoding after which a hint says how later runs are spared it."""

log = logging.getLogger(__name__)


class Labelled(NamedTuple):
    """Encoded pictures with labels: all pictures, split after split, and in their order the labels by split."""

    name: str
    classes: tuple[str, ...]
    pictures: Pictures
    labels: Mapping[str, Sequence[int]]


class Listed(NamedTuple):
    """An image file: its path, its name in messages, its class and its split."""

    path: Path
    shown: str
    label: str
    split: str


def labelled(name: str, classes: tuple[str, ...], listed: Sequence[Listed]) -> Labelled:
    """Return image files as pictures with labels."""
    by_split = {split: [file for file in listed if file.split == split] for split in ("train", "validation", "test")}
    ordered = [file for split in by_split.values() for file in split]
    places = {label: place for place, label in enumerate(classes)}
    labels = {split: [places[file.label] for file in of] for split, of in by_split.items() if of}
    return Labelled(name, classes, files([file.path for file in ordered], [file.shown for file in ordered]), labels)


@dataclass(frozen=True, kw_only=True)
class PictureLoader(TaskLoader):
    """Base class of loaders of encoded pictures. Its fields are settings that all of them have.

    Args:
        broken: What to do about images that cannot be read: stop (``error``), or leave them out with a warning
            (``skip``).
        memory: Where decoded images are kept: in memory (``ram``), in files that are mapped into memory (``disk``:
            decoded once for all runs), or in memory if they take less than a quarter of what is free (``auto``).
        cache: Folder of these files. The default is beside the store, on the disk that the user chose for large files.

    Raises:
        SettingError: A value is none of these.
    """

    broken: str = "error"
    memory: str = "auto"
    cache: str = "store/decoded"

    _setting: ClassVar[str] = "path"
    """The setting that names the place of the images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.broken in ("error", "skip"), "broken", self.broken, "must be error or skip")
        require(self.memory in ("auto", "ram", "disk"), "memory", self.memory, "must be auto, ram or disk")
        require(self.cache != "", "cache", self.cache, "must be a folder")

    def load(self, image_size: int, channels: int) -> Task:
        """Return the task; see :class:`~ensemble_transfer.tasks.task.Loader`."""
        require_shape(image_size, channels)
        name, classes, pictures, labels = self._find()
        images, broken = self._decoded(pictures, image_size, channels)
        if broken:
            self._report([f"{pictures.names[place]} ({reason})" for place, reason in broken.items()])
        self._warn_of_loss(pictures, image_size, channels)
        whole = torch.ones(len(pictures.names), dtype=torch.bool)
        whole[list(broken)] = False
        kept = whole.tensor_split(torch.tensor([len(named) for named in labels.values()]).cumsum(0)[:-1])
        parts = images.tensor_split(torch.stack([of.sum() for of in kept]).cumsum(0)[:-1])
        splits = {}
        for split, of, part in zip(labels, kept, parts, strict=True):
            if not len(part):
                raise self._refuse(f"holds no image that can be read ({split})")
            splits[split] = Split(part, torch.tensor(labels[split])[of])
        return self.make_task(name, Collection(classes, **splits), image_size, channels)

    def inputs(self) -> str:
        """Return a text that changes with what ``load`` would read: pictures, their labels, and their order."""
        found = self._find()
        return digest_of(found.pictures.identity(), repr((found.classes, dict(found.labels))))

    def _find(self) -> Labelled:
        """Return the pictures and their labels; every loader of pictures defines this."""
        raise NotImplementedError

    def _refuse(self, rule: str) -> SettingError:
        """Return an error about the place where the images are."""
        return SettingError(self._setting, getattr(self, self._setting), rule)

    def _decoded(self, pictures: Pictures, size: int, channels: int) -> tuple[Tensor, dict[int, str]]:
        needed = len(pictures.names) * channels * size**2
        if self.memory == "ram" or (self.memory == "auto" and needed < RAM_SHARE * free_memory()):
            start = time.perf_counter()
            found = decoded(pictures, size, channels)
            if (took := time.perf_counter() - start) >= SLOW_DECODING:
                hint = "decoding %d images took %.0f s; memory=disk of this task, as in dataset.target.memory=disk, "
                log.info(hint + "decodes them once for all runs", len(pictures.names), took)
            return found
        folder = Path(self.cache).expanduser()
        log.info("%d decoded images (%.1f GiB) are mapped from %s", len(pictures.names), needed / 2**30, folder)
        return decoded_on_disk(pictures, size, channels, folder)

    def _report(self, broken: Sequence[str]) -> None:
        shown = ", ".join(broken[:10]) + (f" and {len(broken) - 10} more" if len(broken) > 10 else "")
        if self.broken == "error":
            hint = (
                "repair or remove them, or leave them out by broken=skip of this task, as in dataset.target.broken=skip"
            )
            raise self._refuse(f"images that cannot be read: {shown}; {hint}")
        place, many = getattr(self, self._setting), f"{len(broken)} image{'s' * (len(broken) > 1)}"
        log.warning("%s: left out %s that cannot be read: %s", place, many, shown)

    def _warn_of_loss(self, pictures: Pictures, size: int, channels: int) -> None:
        """Log a warning if pictures lose their colours or most of their detail, as in a pair of tasks for digits."""
        side, coloured, highest = appearance(pictures)
        losses = {
            "in colour become gray (dataset.channels=3 keeps colours)": coloured and channels == 1,
            f"of about {side} pixels become {size} (dataset.image_size=64 keeps more)": size <= 32 and side >= 4 * size,
            f"are nearly black, {highest} of 255 at most (of 16 bits the upper 8 count)": 0 < highest < DARK,
        }
        lost = [loss for loss, happens in losses.items() if happens]
        if lost:
            log.warning("%s: images %s", getattr(self, self._setting), ", and ".join(lost))
