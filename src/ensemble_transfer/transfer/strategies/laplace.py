"""Strategy ``laplace``: one fully fine-tuned member, and heads drawn from a posterior around its own."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.utils.data import DataLoader, TensorDataset

from ensemble_transfer.errors import require
from ensemble_transfer.models.backbone import Architecture
from ensemble_transfer.tasks.task import Split
from ensemble_transfer.training.cost import Cost, Entry, Meter, measured
from ensemble_transfer.training.features import features
from ensemble_transfer.transfer.base import TransferResult, Workbench
from ensemble_transfer.transfer.choice import Candidate
from ensemble_transfer.transfer.prices import Prices
from ensemble_transfer.weights import below, joined

STRUCTURES = ("kron", "full", "diag")

PRIORS = (-2.0, 6.0, 17)
"""Precisions of the prior that are tried: lowest and highest power of ten, and how many."""

_BATCH = 256

Features = DataLoader[tuple[Tensor, ...]]


@dataclass(frozen=True)
class Laplace:
    """Fine-tune the first member fully and draw members that differ from it in their head.

    Heads are draws from a last-layer Laplace approximation: a normal distribution around the head's weights, whose
    precision is the curvature of the training loss plus a prior's (Daxberger et al. 2021, arXiv 2106.14806; by their
    package laplace-torch). The prior's is the one of ``PRIORS`` by which as many draws have the lowest calibrated NLL
    on validation. The members share one encoder.

    Attributes:
        members: How many heads are drawn.
        structure: Of the curvature: ``kron``, ``full`` or ``diag``.
    """

    name: ClassVar[str] = "laplace"
    about: ClassVar[str] = (
        "Fine-tune one member fully and draw heads from a Laplace posterior: the cheapest uncertainty there is."
    )
    role: ClassVar[str] = "method"

    members: int = 8
    structure: str = "kron"

    def __post_init__(self) -> None:
        require(self.members > 1, "members", self.members, "must be at least 2")
        rule = f"must be one of {', '.join(STRUCTURES)}"
        require(self.structure in STRUCTURES, "structure", self.structure, rule)

    def check(self, members: int, architecture: Architecture) -> None:
        """Raise a SettingError if laplace-torch is not installed."""
        rule = "needs a package that is not installed here: pip install laplace-torch"
        require(find_spec("laplace") is not None, "strategy", self.name, rule)

    def plan(self, prices: Prices) -> int:
        """Return the steps of the fine-tuning; see :class:`~ensemble_transfer.transfer.base.Strategy`."""
        if prices.limit is None:
            return prices.recipes.full.steps
        heads = self._posterior_price(prices) + self._search_price(prices)
        prices.require_limit(heads + prices.step, "a step of fine-tuning and a posterior")
        return (prices.limit - heads) // prices.step

    def run(self, bench: Workbench) -> TransferResult:
        """Return the transferred ensemble; see :class:`~ensemble_transfer.transfer.base.Strategy`."""
        recipe = replace(bench.recipes.full, steps=self.plan(bench.prices))
        [weights] = bench.fine_tune_fully(bench.first_encoders(1), recipe).weights
        bench.require_left(self._posterior_price(bench.prices) + self._search_price(bench.prices), "posterior")
        classifier, device = bench.architecture.classifier(weights), bench.fitter.settings.device
        train, validation = bench.target.train, bench.target.validation
        with _quietly(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(bench.stream("laplace"))
            with measured(device) as fitting:
                seen = features(classifier, train.images, device)
                head = deepcopy(classifier.head).cpu()  # the encoder goes on using the device
                posterior = self._posterior(head, _loader(seen, train))
            with measured(device) as searching:
                _choose_prior(
                    posterior, _loader(features(classifier, validation.images, device), validation), self.members
                )
            heads = self._drawn(posterior, head, bench.stream("laplace", "heads"))
        posterior_cost = _cost(len(train), self._posterior_price(bench.prices), fitting)
        search_cost = _cost(len(validation), self._search_price(bench.prices), searching)
        bench.bill([Entry("posterior", 0, posterior_cost), Entry("choice", None, search_cost)])
        encoder = below(weights, "encoder")
        return bench.result(self.name, [joined(encoder=encoder, head=head) for head in heads], range(1, self.members))

    def _posterior(self, head: nn.Module, train: Features) -> Any:  # noqa: ANN401  # untyped
        """Return the Laplace approximation of a head on features."""
        from laplace import Laplace as Approximation  # takes seconds to import

        posterior = Approximation(head, "classification", subset_of_weights="all", hessian_structure=self.structure)
        posterior.fit(train)
        return posterior

    def _drawn(self, posterior: Any, head: nn.Module, seed: int) -> list[Mapping[str, Tensor]]:  # noqa: ANN401
        """Return heads that are drawn from the posterior."""
        drawn = posterior.sample(self.members, generator=torch.Generator().manual_seed(seed))
        heads: list[Mapping[str, Tensor]] = []
        for vector in drawn.to(parameters_to_vector(head.parameters()).dtype):
            vector_to_parameters(vector, head.parameters())
            heads.append({name: tensor.detach().clone() for name, tensor in head.state_dict().items()})
        return heads

    def _posterior_price(self, prices: Prices) -> int:
        """Return the price of the posterior and of a draw from it: features of the training images, and curvature."""
        features, classes, examples = prices.architecture.features, prices.architecture.classes, prices.examples
        curvature = curvature_flops(self.structure, features, classes, examples)
        return prices.encode(examples) + curvature + self._draw_price(prices)

    def _search_price(self, prices: Prices) -> int:
        """Return the price of the search for a prior: features of the validation images, and as many heads on them."""
        forward = 2 * prices.architecture.features * prices.architecture.classes
        trial = self.members * prices.validation * forward + -(-prices.validation // _BATCH) * self._draw_price(prices)
        return prices.encode(prices.validation) + PRIORS[2] * trial

    def _draw_price(self, prices: Prices) -> int:
        """Return the price of drawing all heads once: products with the eigenvectors or the root of the covariance."""
        features, classes = prices.architecture.features, prices.architecture.classes
        operations = {
            "kron": 4 * classes * (features * (features + classes) + classes),
            "full": 2 * (classes * (features + 1)) ** 2,
            "diag": 0,
        }
        return self.members * operations[self.structure]


def curvature_flops(structure: str, features: int, classes: int, examples: int) -> int:
    """Return the operations of the curvature of a head, as laplace-torch 0.2 computes it.

    Every example takes passes forward, and one back for every class. ``kron`` adds products of features and of
    gradients, ``full`` Jacobians of all weights. ``diag`` multiplies each example of a batch with all others.
    """
    forward = 2 * features * classes
    if structure == "kron":
        return forward + examples * (2 * forward + classes * forward + 2 * features**2 + 2 * classes**3)
    if structure == "full":
        return forward + examples * (4 * forward + 2 * forward * classes * (features + 1))
    batches = [min(_BATCH, examples - start) for start in range(0, examples, _BATCH)]
    own = features * (classes**2 + classes + 1) + classes * (classes + 1)
    return forward + examples * 2 * classes * own + sum(batch**2 for batch in batches) * forward * classes


@contextmanager
def _quietly() -> Iterator[None]:
    """Leave out what laplace-torch and its dependencies say about torch and about backends that are missing."""
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


def _loader(seen: Tensor, split: Split) -> Features:
    return DataLoader(TensorDataset(seen, split.labels), _BATCH)


def _choose_prior(posterior: Any, validation: Features, members: int) -> None:  # noqa: ANN401  # untyped
    """Give a posterior the prior by which as many draws have the lowest calibrated NLL on validation."""
    lowest, highest, number = PRIORS
    posterior.optimize_prior_precision(
        "nn",
        "gridsearch",
        val_loader=validation,
        loss=_calibrated_nll,  # it is called with labels too
        log_prior_prec_min=lowest,
        log_prior_prec_max=highest,
        grid_size=number,
        link_approx="mc",
        n_samples=members,
    )


def _cost(examples: int, flops: int, meter: Meter) -> Cost:
    return Cost(
        examples=examples,
        flops=flops,
        seconds=meter.seconds,
        cpu_seconds=meter.cpu_seconds,
        peak_memory_bytes=meter.peak_memory_bytes,
    )


def _calibrated_nll(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return the calibrated NLL of probabilities (examples, classes): an overconfident head is no reason for noise."""
    return Candidate("draws", (), probabilities[None]).losses(labels).mean()
