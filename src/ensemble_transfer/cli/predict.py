"""The command line of ``predict``: classes of images, as rows of a CSV or JSON Lines file.

Torch is imported once the arguments are known to be usable, so that ``--help`` and mistakes answer at once.
"""

from __future__ import annotations

import argparse
import csv
import glob
import json
import os
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import islice
from mimetypes import guess_type
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ensemble_transfer.cli.command import command, parser_of, require_writable, some_path
from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.inference.predict import COLUMNS, Answers, Row, choose_threshold, predict_rows
from ensemble_transfer.inference.saved import DEVICES, ensemble_folder
from ensemble_transfer.layout import ENSEMBLE, OF_A_RUN, OF_AN_ENSEMBLE, replacing
from ensemble_transfer.report.escape import csv_cell, printable
from ensemble_transfer.runs.files import open_saved

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rich.progress import Progress
    from torch import Tensor

    from ensemble_transfer.inference.saved import SavedEnsemble
    from ensemble_transfer.models.architecture import Architecture


MAX_BATCH_SIZE = 1024
"""Largest number of images in memory at once."""

_LONGEST_LINE = 2**24
"""Bytes of the first line of a file by which its kind is told; a hundred thousand classes take less."""

_DESCRIPTION = "Predict the classes of images with a transferred ensemble: one row per image, in the given order."

_EPILOG = """\
columns:
  path                the image, as it was given or found; in a CSV file, a path or label that a spreadsheet would
                      take for a formula has an apostrophe before it
  label               the most probable class
  probability         of that class: the members' mean, after the temperature
  entropy             of these probabilities, in nats
  mutual_information  of prediction and member, in nats, before the temperature: how much the members disagree
  disagreement        share of the members that predict another label
  abstain             whether the probability is below the threshold of --risk or --coverage
  networks            with --cascade: how many ran; mutual_information and disagreement are those of their members
  probability_CLASS   with --probabilities: of each class

Temperature and thresholds come from the run's validation predictions. --risk takes the threshold of largest
coverage that keeps the error rate among the answers below the limit with 95% confidence: exact binomial tests of
a grid of thresholds, corrected for their number (fallback procedure, Wiens 2003; see also Angelopoulos et al.
2021, arXiv 2110.01052). Where there is none, it abstains everywhere and says how many answers it takes at
least. --coverage takes the threshold that answers this share of the validation images. Both are estimates, for
images like those of the validation split.

exit code: 0; 1 if an image could not be read (named on standard error and left out); 2 if nothing can be done; 141 if
the reader of standard output stops reading.
"""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = parser_of("predict", _DESCRIPTION, _EPILOG)
    parser.add_argument("run", metavar="RUN", type=some_path, help="folder of a run, or of a saved ensemble")
    given = "files, folders (searched to the bottom), quoted patterns, or - for a list on standard input, a path a line"
    parser.add_argument("images", metavar="IMAGES", nargs="+", help=given)
    parser.add_argument(
        "--output",
        metavar="OUT",
        type=some_path,
        help="standard output by default; lines of JSON if it ends in .jsonl, else CSV",
    )
    parser.add_argument("--force", action="store_true", help="write OUT over whatever is there")
    parser.add_argument("--probabilities", action="store_true", help="a column of probabilities for each class, too")
    several = "the next network only where those before are unsure: faster, as accurate on validation but for 1 in 500"
    parser.add_argument("--cascade", action="store_true", help=several)
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument("--risk", type=float, metavar="SHARE", help="abstain so that at most this share is wrong")
    limit.add_argument("--coverage", type=float, metavar="SHARE", help="abstain so that this share is answered")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto: a GPU if there is one")
    parser.add_argument("--batch-size", type=int, default=256, metavar="N", help="images in memory at once (256)")
    options = parser.parse_args(arguments)
    _check(options)
    return _predict(options)


