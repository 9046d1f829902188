"""The optimizer of a recipe."""

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from ensemble_transfer.training.recipe import Recipe


def optimizer_of(recipe: Recipe, trained: Iterable[tuple[str, nn.Parameter]], fused: bool = False) -> Optimizer:
    """Return one optimizer over the parameters of all members, at the recipe's highest learning rates.

    AdamW and SGD update each weight by itself, so members that share an optimizer do not influence each other.

    Args:
        recipe: Optimizer and learning rates.
        trained: The parameters of all members, with the names that they have in a member.
        fused: Whether one kernel updates a weight: faster on a GPU, and on a CPU for weights that are few and small.
    """
    named = list(trained)
    encoder = [parameter for name, parameter in named if not name.startswith("head.")]
    head = [parameter for name, parameter in named if name.startswith("head.")]
    groups: list[dict[str, Any]] = [{"params": head, "lr": recipe.lr * recipe.head_lr_factor, "name": "head"}]
    if encoder:
        groups.append({"params": encoder, "lr": recipe.lr, "name": "encoder"})
    common: dict[str, Any] = {"weight_decay": recipe.weight_decay, "foreach": not fused, "fused": fused}
    if recipe.optimizer == "adamw":
        return AdamW(groups, **common)
    return SGD(groups, momentum=recipe.momentum, nesterov=recipe.momentum > 0, **common)
