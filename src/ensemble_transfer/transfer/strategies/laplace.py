"""Strategy ``laplace``: one fully fine-tuned member, and heads drawn from a posterior around its own."""

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.utils.data import DataLoader, TensorDataset

from ensemble_transfer.errors import require
from ensemble_transfer.models.backbone import Architecture
from ensemble_transfer.training.cost import Cost, Entry, measured
from ensemble_transfer.training.features import features
from ensemble_transfer.training.flops import head_flops
from ensemble_transfer.transfer.base import TransferResult, Workbench
from ensemble_transfer.transfer.choice import Candidate
from ensemble_transfer.transfer.prices import Prices
from ensemble_transfer.weights import Weights, below, joined

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
        least = _price(prices) + prices.step
        prices.require(prices.limit >= least, "a step of fine-tuning and a posterior", least)
        return (prices.limit - _price(prices)) // prices.step

    def run(self, work: Workbench) -> TransferResult:
        """Return the transferred ensemble; see :class:`~ensemble_transfer.transfer.base.Strategy`."""
        recipe = replace(work.recipes.full, steps=self.plan(work.prices))
        [weights] = work.fine_tune_fully(work.first_encoders(1), recipe).weights
        with measured(work.fitter.settings.device) as meter, torch.random.fork_rng(devices=[]):
            heads = self._heads(work, weights)
        cost = Cost(
            examples=len(work.target.train) + len(work.target.validation),
            flops=_price(work.prices),
            seconds=meter.seconds,
            cpu_seconds=meter.cpu_seconds,
            peak_memory_bytes=meter.peak_memory_bytes,
        )
        work.ledger.extend([Entry("posterior", 0, cost)])
        encoder = below(weights, "encoder")
        return work.result(self.name, [joined(encoder=encoder, head=head) for head in heads], range(1, self.members))

    def _heads(self, work: Workbench, weights: Weights) -> list[Mapping[str, Tensor]]:
        """Return heads that are drawn from the posterior."""
        classifier, device = work.architecture.classifier(weights), work.fitter.settings.device
        torch.manual_seed(work.stream("laplace"))
        data = [
            DataLoader(TensorDataset(features(classifier, split.images, device), split.labels), _BATCH)
            for split in (work.target.train, work.target.validation)
        ]
        head: nn.Module = classifier.head.cpu()
        posterior = self._posterior(head, *data)
        drawn = posterior.sample(self.members, generator=torch.Generator().manual_seed(work.stream("laplace", "heads")))
        heads: list[Mapping[str, Tensor]] = []
        for vector in drawn.to(parameters_to_vector(head.parameters()).dtype):
            vector_to_parameters(vector, head.parameters())
            heads.append({name: tensor.detach().clone() for name, tensor in head.state_dict().items()})
        return heads

    def _posterior(self, head: nn.Module, train: Features, validation: Features) -> Any:  # noqa: ANN401  # untyped
        """Return the Laplace approximation of a head on features, with the prior that serves best on validation."""
        before, (lowest, highest, number) = logging.root.manager.disable, PRIORS
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its dependencies use what torch has deprecated
            logging.disable(logging.WARNING)  # nor need a user know which of its backends are missing
            try:
                from laplace import Laplace as Approximation  # takes seconds to import
            finally:
                logging.disable(before)

            posterior = Approximation(head, "classification", subset_of_weights="all", hessian_structure=self.structure)
            posterior.fit(train)
            posterior.optimize_prior_precision(
                "nn",
                "gridsearch",
                val_loader=validation,
                loss=_calibrated_nll,  # type: ignore[arg-type]  # it is called with labels too
                log_prior_prec_min=lowest,
                log_prior_prec_max=highest,
                grid_size=number,
                link_approx="mc",
                n_samples=self.members,
            )
        return posterior


def _calibrated_nll(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return the calibrated NLL of probabilities (examples, classes): an overconfident head is no reason for noise."""
    return Candidate("draws", (), probabilities[None]).losses(labels).mean()


def _price(prices: Prices) -> int:
    """Return the price of the posterior: features, and a gradient of the head for every class and training image."""
    operations = prices.architecture.classes * head_flops(prices.architecture.features, prices.architecture.classes)
    return prices.encode(prices.examples + prices.validation) + prices.examples * operations
