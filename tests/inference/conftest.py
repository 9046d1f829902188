"""An ensemble for photographs."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from ensemble_transfer import Calibration, Ensemble
from ensemble_transfer.models.backbone import Backbone
from ensemble_transfer.tasks.images import fit


class Photographs(NamedTuple):
    """A saved ensemble of two image sizes, and photographs: as files, arrays (N, H, W, 3) and as networks take them."""

    run: Path
    ensemble: Ensemble
    files: list[Path]
    arrays: np.ndarray
    images: torch.Tensor


def opinionated(ensemble: Ensemble, images: torch.Tensor) -> Ensemble:
    """Give members with random weights heads that tell the images apart."""
    members = []
    for classifier in ensemble.classifiers():
        with torch.inference_mode():
            features = classifier.encode(images)
            logits = classifier.head(features)
            gain = 3 / logits.std(0, keepdim=True).T
            classifier.head.weight.mul_(gain)
            classifier.head.bias.copy_(-(features @ classifier.head.weight.T).mean(0))
        members.append({name: tensor.clone() for name, tensor in classifier.state_dict().items()})
    return replace(ensemble, members=tuple(members))


@pytest.fixture(scope="session")
def photographs(tmp_path_factory) -> Photographs:
    folder, whole = tmp_path_factory.mktemp("photographs"), load_sample_image("china.jpg")
    arrays = np.stack([whole[top : top + 150, left : left + 180] for top in (0, 240) for left in (0, 200, 400)])
    files = [folder / "images" / f"{place}.png" for place in range(len(arrays))]
    files[0].parent.mkdir()
    for file, array in zip(files, arrays, strict=True):
        Image.fromarray(array).save(file)
    images = torch.stack([fit(Image.fromarray(array), 16, 3) for array in arrays])
    net = Backbone("resnet10t", {"channels": [4, 8, 8, 8], "stem_width": 4, "output_stride": 8})
    architecture = net.architecture(16, 3, 3)
    members = tuple(architecture.initial(seed) for seed in range(2))
    ensemble = opinionated(Ensemble(architecture, members, ("roof", "sky", "tree"), sizes=(16, 8)), images)
    ensemble.save(folder / "RUN")
    predicted = ensemble.predict(images)
    labels = predicted.mean(0).argmax(-1)
    labels[0] = (labels[0] + 1) % 3  # one is wrong, so the temperature is finite
    Calibration.fit(predicted, labels).save(folder / "RUN", ensemble.fingerprint)
    return Photographs(folder / "RUN", ensemble, files, arrays, images)
