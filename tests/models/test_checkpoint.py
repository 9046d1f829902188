"""Files of weights: prefixes of names, heads, and what does not fit."""

import re

import pytest
import timm
import torch
from refusals import refusal
from same import equal

from ensemble_transfer import Backbone, SettingError

OPTIONS = {"channels": [4, 8, 8, 8], "stem_width": 4, "output_stride": 8}


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return timm.create_model("resnet10t", num_classes=5, **OPTIONS).state_dict()


def read(path):
    """Return encoder and head that a backbone takes from a file."""
    backbone = Backbone("resnet10t", OPTIONS, checkpoint=str(path))
    return backbone.pretrained_parts(backbone.architecture(8, 3, 5))


def without_head(state):
    return {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}


def under(prefix, state):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def test_a_common_prefix_is_left_out_and_named(state, tmp_path, caplog):
    prefix = "module.model.net."
    beside = {"metric.total": torch.zeros(1), "criterion.weight": torch.ones(5)}  # is left out too
    torch.save({"state_dict": under(prefix, state) | beside, "epoch": 3}, tmp_path / "a.ckpt")
    with caplog.at_level("INFO"):
        encoder, head = read(tmp_path / "a.ckpt")
    assert equal(encoder, without_head(state))
    assert torch.equal(head["weight"], state["fc.weight"])
    assert f"{tmp_path / 'a.ckpt'}: the prefix {prefix!r} of its tensors' names is left out" in caplog.messages


def test_an_encoder_with_a_head_beside_it_keeps_both(state, tmp_path):
    encoder = without_head(state)
    head = {f"model.head.{part}": state[f"fc.{part}"] for part in ("weight", "bias")}
    torch.save(under("model.encoder.", encoder) | head, tmp_path / "a.pt")
    found, its_head = read(tmp_path / "a.pt")
    assert equal(found, encoder)
    assert torch.equal(its_head["bias"], state["fc.bias"])


def test_several_networks_in_a_file_are_refused(state, tmp_path):
    torch.save(under("student.", state) | under("teacher.", state), tmp_path / "a.pt")
    with pytest.raises(SettingError, match=re.escape("it holds 2 networks of this kind, student., teacher.: keep one")):
        read(tmp_path / "a.pt")


def test_what_does_not_fit_is_one_short_line_with_the_first_few(state, tmp_path):
    wrong = {name.replace("layer", "stage"): tensor for name, tensor in state.items()}
    wrong["bn1.weight"] = torch.zeros(3)
    torch.save(wrong, tmp_path / "a.pt")
    missing = [name for name in state if name.startswith("layer")]
    assert refusal(read, tmp_path / "a.pt").rule == (
        f"gives no weights for resnet10t: its tensors do not fit: {len(missing)} of {len(state) - 2} missing "
        f"({', '.join(missing[:3])} and {len(missing) - 3} more); {len(missing)} unknown "
        f"({', '.join(name.replace('layer', 'stage') for name in missing[:3])} and {len(missing) - 3} more); "
        f"1 of another shape (bn1.weight (3,) for (8,))"
    )
