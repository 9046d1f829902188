"""A last-layer Laplace approximation of one fully fine-tuned member."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import flop_registry

from ensemble_transfer.errors import SettingError
from ensemble_transfer.transfer.base import Workbench, transfer_ensemble
from ensemble_transfer.transfer.prices import Prices
from ensemble_transfer.transfer.strategies import laplace
from ensemble_transfer.transfer.strategies.full import Full
from ensemble_transfer.transfer.strategies.laplace import Laplace
from ensemble_transfer.weights import below


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def members(source_ensemble, target_task, recipes, fitter):
    return transfer_ensemble(Laplace(5), source_ensemble, target_task.sealed(), 0, recipes, fitter).ensemble.members


def test_members_share_the_encoder_of_a_full_fine_tuning(members, source_ensemble, target_task, recipes, fitter):
    full = transfer_ensemble(Full(), source_ensemble, target_task.sealed(), 0, recipes, fitter).ensemble
    assert len(members) == 5
    assert all(equal(below(member, "encoder"), below(full.members[0], "encoder")) for member in members)
    assert len({tuple(member["head.bias"].tolist()) for member in members}) == 5


def test_the_same_seed_draws_the_same_heads_and_leaves_the_global_state(
    members, source_ensemble, target_task, recipes, fitter
):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    again = transfer_ensemble(Laplace(5), source_ensemble, target_task.sealed(), 0, recipes, fitter).ensemble.members
    assert torch.equal(torch.get_rng_state(), before)
    assert all(equal(a, b) for a, b in zip(members, again, strict=True))
    other = transfer_ensemble(Laplace(5), source_ensemble, target_task.sealed(), 1, recipes, fitter).ensemble.members
    assert not torch.equal(other[0]["head.bias"], members[0]["head.bias"])


def test_the_curvature_is_that_of_a_softmax_regression():
    """The Hessian of the cross-entropy of a linear head, in closed form: the sum of (diag(p) - p p^T) x (f f^T)."""
    torch.manual_seed(0)
    features, labels, head = torch.randn(30, 3), torch.randint(4, (30,)), nn.Linear(3, 4)
    data = DataLoader(TensorDataset(features, labels), 7)
    with laplace._quietly():
        posterior = Laplace(structure="full")._posterior(head, data)
    probabilities = head(features).softmax(-1).detach()
    of_logits = torch.diag_embed(probabilities) - probabilities[:, :, None] * probabilities[:, None, :]
    weights = torch.einsum("nij,nk,nl->ikjl", of_logits, features, features).reshape(12, 12)
    torch.testing.assert_close(posterior.H[:12, :12], weights, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(posterior.H[12:, 12:], of_logits.sum(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(posterior.mean, nn.utils.parameters_to_vector(head.parameters()).detach())


def test_the_posterior_is_billed(source_ensemble, target_task, recipes, fitter):
    bench = Workbench(source_ensemble, target_task.sealed(), 0, recipes, fitter)
    result = Laplace(2, "diag").run(bench)
    phases = result.ledger.by_phase()
    assert list(phases) == ["full", "posterior", "choice"]
    assert phases["full"].flops == bench.prices.full
    assert phases["posterior"].flops > bench.prices.statistics
    assert phases["choice"].flops > bench.prices.look
    assert phases["choice"].examples == len(target_task.validation)
    assert result.ensemble.history["chosen_on"] == "validation"


class Counting(TorchDispatchMode):
    """Counts FLOPs by torch's rules. Its own counter looks at modules, which fails in torch.func."""

    flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        rule = flop_registry.get(func._overloadpacket)
        self.flops += rule(*args, **(kwargs or {}), out_val=found) if rule else 0
        return found


@pytest.mark.parametrize("structure", laplace.STRUCTURES)
@pytest.mark.parametrize(("examples", "validation"), [(100, 40), (600, 300)])
def test_the_price_is_what_the_posterior_and_its_search_compute(
    source_ensemble, target_task, recipes, structure, examples, validation
):
    prices = Prices.of(source_ensemble.architecture, target_task, recipes, 3, None)
    prices, strategy = replace(prices, examples=examples, validation=validation), Laplace(3, structure)
    torch.manual_seed(0)
    width, classes = prices.architecture.features, prices.architecture.classes
    head = nn.Linear(width, classes)
    train, held_out = (
        DataLoader(TensorDataset(torch.randn(n, width), torch.randint(classes, (n,))), 256)
        for n in (examples, validation)
    )
    with laplace._quietly(), Counting() as fitting:
        posterior = strategy._posterior(head, train)
    with laplace._quietly(), Counting() as searching:
        laplace._choose_prior(posterior, held_out, strategy.members)
    with Counting() as drawing:
        strategy._drawn(posterior, head, 0)
    assert fitting.flops + drawing.flops == strategy._posterior_price(prices) - prices.encode(prices.examples)
    assert searching.flops == strategy._search_price(prices) - prices.look


@pytest.mark.parametrize("structure", laplace.STRUCTURES)
def test_it_spends_its_budget_and_no_more(source_ensemble, target_task, recipes, fitter, structure):
    priced = Workbench(source_ensemble, target_task.sealed(), 0, recipes, fitter).prices
    strategy = Laplace(2, structure)
    heads = strategy._posterior_price(priced) + strategy._search_price(priced)
    least = (heads + priced.step) / priced.full
    for budget in (least * 1.0001, least + 0.5):
        bench = Workbench(source_ensemble, target_task.sealed(), 0, recipes, fitter, budget)
        strategy.run(bench)
        assert 0 <= bench.prices.limit - bench.ledger.total().flops < priced.step
    refused = Workbench(source_ensemble, target_task.sealed(), 0, recipes, fitter, least * 0.9999)
    with pytest.raises(SettingError, match="does not pay for a step of fine-tuning and a posterior"):
        strategy.run(refused)
    assert not refused.ledger.entries


def test_wrong_options_are_one_line(source_ensemble, monkeypatch):
    with pytest.raises(SettingError, match="structure='lowrank': must be one of kron, full, diag"):
        Laplace(structure="lowrank")
    with pytest.raises(SettingError, match="members=1: must be at least 2"):
        Laplace(1)
    monkeypatch.setattr(laplace, "find_spec", lambda _: None)
    with pytest.raises(SettingError, match=r"strategy='laplace': needs a package .*: pip install laplace-torch"):
        replace(Laplace()).check(3, source_ensemble.architecture)
