"""An ensemble: ordered members of one architecture, in memory and on disk."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from ensemble_transfer.layout import CALIBRATION, DESCRIPTION, checksum, replacing
from ensemble_transfer.machine import free_memory
from ensemble_transfer.models.architecture import Architecture, Classifier
from ensemble_transfer.models.description import FORMAT, read_description, read_member, readable, require_proportion
from ensemble_transfer.models.device import IMAGES_SHARE, images_at_once, tf32, to_device
from ensemble_transfer.spill import empty, rows_at_once
from ensemble_transfer.tasks.chosen import parts
from ensemble_transfer.tensor_files import write_tensors
from ensemble_transfer.weights import Weights, below, fingerprint

COPIES, UNTRAINED = "copies", "untrained"
"""Lineages without a source task: members of one pretrained encoder, and members with random weights of their own."""

FINE_TUNED = {COPIES: "shared", UNTRAINED: "independent"}
"""What members of these lineages are once they are fine-tuned, each by itself."""


@dataclass(frozen=True, repr=False)
class Ensemble:
    """Ordered members of one architecture.

    Attributes:
        architecture: Description of the members' architecture.
        members: The members' weights, under the names of ``Classifier.state_dict()``.
        classes: Names of the classes, in the order of the labels.
        lineage: Common origin of the members before the last transfer: ``shared``, ``independent``, ``copies``, ...
        history: Origin of the ensemble, as plain data for readers of ``ensemble.json``.
        sizes: Image size of each member, in pixels, at most that of the architecture, at which images come in; empty
            for that one. A member scales images down to its own.

    Raises:
        ValueError: If a member does not fit the architecture, a size is above its own, or class names are too many, too
            few, or equal.
    """

    architecture: Architecture
    members: tuple[Weights, ...]
    classes: tuple[str, ...]
    lineage: str = "unknown"
    history: Mapping[str, Any] = field(default_factory=dict)
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.members:
            raise ValueError("members=(): an ensemble has at least one")
        if {*self.sizes} == {self.architecture.image_size}:
            object.__setattr__(self, "sizes", ())
        if len(self.image_sizes) != len(self.members) or max(self.image_sizes) > self.architecture.image_size:
            raise ValueError(f"sizes={self.sizes}: must be one a member, none above {self.architecture.image_size}")
        if len(self.classes) != self.architecture.classes:
            raise ValueError(f"classes has {len(self.classes)} names for {self.architecture.classes} outputs")
        for name, count in Counter(self.classes).items():
            if count > 1:
                raise ValueError(f"classes names {name!r} {count} times")
        with torch.device("meta"):
            expected = {size: self.architecture.at(size).build().state_dict() for size in {*self.image_sizes}}
        for index, member in enumerate(self.members):
            _check_fits(index, member, expected[self.image_sizes[index]])

    def __len__(self) -> int:
        return len(self.members)

    def __repr__(self) -> str:
        a, weights = self.architecture, sum(tensor.numel() for tensor in self.members[0].values())
        images = f"{a.channels}x{a.image_size}x{a.image_size}"
        if {*self.image_sizes} != {a.image_size}:
            images += f", seen at {', '.join(map(str, self.image_sizes))} pixels"
        members = f"{len(self)} members of {a.backbone}, {weights:,} weights each"
        return f"Ensemble({members}, images {images}, {len(self.classes)} classes, lineage {self.lineage!r})"

    @property
    def image_sizes(self) -> tuple[int, ...]:
        """Image size of each member, in pixels."""
        return self.sizes or (self.architecture.image_size,) * len(self.members)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the members' fingerprints, in order, and over their sizes where one is not the images'."""
        digests = (bytearray.fromhex(fingerprint(member)) for member in self.members)
        found = {str(i): torch.frombuffer(digest, dtype=torch.uint8) for i, digest in enumerate(digests)}
        if {*self.image_sizes} != {self.architecture.image_size}:
            found["sizes"] = torch.tensor([self.architecture.image_size, *self.image_sizes])
        return fingerprint(found)

    def architecture_of(self, member: int) -> Architecture:
        """Return the architecture of one member, which has its image size."""
        return self.architecture.at(self.image_sizes[member])

    def classifier(self, member: int) -> Classifier:
        """Return one member as a module of its own, in evaluation mode."""
        return self.architecture_of(member).classifier(self.members[member]).eval()

    def classifiers(self) -> Iterator[Classifier]:
        """Yield every member as a module, in order."""
        for member in range(len(self)):
            yield self.classifier(member)

    @cached_property
    def by_encoder(self) -> tuple[tuple[int, ...], ...]:
        """Members by encoder and size: those that have both in common, as heads on one network, are one network."""
        encoders, sizes = [below(member, "encoder") for member in self.members], self.image_sizes
        groups: list[list[int]] = []
        for member, encoder in enumerate(encoders):
            alike = (group for group in groups if sizes[group[0]] == sizes[member])
            group = next((group for group in alike if _same(encoders[group[0]], encoder)), None)
            groups.append([member]) if group is None else group.append(member)
        return tuple(map(tuple, groups))

    def networks(self) -> Iterator["Network"]:
        """Yield a network for each encoder, in evaluation mode, in the order of :attr:`by_encoder`."""
        for group in self.by_encoder:
            yield self._network(self.classifier(group[0]), group)

    def in_order(self, by_network: Iterable[Iterable[Tensor]]) -> list[Tensor]:
        """Return what each head of each network gives, in the order of the members."""
        places = [member for group in self.by_encoder for member in group]
        found = dict(zip(places, chain.from_iterable(by_network), strict=True))
        return [found[member] for member in range(len(self))]

    def _network(self, classifier: Classifier, group: Sequence[int]) -> "Network":
        """Return the network of some members, given the first as a classifier."""
        heads = [deepcopy(classifier.head) for _ in group[1:]]
        for head, member in zip(heads, group[1:], strict=True):
            head.load_state_dict(below(self.members[member], "head"))
        return Network(classifier, [classifier.head, *heads]).eval()

    def predict(self, images: Tensor, device: torch.device | str = "cpu", batch_size: int | None = None) -> Tensor:
        """Return probabilities (members, examples, classes), float32, on the CPU.

        They are mapped from a temporary file where memory is short.

        Examples:
            >>> from ensemble_transfer.models.backbone import Backbone
            >>> small = Backbone("resnet10t", {"channels": [4, 8, 8, 8], "stem_width": 4, "output_stride": 8})
            >>> architecture = small.architecture(image_size=16, channels=1, classes=2)
            >>> members = tuple(architecture.initial(seed) for seed in range(3))
            >>> ensemble = Ensemble(architecture, members, ("cat", "dog"))
            >>> ensemble.predict(torch.zeros(5, 1, 16, 16, dtype=torch.uint8)).shape
            torch.Size([3, 5, 2])

        Args:
            images: Images (examples, channels, height, width), uint8, of the architecture's size and channels.
            device: Device of the computation.
            batch_size: Number of examples in one forward pass; None for what suits the device.

        Raises:
            ValueError: If the images have another type or shape.
        """
        size = self.architecture.image_size
        shape = (self.architecture.channels, size, size)
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != shape:
            found = f"dtype {images.dtype} and shape {tuple(images.shape)}"
            raise ValueError(f"images has {found}; expected torch.uint8 and (N, {', '.join(map(str, shape))})")
        device = torch.device(device)
        if device.type != "cpu" and images.nbytes < IMAGES_SHARE * free_memory(device):
            images = images.to(device)  # once for all members
        predicted = empty(len(self), len(images), len(self.classes))
        built: dict[int, Classifier] = {}  # by size: to build one for each member takes longer, and so do copies
        for group in self.by_encoder:
            size = self.image_sizes[group[0]]
            if size not in built:
                built[size] = self.classifier(group[0]).requires_grad_(requires_grad=False)
            classifier = built[size]
            weights = {name: tensor.detach() for name, tensor in self.members[group[0]].items()}  # own names for them
            classifier.load_state_dict(weights, assign=True)
            places = [predicted[member] for member in group]
            probabilities(self._network(classifier, group), images, device, batch_size, places)
        return predicted

    def save(self, folder: Path) -> None:
        """Write ``ensemble.json`` and a safetensors file per member into a folder, which is made if missing.

        A calibration in the folder is removed, since it belongs to the ensemble that the folder held before.
        """
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CALIBRATION).unlink(missing_ok=True)
        description = self._description()
        for entry, member in zip(description["members"], self.members, strict=True):
            write_tensors(folder / entry["file"], member)
        with replacing(folder / DESCRIPTION) as beside:
            beside.write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def _description(self) -> dict[str, Any]:
        """Return the content of ``ensemble.json``, which has a checksum over all of it."""
        sums = enumerate(map(fingerprint, self.members))
        description = {
            "format": FORMAT,
            "architecture": self.architecture.plain(),
            "classes": list(self.classes),
            "lineage": self.lineage,
            "members": [
                {"file": f"member_{index:02d}.safetensors", "sha256": own, "image_size": self.image_sizes[index]}
                for index, own in sums
            ],
            "history": dict(self.history),
        }
        return description | {"checksum": checksum(description)}

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read an ensemble that :meth:`save` wrote; nothing in it is executed.

        Raises:
            SettingError: If a file is missing, damaged, or does not match ``ensemble.json``.
        """
        path = folder / DESCRIPTION
        with readable("ensemble", path):
            description = read_description(path)
            architecture = Architecture.from_plain(description["architecture"])
            members = tuple(read_member(folder, **entry) for entry in description["members"])
            require_proportion(architecture, members)
            sizes = tuple(entry["image_size"] for entry in description["members"])
            about = tuple(description["classes"]), description["lineage"], description["history"]
            return cls(architecture, members, *about, sizes)


class Network(nn.Module):
    """A classifier's encoder with the heads of all members that have it; by itself with the classifier's own."""

    def __init__(self, classifier: Classifier, heads: Sequence[nn.Linear] = ()) -> None:
        super().__init__()
        self.classifier, self.heads = classifier, nn.ModuleList(heads or [classifier.head])

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (heads, examples, classes) of images (examples, channels, height, width), uint8."""
        features = self.classifier.encode(images)
        return torch.stack([head(features) for head in self.heads])


