"""An ensemble under the user's own ``pl.Trainer``, with its callbacks and loggers.

It takes the step of :class:`~ensemble_transfer.training.lockstep.Lockstep`, as the runner does. The runner's fits
besides go on member by member where they were stopped, and are remembered in the store.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, nll_loss

from ensemble_transfer.errors import require
from ensemble_transfer.machine import free_memory
from ensemble_transfer.models.architecture import Architecture
from ensemble_transfer.models.device import channels_last, channels_last_pays
from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.seeding import derive
from ensemble_transfer.tasks.task import Task
from ensemble_transfer.training.executors import Differentiate, Loop
from ensemble_transfer.training.features import frozen_statistics
from ensemble_transfer.training.lockstep import Lockstep
from ensemble_transfer.training.loss import Loss, loss_of
from ensemble_transfer.training.recipe import BALANCED, Recipe
from ensemble_transfer.weights import copied, joined

log = logging.getLogger(__name__)


class EnsembleModule(Lockstep):
    """Fine-tunes every member of an ensemble by a recipe, under any ``pl.Trainer`` with one device.

    A step is one step of every member. All members see the same batch, images (batch, C, H, W) uint8 and labels
    (batch,); or each its own, with a leading dimension of members, as
    :class:`~ensemble_transfer.lightning.data_module.TaskDataModule` makes them. Members share nothing: one optimizer
    holds the weights of all, so that the trainer's ``max_steps`` and ``global_step`` count steps of the recipe.

    The fit ends after the recipe's steps, to which its schedule belongs, or where the trainer ends it before.
    ``member/loss``, ``member/accuracy`` (means over members), ``ensemble/loss`` and ``ensemble/accuracy`` (of the mean
    probabilities) are logged under ``train/``, ``validation/`` and ``test/``; those of the ensemble not for training
    batches that differ by member.

    Args:
        ensemble: The members to start from; or the plain description that a checkpoint keeps of them.
        recipe: Optimizer, schedule, clipping and number of steps; or its fields as plain data.
        classes: Names of the classes to train for, in the order of the labels. Where they are not the ensemble's, every
            member starts from a random head of its own. None for the ensemble's.
        seed: Decides what is random in the members: new heads, dropout.
        accumulate_grad_batches: Batches whose mean gradient makes a step, as the trainer's argument of that name, which
            manual optimization forbids. A step is taken at the end of an epoch too, from the batches that there are.

    Raises:
        SettingError: If the recipe cannot train whole members, or the members do not fit into memory.
    """

    group: Loop

    def __init__(
        self,
        ensemble: Ensemble | Mapping[str, Any],
        recipe: Recipe | Mapping[str, Any],
        classes: Sequence[str] | None = None,
        seed: int = 0,
        accumulate_grad_batches: int = 1,
    ) -> None:
        recipe = recipe if isinstance(recipe, Recipe) else Recipe(**recipe)
        recipe.check_whole()
        recipe.check_trains()
        require(accumulate_grad_batches > 0, "accumulate_grad_batches", accumulate_grad_batches, "must be at least 1")
        if isinstance(ensemble, Ensemble):
            source = ensemble if classes is None else _for_classes(ensemble, tuple(classes), seed)
            about = _description(source)
            members: list[nn.Module] = [*source.classifiers()]
        else:
            about = dict(ensemble)
            members = _untrained(Architecture.from_plain(about["architecture"]), about["members"], about["sizes"])
        members = [frozen_statistics(m) for m in members] if recipe.batchnorm == "frozen" else members
        loss = Loss() if recipe.class_weights == BALANCED else loss_of(recipe, torch.empty(0), len(about["classes"]))
        group = Loop([member.train() for member in members], loss)
        seeds = [member_seed(seed, member) for member in range(len(members))]
        super().__init__(group, recipe, seeds, accumulate_grad_batches)
        self._about = about
        settings = {"recipe": asdict(recipe), "seed": seed, "accumulate_grad_batches": accumulate_grad_batches}
        self.save_hyperparameters({"ensemble": about} | settings)

    def __repr__(self) -> str:
        what = f"{len(self.members)} members of {self.architecture.backbone}, {len(self._about['classes'])} classes"
        return f"EnsembleModule({what}, {self.recipe})"

    @property
    def members(self) -> Sequence[nn.Module]:
        """The members' networks."""
        return [*self.group.members]

    @property
    def architecture(self) -> Architecture:
        """Architecture of the members."""
        return Architecture.from_plain(self._about["architecture"])

    def ensemble(self) -> Ensemble:
        """Return the ensemble as it is now; its weights are copies on the CPU.

        Its history names the task of the :class:`~ensemble_transfer.lightning.data_module.TaskDataModule` that it saw.
        """
        weights = [copied(member.state_dict()) for member in self.members]
        full = [{n: t.float() if t.is_floating_point() else t for n, t in member.items()} for member in weights]
        about, sizes = self._about, tuple(self._about["sizes"])
        named = tuple(about["classes"]), about["lineage"], about["history"]
        return Ensemble(self.architecture, tuple(full), *named, sizes)

    def forward(self, images: Tensor) -> Tensor:
        """Return probabilities (members, examples, classes) of images (examples, channels, height, width), uint8."""
        images = self._fitting(images)
        return torch.stack([member(images).float().softmax(-1) for member in self.members])

    def _fitting(self, images: Tensor) -> Tensor:
        """Return images; raise a SettingError for others than those that the saved ensemble will be given."""
        shape = (self.architecture.channels, *[self.architecture.image_size] * 2)
        fits = images.dtype == torch.uint8 and tuple(images.shape[-3:]) == shape
        rule = f"must be uint8 of shape (..., {', '.join(map(str, shape))}): members normalise them"
        require(fits, "images", f"{images.dtype} {tuple(images.shape)}", rule)
        return images

    def on_fit_start(self) -> None:
        """Refuse several devices, as each member's backward pass is one of its own; lay out weights; note the task."""
        rule = "must be 1: EnsembleModule trains on one device"
        require(self.trainer.world_size == 1, "devices", self.trainer.world_size, rule)
        if channels_last_pays(self.device):
            channels_last(self.group)
        task = getattr(getattr(self.trainer, "datamodule", None), "task", None)
        rule = "needs a TaskDataModule, whose labels it counts; or give a list of one number for each class"
        known = self.recipe.class_weights != BALANCED or isinstance(task, Task)
        require(known, "class_weights", self.recipe.class_weights, rule)
        if isinstance(task, Task):
            own = self._about["classes"]
            rule = f"must be the module's, {own}; EnsembleModule(..., classes=task.classes) has new heads"
            require([*task.classes] == [*own], "classes", task.classes, rule)
            self.group.loss = loss_of(self.recipe, task.train.labels, len(own)).to(self.device)
            moved = {"strategy": type(self).__name__, "target": task.name}
            self._about["history"] = dict(self._about["history"]) | moved

    def on_train_start(self) -> None:
        """Take no step beyond the schedule, from a checkpoint of its end; say so if the trainer ends before it does."""
        super().on_train_start()
        self.trainer.should_stop = self.trainer.should_stop or self._is_done
        ends = self._steps_of_the_trainer()
        if ends < self.recipe.steps and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]  # Lightning's
            text = "the trainer ends after %d of the recipe's %d steps, before the learning rate has come down"
            log.warning(text, ends, self.recipe.steps)

    def _steps_of_the_trainer(self) -> float:
        """Return how many steps the trainer would take, from its epochs and its own limit of steps."""
        trainer, each = self.trainer, self.accumulate_grad_batches
        if each == 1 or trainer.max_epochs == -1 or trainer.num_training_batches == float("inf"):
            return trainer.estimated_stepping_batches
        steps = -(-trainer.num_training_batches // each) * (trainer.max_epochs or 0)
        return steps if trainer.max_steps == -1 else min(steps, trainer.max_steps)

    def unpacked(self, batch: Any) -> list[tuple[Tensor, Tensor]]:  # noqa: ANN401  # as a loader has it
        """Return the batch of every member: the one of all, or each its own."""
        images, labels = self._fitting(batch[0]), batch[1]
        if labels.ndim == 2:
            return [(images, labels)]
        members = len(self.members)
        return [(images.expand(members, *images.shape), labels.expand(members, *labels.shape))]

    @property
    def differentiate(self) -> Differentiate:
        """The trainer's way: it scales losses of 16 bits, and calls the hooks of callbacks."""
        each = self.accumulate_grad_batches
        return lambda loss: self.manual_backward(loss / each if each > 1 else loss)

    def stepped(self, losses: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Log loss and accuracy, and end the fit after the recipe's steps."""
        shared = labels.stride(0) == 0
        self._log("train", logits.float(), labels[0] if shared else labels, losses)
        if self._is_done:
            self.trainer.should_stop = True

    @property
    def _is_done(self) -> bool:
        return self.global_step >= self.recipe.steps

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int = 0) -> None:
        """Log loss and accuracy of members and ensemble."""
        del batch_idx
        self._evaluate("validation", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int = 0) -> None:
        """Log loss and accuracy of members and ensemble."""
        del batch_idx
        self._evaluate("test", batch)

    def predict_step(self, batch: Tensor | Sequence[Tensor], batch_idx: int = 0) -> Tensor:
        """Return probabilities (members, examples, classes) of images, or of the images of a batch with labels."""
        del batch_idx
        probabilities: Tensor = self(batch if isinstance(batch, Tensor) else batch[0])
        return probabilities

    def _evaluate(self, split: str, batch: tuple[Tensor, Tensor]) -> None:
        images, labels = self._fitting(batch[0]), batch[1]
        logits = torch.stack([member(images).float() for member in self.members])
        self._log(split, logits, labels, torch.stack([cross_entropy(out, labels) for out in logits]))

    @torch.no_grad()
    def _log(self, split: str, logits: Tensor, labels: Tensor, losses: Tensor) -> None:
        found = {"member/loss": losses.float().mean(), "member/accuracy": _accuracy(logits, labels)}
        if labels.ndim == 1:
            log_mean = logits.log_softmax(-1).logsumexp(0) - torch.tensor(float(len(logits))).log()
            found["ensemble/loss"] = nll_loss(log_mean, labels)
            found["ensemble/accuracy"] = _accuracy(log_mean, labels)
        self.log_dict({f"{split}/{name}": value for name, value in found.items()}, batch_size=labels.shape[-1])


def member_seed(seed: int, member: int) -> int:
    """Return a member's stream of randomness."""
    return derive(seed, "member", member)


def _accuracy(scores: Tensor, labels: Tensor) -> Tensor:
    return (scores.argmax(-1) == labels).float().mean()


def _for_classes(ensemble: Ensemble, classes: tuple[str, ...], seed: int) -> Ensemble:
    """Return the ensemble with heads for these classes: its own, or random ones where the classes differ."""
    if classes == tuple(ensemble.classes):
        return ensemble
    architecture = ensemble.architecture.with_classes(len(classes))
    members = tuple(
        {name: tensor for name, tensor in member.items() if not name.startswith("head.")}
        | joined(head=architecture.fresh_head(derive(seed, "head", index)))
        for index, member in enumerate(ensemble.members)
    )
    return Ensemble(architecture, members, classes, ensemble.lineage, ensemble.history, ensemble.sizes)


def _description(ensemble: Ensemble) -> dict[str, Any]:
    """Return what an ensemble is, but for its weights, as plain data."""
    architecture, history = ensemble.architecture.plain(), dict(ensemble.history)
    about = {"architecture": architecture, "classes": list(ensemble.classes), "lineage": ensemble.lineage}
    members = {"history": history, "members": len(ensemble), "sizes": list(ensemble.sizes)}
    plain: dict[str, Any] = json.loads(json.dumps(about | members))
    return plain


def _untrained(architecture: Architecture, members: int, sizes: Sequence[int]) -> list[nn.Module]:
    """Return so many members, of their own image sizes if any, whose weights a checkpoint will replace."""
    with torch.device("meta"):
        size = sum(tensor.nbytes for tensor in architecture.build().state_dict().values())
    rule = f"need {members * size} bytes for their weights, more than are free"
    require(members > 0 and members * size < free_memory(), "members", members, rule)
    with torch.random.fork_rng(devices=[]):
        return [architecture.at(size).build() for size in sizes or [architecture.image_size] * members]
