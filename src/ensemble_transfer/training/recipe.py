"""Recipes: what a fit may spend, and how."""

from dataclasses import dataclass, field
from math import cos, inf, pi

from ensemble_transfer.errors import require

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("cosine", "constant")


@dataclass(frozen=True)
class Recipe:
    """What one fit may spend.

    Attributes:
        steps: Optimizer steps.
        batch_size: Examples in a step; all of the task where it has fewer.
        optimizer: ``adamw`` or ``sgd`` (with Nesterov momentum).
        lr: Highest learning rate of the encoder.
        head_lr_factor: The head's learning rate is this many times the encoder's.
        weight_decay: Decoupled for AdamW, L2 for SGD.
        momentum: Of SGD.
        schedule: ``cosine`` (down to 0 at the last step) or ``constant``.
        warmup: Fraction of the steps in which the learning rate rises linearly from 0.
        clip: Highest norm of a member's gradient; null for no clipping.
        label_smoothing: Share of the label's probability that is spread over all classes.
    """

    steps: int
    batch_size: int = 32
    optimizer: str = "adamw"
    lr: float = 5e-3
    head_lr_factor: float = 1.0
    weight_decay: float = 0.01
    momentum: float = 0.9
    schedule: str = "cosine"
    warmup: float = 0.0
    clip: float | None = None
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        require(self.steps >= 0, "steps", self.steps, "must be 0 or more")
        require(self.batch_size > 0, "batch_size", self.batch_size, "must be above 0")
        require(
            self.optimizer in OPTIMIZERS,
            "optimizer",
            self.optimizer,
            f"must be one of {', '.join(OPTIMIZERS)}",
        )
        require(0 < self.lr < inf, "lr", self.lr, "must be above 0 and finite")
        require(0 < self.head_lr_factor < inf, "head_lr_factor", self.head_lr_factor, "must be above 0 and finite")
        require(0 <= self.weight_decay < inf, "weight_decay", self.weight_decay, "must be 0 or more and finite")
        require(0 <= self.momentum < 1, "momentum", self.momentum, "must be in [0, 1)")
        require(self.schedule in SCHEDULES, "schedule", self.schedule, f"must be one of {', '.join(SCHEDULES)}")
        require(0 <= self.warmup <= 1, "warmup", self.warmup, "must be in [0, 1]")
        require(self.clip is None or 0 < self.clip < inf, "clip", self.clip, "must be above 0 and finite, or null")
        require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "must be in [0, 1)")

    def rate(self, step: int) -> float:
        """Return the learning rate of a step as a share of ``lr``."""
        rising = self.warmup * self.steps
        if step < rising:
            return (step + 1) / (rising + 1)
        if self.schedule == "constant":
            return 1.0
        return 0.5 * (1 + cos(pi * (step - rising) / max(1.0, self.steps - rising)))


@dataclass(frozen=True)
class Recipes:
    """The recipes of a run, by what they are for.

    Attributes:
        ancestor: From a random start on the source task: the shared ancestor, or each independent member.
        source: Each member on the source task, after its ancestor.
        full: Full fine-tuning on the target task.
        tiny: Tiny fine-tuning on the target task.
        probe: The head on frozen features, before a tiny fine-tuning.
        head: The head on frozen features, where that is all (strategy ``head``).
    """

    ancestor: Recipe = field(default_factory=lambda: Recipe(steps=500))
    source: Recipe = field(default_factory=lambda: Recipe(steps=150))
    full: Recipe = field(default_factory=lambda: Recipe(steps=300, lr=1e-2))
    tiny: Recipe = field(default_factory=lambda: Recipe(steps=20, lr=7e-3))
    probe: Recipe = field(default_factory=lambda: Recipe(steps=200, lr=1e-2))
    head: Recipe = field(default_factory=lambda: Recipe(steps=500, lr=1e-2))