def _check(options: argparse.Namespace) -> None:
    """Raise a SettingError for arguments that cannot be used."""
    ensemble_folder(options.run)
    for name in ("risk", "coverage"):
        value = getattr(options, name)
        require(value is None or 0 < value < 1, name, value, "must be above 0 and below 1")
    size, rule = options.batch_size, f"must be in 1..{MAX_BATCH_SIZE}"
    require(1 <= size <= MAX_BATCH_SIZE, "batch-size", size, rule)
    if options.output is not None:
        require_writable(options.output)
        if not options.force:
            _require_harmless(options.output, options.run)
    found = any(name == "-" or glob.has_magic(name) or os.path.lexists(name) for name in options.images)
    require(found, "IMAGES", " ".join(options.images), "no such file or folder")


def _require_harmless(output: Path, run: Path) -> None:
    """Raise a SettingError if rows would take the place of anything but rows that this command wrote."""
    kind = guess_type(output.name, strict=False)[0] or ""
    rule = "has the name of a picture: is the name of the file missing after --output? (--force writes there)"
    require(not kind.startswith("image/"), "output", str(output), rule)
    of_the_run = output.parent.resolve() in (run.resolve(), (run / ENSEMBLE).resolve())
    own = of_the_run and output.name in (*OF_A_RUN, *OF_AN_ENSEMBLE)
    require(not own, "output", str(output), "has the name of a file of the run; take another (--force writes there)")
    rule = "is there, and is no output of this command; take another name (--force writes over it)"
    require(not output.is_file() or _has_rows(output), "output", str(output), rule)


def _has_rows(path: Path) -> bool:
    """Return whether a file is empty, or begins as this command's output does."""
    with path.open("rb") as file:
        line = file.readline(_LONGEST_LINE)
    if not line or line.startswith(",".join(COLUMNS).encode()):
        return True
    try:
        return list(json.loads(line))[: len(COLUMNS)] == list(COLUMNS)
    except (ValueError, TypeError, RecursionError):  # whatever else somebody's file may hold
        return False


def _predict(options: argparse.Namespace) -> int:
    saved = open_saved(options.run, options.device)
    answers, lines = _answers(saved, options)
    sys.stderr.write("".join(f"{text}\n" for text in (saved.about_temperature(), *lines) if text))
    from ensemble_transfer.tasks.pictures import ahead

    columns, networks = answers.columns(saved.classes), 0
    counts = {"images": 0, "abstained": 0, "left out": 0}
    with _progress(options.output is not None) as progress, _rows_to(options.output, columns) as write:
        task = progress.add_task("images", total=None)

        def report(path: str, reason: str) -> None:
            counts["left out"] += 1
            line = printable(f"{path}: {reason}; left out")
            progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

        paths = find_images(options.images, report)
        for names, images in ahead(_decoded(paths, options.batch_size, saved.ensemble.architecture, report)):
            found = predict_rows(saved, images, answers)
            rows: list[Row] = [{"path": path} | row for path, row in zip(names, found, strict=True)]
            write(rows)
            counts["images"] += len(rows)
            counts["abstained"] += sum(row["abstain"] for row in rows)
            networks += sum(row.get("networks", 0) for row in rows)
            progress.update(task, completed=counts["images"])
    mean = f", {networks / max(1, counts['images']):.2f} networks an image" if options.cascade else ""
    sys.stderr.write(", ".join(f"{count} {what}" for what, count in counts.items()) + f"{mean}\n")
    return 1 if counts["left out"] else 0


def _answers(saved: SavedEnsemble, options: argparse.Namespace) -> tuple[Answers, list[str]]:
    """Return what rows hold, and lines that describe the thresholds that were chosen for it."""
    cascade = None
    if options.cascade:
        from ensemble_transfer.inference.cascade import choose_cascade

        cascade = choose_cascade(saved)
        saved = replace(saved, calibration=cascade.calibration)
    threshold, line = choose_threshold(saved, options.risk, options.coverage)
    asked, about = (cascade.threshold, cascade.about) if cascade else (None, "")
    return Answers(threshold, asked, options.probabilities), [about, line]


