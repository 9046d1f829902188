"""What is trained, on which data, by which recipe: what the fits of a phase have in common; and where each starts.

A fit trains a whole member, on images, or its head alone: on the features of the frozen encoder, each computed once, of
the images that its steps draw.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ensemble_transfer.errors import require
from ensemble_transfer.machine import FLOPS_A_SECOND, SECONDS_A_STEP
from ensemble_transfer.models.architecture import Architecture
from ensemble_transfer.models.device import channels_last_pays
from ensemble_transfer.models.flops import encode_flops, head_flops, step_flops
from ensemble_transfer.spill import empty
from ensemble_transfer.tasks.task import Split
from ensemble_transfer.training.batches import MEMBERS_SHARE, Batches, drawn
from ensemble_transfer.training.features import encode, frozen_statistics, views
from ensemble_transfer.training.loss import Loss, loss_of
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.training.settings import TrainerSettings
from ensemble_transfer.training.store import key_of
from ensemble_transfer.weights import Weights, below, fingerprint, joined

SECONDS_A_HEADS_STEP = 1e-4
"""What a step of a head takes on a CPU besides its operations, roughly."""


MOST_GRAPH = 1_800_000_000
"""Bytes of a pass, by :meth:`FitSpec.need`, above which its batch is split; what it takes is about half of them."""

IN_WORDS = {
    "source": "source training",
    "full": "full fine-tuning",
    "tiny": "tiny fine-tuning",
    "probe": "new heads",
    "head": "heads",
    "cycle": "cycle of snapshots",
    "scratch": "from random weights",
    "diagnosis": "check: shifted",
    "diagnosis_no_shift": "check: not shifted",
    "diagnosis_random": "check: random shift",
}
"""What a phase is called where people read of its progress, if its name does not say it."""

_COPIES = 6
"""Of a member's weights in memory: initial, trained, gradient, two moments of AdamW, result."""


@dataclass(frozen=True)
class Start:
    """Where one member's fit starts.

    Attributes:
        member: Index of the member.
        weights: Its initial weights, encoder and head.
        seed: Its stream of randomness.
    """

    member: int
    weights: Weights = field(repr=False)
    seed: int


