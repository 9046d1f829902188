"""Tasks from a table of images: a CSV file with the path and the label of each."""

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.tasks.loader import SPLITS
from ensemble_transfer.tasks.picture_loader import Labelled, Listed, PictureLoader, labelled


@dataclass(frozen=True)
class ImageCsv(PictureLoader):
    """A CSV file with a line for each image: its path, its label and optionally its split.

    Labels are names. Classes are sorted alphabetically, or by number where all are numbers. No image may be listed
    twice. Images are decoded as by :class:`~ensemble_transfer.tasks.folder.ImageFolder`.

    Args:
        path: The file, UTF-8, with a header.
        path_column: Column of the images' paths, relative to the file's folder or absolute.
        label_column: Column of the labels.
        split_column: Column of the splits: train, validation (val, valid) or test, in any case. The file may lack it.
    """

    path: str
    path_column: str = "path"
    label_column: str = "label"
    split_column: str = "split"

    def _find(self) -> Labelled:
        path = Path(self.path).expanduser()
        usable = path.is_file()  # reading a pipe would never end
        require(usable, "path", self.path, "must be a CSV file that exists")
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                listed = self._listed(file, path.parent)
        except OSError as error:
            raise self._refuse(f"must be a CSV file that can be read ({error.strerror})") from error
        except UnicodeDecodeError as error:
            raise self._refuse(f"is not UTF-8 text ({error.reason})") from error
        return labelled(path.stem, self._classes(listed), listed)

    def _listed(self, file: Iterable[str], folder: Path) -> list[Listed]:
        """Parse the file; raise a SettingError for a line that cannot be used, or lists an image again."""
        reader, lines = csv.reader(file, strict=True), dict[str, tuple[int, Listed]]()
        try:
            header = next(reader, [])
            for column in (self.path_column, self.label_column):
                known = header.count(column) == 1
                require(known, "path", self.path, f"line 1 must name the column {column!r} once; it has {header}")
            splits, optional = header.count(self.split_column), self.split_column == "split"
            rule = f"must be a column that line 1 of {self.path} names once; it has {header}"
            require(splits == 1 or (optional and not splits), "split_column", self.split_column, rule)
            for fields in filter(None, reader):
                found = self._line(header, fields, reader.line_num, folder)
                # whatever links lead to it; no file has a name with NUL in it
                place = str(found.path) if "\0" in str(found.path) else os.path.realpath(found.path)
                if place in lines:
                    raise self._refuse_line(reader.line_num, f"lists an image again, after line {lines[place][0]}")
                lines[place] = reader.line_num, found
        except csv.Error as error:
            raise self._refuse_line(reader.line_num, f"is not CSV ({error})") from error
        return [found for _, found in lines.values()]

    def _line(self, header: Sequence[str], fields: Sequence[str], number: int, folder: Path) -> Listed:
        if len(fields) != len(header):
            raise self._refuse_line(number, f"has {len(fields)} fields where the header has {len(header)}")
        row = dict(zip(header, (text.strip() for text in fields), strict=True))
        for column in (self.path_column, self.label_column):
            if not row[column]:
                raise self._refuse_line(number, f"has no {column}")
        split, path = row.get(self.split_column, "train"), row[self.path_column]
        if split.casefold() not in SPLITS:
            raise self._refuse_line(number, f"its {self.split_column} {split!r} must be one of {', '.join(SPLITS)}")
        return Listed(folder / path, f"line {number}: {path}", row[self.label_column], SPLITS[split.casefold()])

    def _classes(self, listed: Sequence[Listed]) -> tuple[str, ...]:
        names = {file.label for file in listed if file.split == "train"}
        numbers = all(name.isdecimal() for name in names)
        classes = tuple(sorted(names, key=lambda name: (int(name) if numbers else 0, name)))
        rule = f"must have two or more classes in lines of the split train; it has {', '.join(classes) or 'none'}"
        require(len(classes) > 1, "path", self.path, rule)
        for file in listed:
            if file.label not in names:
                raise self._refuse(f"{file.shown} has the class {file.label!r}, which no line of train has")
        return classes

    def _refuse_line(self, number: int, what: str) -> SettingError:
        return self._refuse(f"line {number}: {what}")
