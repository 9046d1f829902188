"""Whether fits are the same, bit for bit, and what they send to a logger."""

from contextlib import contextmanager
from itertools import count

import pytest
import torch
from same import equal
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import LambdaLR

from ensemble_transfer.models.device import channels_last
from ensemble_transfer.seeding import generator
from ensemble_transfer.training.batches import Batches, augmented
from ensemble_transfer.training.course import Course
from ensemble_transfer.training.executors import grouped
from ensemble_transfer.training.fit import Fits
from ensemble_transfer.training.loss import loss_of
from ensemble_transfer.training.trainer import trainer_of


@contextmanager
def stopped_after(steps):
    """Stop the fits in the block, as Ctrl-C does, before the step that would be one too many of all."""
    streams, taken = Course.streams, []

    def stop(course):
        taken.append(course.step)
        if len(taken) > steps:
            raise KeyboardInterrupt
        return streams(course)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Course, "streams", stop)
        yield


def in_doubles(net, starts, data, recipe, settings):
    """Return the weights of members that are trained in doubles: what is left of a difference is no rounding."""
    modules = [net.classifier(start.weights).double() for start in starts]
    batches = Batches(data.images, data.labels, recipe.batch_size, [start.seed for start in starts])
    course = Course(
        grouped(modules, settings, loss_of(recipe, data.labels, net.classes).double()), batches, recipe, settings
    )
    with trainer_of(course) as trainer:
        trainer.fit(course, count())
    return course.weights()


def assert_same(fits: Fits, others: Fits) -> None:
    """Compare the fits of members in weights, curve, key and cost; members may stand in any order."""
    by_member = dict(zip(others.members, others.fitted, strict=True))
    for member, fitted in zip(fits.members, fits.fitted, strict=True):
        other = by_member[member]
        assert fitted.key == other.key
        assert equal(fitted.weights, other.weights)
        assert torch.equal(fitted.curve, other.curve)
        one, two = fitted.cost, other.cost
        assert (one.steps, one.examples, one.flops) == (two.steps, two.examples, two.flops)


def plain_loop(net, start, data, recipe):
    """Return the weights of a member that plain PyTorch trains."""
    member = channels_last(net.classifier(start.weights)).train()
    if recipe.batchnorm == "frozen":
        for layer in member.modules():
            layer.train(not isinstance(layer, nn.BatchNorm2d))
    parts = {"head": member.head, "encoder": member.encoder}
    rates = {"head": recipe.lr * recipe.head_lr_factor, "encoder": recipe.lr}
    groups = [{"params": [*part.parameters()], "lr": rates[name]} for name, part in parts.items()]
    optimizer = AdamW(groups, weight_decay=recipe.weight_decay)
    if recipe.optimizer == "sgd":
        optimizer = SGD(groups, momentum=recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True)
    schedule = LambdaLR(optimizer, recipe.rate)
    weights = recipe.class_weights and torch.tensor(recipe.class_weights)
    loss = nn.CrossEntropyLoss(weights, label_smoothing=recipe.label_smoothing)
    for step in range(recipe.steps):
        epoch, place = divmod(step, len(data) // recipe.batch_size)
        order = torch.randperm(len(data), generator=generator(start.seed, "order", epoch))
        chosen = order[place * recipe.batch_size :][: recipe.batch_size]
        images = augmented(data.images[chosen], recipe.augment, generator(start.seed, "augment", step))
        optimizer.zero_grad()
        loss(member(images), data.labels[chosen]).backward()
        if recipe.clip is not None:
            nn.utils.clip_grad_norm_(member.parameters(), recipe.clip)
        optimizer.step()
        schedule.step()
    return member.state_dict()


class Curves(list):
    """A logger that keeps the points of all curves: phase, member, step and loss."""

    def curve(self, phase, step, losses, also):
        self.extend((phase, member, step, loss) for member, loss in losses.items())