def _decoded(
    paths: Iterator[str], batch_size: int, architecture: Architecture, report: Callable[[str, str], None]
) -> Iterator[tuple[list[str], Tensor]]:
    """Yield batches of images with their paths; those that cannot be read are reported and left out."""
    from ensemble_transfer.tasks.pictures import decoded, files

    while batch := list(islice(paths, batch_size)):
        images, broken = decoded(files([Path(path) for path in batch]), architecture.image_size, architecture.channels)
        for place, reason in broken.items():
            report(batch[place], reason)
        yield [path for place, path in enumerate(batch) if place not in broken], images


def find_images(given: Iterable[str], report: Callable[[str, str], None]) -> Iterator[str]:
    """Yield the paths of images, one by one and in the given order.

    Args:
        given: Files, taken as they are; folders, searched as an ``image_folder`` task searches them; patterns with
            ``*``, ``?``, ``[]`` and ``**``, sorted; ``-`` for a list on standard input, one path per line.
        report: Called with a name and a reason for each name that yields no image.
    """
    from ensemble_transfer.tasks.folder import image_files, warn_of_unread

    for name in given:
        found, reason, locked = [name], "no such file", list[OSError]()
        if name == "-":
            lines = (os.fsdecode(line).rstrip("\r\n") for line in sys.stdin.buffer)
            yield from find_images(filter(None, lines), report)
            continue
        if os.path.isdir(name):  # noqa: PTH112  # no error for a name that no file system has
            found, reason = [str(path) for path in image_files(Path(name), locked.append)], "a folder without images"
            warn_of_unread(Path(name))
        elif not os.path.lexists(name):
            paths = sorted(glob.glob(name, recursive=True))  # noqa: PTH207  # names stay as they are written
            found = [path for path in paths if not Path(path).is_dir()]
            reason = "a pattern that matches no file" if glob.has_magic(name) else reason
        for error in locked:
            report(str(error.filename), str(error.strerror))
        if not found and not locked:
            report(name, reason)
        yield from found


def _progress(rows_go_elsewhere: bool) -> Progress:
    """Return a progress bar on standard error; it is hidden where rows go to the same terminal."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.completed:,} images"), TimeElapsedColumn()
    shown = sys.stderr.isatty() and (rows_go_elsewhere or not sys.stdout.isatty())
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not shown, redirect_stdout=False)


@contextmanager
def _rows_to(output: Path | None, columns: Sequence[str]) -> Iterator[Callable[[Iterable[Row]], None]]:
    """Yield a function that writes rows: to standard output, or to a file, which appears once all rows are written."""
    if output is None:
        yield _writer(sys.stdout, columns, as_json=False)
        return
    real = output.resolve()  # a link is kept, what it leads to is replaced
    special = real.exists() and not real.is_file()  # such as /dev/null
    try:
        with (
            nullcontext(real) if special else replacing(real) as place,
            place.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
        ):
            yield _writer(file, columns, as_json=output.suffix.lower() == ".jsonl")
    except BrokenPipeError:
        raise
    except OSError as error:
        raise SettingError("output", str(output), f"cannot be written: {error.strerror or error}") from error


def _writer(file: IO[str], columns: Sequence[str], as_json: bool) -> Callable[[Iterable[Row]], None]:
    shown = printable if file.isatty() else str
    table = csv.DictWriter(file, columns, lineterminator="\n")
    if not as_json:
        table.writerow({name: shown(name) for name in columns})

    def write(rows: Iterable[Row]) -> None:
        for row in rows:
            short = {name: float(f"{v:.9g}") if isinstance(v, float) else v for name, v in row.items()}
            if not as_json:
                texts = {name: shown(csv_cell(str(row[name]))) for name in ("path", "label")}
                table.writerow(short | texts | {"abstain": str(row["abstain"]).lower()})
            else:
                file.write(json.dumps(short, ensure_ascii=file.isatty()) + "\n")
        file.flush()

    return write
