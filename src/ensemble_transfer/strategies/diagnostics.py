"""What a shift did before any fine-tuning, against no shift and against a random vector of the same norms.

All accuracies are means over recipients on the validation split, so that the verdict may guide a choice.
"""

from collections.abc import Mapping

from torch import Tensor

from ensemble_transfer.cost import Ledger
from ensemble_transfer.seeding import generator
from ensemble_transfer.strategies.transfer import ShiftVector, Transfer, TransferResult
from ensemble_transfer.training.features import is_statistic
from ensemble_transfer.weights import (
    Weights,
    add_scaled,
    below,
    cosine,
    joined,
    mean_over_pairs,
    norm,
    random_like,
    select,
    subtract,
)


def diagnose_shift(work: Transfer, result: TransferResult, shift: ShiftVector) -> dict[str, float]:
    """Return the metrics ``shift/...``.

    Zero-shot accuracies are those of a recipient's encoder under the first donor's head; a probe is a new head on
    frozen features. Encoders that the shift is compared with get BatchNorm statistics of the target as well. What
    this costs is not part of the transfer and not in its ledger.

    Args:
        work: The transfer.
        result: What it gave; every member that is no recipient is a donor.
        shift: Its shift vector.
    """
    donors = [member for member in range(len(result.ensemble)) if member not in result.recipients]
    before = work.encoders[donors[0]]
    metrics = shift_norms(shift.vector, before)
    metrics["shift/donor_cosine"] = _donor_cosine(work, result, donors)
    if not result.recipients:
        return metrics
    originals = {member: work.encoders[member] for member in result.recipients}
    noise = random_like(_learned(shift.vector), generator(work.seed, "random shift"))
    random = {member: _add_learned(encoder, noise, shift.scale) for member, encoder in originals.items()}
    head = below(result.ensemble.members[donors[0]], "head")
    rivals: dict[str, Mapping[int, Weights]] = {
        "": result.shifted,
        "_no_shift": work.reestimate_statistics(originals, Ledger()),
        "_random": work.reestimate_statistics(random, Ledger()),
    }
    zero_shot = {name: _accuracy(work, encoders, head) for name, encoders in rivals.items()}
    probed = {name: _probed_accuracy(work, encoders) for name, encoders in rivals.items()}
    metrics |= {f"shift/zero_shot_accuracy{name}": value for name, value in zero_shot.items()}
    metrics |= {f"shift/probe_accuracy{name}": value for name, value in probed.items()}
    metrics["shift/probe_gain"] = probed[""] - probed["_no_shift"]
    metrics["shift/probe_gain_over_random"] = probed[""] - probed["_random"]
    return metrics


def shift_norms(vector: Weights, encoder: Weights) -> dict[str, float]:
    """Return the norm of a shift vector, and its norm relative to the weights: of all, and tensor by tensor.

    Running statistics are data that passed by, not weights: they do not count.
    """
    learned = _learned(vector)
    relative = {
        f"shift/relative_norm/{name}": norm({name: tensor}) / (norm({name: encoder[name]}) or float("nan"))
        for name, tensor in learned.items()
    }
    whole = norm({name: encoder[name] for name in learned})
    return {"shift/norm": norm(learned), "shift/relative_norm": norm(learned) / whole, **relative}


def _learned(vector: Weights) -> dict[str, Tensor]:
    return select(vector, lambda name: not is_statistic(name))


def _add_learned(encoder: Weights, vector: Weights, scale: float) -> dict[str, Tensor]:
    moved = add_scaled({name: encoder[name] for name in vector}, vector, scale)
    return {name: moved.get(name, tensor) for name, tensor in encoder.items()}


def _donor_cosine(work: Transfer, result: TransferResult, donors: list[int]) -> float:
    """Return the mean cosine between the donors' own shifts; NaN with one donor."""
    if len(donors) < 2:
        return float("nan")
    after = {member: below(result.ensemble.members[member], "encoder") for member in donors}
    return mean_over_pairs(cosine, [_learned(subtract(after[m], work.encoders[m])) for m in donors])


def _probed_accuracy(work: Transfer, encoders: Mapping[int, Weights]) -> float:
    probed = work.probe(work.with_fresh_heads(encoders, "tiny"), "diagnosis")
    return _mean_accuracy(work, list(probed.weights))


def _accuracy(work: Transfer, encoders: Mapping[int, Weights], head: Weights) -> float:
    return _mean_accuracy(work, [joined(encoder=encoder, head=head) for encoder in encoders.values()])


def _mean_accuracy(work: Transfer, members: list[Weights]) -> float:
    split = work.target.validation
    predictions = work.ensemble(members, "diagnosis").predict(split.images, work.fitter.settings.device).argmax(-1)
    return float((predictions == split.labels).double().mean())
