"""What is trained, on which data, by which recipe: what the fits of a phase have in common; and where each starts."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ensemble_transfer.machine import FLOPS_A_SECOND, SECONDS_A_STEP
from ensemble_transfer.models.backbone import Architecture
from ensemble_transfer.models.memory_format import channels_last_pays
from ensemble_transfer.tasks.task import Split
from ensemble_transfer.training.features import BATCH
from ensemble_transfer.training.memory import Need, forward_bytes, need_of, state_bytes
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.training.settings import TrainerSettings
from ensemble_transfer.training.store import key_of
from ensemble_transfer.training.trained_part import TrainedPart, WholeMember
from ensemble_transfer.weights import Weights, fingerprint

_needs: dict[tuple[str, int, int], Need] = {}


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
        part: The part of a member that is trained.
        data: What it is trained on.
        recipe: What each fit may spend.
        phase: Name of the phase, for ledger, progress bar and learning curves.
    """

    part: TrainedPart
    data: Split
    recipe: Recipe
    phase: str

    @property
    def batch_size(self) -> int:
        """Examples in a step, views counted."""
        return min(self.recipe.batch_size, len(self.data) * self.recipe.views)

    @property
    def is_whole(self) -> bool:
        """Whether whole members are trained, and not heads alone."""
        return isinstance(self.part, WholeMember)

    @property
    def flops(self) -> int:
        """Operations of one member's fit, at the most."""
        prepared = self.part.prepared(len(self.data), self.recipe)
        return self.part.flops(self.recipe.steps * self.batch_size, prepared)

    @property
    def step_flops(self) -> int:
        """Operations of a training step of one member."""
        return self.part.flops(self.batch_size, 0)

    @property
    def step_seconds(self) -> float:
        """Seconds that a training step of one member takes on one core, roughly."""
        return self.step_flops / FLOPS_A_SECOND + SECONDS_A_STEP

    def key(self, start: Start, settings: TrainerSettings) -> str:
        """Return a fit's key in the store: a hash of all that decides its result.

        Kind of processor and number of threads are not part of it. They decide rounding too, but a store that moves to
        another machine is to serve what it has. Heads are trained in float32, on features in the layout of the device.
        """
        precision, channels_last = settings.arithmetic, settings.lays_channels_last
        if not self.is_whole:
            precision = precision.replace(settings.precision, "32-true")
            channels_last = channels_last_pays(settings.device)
        return key_of(
            trained=self.part.name,
            architecture=self.part.architecture.plain(),
            initial=fingerprint(start.weights),
            data=self.data.fingerprint,
            recipe=self.recipe.plain(),
            seed=start.seed,
            precision=precision,
            channels_last=channels_last,
        )

    def need(self) -> Need:
        """Return the memory that one member's fit needs."""
        architecture, examples = self.part.architecture, self.batch_size
        encoded = min(BATCH, self.part.prepared(len(self.data), self.recipe))
        kind = (repr(self.part), examples, encoded)
        if kind not in _needs:
            with torch.device("meta"):
                member: nn.Module = architecture.build()
                images = _images(architecture, examples)
                features = torch.empty(examples, architecture.features)
            if self.is_whole:
                _needs[kind] = need_of(member, images)
            else:
                head = need_of(member.get_submodule("head"), features)
                forward, own = forward_bytes(member, _images(architecture, encoded)), state_bytes(member)
                # The encoder is in the result, and before that in a module of its own.
                _needs[kind] = Need(head.weights + own, max(head.graph, forward + own))
        return replace(_needs[kind], weights=_needs[kind].weights + self.held_bytes())

    def held_bytes(self) -> int:
        """Return the bytes of what a member's fit holds besides its weights: the order of an epoch, and features."""
        shown, order = len(self.data) * self.recipe.views, torch.int64.itemsize
        if self.is_whole:
            return order * shown
        features = torch.float32.itemsize * (self.part.architecture.features + 1)
        # Rows, order, labels in order, and while they are made a permutation; examples and labels of what is drawn.
        return (features + 2 * order) * self.part.prepared(len(self.data), self.recipe) + 4 * order * shown

    def about(self) -> dict[str, Any]:
        """Return the fit's origin as plain data, for whoever reads the store."""
        return {"phase": self.phase, "recipe": self.recipe.plain(), "data": self.data.fingerprint}


def _images(architecture: Architecture, examples: int) -> Tensor:
    size = architecture.image_size
    return torch.empty(examples, architecture.channels, size, size, dtype=torch.uint8, device="meta")
