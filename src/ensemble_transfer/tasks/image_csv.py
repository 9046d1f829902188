"""Tasks from a table of images: a CSV file with the path and the label of each."""

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.tasks.images import require_shape
from ensemble_transfer.tasks.loader import SPLITS
from ensemble_transfer.tasks.picture_loader import Listed, PictureLoader
from ensemble_transfer.tasks.task import Task, is_text


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
        try:
            usable = path.is_file() or not path.exists()  # reading a pipe would never end
            require(usable, "path", self.path, "must be a CSV file, not a pipe or a folder")
            with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
                lines = self._lines(file)
        except OSError as error:
            raise SettingError("path", self.path, f"must be a CSV file that can be read ({error.strerror})") from error
        require(bool(lines), "path", self.path, "has no line below its header")
        classes = self._classes(lines)
        listed = {
            split: [
                Listed(path.parent / line.path, f"line {line.number}: {line.path}", line.label)
                for line in lines
                if line.split == split
            ]
            for split in ("train", "validation", "test")
        }
        return self._task_of_files(path.stem, listed, classes, image_size, channels)

    def _lines(self, file: Iterable[str]) -> list["_Line"]:
        """Parse the file; raise a SettingError for a line that cannot be used, or lists an image again."""
        reader, seen = csv.reader(file, strict=True), dict[str, _Line]()
        try:
            header = next(reader, [])
            for column in (self.path_column, self.label_column):
                known = header.count(column) == 1
                require(known, "path", self.path, f"line 1 must name the column {column!r} once; it has {header}")
            for fields in filter(None, reader):
                line = self._line(header, fields, reader.line_num)
                place = os.path.abspath(Path(self.path).expanduser().parent / line.path)  # noqa: PTH100
                if place in seen:
                    raise self._refuse_line(line.number, _repetition(line, seen[place]))
                seen[place] = line
        except csv.Error as error:
            raise self._refuse_line(reader.line_num, f"is not CSV ({error})") from error
        return list(seen.values())

    def _line(self, header: Sequence[str], fields: Sequence[str], number: int) -> "_Line":
        if len(fields) != len(header):
            raise self._refuse_line(number, f"has {len(fields)} fields where the header has {len(header)}")
        if not all(map(is_text, fields)):
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
        for number, _, label, split in lines:
            if label not in names:
                raise self._refuse_line(number, f"its class {label!r} ({split}) is one that no line of train has")
        return classes

    def _refuse_line(self, number: int, what: str) -> SettingError:
        return SettingError("path", self.path, f"line {number}: {what}")


class _Line(NamedTuple):
    """A line of the file: its number, and its fields."""

    number: int
    path: str
    label: str
    split: str


def _repetition(line: _Line, before: _Line) -> str:
    """Describe a line that lists the image of an earlier one."""
    differences = [
        f"{name} {there!r} there, {here!r} here"
        for name, there, here in zip(_Line._fields[1:], before[1:], line[1:], strict=True)
        if there != here
    ]
    shown = f" ({'; '.join(differences)})" if differences else ""
    return f"lists {line.path} again, after line {before.number}{shown}"
