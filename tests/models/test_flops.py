import pytest
import timm
import torch
from torch import nn

from ensemble_transfer import Architecture, SettingError
from ensemble_transfer.models.flops import counting, encode_flops, head_flops, step_flops

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


def test_an_image_that_the_encoder_cannot_take_is_refused():
    small = Architecture("deit_tiny_patch16_224", {"img_size": 16, "depth": 1}, 8, 1, 5, (0.5,), (0.5,))
    with pytest.raises(SettingError, match=r"name='deit_tiny_patch16_224': cannot encode images of 1x8x8: "):
        encode_flops(small)


def counted(network, images):
    """Return the operations of a forward pass, and of a forward and a backward pass, on tensors without data."""
    with torch.no_grad(), counting() as forward:
        network(images)
    with counting() as both:
        network(images).sum().backward()
    return forward.get_total_flops(), both.get_total_flops()


LAYERS_BY_HAND = {  # layer, input, multiply-adds: positions, weights that each meets
    "depthwise": (lambda: nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False), (2, 32, 16, 16), 16 * 16 * 32 * 9),
    "grouped": (lambda: nn.Conv2d(8, 12, 3, padding=1, groups=4), (2, 8, 10, 10), 10 * 10 * 12 * 2 * 9),
    "strided": (lambda: nn.Conv2d(6, 4, 3, stride=2, padding=1), (2, 6, 8, 8), 4 * 4 * 4 * 6 * 9),
    "transposed": (lambda: nn.ConvTranspose2d(6, 4, 3, stride=2), (2, 6, 8, 8), 8 * 8 * 6 * 4 * 9),
    "transposed, grouped": (lambda: nn.ConvTranspose2d(6, 4, 3, groups=2), (2, 6, 8, 8), 8 * 8 * 6 * 2 * 9),
    "linear": (lambda: nn.Linear(5, 7), (2, 5), 5 * 7),
}


@pytest.mark.parametrize("name", LAYERS_BY_HAND)
def test_a_layer_takes_its_multiply_adds_once_forward_and_twice_backward(name):
    layer, shape, by_hand = LAYERS_BY_HAND[name]
    with torch.device("meta"):
        forward, both = counted(layer(), torch.zeros(shape, requires_grad=True))
    assert forward == 2 * shape[0] * by_hand
    assert both == 3 * forward


def test_attention_takes_its_two_products_once_forward_and_twice_backward():
    heads, tokens, width = 3, 10, 4
    with torch.device("meta"):
        query, key, value = (torch.zeros(1, heads, tokens, width, requires_grad=True) for _ in range(3))
        with counting() as both:
            nn.functional.scaled_dot_product_attention(query, key, value).sum().backward()
    scores = weighted = 2 * heads * tokens * tokens * width
    assert both.get_total_flops() == 3 * (scores + weighted)


@pytest.mark.parametrize(
    "name", ["convnext_atto", "efficientnet_lite0", "mobilenetv3_small_050", "resnet10t", "vit_tiny_patch16_224"]
)
def test_a_step_takes_three_forward_passes_less_the_gradient_of_the_images(name):
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=10).eval()
        images = torch.zeros(1, 3, *network.default_cfg["input_size"][1:])
        forward, step = counted(network, images)
        _, with_gradient_of_images = counted(network, images.requires_grad_())
    assert 2.95 < with_gradient_of_images / forward < 3.05
    small_behind_its_first_layer = name == "mobilenetv3_small_050"  # of which that layer takes a quarter
    assert (2.7 if small_behind_its_first_layer else 2.8) < step / forward < 3.05
