"""Label the rows of a comparison: the strategy, and the settings that set a row apart from the others."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

MOST = 5
"""Maximum number of settings in a label."""

LONG = 24
"""Maximum number of characters of a value in a label; a path keeps its end."""

_KINDS = {"strategy": "strategy", "evaluation": "strategy", "dataset": "dataset"}
"""Groups of settings that set rows apart only from rows of the same strategy, or the same pair of tasks."""

_SHOWN = ("dataset", "budget", "strategy.members")
"""Settings that are shown wherever they differ."""

_OOD_TASKS = "evaluation.ood."

Settings = Mapping[str, str]


def labels(all_settings: Sequence[Settings]) -> list[str]:
    """Return the label of each row: the strategy with the settings that set the row apart.

    Options of the strategy and of the evaluation are compared within the same strategy only, options of source and
    target within the same dataset only. A value that most of those rows share is left out, but for tasks, budgets and
    numbers of members, and so is null.
    """
    rivals: dict[tuple[str, str], list[Settings]] = {("", ""): list(all_settings)}
    for own in all_settings:
        for kind in ("strategy", "dataset"):
            rivals.setdefault((kind, own[kind]), []).append(own)
    telling = {key: _telling(others) for key, others in rivals.items()}

    def label(own: Settings) -> str:
        apart: dict[str, None] = {}
        for name, value in own.items():
            kind = _KINDS.get(name.split(".")[0])
            key = ("", "") if kind is None or name == kind else (kind, own[kind])
            if name != "strategy" and (name, value) in telling[key]:
                apart[_formatted(name, value, rivals[key])] = None
        shown = list(apart) if len(apart) <= MOST else [*list(apart)[:MOST], f"{len(apart) - MOST} more"]
        return f"{own['strategy']} ({', '.join(shown)})" if shown else own["strategy"]

    return [label(own) for own in all_settings]


def _telling(rivals: Sequence[Settings]) -> set[tuple[str, str]]:
    """Return the settings with their values that set rows apart from the others; null is as good as absent."""
    rows = Counter(item for own in rivals for item in own.items() if item[1] != "None" or item[0] == "budget")
    having: Counter[str] = Counter()
    for (name, _), count in rows.items():
        having[name] += count
    return {
        (name, value)
        for (name, value), count in rows.items()
        if count <= len(rivals) / 2
        or having[name] < len(rivals)  # a row that lacks it has nothing else to be told by
        or ((name in _SHOWN or name.startswith("dataset.")) and count < len(rivals))
    }


def _formatted(name: str, value: str, rivals: Iterable[Settings]) -> str:
    """Format a setting for a label; an out-of-distribution task that a rival lacks is shown by its name alone."""
    if name == "dataset":
        return value if " -> " in value else f"{value}, no source"
    if (name, value) == ("budget", "None"):
        return "no budget"
    path = name.removeprefix("strategy.")
    path = (
        path.removeprefix("dataset.") if path.count(".") > 1 else path
    )  # dataset.image_size is not strategy.image_size
    if name.startswith(_OOD_TASKS):
        task = name.removeprefix(_OOD_TASKS).split(".")[0]
        if any(not any(key.startswith(f"{_OOD_TASKS}{task}.") for key in other) for other in rivals):
            return f"OOD {task}"
        path = f"OOD {name.removeprefix(_OOD_TASKS)}"
    if path.endswith("_target_"):
        path, value = path.removesuffix("._target_"), value.split(".")[-1]
    elif path.endswith("path") and len(value) > LONG:
        value = f"…{value[1 - LONG :]}"
    return f"{path}={value if len(value) <= LONG else f'{value[: LONG - 1]}…'}"
