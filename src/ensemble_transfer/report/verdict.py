"""Describe in a summary what the shift did before any fine-tuning, and name the command that runs the rivals."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from ensemble_transfer.report.record import Record

BARRIER = 0.1
"""Loss barrier between members, in nats, up to which there is no warning."""

RIVALS_COMMAND = "python -m ensemble_transfer.rivals"

SENTENCES = 3
"""Sentences on a shift, at most."""


def next_step(record: Record, folder: Path) -> list[str]:
    """Return why the rivals should be run, and the command that runs them; nothing for a run without rivals.

    Args:
        record: Record of the run.
        folder: The run's folder.
    """
    if not has_rivals(record):
        return []
    spent = record.cost["total"]["fine_tunings"]
    return [
        f"**Next**: whether this is better at equal cost, {spent:.2f} fine-tunings, is not known yet. One command runs "
        "the rivals and the baseline, one member fully fine-tuned, and ends with the comparison; `--seeds 3` repeats "
        "all with three seeds, for intervals:",
        f"    {RIVALS_COMMAND} {shlex.quote(str(folder.absolute()))}",
    ]


def source_warning(record: Record) -> str:
    """Return a warning of a source ensemble that has learnt nothing; empty for others."""
    if not _at_chance(record):
        return ""
    loss, chance = record.metrics["source/test/member/nll"], record.metrics["source/chance_nll"]
    return (
        f"**Warning**: the source ensemble has learnt nothing: its members' loss is {loss:.2f} on their own task, "
        f"and guessing has {chance:.2f}. What is transferred is noise: train it for longer, or at another rate."
    )


def _at_chance(record: Record) -> bool:
    """Return whether the source members are no better on their own task than the same probability for all classes."""
    loss, chance = (record.metrics.get(key) for key in ("source/test/member/nll", "source/chance_nll"))
    return loss is not None and chance is not None and loss >= chance


def has_rivals(record: Record) -> bool:
    """Return whether a run is one to be compared with its rivals: no rival, reference or control, nor beside one.

    The command takes no extension, and no run that was not evaluated on test.
    """
    spent = record.cost["total"].get("fine_tunings")
    beside = record.command.startswith(RIVALS_COMMAND)
    return bool(spent) and record.tested and not beside and "added" not in record.cost and record.known_role == "method"


def shift_effect(record: Record) -> str:
    """Return what the shift did before any fine-tuning, warnings first; empty where it was not measured."""
    probed = [record.metrics.get(f"shift/probe_accuracy{rival}") for rival in ("", "_no_shift", "_random")]
    known = [accuracy for accuracy in probed if accuracy is not None]
    if record.known_role == "control" or len(known) != len(probed):
        return ""
    first, *more = _shift(record, known)
    ordered = sorted(more, key=lambda sentence: not sentence.startswith("**Warning**"))
    return " ".join([first, *ordered][:SENTENCES])


def _shift(record: Record, probed: Sequence[float]) -> list[str]:
    """Return a sentence on the shift, and others that explain it."""
    if {scale for name, scale in record.metrics.items() if name.startswith("shift/scale/")} == {0.0}:
        made = "**No shift was made**: its scale is 0, given or found on validation."
        return [made, *_warnings(record)]
    shifted, unshifted, random = probed
    helps = shifted > max(unshifted, random)
    text = (
        f"The shift **{'helps' if helps else 'does not help'}** a new head: with a probed one and no fine-tuning, the "
        f"other members reach {shifted:.3f} on validation, {unshifted:.3f} without the shift, {random:.3f} after a "
        "random one of the same length."
    )
    return [text, *_noise(record, probed), *_reasons(record, probed)]


def _noise(record: Record, probed: Sequence[float]) -> list[str]:
    """Say whether a gain could be chance: whether it is below two standard errors of the validation images."""
    shifted, unshifted, random = probed
    rival, key = max((unshifted, "shift/probe_gain_error"), (random, "shift/probe_gain_over_random_error"))
    gain, error = shifted - rival, record.metrics.get(key)
    if error is None or abs(gain) > 2 * error:
        return []
    return [
        f"That is **within noise**: {gain:+.3f} against the better of the two, where two standard errors, paired by "
        f"validation image, are {2 * error:.3f}."
    ]


def _reasons(record: Record, probed: Sequence[float]) -> list[str]:
    """Say why the shift helps or does not, each reason a sentence, and warn where it cannot be expected to."""
    metrics, (shifted, unshifted, random) = record.metrics, probed
    reasons = []
    if shifted <= unshifted:
        reasons.append("Features of the source serve a new head as well as shifted ones.")
    elif shifted <= random:
        reasons.append("Any direction of that length does as well, so that the donor's is not what helps.")
    own, before = (metrics.get(f"shift/zero_shot_accuracy{rival}") for rival in ("", "_no_shift"))
    if own is not None and before is not None:
        reasons.append(
            f"Under the donor's head, with no training of their own at all, they reach {own:.3f} ({before:.3f} "
            f"without the shift): the donor's head {'reads' if own > before else 'does not read'} what the shift does."
        )
    length = metrics.get("shift/relative_norm")
    if length is not None:
        reasons.append(f"The shift is {length:.0%} as long as the weights that it moves.")
    return reasons + _warnings(record)


def _warnings(record: Record) -> list[str]:
    """Say how far the members share a basin, and warn where they do not, or share no ancestor."""
    found = []
    barrier, loss = (record.metrics.get(key) for key in ("source/validation/barrier", "source/test/member/nll"))
    if barrier is not None and not _at_chance(record):
        between = f"On the way from one member to another the source loss rises by {barrier:.2f} nats"
        if loss is None:
            found.append(f"{between}.")
        elif barrier > max(loss, BARRIER):
            found.append(
                f"**Warning**: {between[0].lower()}{between[1:]}, more than their own loss of {loss:.2f}: "
                "they do not share a basin, and one's shift need not suit another."
            )
        else:
            found.append(f"{between}, their own loss is {loss:.2f}: they share a basin, as the method assumes.")
    if record.ensemble["lineage"] == "independent":
        found.append(
            "**Warning**: members of independent lineage share no ancestor: nothing says that one's shift suits "
            "another."
        )
    return found
