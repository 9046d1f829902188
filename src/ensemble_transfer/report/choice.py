"""The part of a summary that tells what strategy ``auto`` tried, what each candidate promised, and what it took."""

from collections.abc import Mapping
from typing import Any

from ensemble_transfer.report.record import Record


def choice_text(record: Record) -> str:
    """Return a table of the candidates and what was decided on the way; empty for a strategy that chose nothing."""
    choice = record.curves.get("choice")
    if not choice:
        return ""
    lines = [_line(candidate) for candidate in choice["candidates"]]
    head = "| candidate, on validation | members | accuracy | calibrated NLL | behind the one taken |"
    table = "\n".join([head, "| --- | ---: | ---: | ---: | ---: |", *lines])
    return f"{table}\n\n{_story(choice)}"


def _line(candidate: Mapping[str, Any]) -> str:
    behind = "taken" if candidate["taken"] else "{behind:+.3f} [{low:+.3f}, {high:+.3f}]".format(**candidate)
    cells = [f"{candidate['members']}", f"{candidate['accuracy']:.3f}", f"{candidate['nll']:.3f}", behind]
    return f"| {candidate['name']} | " + " | ".join(cells) + " |"


def _story(choice: Mapping[str, Any]) -> str:
    """Return what the pilots said, and what an interval that includes zero means."""
    parts = []
    if choice["split"] is not None:
        parts.append(
            f"Two pilots ask for a split of the budget among {choice['split']:.1f} members, which balances what a "
            "longer fine-tuning gains against what an ensemble gains."
        )
    if choice["scale"] is not None:
        parts.append(f"Shifted members use scale {choice['scale']:g}.")
    close = [c["name"] for c in choice["candidates"] if not c["taken"] and c["low"] <= 0]
    if close:
        parts.append("Not told apart from the one taken, since its interval includes zero: " + "; ".join(close) + ".")
    return " ".join(parts)
