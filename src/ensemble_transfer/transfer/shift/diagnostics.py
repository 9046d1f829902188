"""Measure what a shift does before any fine-tuning, compared with no shift and with a random vector of equal norms.

Everything is measured on validation splits, so that it may guide a choice.
"""

import math
from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from ensemble_transfer.models.architecture import Classifier
from ensemble_transfer.models.device import tf32, to_device
from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.seeding import generator
from ensemble_transfer.tasks.task import Split
from ensemble_transfer.training.features import features, is_statistic
from ensemble_transfer.transfer.shift.vector import ShiftVector, learned
from ensemble_transfer.transfer.workbench import Workbench
from ensemble_transfer.weights import (
    Weights,
    add_scaled,
    below,
    fingerprint,
    joined,
    mean_distance_and_cosine,
    norm,
    random_like,
    subtract,
)

_BATCH = 256


@torch.no_grad()
@tf32(allowed=False)
def batch_loss(
    classifier: Classifier, images: Tensor, labels: Tensor, device: torch.device, frozen: bool = False
) -> tuple[float, float]:
    """Return mean cross-entropy and accuracy, with BatchNorm normalising by the statistics of the images themselves.

    Shifted or interpolated weights have no running statistics of their own; those of the batch need no further pass. A
    single image has no variance over images, so it is normalised by the running statistics.

    Args:
        classifier: The network; it is left in training mode, with other running statistics.
        images: (examples, channels, height, width) uint8.
        labels: (examples,) int64.
        device: Where to compute.
        frozen: Whether training kept the running statistics: then all weights between have these, and they are used.
    """
    classifier = to_device(classifier, device)
    for layer in classifier.modules() if len(images) > 1 and not frozen else ():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.train()
    parts = torch.tensor_split(torch.arange(len(images)), -(-len(images) // _BATCH))
    logits = torch.cat([classifier(images[places].to(device)).float().cpu() for places in parts])
    return float(cross_entropy(logits, labels)), float((logits.argmax(1) == labels).double().mean())


DIAGNOSED = 4
"""Maximum number of recipients that are measured, and of members for the loss barrier."""

LINE = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
"""Shares of the shift at which the loss along the line is measured."""

BETWEEN = (0.25, 0.5, 0.75)
"""Points between two members at which the loss barrier is measured."""


def diagnose_shift(
    bench: Workbench, shift: ShiftVector, donors: Mapping[int, Weights], shifted: Mapping[int, Weights]
) -> dict[str, float]:
    """Compute the metrics ``shift/...``.

    Zero-shot accuracy is that of a recipient's encoder with the first donor's head. Probe
    accuracy is that of a new head on frozen features. Both are means over at most four recipients. Encoders without a
    shift, or with a random one, get BatchNorm statistics of the target too. Gains of probe accuracy have the standard
    errors of differences that are paired by image (``..._error``): the noise of the validation images, not of seeds.

    Args:
        bench: An unbilled workbench, since a diagnosis is no part of the transfer.
        shift: The shift vector.
        donors: The donors' weights after their fine-tuning, by member.
        shifted: The recipients' encoders after the shift, before any fine-tuning, by member.
    """
    metrics = shift_norms(shift.vector, bench.encoders[next(iter(donors))])
    metrics["shift/donor_cosine"] = _donor_cosine(bench, donors)
    metrics["shift/scale"] = shift.scale
    chosen = list(shifted)[:DIAGNOSED]
    if not chosen:
        return metrics
    originals = {member: bench.encoders[member] for member in chosen}
    noise = random_like(learned(shift.scaled()), generator(bench.seed, "random shift"))
    random = {m: {**w, **add_scaled({name: w[name] for name in noise}, noise)} for m, w in originals.items()}
    rivals: dict[str, Mapping[int, Weights]] = {
        "": {member: shifted[member] for member in chosen},
        "_no_shift": bench.reestimate_statistics(originals),
        "_random": bench.reestimate_statistics(random),
    }
    head = below(next(iter(donors.values())), "head")
    found = {name: _accuracies(bench, encoders, head, name) for name, encoders in rivals.items()}
    right = {name: own for name, (_, own) in found.items()}
    probed = {name: float(own.mean()) for name, own in right.items()}
    metrics |= {f"shift/zero_shot_accuracy{name}": zero_shot for name, (zero_shot, _) in found.items()}
    metrics |= {f"shift/probe_accuracy{name}": value for name, value in probed.items()}
    metrics["shift/probe_gain"] = probed[""] - probed["_no_shift"]
    metrics["shift/probe_gain_over_random"] = probed[""] - probed["_random"]
    metrics["shift/probe_gain_error"] = _standard_error(right[""] - right["_no_shift"])
    metrics["shift/probe_gain_over_random_error"] = _standard_error(right[""] - right["_random"])
    return metrics


def shift_norms(vector: Weights, encoder: Weights) -> dict[str, float]:
    """Return the norm of a shift vector, and its norm relative to the weights, in total and for each tensor.

    Running statistics do not count, since they are estimated from data and not trained.
    """
    moved = learned(vector)
    relative = {
        f"shift/relative_norm/{name}": norm({name: tensor}) / (norm({name: encoder[name]}) or float("nan"))
        for name, tensor in moved.items()
    }
    whole = norm({name: encoder[name] for name in moved})
    return {"shift/norm": norm(moved), "shift/relative_norm": norm(moved) / whole, **relative}


def shift_line(bench: Workbench, donor: Weights, shifted: Mapping[int, Weights]) -> dict[str, list[float]]:
    """Compute validation loss and accuracy on the straight line from before to after the shift, and beyond.

    Each point has the donor's head and no fine-tuning. BatchNorm normalises by the
    validation images, or by the running statistics where fine-tuning keeps them. Values are means over at most four
    recipients; lists are empty without recipients.
    """
    line: dict[str, list[float]] = {"scale": [], "loss": [], "accuracy": []}
    network = bench.architecture.classifier(donor)
    split, device = bench.target.validation, bench.fitter.settings.device
    for scale in LINE if shifted else ():
        points = []
        for member in list(shifted)[:DIAGNOSED]:
            before = bench.encoders[member]
            moved = add_scaled(before, subtract(shifted[member], before), scale)
            network.load_state_dict(joined(encoder=moved, head=below(donor, "head")))  # to build one takes longer
            points.append(batch_loss(network, split.images, split.labels, device, bench.recipes.keeps_statistics))
        line["scale"].append(scale)
        line["loss"].append(sum(loss for loss, _ in points) / len(points))
        line["accuracy"].append(sum(accuracy for _, accuracy in points) / len(points))
    return line


def source_barrier(source: Ensemble, validation: Split, device: torch.device) -> float:
    """Compute the loss barrier between members of the source ensemble, in nats; it is near 0 if they share a basin.

    On the straight line between the weights of two members, the barrier is the largest rise of the source task's
    validation loss above the linear interpolation of their losses (Frankle et al. 2020, arXiv 1912.05671). BatchNorm
    normalises by the validation images, unless all members have the same running statistics. The value is the mean over
    pairs of at most four members; NaN for one member.
    """
    network = source.classifier(0)
    running = [{n: t for n, t in member.items() if is_statistic(n)} for member in source.members[:DIAGNOSED]]
    frozen = len({fingerprint(own) for own in running}) == 1

    def loss(weights: Weights) -> float:
        network.load_state_dict(dict(weights))  # to build one takes longer
        return batch_loss(network, validation.images, validation.labels, device, frozen)[0]

    def barrier(one: Weights, end: float, other: Weights, other_end: float) -> float:
        way = subtract(other, one)
        rises = [loss(add_scaled(one, way, at)) - (1 - at) * end - at * other_end for at in BETWEEN]
        return max(0.0, *rises)

    ends = [(member, loss(member)) for member in source.members[:DIAGNOSED]]
    barriers = [barrier(*one, *other) for one, other in combinations(ends, 2)]
    return sum(barriers) / len(barriers) if barriers else float("nan")


def _donor_cosine(bench: Workbench, donors: Mapping[int, Weights]) -> float:
    """Return the mean cosine between the donors' own shifts; NaN with one donor."""
    if len(donors) < 2:
        return float("nan")
    moves = [learned(subtract(below(after, "encoder"), bench.encoders[m])) for m, after in donors.items()]
    return mean_distance_and_cosine(moves)[1]


@tf32(allowed=False)
def _accuracies(
    bench: Workbench, encoders: Mapping[int, Weights], donor_head: Weights, rival: str
) -> tuple[float, Tensor]:
    """Measure members on validation, with the donor's head and with one trained on frozen features.

    Each encoder sees the images once, for both heads.

    Returns:
        The mean accuracy with the donor's head; and for every image the share of members that are right with their own
        head: (images,).
    """
    probed = bench.probe(bench.with_fresh_heads(encoders, "tiny"), f"diagnosis{rival}")
    split, device = bench.target.validation, bench.fitter.settings.device
    right = []
    for weights in probed.weights:
        seen = features(bench.architecture.classifier(weights), split.images, device)
        for head in (donor_head, below(weights, "head")):
            predicted = linear(seen, head["weight"], head["bias"]).softmax(-1).argmax(-1)
            right.append((predicted == split.labels).double())
    return float(torch.stack(right[0::2]).mean()), torch.stack(right[1::2]).mean(0)


def _standard_error(differences: Tensor) -> float:
    """Return the standard error of the mean of differences that are paired by image; NaN for one image."""
    return float(differences.std()) / math.sqrt(len(differences)) if len(differences) > 1 else math.nan
