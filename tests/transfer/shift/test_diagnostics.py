"""What a diagnosis of a shift measures, and what it does not do twice."""

import pytest
import scipy.stats

from ensemble_transfer.transfer.shift.diagnostics import diagnose_shift
from ensemble_transfer.transfer.strategies.shift import Shift
from ensemble_transfer.weights import below, joined


@pytest.fixture(scope="module")
def result(transfer):
    """A shift of two members by one donor."""
    return transfer(Shift())


def test_accuracies_are_those_of_whole_members(bench, result):
    metrics = diagnose_shift(bench, result.shift, {0: result.ensemble.members[0]}, result.shifted)
    ways = {"": result.shifted, "_no_shift": bench.reestimate_statistics({m: bench.encoders[m] for m in (1, 2)})}
    for name, encoders in ways.items():
        zero_shot = [
            joined(encoder=encoder, head=below(result.ensemble.members[0], "head")) for m, encoder in encoders.items()
        ]
        probed = bench.probe(bench.with_fresh_heads(encoders, "tiny")).weights
        image = 1 / (2 * len(bench.target.validation))
        for key, whole in (("zero_shot", zero_shot), ("probe", probed)):
            expected = float((bench.look(whole).argmax(-1) == bench.target.validation.labels).double().mean())
            assert metrics[f"shift/{key}_accuracy{name}"] == pytest.approx(expected, abs=1.01 * image)


def test_gains_have_errors_that_are_paired_by_image(bench, result):
    metrics = diagnose_shift(bench, result.shift, {0: result.ensemble.members[0]}, result.shifted)
    labels, right = bench.target.validation.labels, {}
    before = {member: bench.encoders[member] for member in result.shifted}
    for name, encoders in (("", result.shifted), ("_no_shift", bench.reestimate_statistics(before))):
        probed = bench.probe(bench.with_fresh_heads(encoders, "tiny")).weights
        right[name] = (bench.look(probed).argmax(-1) == labels).double().mean(0).numpy()
    gain = right[""] - right["_no_shift"]
    assert metrics["shift/probe_gain"] == pytest.approx(gain.mean(), abs=0.02)
    assert metrics["shift/probe_gain_error"] == pytest.approx(scipy.stats.sem(gain), rel=0.25)
    assert metrics["shift/probe_gain_over_random_error"] > 0
