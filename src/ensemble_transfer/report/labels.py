"""Label the rows of a comparison: the strategy, and the settings that set a row apart from the others."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

NAMED = 4
"""Maximum number of settings in a label."""

LONG = 24
"""Maximum number of characters of a value in a label; a path keeps its end."""

_OOD_TASKS = "evaluation.ood."


def labels(all_settings: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the label of each row: the strategy with the settings that set the row apart.

    Options of the strategy and of the evaluation are compared within the same strategy only, options of source and
    target within the same dataset only.
    """
    everybody = _Others(all_settings)
    kinds = {
        (kind, value): _Others([other for other in all_settings if other[kind] == value])
        for kind in ("strategy", "dataset")
        for value in {own[kind] for own in all_settings}
    }

    def label(own: Mapping[str, str]) -> str:
        apart: dict[str, None] = {}
        for name, value in own.items():
            kind = _KINDS.get(name.split(".")[0])
            rivals = everybody if kind is None or name == kind else kinds[kind, own[kind]]
            if name != "strategy" and name in rivals.varying:
                apart[_formatted(name, value, rivals.settings)] = None
        shown = list(apart) if len(apart) <= NAMED else [*list(apart)[:NAMED], f"{len(apart) - NAMED} more"]
        return f"{own['strategy']} ({', '.join(shown)})" if shown else own["strategy"]

    return [label(own) for own in all_settings]


_KINDS = {"strategy": "strategy", "evaluation": "strategy", "dataset": "dataset"}
"""Groups of settings that set rows apart only from rows of the same strategy, or the same pair of tasks."""


@dataclass(frozen=True)
class _Others:
    """The settings of rows that a label sets apart."""

    settings: Sequence[Mapping[str, str]]

    @cached_property
    def varying(self) -> frozenset[str]:
        """Names of the settings that do not have one value in all rows."""
        values: dict[str, set[str]] = {}
        counts: Counter[str] = Counter()
        for own in self.settings:
            counts.update(own.keys())
            for name, value in own.items():
                values.setdefault(name, set()).add(value)
        return frozenset(n for n, found in values.items() if len(found) > 1 or counts[n] < len(self.settings))


def _formatted(name: str, value: str, rivals: Iterable[Mapping[str, str]]) -> str:
    """Format a setting for a label; an out-of-distribution task that a rival lacks is shown by its name alone."""
    if name == "dataset":
        return value if " -> " in value else f"{value}, no source"
    if (name, value) == ("budget", "None"):
        return "no budget"
    path = name.removeprefix("strategy.").removeprefix("dataset.")
    if name.startswith(_OOD_TASKS):
        task = name.removeprefix(_OOD_TASKS).split(".")[0]
        if any(not any(key.startswith(f"{_OOD_TASKS}{task}.") for key in other) for other in rivals):
            return f"OOD {task}"
        path = f"OOD {name.removeprefix(_OOD_TASKS)}"
    last = path.split(".")[-1]
    if last == "_target_":
        path, value = path.removesuffix("._target_"), value.split(".")[-1]
    elif last == "path" and len(value) > LONG:
        value = f"…{value[1 - LONG :]}"
    return f"{path}={value if len(value) <= LONG else f'{value[: LONG - 1]}…'}"
