"""``python -m ensemble_transfer.compare DIRS...``: redraw a comparison from records, at any time."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ensemble_transfer.records import read_records
from ensemble_transfer.report.comparison import Comparison


def compare(folders: Sequence[Path], output: Path) -> int:
    """Print and write the comparison of all records below folders.

    Args:
        folders: Folders of sweeps or runs.
        output: Where ``table.md`` and ``table.csv`` go.

    Returns:
        Exit code: 0, 1 if a run has failed, 2 if there is nothing to compare; the reason is printed.
    """
    try:
        records = read_records(folders)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    if not records:
        sys.stderr.write(f"error: no record.json below {', '.join(map(str, folders))}\n")
        return 2
    comparison = Comparison.of(records.values())
    comparison.write(output)
    console = Console()
    console.print(*comparison.terminal())
    for line in comparison.failures():
        console.print(line, soft_wrap=True)
    console.print(f"{output / 'table.md'}, {output / 'table.csv'}", soft_wrap=True)
    return 1 if comparison.failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m ensemble_transfer.compare",
        description="Compare runs from their records: mean and standard deviation over seeds, cost in every row.",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folder of a sweep or a run")
    parser.add_argument("--output", type=Path, help="where the tables go; by default DIR/comparison of the first")
    options = parser.parse_args(arguments)
    return compare(options.folders, options.output or options.folders[0] / "comparison")


if __name__ == "__main__":
    sys.exit(main())
