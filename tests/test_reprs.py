"""What a notebook prints is short, whatever weights and images an object holds."""

import pytest

from ensemble_transfer import Auto, Ledger, Shift, ShiftVector, Store, Workbench, transfer_ensemble


@pytest.fixture(scope="module")
def objects(source_ensemble, target_task, recipes, fitter, tmp_path_factory):
    result = transfer_ensemble(Shift(), source_ensemble, target_task, 0, recipes, fitter)
    chosen = transfer_ensemble(Auto(), source_ensemble, target_task, 0, recipes, fitter, budget=3)
    bench = Workbench(source_ensemble, target_task, 0, recipes, fitter)
    fits = bench.fine_tune_fully(bench.first_encoders(1))
    store = Store(tmp_path_factory.mktemp("store"))
    starts = bench.with_fresh_heads(bench.encoders, "tiny")
    whole = [result, chosen, result.shift, result.ledger, bench, fits, store, starts, result.ensemble, target_task]
    return {type(value).__name__: value for value in whole}


def test_they_are_below_two_thousand_characters(objects):
    lengths = {name: len(repr(value)) for name, value in objects.items()}
    assert max(lengths.values()) < 2000, lengths


def test_they_say_what_matters(objects, target_task):
    assert repr(objects["ShiftVector"]).startswith("ShiftVector(")
    assert f"donors 0, target {target_task.name!r}, scales: " in repr(objects["ShiftVector"])
    assert repr(objects["Ledger"]).startswith(
        "Ledger(full 12 steps, statistics 0 steps, probe 20 steps, tiny 6 steps; "
    )
    assert repr(Ledger()) == "Ledger(empty; 0 GFLOPs, 0 s)"
    assert repr(objects["Store"]) == f"Store({str(objects['Store'].root)!r}, reuse=True)"
    assert "Ensemble(3 members of resnet10t" in repr(objects["Workbench"])
    assert "shift=ShiftVector(" in repr(objects["ShiftResult"])


def test_a_damaged_vector_can_be_printed():
    assert repr(ShiftVector({}, {}, {})) == "ShiftVector(0 numbers in 0 tensors, donors None, target None, scales: )"
