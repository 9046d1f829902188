"""Channels last changes where numbers lie in memory, and nothing else."""

import pytest
import torch

from ensemble_transfer.models.architecture import Architecture
from ensemble_transfer.models.device import to_device
from ensemble_transfer.models.ensemble import Network, probabilities
from ensemble_transfer.weights import fingerprint

SMALL = {"channels": [4, 8, 8, 8], "stem_width": 4, "output_stride": 8}
NETS = [
    Architecture("resnet10t", SMALL, 16, 1, 5, (0.5,), (0.5,)),
    Architecture("mobilenetv2_035", {}, 16, 3, 5, (0.5,), (0.5,)),
    Architecture("test_vit", {"patch_size": 4, "img_size": 16}, 16, 3, 5, (0.5,), (0.5,)),
]


@pytest.mark.parametrize("architecture", NETS, ids=lambda a: f"{a.backbone} of {a.channels}")
def test_the_layout_is_no_part_of_the_weights_or_the_function(architecture):
    weights = architecture.initial(0)
    plain, laid_out = architecture.classifier(weights).eval(), to_device(architecture.classifier(weights), "cpu")
    images = torch.randint(256, (6, architecture.channels, 16, 16), dtype=torch.uint8)
    assert fingerprint(laid_out.state_dict()) == fingerprint(weights)
    with torch.no_grad():
        torch.testing.assert_close(laid_out(images), plain(images))


def test_weights_are_of_float32_whatever_the_default_is():
    weights, head = NETS[0].initial(0), NETS[0].fresh_head(0)
    torch.set_default_dtype(torch.float64)
    try:
        assert fingerprint(NETS[0].initial(0)) == fingerprint(weights)
        assert fingerprint(NETS[0].fresh_head(0)) == fingerprint(head)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_network_that_has_predicted_can_be_trained():
    network = NETS[0].build()
    images = torch.zeros(4, 1, 16, 16, dtype=torch.uint8)
    probabilities(Network(network), images)
    network.train()(images).sum().backward()
    assert all(p.grad is not None for p in network.parameters())
