"""Where and how fits are computed: device, precision, processes, threads."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ensemble_transfer.errors import require
from ensemble_transfer.machine import usable_cores

if TYPE_CHECKING:
    import torch

ACCELERATORS = ("auto", "cpu", "gpu")
PRECISIONS = ("32-true", "bf16-mixed")
EXECUTORS = ("loop", "vectorised", "auto")

FLOPS_A_THREAD = 300_000_000
"""Operations in a step that keep one more thread busy.

Below this a second thread gains little, and much is lost where other processes want the cores: threads that wait for
each other spin.
"""

MAX_PROCESSES = 1024
"""Threads, and workers, at the most. Torch dies of tens of thousands of threads; no machine has as many cores."""


def is_callback(cls: type) -> bool:
    """Return whether a class is one of Lightning's callbacks, which is imported only here: it is slow."""
    from pytorch_lightning.callbacks import Callback

    return issubclass(cls, Callback)


def _finds_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@dataclass(frozen=True)
class TrainerSettings:
    """Where and how fits are computed. Torch is imported only where it is asked: settings are checked before.

    Attributes:
        accelerator: ``gpu``, ``cpu``, or ``auto`` for a GPU where there is one.
        precision: ``32-true``, or ``bf16-mixed`` for bfloat16 arithmetic with float32 weights.
        tf32: Whether a GPU rounds float32 numbers to TF32 in the products of fits: three decimal digits, for speed. It
            belongs to a fit's key. Predictions are computed without (see :mod:`~ensemble_transfer.models.device`).
        executor: ``loop`` trains the members of a group one after another in every step; ``vectorised`` trains
            them as one network; ``auto`` is the loop on a CPU, and on a GPU what suits number and size of the members
            (see :func:`~ensemble_transfer.training.executors.chosen_executor`).
        channels_last: Whether the loop keeps images and convolutions in the layout channels last; null for where it
            pays (see :mod:`~ensemble_transfer.models.device`). It is part of a fit's key.
        group_size: Members that are trained in lockstep at the most; null for as many as fit into the free memory.
        workers: Processes that the members of a phase are split over: a number, or ``auto`` for as many as pay (see
            :func:`~ensemble_transfer.training.workers.number_of_workers`). With the loop the fits are the same, bit for
            bit. Vectorised members, which ``executor=auto`` may choose on a GPU, round differently in groups of other
            sizes. A worker imports the package alone: networks that your own code registers with timm need
            ``workers=1``.
        threads: Threads of torch on the CPU; null for as many as a step can feed, of the cores this process may use.
        checkpoint_seconds: Seconds between the checkpoints of a fit.
        progress: Whether to show progress bars.
        callbacks: Lightning callbacks, which see every fit of a group of whole members. Heads on frozen features are no
            Lightning fits: callbacks do not see them. They may change what a fit computes, and its key cannot know:
            fits with callbacks are neither taken from the store nor kept there. They live in this process, so ``auto``
            is one worker. The trainer of a fit logs to the run's logger, if there is one, and has nothing to validate
            on.
    """

    accelerator: str = "auto"
    precision: str = "32-true"
    tf32: bool = False
    executor: str = "auto"
    channels_last: bool | None = None
    group_size: int | None = None
    workers: int | str = "auto"
    threads: int | None = None
    checkpoint_seconds: float = 30.0
    progress: bool = True
    callbacks: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, allowed in (("accelerator", ACCELERATORS), ("precision", PRECISIONS), ("executor", EXECUTORS)):
            value = getattr(self, name)
            require(value in allowed, name, value, f"must be one of {', '.join(allowed)}")
        size, threads, workers = self.group_size, self.threads, self.workers
        known = workers == "auto" or (isinstance(workers, int) and 0 < workers <= MAX_PROCESSES)
        require(known, "workers", workers, f"must be auto or in 1..{MAX_PROCESSES}")
        require(size is None or size > 0, "group_size", size, "must be above 0, or null for all that fit")
        rule = f"must be in 1..{MAX_PROCESSES}, or null"
        require(threads is None or 0 < threads <= MAX_PROCESSES, "threads", threads, rule)
        seconds = self.checkpoint_seconds
        require(seconds > 0, "checkpoint_seconds", seconds, "must be above 0")
        if self.callbacks:
            from ensemble_transfer.training.loggers import require_usable

            require_usable(self.callbacks)
            rule = "must be 1 or auto with callbacks, which live in one process"
            require(workers in ("auto", 1), "workers", workers, rule)
        rule = "torch finds no CUDA device here; use trainer=cpu or trainer=auto"
        require(self.accelerator != "gpu" or _finds_gpu(), "accelerator", self.accelerator, rule)

    @property
    def device(self) -> "torch.device":
        """The device that fits run on."""
        import torch

        return torch.device("cuda" if self.accelerator != "cpu" and _finds_gpu() else "cpu")

    @property
    def arithmetic(self) -> str:
        """The precision as it decides the result of a fit: with TF32 on a GPU, another one."""
        return f"{self.precision}+tf32" if self._uses_tf32 else self.precision

    @property
    def _uses_tf32(self) -> bool:
        return self.tf32 and self.device.type == "cuda"

    @property
    def lays_channels_last(self) -> bool:
        """Whether fits use channels last; members that are one network do not."""
        from ensemble_transfer.models.device import channels_last_pays

        if self.executor == "vectorised":
            return False
        return channels_last_pays(self.device) if self.channels_last is None else self.channels_last

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let torch use ``threads`` and ``tf32`` in the block; null threads leave their number as it is."""
        import torch

        from ensemble_transfer.models.device import tf32

        before = torch.get_num_threads()
        torch.set_num_threads(self.threads or before)
        try:
            with tf32(self._uses_tf32):
                yield
        finally:
            torch.set_num_threads(before)

    def use_threads(self, step_flops: int) -> int:
        """Set the number of torch's CPU threads and return it.

        Args:
            step_flops: Operations of a training step of one member, which say how many threads it can feed.
        """
        import torch

        fed = max(1, round(step_flops / FLOPS_A_THREAD))
        torch.set_num_threads(self.threads or min(fed, usable_cores()))
        return torch.get_num_threads()
