"""Classifiers: a timm encoder with a linear head, and the description that rebuilds one."""

import json
import math
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, Self

import timm
import torch
from torch import Tensor, nn

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.machine import free_memory
from ensemble_transfer.models.bounds import bounded, numbers, require_bounded
from ensemble_transfer.models.device import float32_by_default
from ensemble_transfer.tasks.images import scaled
from ensemble_transfer.tasks.limits import MAX_SIZE

# Arguments with which timm.create_model would read files, or build something else than the description says.
_RESERVED = frozenset(
    {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "checkpoint_path", "cache_dir"}
    | {"num_classes", "in_chans", "scriptable", "exportable", "no_jit", "features_only"}
)


@dataclass(frozen=True)
class Architecture:
    """Everything that rebuilds a classifier, as plain data.

    Attributes:
        backbone: Name of a timm architecture.
        options: Further arguments of ``timm.create_model``, such as ``channels``.
        image_size: Height and width of the input, in pixels.
        channels: 1 for gray, 3 for RGB.
        classes: Number of outputs of the head.
        mean: Mean for the normalisation of the input, which is scaled to 0..1 before: one value, or one per channel.
        std: Standard deviation for the normalisation, likewise.

    Raises:
        SettingError: If a value has a wrong type, or is outside its bounds.
    """

    backbone: str
    options: Mapping[str, Any]
    image_size: int
    channels: int
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        require_known(self.backbone)
        for name in sorted(_RESERVED & set(self.options)):
            raise SettingError(f"options.{name}", self.options[name], "is set by the framework; leave it out")
        require_bounded(self.options)
        try:  # as JSON has them: two descriptions are the same whether a file or Python names the options
            object.__setattr__(self, "options", json.loads(json.dumps(dict(self.options))))
        except TypeError as error:
            raise SettingError("options", dict(self.options), f"must be numbers, texts, lists: {error}") from error
        for name in ("image_size", "channels", "classes"):
            value = getattr(self, name)
            require(isinstance(value, int) and not isinstance(value, bool), name, value, "must be a whole number")
        require(0 < self.image_size <= MAX_SIZE, "image_size", self.image_size, f"must be 1 to {MAX_SIZE} pixels")
        require(self.channels in (1, 3), "channels", self.channels, "must be 1 or 3")
        require(self.classes > 1, "classes", self.classes, "must be at least 2")
        for name, values in (("mean", self.mean), ("std", self.std)):
            require(len(values) in (1, self.channels), name, values, "must have one value, or one per channel")
            finite = len([*numbers(list(values))]) == len(values) and all(map(math.isfinite, values))
            require(finite, name, values, "must be finite numbers")
        within = all(0 <= value <= 1 for value in self.mean)
        require(within, "mean", self.mean, "must be from 0 to 1: it is that of images scaled to 0..1")
        require(all(value > 0 for value in self.std), "std", self.std, "must be above 0")

    def __hash__(self) -> int:
        return hash(json.dumps(self.plain(), sort_keys=True))

    @float32_by_default()
    def build(self) -> "Classifier":
        """Return a classifier with random weights, drawn from torch's global generator.

        Raises:
            SettingError: If the options do not fit the architecture, or its weights do not fit into the free memory.
        """
        if torch.get_default_device().type != "meta":
            needed, free = 4 * _measures(self)[1], free_memory()
            rule = f"needs {needed / 2**30:.1f} GiB for its weights, and {free / 2**30:.1f} GiB are free"
            require(needed < free, "backbone", self.backbone, rule)
        return Classifier(self)

    def classifier(self, weights: Mapping[str, Tensor]) -> "Classifier":
        """Return a classifier with these weights, strictly; torch's global generator is left as it was."""
        with torch.random.fork_rng(devices=[]):
            classifier = self.build()
        classifier.load_state_dict(dict(weights), strict=True)
        return classifier

    def initial(self, seed: int) -> dict[str, Tensor]:
        """Return the weights of a randomly initialised classifier; the same for the same seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.build().state_dict()

    @float32_by_default()
    def fresh_head(self, seed: int) -> dict[str, Tensor]:
        """Return the weights of a randomly initialised head; the same for the same seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Linear(self.features, self.classes).state_dict()

    @property
    def features(self) -> int:
        """Number of features that the encoder returns."""
        return _measures(self)[0]

    @property
    def has_statistics(self) -> bool:
        """Whether the encoder has running statistics of BatchNorm; a ViT or a ConvNeXt has none."""
        return _measures(self)[2]

    def with_classes(self, classes: int) -> Self:
        """Return the same architecture with another number of outputs."""
        return replace(self, classes=classes)

    def at(self, size: int) -> Self:
        """Return the same architecture for images of another size.

        A family that is built for one size (ViT, Swin, mixers, ...) gets it as an option, unless the options say it.
        """
        own = dict(self.options)
        if own.get("img_size") == self.image_size:
            del own["img_size"]
        return replace(self, image_size=size, options=with_size(self.backbone, own, size))

    def require_all_pixels(self) -> None:
        """Raise a SettingError if patches do not cover the images; timm leaves the rest out without a word."""
        with torch.device("meta"):
            patches = getattr(encoder_of(self), "patch_embed", None)
        sizes = getattr(patches, "patch_size", None)
        for size in sizes if isinstance(sizes, tuple) else ():
            rule = f"must divide the image size, {self.image_size}: the pixels that are left would not be seen"
            require(self.image_size % size == 0, "options.patch_size", size, rule)

    @classmethod
    def from_plain(cls, fields: Mapping[str, Any]) -> Self:
        """Return the architecture that :meth:`plain` describes."""
        return cls(**dict(fields) | {"mean": tuple(fields["mean"]), "std": tuple(fields["std"])})

    def plain(self) -> dict[str, Any]:
        """Return the fields as containers that JSON can hold."""
        return asdict(self) | {"options": dict(self.options), "mean": list(self.mean), "std": list(self.std)}


