"""Bounds of what the options of a backbone may claim, checked before anything of that size is allocated."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from ensemble_transfer.errors import require

MAX_SUM = 1_000_000
"""Largest sum of the numbers in one option of a backbone: no depth or width of a network comes near it."""
MAX_MODULES = 10_000
"""Largest number of modules in a network; timm's largest have a fifth of it."""
MAX_WEIGHTS = 10_000_000_000
"""Largest number of weights in a network; timm's largest has two thirds of it."""


def numbers(value: object) -> Iterator[int | float]:
    """Yield the numbers in a value, its lists and its mappings; booleans are not numbers."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield value
    elif isinstance(value, list | tuple | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from numbers(part)


def require_bounded(options: Mapping[str, Any]) -> None:
    """Raise a SettingError if the numbers of an option are larger than any network's."""
    for name, value in options.items():
        total = sum(abs(number) for number in numbers(value))
        require(total <= MAX_SUM, f"options.{name}", total, f"is too large: its numbers may sum to at most {MAX_SUM}")


@contextmanager
def bounded(options: Mapping[str, Any]) -> Iterator[None]:
    """Raise a SettingError as soon as the network that is built in the block has too many modules or weights."""
    count = {"modules": 0, "weights": 0}

    def add(what: str, number: int, most: int) -> None:
        count[what] += number
        rule = f"describes a network of more than {most} {what}, which is the limit"
        require(count[what] <= most, "options", dict(options), rule)

    def add_weights(_: nn.Module, _name: str, weights: Tensor | None) -> None:
        number = 1 if weights is None else weights.numel()
        require(number > 0, "options", dict(options), "describes a layer without weights; widths must be above 0")
        add("weights", number, MAX_WEIGHTS)

    handles = (
        register_module_module_registration_hook(lambda *_: add("modules", 1, MAX_MODULES)),
        register_module_parameter_registration_hook(add_weights),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
