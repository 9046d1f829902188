"""Describe in a summary what ``auto`` chose, of which candidates and by which scores; and the scale of ``turns``."""

from collections.abc import Mapping
from typing import Any

from ensemble_transfer.report.record import Record

_REASONS = {
    "many": "it has learned what the labels hold, so the budget was split among many members of its length.",
    "two": "it gains from training still and beats heads, so the budget was split among two members.",
    "one": "it does not beat heads yet, so one member got the rest of the budget.",
}
"""Why ``auto`` split the budget as it did."""

_UNSEEN = {"two": "two members share it.", "one": "one member got the rest of it."}
"""The same where there was no pilot."""

_ALONE = "One member was fine-tuned with the whole budget, which is too small to pay for heads and a choice."


def choice_text(record: Record) -> str:
    """Return a table of the candidates and the reasons for the choice; empty if the strategy made no choice."""
    choice, turns = record.curves.get("choice"), record.curves.get("turns")
    if turns:
        return f"Members after the donors are shifted by {turns['scale']:g} times the donors' moves."
    if not choice:
        return ""
    if not choice["candidates"]:
        return _ALONE
    lines = [_line(candidate) for candidate in choice["candidates"]]
    head = "| candidate, on validation | members | accuracy | calibrated NLL | behind the one taken |"
    table = "\n".join([head, "| --- | ---: | ---: | ---: | ---: |", *lines])
    return f"{table}\n\n{_decisions(choice)}"


def _line(candidate: Mapping[str, Any]) -> str:
    behind = "taken" if candidate["taken"] else "{behind:+.3f} [{low:+.3f}, {high:+.3f}]".format(**candidate)
    cells = [f"{candidate['members']}", f"{candidate['accuracy']:.3f}", f"{candidate['nll']:.3f}", behind]
    return f"| {candidate['name']} | " + " | ".join(cells) + " |"


def _decisions(choice: Mapping[str, Any]) -> str:
    """Return what the pilots showed, and what an interval that includes zero means."""
    parts = []
    if choice["pilot"] is not None:
        parts.append(
            "A pilot of {steps:g} steps ended with a training loss of {training:.2f}, and {pilot:.2f} on validation "
            "(heads alone: {heads:.2f}); ".format(**choice["pilot"])
            + _REASONS[choice["split"]]
        )
    else:
        parts.append(f"Without a pilot, the size of the budget decided: {_UNSEEN[choice['split']]}")
    if choice["scale"] is not None:
        parts.append(f"Shifted members use scale {choice['scale']:g}.")
    close = [c["name"] for c in choice["candidates"] if not c["taken"] and c["low"] <= 0]
    if close:
        parts.append("Not told apart from the one taken, since its interval includes zero: " + "; ".join(close) + ".")
    return " ".join(parts)
