"""Describe in a summary what ``auto`` chose, of which candidates and by which scores; and the scale of ``turns``."""

from collections.abc import Mapping
from typing import Any

from ensemble_transfer.report.record import Record

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
    return "\n\n".join(part for part in (table, _rates(choice), _close(choice)) if part)


def _line(candidate: Mapping[str, Any]) -> str:
    behind = "taken" if candidate["taken"] else "{behind:+.3f} [{low:+.3f}, {high:+.3f}]".format(**candidate)
    cells = [f"{candidate['members']}", f"{candidate['accuracy']:.3f}", f"{candidate['nll']:.3f}", behind]
    return f"| {candidate['name']} | " + " | ".join(cells) + " |"


def _rates(choice: Mapping[str, Any]) -> str:
    """Return which learning rates the pilots had, how far each came, and which were taken."""
    steps, rates = (", ".join(f"{n:.3g}" for n in dict.fromkeys(choice[name])) for name in ("steps", "lr"))
    trained = f"Members were fine-tuned for {steps} steps with recipe.full.lr={rates}"
    if not choice["pilots"]:
        return f"{trained}: no other was tried."
    pilots = (f"{_loss(pilot['training'])} at {pilot['lr']:.3g}" for pilot in choice["pilots"])
    length = choice["pilots"][0]["steps"]
    return f"{trained}, by the training loss of pilots of {length:g} steps: {', '.join(pilots)}."


def _loss(training: float | None) -> str:
    return "diverged" if training is None else f"{training:.2f}"


def _close(choice: Mapping[str, Any]) -> str:
    """Return which candidates have an interval that includes zero."""
    close = [c["name"] for c in choice["candidates"] if not c["taken"] and c["low"] <= 0]
    return f"Not told apart from the one taken, since its interval includes zero: {'; '.join(close)}." if close else ""
