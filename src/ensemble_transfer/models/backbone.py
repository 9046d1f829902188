"""Backbones: the encoder that members start from, and its pretrained weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.models.architecture import Architecture, encoder_of, require_known, with_size
from ensemble_transfer.models.checkpoint import classifiers, misfit, read_checkpoint, strict_overlay
from ensemble_transfer.models.pretrained import hub_or_cache, packaged


@dataclass(frozen=True)
class Backbone:
    """The encoder of the members, and its initial weights.

    Attributes:
        name: Name of a timm architecture.
        options: Further arguments of ``timm.create_model``.
        pretrained: Start from published weights: those of an installed package, or else timm's, which need a network or
            a filled cache.
        checkpoint: Start from this local file of the same architecture: ``.safetensors``, ``.pt``, ``.pth``, or
            ``.ckpt`` of Lightning.
        mean: Mean for the normalisation of the input; None for timm's with pretrained weights, else 0.5.
        std: Standard deviation, likewise.

    Raises:
        SettingError: If the name is unknown, or the checkpoint is missing or combined with ``pretrained``.
    """

    name: str = "resnet10t"
    options: dict[str, Any] = field(default_factory=dict)
    pretrained: bool = False
    checkpoint: str | None = None
    mean: list[float] | None = None
    std: list[float] | None = None

    def __post_init__(self) -> None:
        require_known(self.name)
        both = self.pretrained and self.checkpoint is not None
        require(not both, "checkpoint", self.checkpoint, "cannot be combined with pretrained=true; choose one")
        if self.checkpoint is not None:
            object.__setattr__(self, "checkpoint", str(Path(self.checkpoint).expanduser()))
            require(Path(self.checkpoint).is_file(), "checkpoint", self.checkpoint, "is not a file")

    @property
    def has_weights(self) -> bool:
        """Whether there are pretrained weights to start from."""
        return self.pretrained or self.checkpoint is not None

    def architecture(self, image_size: int, channels: int, classes: int) -> Architecture:
        """Return the description of a classifier with this encoder."""
        stated = timm.get_pretrained_cfg(self.name) if self.has_weights else None
        mean = self.mean or (_channelwise(stated.mean, channels) if stated else [0.5])
        std = self.std or (_channelwise(stated.std, channels) if stated else [0.5])
        options = with_size(self.name, self.options, image_size)
        whole = Architecture(self.name, options, image_size, channels, classes, tuple(mean), tuple(std))
        if options != self.options:
            whole.require_all_pixels()
        return whole

    @torch.random.fork_rng(devices=[])  # timm draws weights first, which those of the checkpoint replace
    def pretrained_parts(self, architecture: Architecture) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        """Return the pretrained encoder, and a checkpoint's classifier as a head if it has the head's shape.

        Timm adapts the encoder to the number of channels.

        Raises:
            SettingError: If the weights cannot be had or do not fit.
        """
        setting, value = ("checkpoint", self.checkpoint) if self.checkpoint else ("pretrained", self.name)
        state: Mapping[str, Tensor] | None = None
        try:
            if self.checkpoint:
                state = read_checkpoint(self.checkpoint, self.name, _expected(architecture))
            else:
                state = packaged(self.name)
            if state is not None:
                overlay = strict_overlay(self.name, state)
                encoder = encoder_of(architecture, pretrained=True, pretrained_cfg_overlay=overlay).state_dict()
                return encoder, _head_in(state, architecture)
            with hub_or_cache():
                return encoder_of(architecture, pretrained=True).state_dict(), None
        except Exception as error:  # a broken file makes readers raise anything: EOFError, struct.error, ...
            differs = misfit(state, self.name, _expected(architecture)) if self.checkpoint and state else ""
            reason = differs or " ".join(str(error).split())[:400] or type(error).__name__
            if self.options and not self.checkpoint and isinstance(error, RuntimeError):  # shapes
                reason += f"; options={self.options} may be another's: backbone=timm backbone.name={self.name} has none"
            raise SettingError(setting, value, f"gives no weights for {architecture.backbone}: {reason}") from error


def _head_in(state: Mapping[str, Tensor], architecture: Architecture) -> dict[str, Tensor] | None:
    """Return the classifier among timm's tensors as a head; None if there is none of the architecture's shape."""
    named = classifiers(architecture.backbone)
    shapes: dict[str, tuple[int, ...]] = {"weight": (architecture.classes, architecture.features)}
    shapes["bias"] = (architecture.classes,)
    head = {part: state.get(f"{name}.{part}") for name in named for part in shapes}
    fits = len(named) == 1 and all(t is not None and tuple(t.shape) == shapes[part] for part, t in head.items())
    return {part: tensor.float().clone() for part, tensor in head.items() if tensor is not None} if fits else None


def _expected(architecture: Architecture) -> dict[str, Tensor]:
    """Return the encoder's weights without memory, for their names and shapes."""
    with torch.device("meta"):
        return encoder_of(architecture).state_dict()


def _channelwise(values: Sequence[float], channels: int) -> list[float]:
    return list(values) if len(values) == channels else [sum(values) / len(values)]
