"""Files of weights: prefixes of names, heads, and what does not fit."""

import os
import pickle
import re

import pytest
import timm
import torch
from refusals import refusal
from safetensors.torch import save, save_file
from same import equal

from ensemble_transfer import Backbone, SettingError

OPTIONS = {"channels": [4, 8, 8, 8], "stem_width": 4, "output_stride": 8}


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return timm.create_model("resnet10t", num_classes=5, **OPTIONS).state_dict()


def read(path, channels=3):
    """Return encoder and head that a backbone takes from a file."""
    backbone = Backbone("resnet10t", OPTIONS, checkpoint=str(path))
    return backbone.pretrained_parts(backbone.architecture(8, channels, 5))


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


def test_gray_images_see_the_sum_of_the_colour_filters(state, tmp_path):
    save_file(state, tmp_path / "a.safetensors")
    encoder, first = read(tmp_path / "a.safetensors", channels=1)[0], "conv1.0.weight"
    torch.testing.assert_close(encoder[first], state[first].sum(1, keepdim=True))
    assert equal(encoder, without_head(state) | {first: encoder[first]})


class Hostile:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (self.mark,)


WIDER = OPTIONS | {"channels": [4, 8, 8, 16]}
BROKEN = {
    "cut.safetensors": lambda path, state: path.write_bytes(save(state)[:-9]),
    "junk.pt": lambda path, _: path.write_bytes(b"junk"),
    "other widths.pt": lambda path, _: torch.save(timm.create_model("resnet10t", **WIDER).state_dict(), path),
    "no statistics.pt": lambda path, state: torch.save({n: t for n, t in state.items() if "running" not in n}, path),
    "more.pt": lambda path, state: torch.save(state | {"more": torch.zeros(1)}, path),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_checkpoint_that_does_not_fit_is_refused_whole(state, tmp_path, name):
    BROKEN[name](tmp_path / name, state)
    said = str(refusal(read, tmp_path / name))
    assert said.startswith(f"checkpoint='{tmp_path / name}': gives no weights for resnet10t: ")


@pytest.mark.parametrize("dump", [lambda o, p: torch.save({"x": o}, p), lambda o, p: p.write_bytes(pickle.dumps(o, 2))])
@pytest.mark.parametrize("name", ["evil.pt", "evil.safetensors"])
def test_a_checkpoint_executes_nothing(tmp_path, dump, name):
    dump(Hostile(str(tmp_path / "executed")), tmp_path / name)
    assert "gives no weights for resnet10t" in str(refusal(read, tmp_path / name))
    assert not (tmp_path / "executed").exists()