@dataclass(frozen=True)
class FitSpec:
    """What the fits of a phase have in common.

    Attributes:
        architecture: Architecture of the members.
        data: What they are trained on.
        recipe: What each fit may spend.
        phase: Name of the phase, for ledger, progress bar and learning curves.
        heads: Whether heads alone are trained.
        validation: What points of validation curves are computed on, which decide nothing; None for no such curve.
    """

    architecture: Architecture
    data: Split
    recipe: Recipe
    phase: str
    heads: bool = False
    validation: Split | None = None

    def check(self) -> None:
        """Raise a SettingError if the recipe or the data cannot train what is to be trained."""
        if self.heads:
            self.recipe.check_head()
        else:
            self.recipe.check_whole()
        require(len(self.data) > 1, "train", len(self.data), "a fit needs at least 2 examples")
        _ = self.loss

    def label(self, starts: Mapping[str, Start]) -> str:
        """Return what is trained, and the members of some fits, in words."""
        return f"{IN_WORDS.get(self.phase, self.phase)}, {member_names([start.member for start in starts.values()])}"

    @property
    def loss(self) -> Loss:
        """The loss of a step."""
        return loss_of(self.recipe, self.data.labels, self.architecture.classes)

    @property
    def batch_size(self) -> int:
        """Examples in a step, views counted."""
        return min(self.recipe.batch_size, len(self.data) * self.recipe.views)

    @property
    def parts(self) -> int:
        """Parts that the loop passes a batch in, where examples do not depend on one another.

        EfficientNet-Lite0 takes 2.5 GB for a step of 32 images of 224 pixels, and with three parts a third of that. A
        batch that BatchNorm takes its statistics from stays whole.
        """
        if self.heads or (self.recipe.batchnorm == "batch" and self.architecture.has_statistics):
            return 1
        return min(self.batch_size, -(-_measured(self.architecture, self.batch_size)[1] // MOST_GRAPH))

    @property
    def step_flops(self) -> int:
        """Operations of a training step of one member."""
        return self.flops(self.batch_size, 0)

    @property
    def seconds(self) -> float:
        """Seconds that one member's fit takes on one core, roughly."""
        overhead = SECONDS_A_HEADS_STEP if self.heads else SECONDS_A_STEP
        flops = fit_flops(self.architecture, self.recipe, len(self.data), self.heads)
        return flops / FLOPS_A_SECOND + self.recipe.steps * overhead

    def flops(self, seen: int, encoded: int) -> int:
        """Return the operations of seeing so many examples in training steps, after encoding so many."""
        return _flops(self.architecture, seen, encoded, self.heads)

    def key(self, start: Start, settings: TrainerSettings) -> str:
        """Return a fit's key in the store: a hash of all that decides its result.

        Kind of processor and number of threads are not part of it. They decide rounding too, but a store that moves to
        another machine is to serve what it has. Heads are trained in float32, on features in the layout of the device.
        """
        precision, channels_last = settings.arithmetic, settings.lays_channels_last
        if self.heads:
            precision = precision.replace(settings.precision, "32-true")
            channels_last = channels_last_pays(settings.device)
        return key_of(
            trained="head" if self.heads else "whole",
            architecture=self.architecture.plain(),
            initial=fingerprint(start.weights),
            data=self.data.fingerprint,
            recipe=self.recipe.decisive(),
            seed=start.seed,
            precision=precision,
            channels_last=channels_last,
            **({"parts": self.parts} if self.parts > 1 else {}),  # which round otherwise
        )

    def module(self, initial: Weights) -> nn.Module:
        """Return the module to train: a classifier, or :func:`head_of` its head."""
        if self.heads:
            return head_of(below(initial, "head"))
        member = self.architecture.classifier(initial)
        return frozen_statistics(member) if self.recipe.batchnorm == "frozen" else member

    def weights(self, initial: Weights, trained: Weights) -> Weights:
        """Return the member's weights from those of the trained module; a frozen encoder has its initial ones."""
        if not self.heads:
            return trained
        head = {"weight": trained["head.both"][:, :-1], "bias": trained["head.both"][:, -1]}
        return joined(encoder=below(initial, "encoder"), head=head)

    def batches(
        self, starts: Sequence[Start], device: torch.device, free: int | None = None
    ) -> tuple[Batches, list[int]]:
        """Return the members' inputs and labels at every step, and how many examples were encoded for each member.

        Features go to a temporary file where they take more than half of the ``free`` bytes; None for those that the
        system has. Their last column is 1, for the bias.
        """
        seeds, recipe = [start.seed for start in starts], self.recipe
        if not self.heads:
            images = Batches(self.data.images, self.data.labels, recipe.batch_size, seeds, recipe.augment)
            return images, [0] * len(starts)
        labels = self.data.labels.repeat(recipe.views)
        examples = [drawn(seed, len(labels), recipe.batch_size, recipe.steps) for seed in seeds]
        counts = [len(own) for own in examples]
        features = empty(sum(counts), self.architecture.features + 1, free=free)
        features[:, -1] = 1
        rows = torch.zeros(len(starts), len(labels), dtype=torch.int64)
        places, numbers = (torch.split(of_all, counts) for of_all in (features[:, :-1], torch.arange(sum(counts))))
        for member, start in enumerate(starts):
            shown = views(self.data.images, recipe, start.seed, examples[member])
            encode(self.architecture.classifier(start.weights), shown, device, places[member])
            rows[member, examples[member]] = numbers[member]
        return Batches(features, labels, recipe.batch_size, seeds, rows=rows), counts

    def need(self) -> tuple[int, int]:
        """Return the bytes that training a whole member takes: in the whole fit, and for a pass on top of that.

        The first are weights, gradients, optimizer state and orders; the second activations that are kept for the
        backward pass, their gradients and the images.
        """
        weights, graph = _measured(self.architecture, self.batch_size)
        return _COPIES * weights + torch.int64.itemsize * len(self.data), graph

    def members_that_fit(self, free: int, vectorised: bool) -> int:
        """Return how many members fit into so many free bytes of a device together; at least 1.

        Args:
            free: Bytes that are free.
            vectorised: Whether the graphs of all members are alive together, or one after another.
        """
        if self.heads:
            features = most_encoded(self.recipe, len(self.data)) * (self.architecture.features + 1)
            return max(1, int(MEMBERS_SHARE * free / (torch.float32.itemsize * features)))
        held, graph = self.need()
        fit = MEMBERS_SHARE * free / (held + graph) if vectorised else (MEMBERS_SHARE * free - graph) / held
        return max(1, int(fit))


def member_names(members: Sequence[int]) -> str:
    """Return members in words, counted from 1: ``member 3``, ``members 1-8``, ``members 1, 4``."""
    numbers = [member + 1 for member in members]
    if len(numbers) == 1:
        return f"member {numbers[0]}"
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"members {numbers[0]}-{numbers[-1]}"
    return "members " + ", ".join(map(str, numbers))


def head_of(weights: Weights) -> nn.Module:
    """Return weight and bias of a head as one parameter (classes, features + 1), whose last column is the bias."""
    both = torch.cat([weights["weight"], weights["bias"][:, None]], 1)
    return nn.ModuleDict({"head": nn.ParameterDict({"both": both})})


def fit_flops(architecture: Architecture, recipe: Recipe, examples: int, heads: bool) -> int:
    """Return the operations of one member's fit on so many examples, at the most; see :func:`most_encoded`."""
    seen = recipe.steps * min(recipe.batch_size, examples * recipe.views)
    return _flops(architecture, seen, most_encoded(recipe, examples), heads)


def most_encoded(recipe: Recipe, examples: int) -> int:
    """Return how many of so many examples the steps of a head draw at the most, each view of an image counted.

    The number is exact within the first epoch. Of more steps it is that of all examples. They may draw fewer, by those
    left after the last whole batch of every epoch; the batches know the exact number.
    """
    shown = examples * recipe.views
    return min(shown, recipe.steps * min(recipe.batch_size, shown))


def _flops(architecture: Architecture, seen: int, encoded: int, heads: bool) -> int:
    if not heads:
        return seen * step_flops(architecture)
    head = head_flops(architecture.features, architecture.classes)
    return seen * head + encoded * encode_flops(architecture)


@lru_cache(maxsize=16)
def _measured(architecture: Architecture, examples: int) -> tuple[int, int]:
    """Return the bytes of a member's weights and of a pass, measured on tensors without data."""
    size = architecture.image_size
    with torch.device("meta"):
        images = torch.empty(examples, architecture.channels, size, size, dtype=torch.uint8)
        module = architecture.build()
    weights = sum(tensor.nbytes for tensor in module.state_dict().values())
    return weights, 2 * graph_bytes(module, images) + images.nbytes


def graph_bytes(module: nn.Module, inputs: Tensor) -> int:
    """Return the bytes that a forward pass keeps for its backward pass, measured on tensors without data."""
    sizes: dict[int, int] = {}
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage._cdata] = storage.nbytes()
        kept.append(tensor)  # so that no other storage gets the same address
        return tensor

    with torch.device("meta"), saved_tensors_hooks(keep, lambda tensor: tensor):
        deepcopy(module).to("meta").train()(torch.empty_like(inputs, device="meta"))
    return sum(sizes.values())
