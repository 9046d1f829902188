"""Waits and copies of a training step on the pretend device.

python tests/pretend_cuda/run.py python tests/pretend_cuda/waits.py

prints them as a table: what a fit of 100 steps takes more than one of 50, so without what a fit takes once.
"""

from dataclasses import dataclass, replace

import pretend_cuda
from pretend_cuda import Counts, counted, total

from ensemble_transfer.models.backbone import Backbone
from ensemble_transfer.tasks.embedded import Digits
from ensemble_transfer.training.fit import Fitter, Start
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.training.settings import TrainerSettings

SHORT, LONG = 50, 100
TASK = Digits(classes=list("01234"), train=200, validation=40, test=60)
NET = Backbone("resnet10t", {"channels": [4, 8, 8, 8], "stem_width": 4, "output_stride": 8})


@dataclass(frozen=True)
class PerStep:
    """What a step takes of a fit of so many members.

    Attributes:
        waits: How often the host waits for the device.
        copies: Copies between the host and the device.
        kernels: Operators of torch, a measure of what the host does.
        waits_once: Waits of a fit besides those of its steps.
        copies_once: Copies, likewise.
        counts: Where the waits and copies of the longer fit happen.
    """

    waits: float
    copies: float
    kernels: float
    waits_once: float
    copies_once: float
    counts: Counts


def per_step(recipe: Recipe, members: int = 8, **settings: object) -> PerStep:
    """Count what a step takes, by two fits of different length."""
    counts, kernels = zip(
        *(_fit(replace(recipe, steps=steps), members, settings) for steps in (SHORT, LONG)), strict=True
    )
    steps = LONG - SHORT
    waits, copies = ([total(of_fit, kind) for of_fit in counts] for kind in ("wait", "copy"))
    a_step = [(long - short) / steps for short, long in (waits, copies, kernels)]
    return PerStep(*a_step, waits[0] - SHORT * a_step[0], copies[0] - SHORT * a_step[1], counts[1])


def _fit(recipe: Recipe, members: int, settings: dict[str, object]) -> tuple[Counts, int]:
    task, architecture = TASK.load(8, 1), NET.architecture(8, 1, 5)
    starts = [Start(member, architecture.initial(member), seed=member) for member in range(members)]
    fitter = Fitter(TrainerSettings(accelerator="gpu", workers=1, progress=False, **settings))
    before = pretend_cuda.kernels()
    with counted() as counts:
        fitter.fit(architecture, starts, task, recipe, "full")
    return counts, pretend_cuda.kernels() - before


def main() -> None:
    """Print the table."""
    print(
        "| executor | members | augment | waits a step | copies a step | kernels a step | waits, copies a fit besides |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for executor, members in (("loop", 1), ("loop", 8), ("vectorised", 8)):
        for augment in ("none", "flip", "crop", "crop_flip", "resized_crop"):
            found = per_step(Recipe(0, lr=1e-2, augment=augment), members, executor=executor)
            once = f"{found.waits_once:.0f}, {found.copies_once:.0f}"
            numbers = f"{found.waits:.2f} | {found.copies:.2f} | {found.kernels:.0f} | {once}"
            print(f"| {executor} | {members} | {augment} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
