"""A call of the library leaves the process as it found it."""

import logging
import os
import random
import signal
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from ensemble_transfer import Auto, Calibration, Fitter
from ensemble_transfer.training.fit import Start
from ensemble_transfer.transfer.base import transfer_ensemble


def precisions():
    """How float32 is rounded, by torch's newer settings, where it has them."""
    backends = torch.backends
    kinds = (backends.cuda.matmul, backends.mkldnn.matmul, getattr(backends.cudnn, "conv", None))
    return [getattr(kind, "fp32_precision", None) for kind in kinds]


def state():
    """What a user may have set."""
    levels = {
        name: (logger.level, logger.disabled, logger.propagate, list(logger.handlers), list(logger.filters))
        for name, logger in logging.root.manager.loggerDict.items()
        if isinstance(logger, logging.Logger) and name != "torch.__trace"  # torch drops its lazy handler at first use
    }
    return {
        "python": random.getstate(),
        "numpy": repr(np.random.get_state()),
        "torch": torch.get_rng_state().tolist(),
        "warnings": list(warnings.filters),
        "levels": levels | {"": (logging.root.level, logging.root.disabled)},
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "precision": (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, *precisions()),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "signals": [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)],
        "environment": {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"},
    }


@pytest.fixture
def unchanged():
    """Check what a test's calls change, from a state that no fresh process has."""
    import pytorch_lightning  # noqa: F401  # its import itself sets up its loggers

    lightning, level = logging.getLogger("pytorch_lightning"), logging.getLogger("pytorch_lightning").level
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    lightning.setLevel(logging.DEBUG)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "a text of the user's")
            before = state()
            yield
            after = state()
    finally:
        lightning.setLevel(level)
    after["levels"] = {name: after["levels"][name] for name in before["levels"]}  # others were imported meanwhile
    assert [name for name, value in before.items() if after[name] != value] == []


@pytest.mark.usefixtures("unchanged")
def test_a_transfer_and_its_calibration_leave_no_trace(source_ensemble, target_task, recipes, fitter):
    result = transfer_ensemble(Auto(), source_ensemble, target_task, 0, recipes, fitter, budget=3.0)
    split = target_task.validation
    Calibration.fit(result.ensemble.predict(split.images).numpy(), split.labels.numpy())


@pytest.mark.parametrize("executor", ["loop", "vectorised"])
@pytest.mark.usefixtures("unchanged")
def test_a_fit_leaves_no_trace(executor, backbone, source_task, recipes, settings):
    architecture = backbone.architecture(8, 1, 5)
    if executor == "loop":  # nets with random layers take it
        architecture = replace(architecture, options={**architecture.options, "drop_rate": 0.5})
    starts = [Start(member, architecture.initial(member), member) for member in range(2)]
    recipe = replace(recipes.tiny, augment="trivial")
    Fitter(replace(settings, executor=executor, progress=True)).fit(architecture, starts, source_task, recipe, "full")


@pytest.mark.usefixtures("unchanged")
def test_a_fit_that_fails_leaves_no_trace(source_ensemble, source_task, recipes, fitter):
    class Breaks:
        def curve(self, phase, step, losses, also):
            raise ZeroDivisionError

    starts = [Start(0, source_ensemble.members[0], 0)]
    with pytest.raises(ZeroDivisionError):
        replace(fitter, tracker=Breaks()).fit(source_ensemble.architecture, starts, source_task, recipes.tiny, "tiny")
