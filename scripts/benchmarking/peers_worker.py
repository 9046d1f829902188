"""Trains ensembles with one library when asked to, and says what it took: see peers.py.

Runs in the environment of the library, so it imports nothing of this repository but for "ours...".
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import json
import logging
import os
import sys
import time
import warnings

import torch
from torch import nn

BATCH, LR, WEIGHT_DECAY = 32, 1e-2, 0.01


class Net(nn.Module):
    """The default network (conf/backbone/small_resnet), which normalises its images like ours."""

    def __init__(self) -> None:
        super().__init__()
        import timm

        options = {"channels": [8, 16, 32, 64], "stem_width": 8, "output_stride": 8}
        self.encoder = timm.create_model("resnet10t", num_classes=0, in_chans=1, **options)
        self.head = nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits of uint8 images."""
        return self.head(self.encoder(images / 127.5 - 1))


def ours(images: torch.Tensor, labels: torch.Tensor, members: int, epochs: int, **how: object):  # noqa: ANN201
    """Return a function that trains; ``how`` are further settings of the trainer."""
    from ensemble_transfer.models.backbone import Backbone
    from ensemble_transfer.tasks.task import Split
    from ensemble_transfer.training.fit import Fitter, Start
    from ensemble_transfer.training.recipe import Recipe
    from ensemble_transfer.training.settings import TrainerSettings

    options = {"channels": [8, 16, 32, 64], "stem_width": 8, "output_stride": 8}
    architecture = Backbone("resnet10t", options).architecture(28, 1, 10)
    starts = [Start(member, architecture.initial(member), member) for member in range(members)]
    steps = epochs * (len(labels) // BATCH)
    recipe = Recipe(steps, BATCH, lr=LR, weight_decay=WEIGHT_DECAY, schedule="constant")
    own = {"executor": "loop", "workers": 1} | how
    settings = TrainerSettings("cpu", progress=False, threads=torch.get_num_threads(), **own)
    fitter = Fitter(settings)
    return lambda: fitter.fit(architecture, starts, Split(images, labels), recipe, "benchmark")


def loader(images: torch.Tensor, labels: torch.Tensor) -> torch.utils.data.DataLoader:
    """Return the loader that the documentation of both peers uses."""
    data = torch.utils.data.TensorDataset(images, labels)
    return torch.utils.data.DataLoader(data, batch_size=BATCH, shuffle=True, drop_last=True)


def torch_uncertainty(images: torch.Tensor, labels: torch.Tensor, members: int, epochs: int):  # noqa: ANN201
    """Return a function that trains: all members together, as its documentation trains deep ensembles."""
    from torch_uncertainty import TUTrainer
    from torch_uncertainty.methods import deep_ensembles
    from torch_uncertainty.routines import ClassificationRoutine
    from torch_uncertainty.transforms import RepeatTarget

    model = deep_ensembles([Net() for _ in range(members)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    routine = ClassificationRoutine(
        model,
        10,
        nn.CrossEntropyLoss(),
        is_ensemble=True,
        format_batch_fn=RepeatTarget(members),
        optim_recipe=optimizer,
    )
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = TUTrainer(accelerator="cpu", max_epochs=epochs, **quiet)
    return lambda: trainer.fit(routine, loader(images, labels))


def torchensemble(images: torch.Tensor, labels: torch.Tensor, members: int, epochs: int, jobs: int = 1):  # noqa: ANN201
    """Return a function that trains, in so many processes."""
    from torchensemble import VotingClassifier

    model = VotingClassifier(estimator=Net, n_estimators=members, cuda=False, n_jobs=jobs)
    model.set_optimizer("AdamW", lr=LR, weight_decay=WEIGHT_DECAY)
    model.set_criterion(nn.CrossEntropyLoss())
    return lambda: model.fit(loader(images, labels), epochs=epochs, log_interval=10**6, save_model=False)


def main() -> None:
    """Say hello, then answer every request."""
    library, path = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the libraries print is no answer
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    data = torch.load(path)
    prepare = {
        "ours": ours,
        "ours_channels_first": functools.partial(ours, channels_last=False),
        "ours_vectorised": functools.partial(ours, executor="vectorised"),
        "ours_two": functools.partial(ours, workers=2),
        "torch_uncertainty": torch_uncertainty,
        "torchensemble": torchensemble,
        "torchensemble_two": functools.partial(torchensemble, jobs=2),
    }[library]
    package = "ensemble_transfer" if library.startswith("ours") else library.removesuffix("_two")
    try:
        prepare(data["images"], data["labels"], 2, 1)()
        hello = {"versions": f"{package} {importlib.metadata.version(package)}, torch {torch.__version__}"}
    except Exception as error:  # noqa: BLE001  # whatever it is, the other side reports it
        hello = {"failure": f"{type(error).__name__}: {error}"}
    answers.write(json.dumps(hello) + "\n")
    for line in sys.stdin:
        members, epochs = json.loads(line)
        train = prepare(data["images"], data["labels"], members, epochs)
        wall, cpu = time.perf_counter(), time.process_time()
        train()
        answers.write(json.dumps({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}) + "\n")


if __name__ == "__main__":
    main()
