"""The workbench: whose randomness, at what price, and what is refused before it is done."""

from dataclasses import replace

import pytest
from refusals import refusal

from ensemble_transfer import Backbone, Ensemble, HeadOnly, Recipe, SettingError
from ensemble_transfer.transfer.base import run_strategy
from ensemble_transfer.transfer.workbench import Workbench
from ensemble_transfer.weights import below, fingerprint


def test_every_member_and_phase_has_randomness_of_its_own(bench):
    starts, others = (bench.with_fresh_heads(bench.encoders, phase) for phase in ("tiny", "full"))
    assert len({start.seed for start in (*starts, *others)}) == 6
    heads = [fingerprint(below(start.weights, "head")) for start in starts]
    assert len(set(heads)) == 3
    assert heads == [fingerprint(below(start.weights, "head")) for start in others]
    [other] = replace(bench, seed=1).with_fresh_heads(bench.first_encoders(1), "tiny")
    assert heads[0] != fingerprint(below(other.weights, "head"))


def test_a_probe_is_the_same_fit_whatever_comes_after_it(bench):
    probes = [bench.probe(bench.with_fresh_heads(bench.encoders, phase)) for phase in ("tiny", "full")]
    keys = [[fitted.key for fitted in fits.fitted] for fits in probes]
    assert keys[0] == keys[1]
    assert len(set(keys[0])) == 3


def test_work_costs_what_its_price_says(bench):
    views = Recipe(4, batch_size=200, augment="flip", views=2)
    bench = replace(bench, recipes=replace(bench.recipes, probe=views, statistics=30))
    prices, starts = bench.prices, bench.with_fresh_heads(bench.first_encoders(2), "full")
    bench.fit(starts, bench.recipes.full, "full")
    bench.fit(starts, bench.recipes.tiny, "tiny")
    bench.fit(starts, bench.recipes.head, "head", heads=True)
    bench.probe(starts)
    bench.reestimate_statistics(bench.first_encoders(2))
    bench.look([start.weights for start in starts])
    spent = {phase: cost.flops / 2 for phase, cost in bench.ledger.by_phase().items()}
    assert spent == {name: getattr(prices, name) for name in ("full", "tiny", "head", "probe", "statistics")} | {
        "choice": prices.look
    }


def test_a_look_is_paid_for_before_it_is_taken(bench):
    members = [start.weights for start in bench.with_fresh_heads(bench.first_encoders(2), "full")]
    poor = replace(bench, budget=1.5 * bench.prices.look / bench.prices.full)
    with pytest.raises(SettingError, match="phase 'choice'"):
        poor.look(members)
    assert poor.ledger.entries == []
    assert poor.look(members[:1]).shape == (1, len(bench.target.validation), 5)


def test_an_encoder_without_batchnorm_pays_for_no_statistics(source_ensemble, target_task, fitter):
    vit = Backbone("test_vit", options={"img_size": 16}).architecture(16, 1, 2)
    assert not vit.has_statistics
    assert source_ensemble.architecture.has_statistics
    ensemble = Ensemble(vit, (vit.initial(0), vit.initial(1)), ("a", "b"))
    bench = Workbench(ensemble, target_task, fitter=fitter)
    assert bench.prices.statistics == 0
    assert bench.reestimate_statistics(bench.encoders) == bench.encoders
    assert bench.ledger.entries == []


def test_a_strategy_that_returns_no_result_is_named(bench):
    strategy = HeadOnly()
    object.__setattr__(strategy, "run", lambda _: None)
    error = refusal(run_strategy, strategy, bench)
    assert error.setting == "strategy._target_"
    assert "HeadOnly" in error.value
    assert "TransferResult" in error.rule
