import numpy as np
import pytest
import torch
from PIL import Image

from ensemble_transfer.tasks.images import pixels, resize, rotate, with_channels


def noise(*shape):
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_resize_averages_when_it_shrinks():
    stripes = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    stripes[..., ::4] = 200
    assert (resize(stripes, 8)[..., 1:-1].float() - 50).abs().max() <= 10  # aliasing would give 0


def test_resize_keeps_the_aspect_and_crops_the_long_side():
    wide = torch.zeros(1, 1, 8, 16, dtype=torch.uint8)
    wide[..., :4] = 255  # cropped away
    wide[..., 4:8] = 100
    small = resize(wide, 4)
    assert small.shape == (1, 1, 4, 4)
    assert small[0, 0, 0].tolist()[0] == 100
    assert small[0, 0, 0].tolist()[-1] == 0
    assert torch.equal(resize(wide.mT, 4), small.mT)


def test_gray_to_rgb_and_back_is_exact():
    every_gray = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(with_channels(with_channels(every_gray, 3), 1), every_gray)


def test_rgb_to_gray_is_that_of_pillow():
    images = noise(1, 3, 9, 9)
    expected = np.asarray(Image.fromarray(images[0].permute(1, 2, 0).numpy()).convert("L"))
    assert np.array_equal(with_channels(images, 1)[0, 0].numpy(), expected)


def test_right_angles_are_exact():
    images = noise(2, 1, 7, 7)
    assert torch.equal(rotate(images, 90), images.rot90(1, (2, 3)))
    assert torch.equal(rotate(images, 180), images.rot90(2, (2, 3)))
    assert torch.equal(rotate(images, -90), rotate(images, 270))
    assert rotate(images, 360) is images


def test_other_angles_turn_counter_clockwise_and_blacken_the_corners():
    white = torch.full((1, 1, 9, 9), 255, dtype=torch.uint8)
    assert rotate(white, 45)[0, 0, 0, 0] == 0
    top = torch.zeros(1, 1, 9, 9, dtype=torch.uint8)
    top[..., 0:2, 3:6] = 255
    assert rotate(top, 30)[..., :4].sum() > rotate(top, 30)[..., 5:].sum()


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("L", (1, 1), 7), [7]),
        (Image.new("1", (1, 1), 1), [255]),
        (Image.new("RGB", (1, 1), (1, 2, 3)), [1, 2, 3]),
        (Image.new("CMYK", (1, 1), (255, 0, 0, 0)), [0, 255, 255]),
        (Image.fromarray(np.array([[0, 255, 256, 65535]], np.uint16)), [0, 0, 1, 255]),
        (Image.fromarray(np.array([[0, 255, 256, 65535]], np.int32)), [0, 0, 1, 255]),
        (Image.new("RGBA", (1, 1), (255, 0, 0, 0)), [255, 255, 255]),
        (Image.new("RGBA", (1, 1), (200, 0, 0, 255)), [200, 0, 0]),
        (Image.new("LA", (1, 1), (0, 0)), [255, 255, 255]),
    ],
)
def test_pixels_of_every_mode(image, expected):
    assert pixels(image).flatten().tolist() == expected


def test_a_transparent_colour_of_a_palette_is_white():
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([9, 8, 7])
    assert pixels(palette).flatten().tolist() == [9, 8, 7]
    palette.info["transparency"] = 0
    assert pixels(palette).flatten().tolist() == [255, 255, 255]
