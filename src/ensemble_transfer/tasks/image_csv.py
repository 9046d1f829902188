"""Tasks from a table of images: a CSV file with the path and the label of each."""

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.tasks.images import require_shape
from ensemble_transfer.tasks.loader import SPLITS
from ensemble_transfer.tasks.picture_loader import PictureLoader
from ensemble_transfer.tasks.pictures import Files
from ensemble_transfer.tasks.task import Task


@dataclass(frozen=True)
class ImageCsv(PictureLoader):
    """A CSV file with a line for each image: its path, its label and optionally its split.

    Labels are names. Classes are sorted alphabetically, or by number where all are numbers. No image may be listed
    twice. Images are decoded as by :class:`~ensemble_transfer.tasks.folder.ImageFolder`.

    Args:
        path: The file, UTF-8, with a header.
        path_column: Column of the images' paths, relative to the file's folder or absolute.
        label_column: Column of the labels.
        split_column: Column of the splits: train, validation (val, valid) or test. The file may lack it.
    """

    path: str
    path_column: str = "path"
    label_column: str = "label"
    split_column: str = "split"

    def load(self, image_size: int, channels: int) -> Task:
        """Return the task; see :class:`~ensemble_transfer.tasks.task.Loader`."""
        require_shape(image_size, channels)
        path = Path(self.path).expanduser()
        lines = self._lines(path)
        classes = self._classes(lines)
        by_split = {split: [line for line in lines if line.split == split] for split in ("train", "validation", "test")}
        ordered = [line for found in by_split.values() for line in found]
        names = [f"line {line.number}: {line.path}" for line in ordered]
        pictures = Files([self._folder / line.path for line in ordered], names)
        places = {name: place for place, name in enumerate(classes)}
        labels = {
            split: torch.tensor([places[line.label] for line in found]) for split, found in by_split.items() if found
        }
        data = self._collect(pictures, labels, classes, image_size, channels)
        return self.make_task(path.stem, data, image_size, channels)

    @property
    def _folder(self) -> Path:
        """Folder that paths are relative to."""
        return Path(self.path).expanduser().parent

    def _lines(self, path: Path) -> list["_Line"]:
        try:
            usable = path.is_file() or not path.exists()  # reading a pipe would never end
            require(usable, "path", self.path, "must be a CSV file, not a pipe or a folder")
            with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
                lines = list(self._parsed(file))
        except OSError as error:
            raise SettingError("path", self.path, f"must be a CSV file that can be read ({error.strerror})") from error
        require(bool(lines), "path", self.path, "has no line below its header")
        return lines

    def _parsed(self, file: Iterator[str]) -> Iterator["_Line"]:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            for column in (self.path_column, self.label_column):
                known = header.count(column) == 1
                require(known, "path", self.path, f"line 1 must name the column {column!r} once; it has {header}")
            seen: dict[str, _Line] = {}
            for fields in reader:
                if fields:
                    line = self._line(header, fields, reader.line_num)
                    before = seen.setdefault(os.path.abspath(self._folder / line.path), line)  # noqa: PTH100
                    if before is not line:
                        raise self._refuse_line(line.number, _repetition(line, before))
                    yield line
        except csv.Error as error:
            raise self._refuse_line(reader.line_num, f"is not CSV ({error})") from error

    def _line(self, header: Sequence[str], fields: Sequence[str], number: int) -> "_Line":
        if len(fields) != len(header):
            raise self._refuse_line(number, f"has {len(fields)} fields where the header has {len(header)}")
        if any(not text.isascii() and any("\udc80" <= letter <= "\udcff" for letter in text) for text in fields):
            raise self._refuse_line(number, "is not UTF-8 text")
        row = dict(zip(header, (text.strip() for text in fields), strict=True))
        for column in (self.path_column, self.label_column):
            if not row[column]:
                raise self._refuse_line(number, f"has no {column}")
        split = row.get(self.split_column, "train")
        if split not in SPLITS:
            raise self._refuse_line(number, f"its {self.split_column} {split!r} must be one of {', '.join(SPLITS)}")
        return _Line(number, row[self.path_column], row[self.label_column], SPLITS[split])

    def _classes(self, lines: Sequence["_Line"]) -> tuple[str, ...]:
        names = {line.label for line in lines if line.split == "train"}
        require(bool(names), "path", self.path, "has no line of the split train")
        numbers = all(name.isdecimal() for name in names)
        classes = tuple(sorted(names, key=lambda name: (int(name) if numbers else 0, name)))
        require(len(classes) > 1, "path", self.path, f"must have two or more classes; it has only {classes[0]!r}")
        for line in lines:
            if line.label not in names:
                raise self._refuse_line(
                    line.number, f"its class {line.label!r} ({line.split}) is one that no line of train has"
                )
        return classes

    def _refuse_line(self, number: int, what: str) -> SettingError:
        return SettingError("path", self.path, f"line {number}: {what}")


@dataclass(frozen=True)
class _Line:
    """A line of the file: its number, and its fields."""

    number: int
    path: str
    label: str
    split: str


def _repetition(line: _Line, before: _Line) -> str:
    """Describe a line that lists the image of an earlier one."""
    fields = ("path", "label", "split")
    pairs = [(name, getattr(before, name), getattr(line, name)) for name in fields]
    differences = [f"{name} {there!r} there, {here!r} here" for name, there, here in pairs if there != here]
    shown = f" ({'; '.join(differences)})" if differences else ""
    return f"lists {line.path} again, after line {before.number}{shown}"
