"""What a transfer may spend, as somebody writes it. Nothing else reads a budget."""

import re
from numbers import Real
from typing import Any, cast

from ensemble_transfer.errors import require

UNITS = {"s": 1, "min": 60, "h": 3600}
"""Seconds in the units of a budget in time."""

MAX_FINE_TUNINGS = 1_000_000
"""Fine-tunings that a transfer may spend at the most: no ensemble has as many members."""


def read_budget(budget: object, in_time: bool = True) -> float | None:
    """Return a budget in fine-tunings, or in seconds if it is a time; None for none, where recipes stay as they are.

    Args:
        budget: What somebody wrote.
        in_time: Whether it may be a time, such as ``10min``.

    Raises:
        SettingError: If it is none that can be spent.
    """
    amount: Any = seconds_of(budget) if isinstance(budget, str) and in_time else budget
    if amount is None:
        return None
    number = isinstance(amount, Real) and not isinstance(amount, bool)
    usable = number and 0 < amount <= MAX_FINE_TUNINGS
    time = ", a time such as 10min" * in_time
    require(
        usable,
        "budget",
        budget,
        f"must be above 0 and at most {MAX_FINE_TUNINGS:,} fine-tunings{time}, or null for none",
    )
    return cast(float, amount)  # as it was written: messages name it


def seconds_of(budget: str) -> float:
    """Return the seconds of a budget such as ``90s``, ``10min`` or ``1.5h``.

    Raises:
        SettingError: If it is no time.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|min|h)", budget.strip(), re.ASCII)
    rule = "must be a number of fine-tunings, or a time such as 90s, 10min or 1h"
    require(found is not None and float(found[1]) > 0, "budget", budget, rule)
    assert found is not None
    return float(found[1]) * UNITS[found[2]]
