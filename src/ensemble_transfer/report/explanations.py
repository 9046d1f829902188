"""Explain a run in its summary: what to do next, what the shift did, what was chosen and why."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ensemble_transfer.report.record import Record
from ensemble_transfer.report.settings import flat
from ensemble_transfer.report.tables import markdown as table

BARRIER = 0.1
"""Loss barrier between members, in nats, up to which there is no warning."""

RIVALS_COMMAND = "python -m ensemble_transfer rivals"

SENTENCES = 3
"""Sentences on a shift, at most."""


def next_step(record: Record, folder: Path) -> list[str]:
    """Return why the rivals should be run, and the command that runs them in a run's folder.

    It repeats the run's classes from elsewhere, since none that a record names is imported unasked. There is nothing
    to run for a reference or control, beside a run, for an extension, and without test.
    """
    spent, beside = record.cost["total"].get("fine_tunings"), record.command.startswith(RIVALS_COMMAND)
    rivalled = record.role in ("method", "rival") and "added" not in record.cost
    if not (spent and rivalled and record.tested) or beside:
        return []
    classes = [f"{n}={v}" for n, v in flat({k: v for k, v in record.config.items() if k != "logger"}) if _foreign(n, v)]
    return [
        f"**Next**: is anything better for {spent:.2f} fine-tunings? One command runs the baseline and the rivals:",
        f"    {RIVALS_COMMAND} {shlex.join([str(folder.absolute()), *classes])}",
    ]


def _foreign(name: str, value: str) -> bool:
    return name.endswith("._target_") and not value.startswith("ensemble_transfer.")


def source_warning(record: Record) -> str:
    """Return a warning of a source ensemble that has learnt nothing; empty for others."""
    if not _at_chance(record):
        return ""
    loss, chance = record.metrics["source/test/member/nll"], record.metrics["source/chance_nll"]
    return (
        f"**Warning**: the source ensemble has learnt nothing: its members' loss is {loss:.2f} on their own task, "
        f"and guessing has {chance:.2f}. What is transferred is noise: train it for longer, or at another rate."
    )


def warnings(record: Record) -> list[str]:
    """Return what makes the result doubtful; a text each."""
    basin = () if record.role == "control" else _basin(record)
    return [text for text in (source_warning(record), *basin) if text.startswith("**Warning**")]


def _at_chance(record: Record) -> bool:
    """Return whether the source members are no better on their own task than the same probability for all classes."""
    loss, chance = (record.metrics.get(key) for key in ("source/test/member/nll", "source/chance_nll"))
    return loss is not None and chance is not None and loss >= chance


def shift_effect(record: Record) -> str:
    """Return what the shift did before any fine-tuning, warnings first; empty where it was not measured."""
    probed = [record.metrics.get(f"shift/probe_accuracy{rival}") for rival in ("", "_no_shift", "_random")]
    known = [accuracy for accuracy in probed if accuracy is not None]
    if record.role == "control" or len(known) != len(probed):
        return ""
    if record.metrics.get("shift/scale") == 0:
        first, more = "**No shift was made**: its scale is 0, given or found on validation.", list(_basin(record))
    else:
        shifted, unshifted, random = known
        helps = "helps" if shifted > max(unshifted, random) else "does not help"
        first = (
            f"The shift **{helps}** a new head: with a probed one and no fine-tuning, the other members reach "
            f"{shifted:.3f} on validation, {unshifted:.3f} without the shift, {random:.3f} after a random one of the "
            "same length."
        )
        more = [*_reasons(record, known), *_basin(record)]
    more.sort(key=lambda sentence: not sentence.startswith("**Warning**"))
    return " ".join([first, *more][:SENTENCES])


def _reasons(record: Record, probed: Sequence[float]) -> Iterator[str]:
    """Say whether a gain could be chance, and why the shift helps or does not; a sentence each."""
    metrics, (shifted, unshifted, random) = record.metrics, probed
    rival, key = max((unshifted, "shift/probe_gain_error"), (random, "shift/probe_gain_over_random_error"))
    gain, error = shifted - rival, metrics.get(key)
    if error is not None and abs(gain) <= 2 * error:
        yield (
            f"That is **within noise**: {gain:+.3f} against the better of the two, where two standard errors, paired "
            f"by validation image, are {2 * error:.3f}."
        )
    if shifted <= unshifted:
        yield "Features of the source serve a new head as well as shifted ones."
    elif shifted <= random:
        yield "Any direction of that length does as well, so that the donor's is not what helps."
    own, before = (metrics.get(f"shift/zero_shot_accuracy{end}") for end in ("", "_no_shift"))
    if own is not None and before is not None:
        yield (
            f"Under the donor's head, with no training of their own at all, they reach {own:.3f} ({before:.3f} "
            f"without the shift): the donor's head {'reads' if own > before else 'does not read'} what the shift does."
        )
    if (length := metrics.get("shift/relative_norm")) is not None:
        yield f"The shift is {length:.0%} as long as the weights that it moves."


def _basin(record: Record) -> Iterator[str]:
    """Say how far the members share a basin, and warn where they do not, or share no ancestor."""
    barrier, loss = (record.metrics.get(key) for key in ("source/validation/barrier", "source/test/member/nll"))
    if barrier is not None and not _at_chance(record):
        rises = f"the way from one member to another the source loss rises by {barrier:.2f} nats"
        if loss is None:
            yield f"On {rises}."
        elif barrier > max(loss, BARRIER):
            yield (
                f"**Warning**: on {rises}, more than their own loss of {loss:.2f}: "
                "they do not share a basin, and one's shift need not suit another."
            )
        else:
            yield f"On {rises}, their own loss is {loss:.2f}: they share a basin, as the method assumes."
    backbone = record.config.get("backbone") or {}
    if record.ensemble["lineage"] == "independent" and not (backbone.get("pretrained") or backbone.get("checkpoint")):
        yield (
            "**Warning**: members of independent lineage share no ancestor: nothing says that one's shift suits "
            "another."
        )


def choice_text(record: Record) -> str:
    """Return a table of what ``auto`` chose from and the reasons, or the scale of ``turns``; empty without a choice."""
    choice, turns = record.curves.get("choice"), record.curves.get("turns")
    if turns:
        return f"Members after the donors are shifted by {turns['scale']:g} times the donors' moves."
    if not choice:
        return ""
    if not choice["candidates"]:
        return (
            _grown(choice)
            if "grown" in choice
            else "One member was fine-tuned with the whole budget, which is too small to pay for heads and a choice."
        )
    head = ("candidate, on validation", "members", "accuracy", "calibrated NLL", "behind the one taken")
    how = _grown(choice) if "grown" in choice else _rates(choice)
    parts = [taken(record), table(head, map(_candidate, choice["candidates"])), how]
    close = [c["name"] for c in choice["candidates"] if not c["taken"] and c["low"] <= 0]
    if close:
        parts.append(f"Not told apart from the one taken, since its interval includes zero: {'; '.join(close)}.")
    return "\n\n".join(parts)


def taken(record: Record) -> str:
    """Return which of its candidates ``auto`` took; empty without a choice."""
    names = [c["name"] for c in (record.curves.get("choice") or {"candidates": ()})["candidates"] if c["taken"]]
    return f"**Taken**: {'; '.join(names)}." if names else ""


def _candidate(own: Mapping[str, Any]) -> list[str]:
    behind = "taken" if own["taken"] else "{behind:+.3f} [{low:+.3f}, {high:+.3f}]".format(**own)
    return [own["name"], f"{own['members']}", f"{own['accuracy']:.3f}", f"{own['nll']:.3f}", behind]


def _grown(choice: Mapping[str, Any]) -> str:
    """Return which image sizes members of pretrained networks were trained at, one after another, and why."""
    each = [
        f"{own['image_size']} pixels for {own['steps']} steps, training loss {own['training']:.2f}"
        + (" (it lacked steps: near the loss on validation)" if own.get("starved") else "")
        for own in choice["grown"]
    ]
    return f"Members were fine-tuned one after another, with the rate of the recipe: {'; '.join(each)}."


def _rates(choice: Mapping[str, Any]) -> str:
    """Return which learning rates the pilots had, how far each came, and which were taken."""
    steps, rates = (", ".join(f"{n:.3g}" for n in dict.fromkeys(choice[name])) for name in ("steps", "lr"))
    trained = f"Members were fine-tuned for {steps} steps with recipe.full.lr={rates}"
    if not choice["pilots"]:
        return f"{trained}: no other was tried."
    losses = ["diverged" if p["training"] is None else f"{p['training']:.2f}" for p in choice["pilots"]]
    pilots = ", ".join(f"{loss} at {p['lr']:.3g}" for loss, p in zip(losses, choice["pilots"], strict=True))
    return f"{trained}, by the training loss of pilots of {choice['pilots'][0]['steps']:g} steps: {pilots}."