def probabilities(
    network: Network,
    images: Tensor,
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
    out: Sequence[Tensor] | None = None,
) -> Sequence[Tensor]:
    """Return for each head of a network probabilities (examples, classes), float32, on the CPU.

    A GPU is waited for once in 64 MB of them. They are written into ``out`` where it is given.
    """
    heads, classes = len(network.heads), network.classifier.head.out_features
    found = empty(heads, len(images), classes).unbind() if out is None else out
    network = to_device(network, device)
    batch_size = batch_size or images_at_once(device, images.shape[-1])
    at_once = batch_size * rows_at_once(4 * heads * classes * batch_size)
    with torch.inference_mode(), tf32(allowed=False):
        for start in range(0, len(images), at_once):
            rows = slice(start, start + at_once)
            batches = [network(part.to(device)).float().softmax(-1) for part in parts(images[rows], batch_size)]
            for place, own in zip(found, torch.cat(batches, dim=1).to("cpu"), strict=True):
                place[rows] = own
    return found


def _same(encoder: Weights, other: Weights) -> bool:
    """Return whether encoders are equal; one look at a tensor tells most apart."""
    return all(tensor is other[name] or torch.equal(tensor, other[name]) for name, tensor in encoder.items())


def _check_fits(index: int, member: Weights, expected: Weights) -> None:
    for name in sorted(member.keys() ^ expected.keys())[:1]:
        where = "missing from" if name in expected else "unknown in"
        raise ValueError(f"tensor {name!r} is {where} member {index}")
    for name, tensor in expected.items():
        (shape, dtype), (wanted, of_type) = ((tuple(t.shape), t.dtype) for t in (member[name], tensor))
        if (shape, dtype) != (wanted, of_type):
            has = f"tensor {name!r} of member {index} has shape {shape} and dtype {dtype}"
            raise ValueError(f"{has}; the architecture says {wanted} and {of_type}")
