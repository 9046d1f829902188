"""The command line of ``evaluate``: every metric of saved predictions.

Torch is imported when something is computed, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING, Any

from ensemble_transfer.cli.command import command, console, parser_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


_DESCRIPTION = """\
Print every metric of an ensemble's predictions: accuracy, likelihood, calibration, selective prediction,
diversity, and, where the file has the arrays for it, detection of out-of-distribution examples and robustness
to corruptions (the mean over them; each with --json).
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
    **dict.fromkeys(("accuracy", "accuracy_min", "accuracy_max", "coverage_at_5_risk", "auroc", "aupr"), "higher"),
    **dict.fromkeys(("nll", "brier", "ece", "mce", "ece_adaptive", "ece_classwise"), "lower"),
    **dict.fromkeys(("aurc", "eaurc", "augrc", "risk_at_80_coverage", "double_fault", "fpr95"), "lower"),
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
        raise ValueError(f"{chosen.predictions}: {error}") from error
    if unread:
        sys.stderr.write(f"{chosen.predictions}: arrays not used: {', '.join(unread)}\n")
    if chosen.json:
        finite = {key: value if math.isfinite(value) else None for key, value in metrics.items()}
        sys.stdout.write(json.dumps(finite, indent=2, allow_nan=False) + "\n")
    else:
        _show(metrics, given)
    return 0


def _show(metrics: Mapping[str, float], given: Mapping[str, Any]) -> None:
    """Print a table of all metrics, but of corruptions the mean over them alone."""
    from rich.table import Table

    terminal = console(markup=False, highlight=False, emoji=False)
    members, examples, classes = given["probabilities"].shape
    terminal.print(f"members: {members}, examples: {examples}, classes: {classes}")
    source = "the two halves of the examples, crosswise" if given["validation"] is None else "validation"
    terminal.print(f"temperature fitted on: {source}")
    table = Table("metric", "value", "better")
    family = ""
    for key, value in metrics.items():
        parts = key.split("/")
        if parts[0] == "corruption" and parts[1] != "mean":
            continue
        if family not in ("", parts[0]):
            table.add_section()
        family = parts[0]
        table.add_row(key, _number(value), _BETTER.get(parts[-1], ""))
    table.columns[1].justify = "right"
    terminal.print(table)


def _number(value: float) -> str:
    if math.isnan(value):
        return "undefined"
    return f"{value:.4f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.1e}"
