"""Choose examples by their labels: seeded, stratified, disjoint."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ensemble_transfer.errors import require

Size = int | float | None
"""A count (1 or more), a fraction of what there is (below 1), or None for all that is left."""


def carve(labels: Tensor, sizes: Mapping[str, Size], seed: int) -> dict[str, Tensor]:
    """Divide examples into disjoint parts, each with the class proportions of what was left for it.

    A part depends on the seed and on the parts named before it, not on those after it.

    Args:
        labels: (N,) int64.
        sizes: Size of each part by name, at most one None; the names appear in errors.
        seed: Seed of the choice.

    Returns:
        Positions by part, each (count,) int64 in ascending order.
    """
    left = _shuffled_classes(labels, seed)
    parts = {}
    for name, count in _counts(sizes, len(labels)).items():
        shares = _shares([len(members) for members in left], count)
        taken = [members[:share] for members, share in zip(left, shares, strict=True)]
        left = [members[share:] for members, share in zip(left, shares, strict=True)]
        parts[name] = torch.cat(taken).sort().values
    return parts


def in_fold(labels: Tensor, folds: int, fold: int, classes: Sequence[str], seed: int) -> Tensor:
    """Divide examples into stratified folds, and return which of them are in one fold: (N,) bool.

    Every example is in exactly one fold. Two folds differ by at most one example, of each class and in total.

    Raises:
        SettingError: A class has fewer examples than there are folds.
    """
    _require_each(labels, folds, classes, "folds", "images, and every fold tests it")
    inside = torch.zeros(len(labels), dtype=torch.bool)
    inside[torch.cat(_shuffled_classes(labels, seed))[fold::folds]] = True
    return inside


def few_shot(labels: Tensor, per_class: int, classes: Sequence[str], seed: int) -> Tensor:
    """Choose so many examples of every class at random: their positions, int64, in ascending order.

    Raises:
        SettingError: A class has fewer examples.
    """
    _require_each(labels, per_class, classes, "per_class", "to train on")
    chosen = [members[:per_class] for members in _shuffled_classes(labels, seed)]
    return torch.cat(chosen).sort().values


def select_classes(labels: Tensor, keep: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Keep the examples of some classes, and number these anew: the first becomes 0, the second 1, ...

    Returns:
        Positions of the K kept examples, (K,) int64 ascending, and their new labels, (K,) int64.
    """
    new = torch.full((max(int(labels.max()), *keep) + 1,), -1)
    new[list(keep)] = torch.arange(len(keep))
    renamed = new[labels]
    kept = (renamed >= 0).nonzero()[:, 0]
    return kept, renamed[kept]


def class_positions(classes: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Find classes by name or, where no class has that name, by position.

    Raises:
        SettingError: A class is unknown, or named twice.
    """
    places = {str(place): place for place in range(len(classes))} | {name: p for p, name in enumerate(classes)}
    shown = ", ".join(classes[:12]) + (", ..." if len(classes) > 12 else "")
    for name in map(str, wanted):
        require(name in places, "classes", name, f"must be among {shown}, or positions 0 to {len(classes) - 1}")
    found = [places[str(name)] for name in wanted]
    require(len(set(found)) == len(found), "classes", list(wanted), "must not name a class twice")
    return found


def _require_each(labels: Tensor, least: int, classes: Sequence[str], setting: str, what: str) -> None:
    """Raise a SettingError unless every class has so many examples."""
    for name, count in zip(classes, torch.bincount(labels, minlength=len(classes)).tolist(), strict=True):
        require(count >= least, setting, least, f"the class {name!r} has only {count} {what}")


def _shuffled_classes(labels: Tensor, seed: int) -> list[Tensor]:
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    grouped = order[labels[order].argsort(stable=True)]
    counts = torch.bincount(labels)
    return list(torch.split(grouped, counts[counts > 0].tolist()))


def _counts(sizes: Mapping[str, Size], total: int) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name, size in sizes.items():
        if size is None:
            continue
        count = max(1, round(size * total)) if size < 1 else int(size)
        left = total - sum(counts.values())
        beside = " beside " + ", ".join(f"{other}={taken}" for other, taken in counts.items()) if counts else ""
        require(count <= left, name, size, f"asks for {count} images, but there are {left} of {total}{beside}")
        counts[name] = count
    rest = total - sum(counts.values())
    for name, size in sizes.items():
        require(size is not None or rest > 0, name, size, f"none of {total} images is left for it")
    return {name: counts.get(name, rest) for name in sizes}


def _shares(sizes: Sequence[int], count: int) -> list[int]:
    """Share a count among classes in proportion to their sizes, by largest remainder."""
    quotas = [divmod(size * count, sum(sizes)) for size in sizes]
    shares = [whole for whole, _ in quotas]
    by_remainder = sorted(range(len(sizes)), key=lambda place: -quotas[place][1])
    for place in by_remainder[: count - sum(shares)]:
        shares[place] += 1
    return shares
