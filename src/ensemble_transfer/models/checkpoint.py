"""Weights in files of one's own: read without executing anything, and brought under timm's names."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from ensemble_transfer.errors import one_line
from ensemble_transfer.tensor_files import read_tensors
from ensemble_transfer.weights import below

log = logging.getLogger(__name__)

OF_WEIGHTS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Keys under which training scripts, Lightning's among them, store a network's weights; the first that is there."""

NAMED = 3
"""Tensors that are named in a message, of those that do not fit."""


def read_checkpoint(path: str, name: str, expected: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the weights in a file under timm's names.

    A prefix that the encoder's names have in common, such as ``net.``, ``model.`` or ``module.``, is left out, and
    named in the log. What lies beside a network with a prefix, such as a metric's state, is left out too. A head beside
    an ``encoder`` gets the name of timm's classifier.

    Args:
        path: A ``.safetensors`` file, or a file of ``torch.save`` (``.pt``, ``.pth``, Lightning's ``.ckpt``), of which
            nothing but tensors and plain data is unpickled.
        name: Name of the timm architecture.
        expected: The encoder's weights, under timm's names.

    Raises:
        ValueError: If the file holds no weights, or those of several networks.
    """
    state = _stored(path)
    prefix = _prefix(state, expected)
    if not prefix:
        return state
    own, named = dict(below(state, prefix.removesuffix("."))), classifiers(name)
    beside = prefix.removesuffix("encoder.")
    if beside != prefix and len(named) == 1:
        heads = {f"{named[0]}.{part}": f"{beside}head.{part}" for part in ("weight", "bias")}
        own |= {ours: state[theirs] for ours, theirs in heads.items() if theirs in state}
    if prefix != "encoder.":  # members that were saved here have it
        log.info("%s: the prefix %r of its tensors' names is left out", path, prefix)
    return own


def _stored(path: str) -> Mapping[str, Tensor]:
    """Return the tensors of a file by the names that it gives them."""
    try:
        if path.endswith(".safetensors"):
            return read_tensors(Path(path))[0]
        stored: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader meets anything
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise ValueError(f"no .safetensors, .pt, .pth or .ckpt file that can be read ({reason})") from error
    inside = [stored[key] for key in OF_WEIGHTS if isinstance(stored, Mapping) and isinstance(stored.get(key), Mapping)]
    state: Any = inside[0] if inside else stored
    tensors = isinstance(state, Mapping) and all(isinstance(tensor, Tensor) for tensor in state.values())
    if not tensors or not state:
        raise ValueError("it holds no dictionary of tensors, nor one under state_dict")
    return {str(key): tensor for key, tensor in state.items()}


def _prefix(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Return what precedes timm's names in a state; empty if nothing does, or if they are other names."""
    fitting: dict[str, int] = {}
    for name in expected:
        for prefix in {key.removesuffix(name) for key in state if key == name or key.endswith(f".{name}")}:
            fitting[prefix] = fitting.get(prefix, 0) + 1
    most = max(fitting.values(), default=0)
    best = sorted(prefix for prefix, count in fitting.items() if count == most)
    if "" in best or not best:
        return ""
    if len(best) > 1:
        raise ValueError(f"it holds {len(best)} networks of this kind, {_some(best)}: keep one of them")
    return best[0]


def misfit(state: Mapping[str, Tensor], name: str, expected: Mapping[str, Tensor]) -> str:
    """Return in a line how a state differs from an encoder's, with the first few names; empty if it does not."""
    own = without_classifier(name, state)
    shapes = {
        key: f"{key} {tuple(own[key].shape)} for {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in own and own[key].shape != tensor.shape
    }
    parts = {
        f"of {len(expected)} missing": [key for key in expected if key not in own],
        "unknown": [key for key in own if key not in expected],
        "of another shape": [*shapes.values()],
    }
    misfits = "; ".join(f"{len(keys)} {what} ({_some(keys)})" for what, keys in parts.items() if keys)
    return f"its tensors do not fit: {misfits}" if misfits else ""


def _some(names: Iterable[str]) -> str:
    """Return the first few names, and how many more there are."""
    all_names = list(names)
    more = f" and {len(all_names) - NAMED} more" if len(all_names) > NAMED else ""
    return ", ".join(all_names[:NAMED]) + more


def classifiers(name: str) -> tuple[str, ...]:
    """Return timm's names of the classifier's layers: one, but for families with several heads."""
    stated = timm.get_pretrained_cfg(name)
    heads = (stated.classifier if stated else None) or ()
    return (heads,) if isinstance(heads, str) else tuple(heads)


def without_classifier(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state without timm's classifier."""
    prefixes = tuple(f"{head}." for head in classifiers(name))
    return {key: tensor for key, tensor in state.items() if not key.startswith(prefixes)}


def strict_overlay(name: str, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the overlay with which timm loads an encoder's weights strictly.

    Where the number of classes differs, as it does without a head, timm drops the classifier and loads the rest with
    ``strict=False``: a checkpoint of other names would be ignored. So the classifier is dropped here.
    """
    return {"state_dict": without_classifier(name, state), "classifier": None}
