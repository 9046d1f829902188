from dataclasses import replace

import pytest

from ensemble_transfer.errors import SettingError
from ensemble_transfer.models.backbone import Architecture
from ensemble_transfer.training.flops import encode_flops, head_flops, step_flops

# Convolutions of the small net at 8 pixels, by hand: positions, outputs, inputs, kernel
STEM = [(4 * 4, 3, 1, 9), (4 * 4, 4, 3, 9), (4 * 4, 8, 4, 9)]
AFTER_POOLING = [(2 * 2, 4, 8, 9), (2 * 2, 4, 4, 9), (2 * 2, 4, 8, 1)]
AT_ONE_PIXEL = [(1, 8, 4, 9), (1, 8, 8, 9), (1, 8, 4, 1), *[(1, 8, 8, 9)] * 4]
LAYERS = [positions * outputs * inputs * kernel for positions, outputs, inputs, kernel in STEM + AFTER_POOLING]
LAYERS += [positions * outputs * inputs * kernel for positions, outputs, inputs, kernel in AT_ONE_PIXEL]


@pytest.fixture(scope="module")
def architecture(backbone):
    return backbone.architecture(8, 1, 10)


def test_encoding_takes_two_operations_a_multiply_add(architecture):
    assert encode_flops(architecture) == 2 * sum(LAYERS)


def test_a_step_takes_three_times_that_less_the_gradient_of_the_image(architecture):
    head = 8 * 10
    assert step_flops(architecture) == 3 * 2 * (sum(LAYERS) + head) - 2 * LAYERS[0]


def test_a_head_on_features_needs_no_gradient_of_the_features():
    forward, gradient_of_the_weights = 2 * 8 * 10, 2 * 8 * 10
    assert head_flops(8, 10) == forward + gradient_of_the_weights


def test_colour_costs_three_first_layers(architecture):
    colour = replace(architecture, channels=3)
    assert encode_flops(colour) - encode_flops(architecture) == 2 * 2 * LAYERS[0]


def test_the_first_layer_of_a_larger_image_costs_by_its_positions(architecture):
    stem = sum(positions * outputs * inputs * kernel for positions, outputs, inputs, kernel in STEM)
    pooled = sum(positions * outputs * inputs * kernel for positions, outputs, inputs, kernel in AFTER_POOLING)
    assert encode_flops(replace(architecture, image_size=16)) == 4 * encode_flops(architecture)
    assert encode_flops(architecture) > 2 * (stem + pooled)


def test_only_the_head_costs_by_the_classes(architecture):
    wider = architecture.with_classes(14)
    assert encode_flops(wider) == encode_flops(architecture)
    assert step_flops(wider) - step_flops(architecture) == 3 * 2 * 8 * 4


def test_an_image_that_the_encoder_cannot_take_is_refused():
    small = Architecture("deit_tiny_patch16_224", {"img_size": 16, "depth": 1}, 8, 1, 5, (0.5,), (0.5,))
    with pytest.raises(SettingError, match=r"name='deit_tiny_patch16_224': cannot encode images of 1x8x8: "):
        encode_flops(small)
