"""Describe in a summary what the shift did before any fine-tuning, and name the commands that run the rivals."""

import math
import shlex
from collections.abc import Iterator, Sequence

from ensemble_transfer.report.frontier import RIVALS
from ensemble_transfer.report.record import Record

BARRIER = 0.1
"""Loss barrier between members, in nats, up to which there is no warning."""

UNRIVALLED = (*RIVALS, "full", "scratch", "random_shift")
"""Strategies that are rivals, references or controls themselves."""

STRATEGY = "strategy"


def verdict(record: Record) -> Iterator[str]:
    """Yield the effect of the shift before any fine-tuning, if it was measured, and the commands of the rivals."""
    probed = [record.metrics.get(f"shift/probe_accuracy{rival}") for rival in ("", "_no_shift", "_random")]
    known = [accuracy for accuracy in probed if accuracy is not None]
    if record.strategy != "random_shift" and len(known) == len(probed):
        yield _shift(record, known)
    commands = rivals(record)
    if commands:
        spent = record.cost["total"]["fine_tunings"]
        yield (
            f"**Not shown to pay**: this run does not know what its rivals make of the same compute, {spent:.2f} "
            "fine-tunings. Run them, with more than one seed, then "
            "`python -m ensemble_transfer.compare` the folders:"
        )
        yield "\n".join(f"- `{command}`" for command in commands)


def rivals(record: Record) -> list[str]:
    """Return the commands that run the rivals with this run's compute; none for a rival, reference or control.

    There is none for an extension either, whose own command takes no strategy.
    """
    spent = record.cost["total"].get("fine_tunings")
    if record.strategy in UNRIVALLED or not spent or "added" in record.cost:
        return []
    kept = [word for word in shlex.split(record.command) if not _replaced(word)]
    return [shlex.join([*kept, f"+strategy={rival}", f"budget={math.ceil(spent * 100) / 100:g}"]) for rival in RIVALS]


def _replaced(word: str) -> bool:
    """Return whether an argument is one of the strategy, of the budget or of the run's own folder."""
    name = word.lstrip("+~").partition("=")[0]
    return name in (STRATEGY, "budget", "hydra.run.dir") or name.startswith(f"{STRATEGY}.")


def _shift(record: Record, probed: Sequence[float]) -> str:
    if {scale for name, scale in record.metrics.items() if name.startswith("shift/scale/")} == {0.0}:
        made = "**No shift was made**: its scale is 0, given or found on validation."
        return " ".join([made, *_warnings(record)])
    shifted, unshifted, random = probed
    helps = shifted > max(unshifted, random)
    text = (
        f"The shift **{'helps' if helps else 'does not help'}** a new head: with a probed one and no fine-tuning, the "
        f"other members reach {shifted:.3f} on validation, {unshifted:.3f} without the shift, {random:.3f} after a "
        "random one of the same length."
    )
    return " ".join([text, *_noise(record, probed), *_reasons(record, probed)])


def _noise(record: Record, probed: Sequence[float]) -> list[str]:
    """Say whether a gain could be chance: whether it is below two standard errors of the validation images."""
    shifted, unshifted, random = probed
    rival, key = max((unshifted, "shift/probe_gain_error"), (random, "shift/probe_gain_over_random_error"))
    gain, error, what = shifted - rival, record.metrics.get(key), "standard errors, paired by validation image,"
    if error is None:  # older records: as if the two were measured on different images
        count = record.config.get("dataset", {}).get("target", {}).get("validation")
        if not isinstance(count, int) or count < 1:
            return []
        error = math.sqrt((shifted * (1 - shifted) + rival * (1 - rival)) / count)
        what = f"binomial standard errors of {count:,} validation images"
    if abs(gain) > 2 * error:
        return []
    return [
        f"That is **within noise**: {gain:+.3f} against the better of the two, where two {what} are {2 * error:.3f}."
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
    if barrier is not None:
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
            "another, unless it is aligned (`strategy.align`)."
        )
    return found
