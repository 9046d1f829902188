"""A table of images: a CSV file that says where each lies and what it shows."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.tasks.images import require_shape
from ensemble_transfer.tasks.picture_source import PictureSource
from ensemble_transfer.tasks.pictures import Files
from ensemble_transfer.tasks.source import SPLITS
from ensemble_transfer.tasks.task import Task


@dataclass(frozen=True)
class ImageCsv(PictureSource):
    """A CSV file with a line for each image: its path, its label and, if there is such a column, its split.

    Labels are names; classes are in alphabetical order, or in that of their numbers. Images are decoded as by
    :class:`~ensemble_transfer.tasks.folder.ImageFolder`.

    Args:
        path: The file, UTF-8, with a header.
        path_column: Column of the images' paths, which are relative to the file's folder or absolute.
        label_column: Column of the labels.
        split_column: Column of the splits: train, validation (val, valid) or test. A file may lack it.
    """

    path: str
    path_column: str = "path"
    label_column: str = "label"
    split_column: str = "split"

    def load(self, image_size: int, channels: int) -> Task:
        """Return the task; see :class:`~ensemble_transfer.tasks.task.TaskSource`."""
        require_shape(image_size, channels)
        path = Path(self.path).expanduser()
        lines = self._lines(path)
        classes = self._classes(lines)
        by_split = {split: [line for line in lines if line.split == split] for split in ("train", "validation", "test")}
        ordered = [line for found in by_split.values() for line in found]
        names = [f"line {line.number}: {line.path}" for line in ordered]
        pictures = Files([path.parent / line.path for line in ordered], names)
        places = {name: place for place, name in enumerate(classes)}
        labels = {
            split: torch.tensor([places[line.label] for line in found]) for split, found in by_split.items() if found
        }
        data = self._collect(pictures, labels, classes, image_size, channels)
        return self._make_task(path.stem, data, image_size, channels)

    def _lines(self, path: Path) -> list["_Line"]:
        try:
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
                    before = seen.setdefault(line.path, line)
                    if before is not line:
                        raise self._refuse_line(line.number, f"lists {line.path} again, after line {before.number}")
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
    """A line of the file: its number, and what it says."""

    number: int
    path: str
    label: str
    split: str
