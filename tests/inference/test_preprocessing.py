"""The steps that are described to users are those that the package takes."""

import re

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from ensemble_transfer.inference.export import preprocessing
from ensemble_transfer.models.architecture import Architecture
from ensemble_transfer.tasks.images import fit


def described(channels, size=32):
    return preprocessing(Architecture("resnet10t", {}, size, channels, 3, (0.4,), (0.2,)))


def by_the_steps(image, steps):
    """Follow the steps with Pillow and NumPy alone."""
    assert steps["alpha"] == "composited onto white"
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")
    assert steps["crop"] == "largest centred square"
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    size = tuple(map(int, steps["resize"].split(",")[0].split("x")))
    assert steps["resize"].endswith("bilinear with antialiasing")
    image = image.crop((left, top, left + side, top + side)).resize(size, Image.Resampling.BILINEAR)
    array = np.asarray(image).astype(np.int64)
    if steps["color"].startswith("gray"):
        *weights, half, bits = map(int, re.findall(r" \(?(\d+)", steps["color"].split(":")[1]))
        return ((array @ weights + half) >> bits)[None]
    return array.transpose(2, 0, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_steps_give_the_images_that_the_package_reads(channels):
    photograph = Image.fromarray(load_sample_image("china.jpg")[:400, :402]).convert("RGBA")
    photograph.putalpha(Image.linear_gradient("L").resize(photograph.size))
    steps = described(channels)
    expected = fit(photograph, 32, channels).numpy().astype(np.int64)
    assert abs(by_the_steps(photograph, steps) - expected).max() <= 2
    assert steps["layout"] == f"uint8 (N, {channels}, 32, 32)"