@lru_cache(maxsize=16)
def _measures(architecture: Architecture) -> tuple[int, int, bool]:
    """Return how many features and weights a classifier has, and whether statistics, built without memory."""
    with torch.device("meta"):
        sketch = architecture.build()
    weights = sketch.state_dict()
    statistics = any(name.endswith("running_mean") for name in weights)
    return sketch.head.in_features, sum(tensor.numel() for tensor in weights.values()), statistics


class Classifier(nn.Module):
    """A timm encoder with a linear head. It takes images as bytes, and scales and normalises them itself."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.image_size = architecture.image_size
        self.encoder = encoder_of(architecture)
        # Some families (MobileNetV3, VGG, ...) end in a hidden layer that is wider than their feature maps.
        width: Any = getattr(self.encoder, "head_hidden_size", None) or self.encoder.num_features
        self.head = nn.Linear(width, architecture.classes)
        mean, std = torch.tensor(architecture.mean), torch.tensor(architecture.std)
        self.register_buffer("_gain", (1 / (255 * std)).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("_offset", (-mean / std).view(1, -1, 1, 1), persistent=False)

    _gain: Tensor
    _offset: Tensor

    def encode(self, images: Tensor) -> Tensor:
        """Return features (examples, features) of images (examples, channels, height, width), uint8.

        They have the architecture's size, or a larger one, from which they are scaled down.
        """
        features: Tensor = self.encoder(scaled(images, self.image_size) * self._gain + self._offset)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (examples, classes) of images (examples, channels, height, width), uint8."""
        logits: Tensor = self.head(self.encode(images))
        return logits


def with_size(name: str, options: Mapping[str, Any], image_size: int) -> dict[str, Any]:
    """Return options of an architecture, with the images' size for a family that is built for one.

    It becomes an option like any other, so that a description rebuilds its classifier whatever timm's default is.
    """
    stated = timm.get_pretrained_cfg(name)
    free = stated is None or not stated.fixed_input_size or stated.input_size[-1] == image_size
    chosen = {"img_size", "dynamic_img_size"} & set(options)
    return dict(options) if free or chosen else {**options, "img_size": image_size}


def require_known(name: str) -> None:
    """Raise a SettingError if timm has no architecture of this name; it names near ones."""
    if timm.is_model(name):
        return  # the search for near names takes most of a second
    near = ", ".join(get_close_matches(name, timm.list_models(), 3))
    known = f"such as {near}" if near else "which timm.list_models() lists"
    raise SettingError("name", name, f"must be an architecture that timm knows, {known}")


@float32_by_default()
def encoder_of(architecture: Architecture, **pretraining: Any) -> nn.Module:  # noqa: ANN401
    """Return timm's network without its classifier; with pretrained weights where timm's arguments ask for them.

    Raises:
        SettingError: If the options do not fit. With pretrained weights, other errors are as timm raises them.
    """
    try:
        with bounded(architecture.options):
            encoder: nn.Module = timm.create_model(
                architecture.backbone,
                num_classes=0,
                in_chans=architecture.channels,
                **architecture.options,
                **pretraining,
            )
    except SettingError:
        raise
    except Exception as error:  # wrong options make timm raise anything
        if pretraining:
            raise
        hint = f"backbone=timm backbone.name={architecture.backbone} leaves the options of other networks out"
        asserted = traceback.extract_tb(error.__traceback__)[-1].line  # all that a bare ``assert`` says
        reason = " ".join(str(error).split())[:200] or asserted or type(error).__name__
        rule = f"does not fit timm's {architecture.backbone}: {reason}; {hint}"
        raise SettingError("options", dict(architecture.options), rule) from error
    return encoder
