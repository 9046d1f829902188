"""State of the process that a fit needs otherwise, and leaves as it found it."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_KNOWN_WARNINGS = (
    r".*does not have many workers.*",  # tasks are in memory: workers would only copy
    r".*isinstance\(treespec, LeafSpec\).*",  # Lightning 2.6 on torch 2.13
    r"GPU available but not used.*",  # trainer=cpu was asked for
    r"Checkpoint directory .* exists and is not empty",  # the user's callback has one for all fits of a run
)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence in the block what Lightning says about every fit: its hardware, and warnings that mean nothing here.

    Its callbacks may speak: the user has asked for them.
    """
    logger, callbacks = logging.getLogger("pytorch_lightning"), logging.getLogger("pytorch_lightning.callbacks")
    level, level_of_callbacks = logger.level, callbacks.level
    with warnings.catch_warnings():
        for message in _KNOWN_WARNINGS:
            warnings.filterwarnings("ignore", message)
        callbacks.setLevel(callbacks.getEffectiveLevel())
        logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            logger.setLevel(level)
            callbacks.setLevel(level_of_callbacks)


@contextmanager
def generators_kept(device: torch.device) -> Iterator[None]:
    """Leave torch's generators, of the CPU and of a device, as they are before the block."""
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device.type == "cuda" else []):
        yield
