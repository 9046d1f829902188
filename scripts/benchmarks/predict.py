"""Prediction: decoding, scaling and networks beside each other, heads on one trunk, and a cascade.

Aims: `predict` on photos in at most 1.1 times the slower of decoding and the network alone, in wall seconds, with a
core for each; eight heads on one trunk in at most 1.1 times one network. The network is EfficientNet-Lite0 at 64 pixels
with random weights: it takes as long as with others. What a cascade saves depends on the task; here it is four default
networks for digits.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import torch
from measure import Options, Result, fitter, interleaved, medians, photos, ratios, timed
from torch import Tensor

from ensemble_transfer import (
    Backbone,
    Calibration,
    Ensemble,
    EnsembleSettings,
    MnistSample,
    Recipe,
    Recipes,
    train_source,
)
from ensemble_transfer.cli.predict import main
from ensemble_transfer.inference.cascade import choose_cascade
from ensemble_transfer.inference.predict import Answers, predict_rows
from ensemble_transfer.inference.saved import SavedEnsemble, read
from ensemble_transfer.tasks.pictures import decoded, files

BATCH = 256


def run(options: Options) -> Result:
    """Measure all three."""
    with tempfile.TemporaryDirectory() as folder:
        return _overlap(options, Path(folder)) | _trunk(options) | _cascade(options)


def _overlap(options: Options, folder: Path) -> Result:
    """Compare the command, in this process, with decoding alone and with the network alone, in turn."""
    count, rounds = (16, 1) if options.quick else (2000, 5)
    paths = photos(folder / "photos", count)
    architecture = Backbone("tf_efficientnet_lite0").architecture(64, 3, 10)
    Ensemble(architecture, (architecture.initial(0),), tuple("abcdefghij")).save(folder / "ensemble")
    saved, size = read(folder / "ensemble", "cpu"), architecture.image_size
    torch.set_num_threads(options.threads)

    def decode() -> Iterator[Tensor]:
        for start in range(0, count, BATCH):
            yield decoded(files(paths[start : start + BATCH]), size, 3)[0]

    parts = list(decode())

    def predict() -> None:
        with redirect_stderr(StringIO()):
            main(
                [str(folder / "ensemble"), str(folder / "photos"), "--output", str(folder / "out.csv"), "--device=cpu"]
            )

    calls = {
        "decoding": lambda: list(decode()),
        "network": lambda: [predict_rows(saved, part) for part in parts],
        "predict": predict,
    }
    times = interleaved(calls, rounds)
    turns = zip(*(times[name] for name in calls), strict=True)
    slower = [whole.wall / max(decoding.wall, network.wall) for decoding, network, whole in turns]
    found = {"ratio predict to the slower of decoding and network, wall": statistics.median(slower)}
    return found | {"photos": float(count)} | medians(times)


def _trunk(options: Options) -> Result:
    """Compare eight heads on one encoder with one member."""
    architecture = Backbone("tf_efficientnet_lite0").architecture(64, 3, 10)
    first = architecture.initial(0)
    heads = [architecture.fresh_head(seed) for seed in range(8)]
    members = tuple(first | {f"head.{name}": tensor for name, tensor in head.items()} for head in heads)
    images = torch.randint(256, (4 if options.quick else 512, 3, 64, 64), dtype=torch.uint8)
    saved = {
        f"{count} heads": SavedEnsemble(Path(), Ensemble(architecture, members[:count], tuple("abcdefghij")), None)
        for count in (1, 8)
    }
    for ensemble in saved.values():
        predict_rows(ensemble, images[:4])
    calls = {name: lambda of=of: predict_rows(of, images) for name, of in saved.items()}
    times = interleaved(calls, 1 if options.quick else 5)
    return ratios(times, "8 heads", "1 heads")


def _cascade(options: Options) -> Result:
    """Train four networks, and predict with all of them and with the cascade that their validation images choose."""
    size, most = (14, 100) if options.quick else (28, 1000)
    task = MnistSample(train=most // 2, validation=most, test=2 * most).load(size, 1)
    steps = Recipe(steps=2 if options.quick else 200)
    backbone = Backbone("resnet10t", {"channels": [8, 16, 32, 64], "stem_width": 8, "output_stride": 8})
    settings, recipes = EnsembleSettings(4, "independent"), Recipes(ancestor=steps, source=steps)
    ensemble, _ = train_source(settings, backbone, task, seed=0, recipes=recipes, fitter=fitter(options))
    held_out = ensemble.predict(task.validation.images)
    saved = SavedEnsemble(Path(), ensemble, Calibration.fit(held_out, task.validation.labels, ensemble.by_encoder))
    cascade, found, times = choose_cascade(saved), dict[str, float | str](), {}
    truth = [task.classes[label] for label in task.test.labels]
    for name, answers in {"all networks": Answers(), "cascade": Answers(cascade=cascade.threshold)}.items():
        rows = predict_rows(saved, task.test.images, answers)
        right = sum(row["label"] == label for row, label in zip(rows, truth, strict=True))
        found[f"{name}, accuracy on {len(rows)} test images"] = right / len(rows)
        times[name] = [timed(lambda answers=answers: predict_rows(saved, task.test.images, answers)) for _ in range(3)]
    found["cascade, networks of 4 an image"] = statistics.mean(row["networks"] for row in rows)
    return found | ratios(times, "cascade", "all networks")
