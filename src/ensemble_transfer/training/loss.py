"""The loss of a fit: cross-entropy, in which classes may count by weights of their own."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ensemble_transfer.errors import require, settings_under
from ensemble_transfer.training.recipe import BALANCED, Recipe, Recipes


class Loss(nn.CrossEntropyLoss):
    """Cross-entropy with a mean over the examples' weights, as torch's.

    Args:
        smoothing: Label smoothing.
        weight: Weights (classes,); None where all examples count the same. They are in no checkpoint.
    """

    def __init__(self, smoothing: float = 0.0, weight: Tensor | None = None) -> None:
        super().__init__(label_smoothing=smoothing)
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:  # noqa: A002  # torch's names
        """Return the loss of logits (batch, classes) and labels (batch,); with weights in float32 at the least."""
        if self.weight is None:
            return super().forward(input, target)
        exact = torch.promote_types(input.dtype, self.weight.dtype)
        weight = self.weight.to(exact)
        return cross_entropy(input.to(exact), target, weight, label_smoothing=self.label_smoothing)

    def share(self, part: Tensor, whole: Tensor) -> float | Tensor:
        """Return the share that some of a batch's labels have in its mean."""
        if self.weight is None:
            return len(part) / len(whole)
        return self.weight[part].sum() / self.weight[whole].sum()


def loss_of(recipe: Recipe, labels: Tensor, classes: int) -> Loss:
    """Return the loss of fits by a recipe on so many classes.

    Args:
        recipe: Its label smoothing and class weights.
        labels: Labels of all training images (examples,).
        classes: Number of classes.

    Raises:
        SettingError: If the class weights do not suit the classes.
    """
    return Loss(recipe.label_smoothing, class_weights(recipe, labels, classes))


def check_class_weights(recipes: Recipes, labels: Tensor, classes: int) -> None:
    """Raise a SettingError if the class weights of a recipe for the target do not suit it; see :func:`loss_of`."""
    for name in ("full", "tiny", "probe", "head"):
        with settings_under(f"recipe.{name}"):
            class_weights(getattr(recipes, name), labels, classes)


def class_weights(recipe: Recipe, labels: Tensor, classes: int) -> Tensor | None:
    """Return the weight of each class (classes,), or None where all count the same; see :func:`loss_of`.

    Balanced ones are n / (k * n_c) for n images of k classes, of which n_c are of the class: King and Zeng, Logistic
    Regression in Rare Events Data (2001), as scikit-learn's ``compute_class_weight`` has it.
    """
    weights = recipe.class_weights
    if weights is None:
        return None
    if weights == BALANCED:
        counts = labels.bincount(minlength=classes)
        rule = "needs a training image of every class"
        require(bool((counts > 0).all()), "class_weights", weights, rule)
        return (len(labels) / (classes * counts.double())).float()
    rule = f"must be {classes} numbers, one for each class in the order of the task, or {BALANCED}"
    require(len(weights) == classes, "class_weights", [*weights], rule)
    return torch.tensor(weights)
