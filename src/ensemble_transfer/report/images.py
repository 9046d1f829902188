"""Which rows of a comparison saw other images than the rest: within a seed, and across seeds."""

from collections.abc import Iterator, Sequence

from ensemble_transfer.report.record import Record
from ensemble_transfer.report.rows import Row, by_task


def other_images(rows: Sequence[Row]) -> list[str]:
    """Return a line for all runs of a task that saw other images than its first.

    Within a seed the images and labels of each split are compared. Across seeds, which may draw and divide them
    differently, all images that the task was drawn from are.
    """
    lines = []
    for of_task in by_task(rows).values():
        runs = [(row.label, run) for row in of_task for run in row.runs]
        lines += [*_within_seeds(runs), *_across_seeds(runs)]
    return lines


def _within_seeds(runs: Sequence[tuple[str, Record]]) -> Iterator[str]:
    for seed in sorted({run.seed for _, run in runs if run.data}):
        own = {label: run.data for label, run in runs if run.seed == seed and run.data}
        first, *_ = own.values()
        if other := [label for label, data in own.items() if data != first]:
            than = f"saw other images or labels than {next(iter(own))}: their difference is not paired"
            yield f"at seed {seed}, {', '.join(other)} {than}"


def _across_seeds(runs: Sequence[tuple[str, Record]]) -> Iterator[str]:
    known = [(label, run) for label, run in runs if run.images]
    for label in dict.fromkeys(label for label, _ in known):
        (first, run), own = known[0], [run for name, run in known if name == label]
        if other := sorted(one.seed for one in own if one.images != run.images):
            seeds = f"seed{'s' * (len(other) != 1)} {', '.join(map(str, other))}"
            yield f"{label}, {seeds}: drawn from other images than seed {run.seed} of {first}; do not pool them"
