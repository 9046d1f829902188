"""``python -m ensemble_transfer compare DIRS...``: redraw a comparison from records, at any time."""

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from contextlib import suppress
from itertools import chain, count
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from ensemble_transfer.cli.command import command, console, parser_of, print_error, some_path
from ensemble_transfer.layout import ERRORS, owned
from ensemble_transfer.machine import usable_cores
from ensemble_transfer.report import terminal
from ensemble_transfer.report.comparison import Comparison
from ensemble_transfer.report.findings import findings
from ensemble_transfer.report.record import read_records
from ensemble_transfer.report.rows import Row

if TYPE_CHECKING:
    from ensemble_transfer.report.plots import Drawn

MANY = 12
"""Rows on all pages together from which figures are drawn in several processes, which take a second to start."""


def compare(folders: Sequence[Path], output: Path, baseline: str | None = None, drawn: bool = True) -> int:
    """Print and write the comparison of all records below folders of sweeps or runs.

    Args:
        folders: The folders.
        output: Where it is written.
        baseline: Strategy or label to compare with; None for one member, fully fine-tuned.
        drawn: Whether there are figures and the page, which take seconds.

    Returns:
        Exit code: 0, 1 if a run has failed or its record cannot be read, 2 if none can.

    Raises:
        ValueError: If there is nothing to compare, or nothing can be written.
    """
    refused: list[ValueError] = []
    records = read_records(folders, refused)
    for reason in refused:
        print_error(f"{reason}; left out")
    if not records and refused:
        return 2
    if not records:
        raise ValueError(f"no record.json below {', '.join(map(str, folders))}")
    shown = {folder: record.printable() for folder, record in records.items()}
    comparison = Comparison.of(shown.values(), baseline)
    errors = {id(record): folder / ERRORS for folder, record in shown.items() if (folder / ERRORS).is_file()}
    try:
        output.mkdir(parents=True, exist_ok=True)
        with owned(output):  # parts of one sweep may end at the same time
            comparison.write(output)
            page = _drawn(comparison, output, errors) if drawn else output / "table.md"
    except OSError as error:
        raise ValueError(f"{output}: the comparison cannot be written there ({error.strerror})") from error
    screen = console()
    for finding in findings(comparison):
        screen.print(f"{finding.task}: {' '.join(finding.sentences)}\n", markup=False, highlight=False)
    screen.print(*terminal.tables(comparison))
    for line in comparison.failures():
        screen.print(line, soft_wrap=True, markup=False)
    screen.print(page, soft_wrap=True, markup=False)
    return 1 if comparison.failed or refused else 0


def _drawn(comparison: Comparison, output: Path, errors: Mapping[int, Path]) -> Path:
    """Draw the figures, write the page with links to the runs' errors, and return its path.

    Numbers of different tasks do not belong into one figure. With several pairs, each gets a page in a folder of its
    own, and the page of all has the tables, links, and the figures that compare tasks.
    """
    from ensemble_transfer.report import page

    pairs = comparison.by_pair()
    links: dict[str, str] = {}
    names: set[str] = {"figures"}
    parts = {output: comparison}
    for pair, own in pairs.items() if len(pairs) > 1 else ():
        folder = output / _folder_name(pair, names)
        own.write(folder)
        parts[folder] = own
        links[pair] = f"{folder.name}/{page.FILE_NAME}"
    jobs = [
        (part.rows, folder / "figures", bool(links) and folder == output, part.baseline)
        for folder, part in parts.items()
    ]
    for (folder, part), figures in zip(parts.items(), _figures(jobs), strict=True):
        page.write(part, figures, folder, links if folder == output else {}, errors)
    return output / page.FILE_NAME


def _figures(jobs: Sequence[tuple[Sequence[Row], Path, bool, str | None]]) -> "list[list[Drawn]]":
    """Draw the figures of several pages, side by side on the cores that may be used."""
    from ensemble_transfer.report.plots import draw  # matplotlib is slow to import

    workers = min(usable_cores(), len(jobs))
    if workers > 1 and sum(len(rows) for rows, *_ in jobs) >= MANY:
        with suppress(BrokenExecutor), ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            return list(pool.map(draw, *zip(*jobs, strict=True)))
    return [draw(*job) for job in jobs]


def _folder_name(pair: str, taken: set[str]) -> str:
    """Return a name for the folder of a pair of tasks, and take it; records come from anywhere, paths do not."""
    plain = re.sub(r"[^\w.-]+", "_", pair.replace(" -> ", "_to_")).lstrip(".")[:80] or "tasks"
    name = next(n for n in chain([plain], (f"{plain}_{i}" for i in count(2))) if n.casefold() not in taken)
    taken.add(name.casefold())
    return name


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = parser_of(
        "compare",
        "Compare runs from their records: mean and standard deviation over seeds, cost in every row, "
        "differences paired by seed. Writes index.html, table.md, .csv and .tex, and figures/; with several pairs of "
        "tasks, a folder with all of it for each pair.",
    )
    parser.add_argument("folders", nargs="+", type=some_path, metavar="DIR", help="folder of a sweep or a run")
    parser.add_argument("--output", type=some_path, help="where all goes; by default DIR/comparison of the first")
    parser.add_argument(
        "--baseline", metavar="ROW", help="strategy or label to compare with; by default one member, fully fine-tuned"
    )
    options = parser.parse_args(arguments)
    return compare(options.folders, options.output or options.folders[0] / "comparison", options.baseline)
