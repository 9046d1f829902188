"""The command line of :mod:`ensemble_transfer.evaluate`: every metric of saved predictions.

Torch is imported when something is computed, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING, Any

from ensemble_transfer.cli.command import command, console, parser_of
from ensemble_transfer.report.escape import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table


_DESCRIPTION = """\
Print every metric of an ensemble's predictions: accuracy, likelihood, calibration, selective prediction,
diversity, and, where the file has the arrays for it, detection of out-of-distribution examples and robustness
to corruptions.
"""

_LAYOUT = """\
arrays of the file (numpy.savez):
  probabilities             (members, examples, classes), summing to 1 over the classes
  labels                    (examples,), integers 0..classes-1
optional:
  validation/probabilities  (members, any, classes) and
  validation/labels         (any,): the temperature is fitted on these, or else on each half of the examples for the
                            other half
  ood/<name>/probabilities  (members, any, classes), examples out of distribution
  corruption/<name>/<severity>/probabilities
                            (members, examples, classes), the examples corrupted; severity is an integer

Any of the probabilities may be given as .../logits instead, whose softmax is taken.

exit code: 0, or 2 if the file cannot be used.
"""

_BETTER = {
    **dict.fromkeys(("accuracy", "accuracy_min", "accuracy_max", "coverage_at_5_risk"), "higher"),
    **dict.fromkeys(("nll", "brier", "ece", "mce", "ece_adaptive", "ece_classwise"), "lower"),
    **dict.fromkeys(("aurc", "eaurc", "augrc", "risk_at_80_coverage", "double_fault"), "lower"),
}


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = parser_of("evaluate", _DESCRIPTION, _LAYOUT)
    parser.add_argument("predictions", metavar="PREDICTIONS.npz", help="file of arrays, see below")
    parser.add_argument("--json", action="store_true", help="print one JSON object; an undefined metric is null")
    chosen = parser.parse_args(arguments)
    from ensemble_transfer.metrics.archive import read_predictions
    from ensemble_transfer.metrics.evaluate import evaluate

    try:
        given, unread = read_predictions(chosen.predictions)
        metrics = evaluate(**given)
    except ValueError as error:
        sys.stderr.write(f"{one_line(f'{chosen.predictions}: {error}')}\n")
        return 2
    if unread:
        sys.stderr.write(f"{chosen.predictions}: arrays not used: {', '.join(unread)}\n")
    if chosen.json:
        finite = {key: value if math.isfinite(value) else None for key, value in metrics.items()}
        sys.stdout.write(json.dumps(finite, indent=2, allow_nan=False) + "\n")
    else:
        _show(metrics, given)
    return 0


def _show(metrics: Mapping[str, float], given: Mapping[str, Any]) -> None:
    """Print tables: one of the plain metrics, one of OOD detection, three of corruptions."""
    terminal = console(markup=False, highlight=False, emoji=False)
    members, examples, classes = given["probabilities"].shape
    terminal.print(f"members: {members}, examples: {examples}, classes: {classes}")
    source = "the two halves of the examples, crosswise" if given["validation"] is None else "validation"
    terminal.print(f"temperature fitted on: {source}")
    terminal.print(_plain_table(metrics))
    keys = [key.split("/") for key in metrics]
    detection = {(f"{k[1]} {k[2]}", k[3]): metrics["/".join(k)] for k in keys if k[0] == "ood"}
    if detection:
        terminal.print(_grid("ood", "out of distribution is positive", detection))
    for metric in ("accuracy", "nll", "ece"):
        cells = {(k[1], k[2]): metrics["/".join(k)] for k in keys if k[0] == "corruption" and k[3] == metric}
        if cells:
            terminal.print(_grid("corruption", f"{metric} by severity", cells))


def _plain_table(metrics: Mapping[str, float]) -> Table:
    from rich.table import Table

    table = Table("metric", "value", "better")
    family = ""
    for key, value in metrics.items():
        if key.startswith(("ood/", "corruption/")):
            continue
        if family and not key.startswith(family):
            table.add_section()
        family = key.split("/")[0] + "/"
        table.add_row(key, _number(value), _BETTER.get(key.split("/")[1], ""))
    table.columns[1].justify = "right"
    return table


def _grid(corner: str, title: str, cells: Mapping[tuple[str, str], float]) -> Table:
    """Return a table of values by (row, column); numbered columns are sorted by number."""
    from rich.table import Table

    named = dict.fromkeys(column for _, column in cells)
    columns = sorted(named, key=lambda column: int(column) if column.isdecimal() else 0)
    table = Table(corner, *columns, title=title, title_justify="left")
    for row in dict.fromkeys(row for row, _ in cells):
        table.add_row(row, *(_number(cells[row, c]) if (row, c) in cells else "" for c in columns))
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _number(value: float) -> str:
    if math.isnan(value):
        return "undefined"
    return f"{value:.4f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.1e}"
