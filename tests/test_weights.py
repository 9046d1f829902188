import hashlib
import re
import struct
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ensemble_transfer.weights import (
    add_scaled,
    below,
    copied,
    fingerprint,
    floating,
    joined,
    mean,
    mean_distance_and_cosine,
    norm,
    random_like,
    subtract,
)

COUNTER = "bn.num_batches_tracked"
MATCHED = (subtract, lambda a, b: add_scaled(a, floating(b)))


def state(seed, counter=3):
    """Weights like those of a convolution and its BatchNorm, with the counter that BatchNorm has."""
    rng = np.random.default_rng(seed)
    shapes = {"conv.weight": (2, 1, 3, 3), "bn.weight": (2,), "bn.running_var": (2,)}
    tensors = {name: torch.from_numpy(rng.normal(size=shape).astype(np.float32)) for name, shape in shapes.items()}
    return tensors | {COUNTER: torch.tensor(counter)}


def flat(weights):
    """All floating-point numbers as one vector in double precision."""
    return np.concatenate([t.numpy().astype(np.float64).ravel() for t in weights.values() if t.is_floating_point()])


def same(a, b):
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


def test_subtract_is_the_difference_of_every_floating_tensor():
    after, before = state(1, counter=9), state(2)
    shift = subtract(after, before)
    assert set(shift) == {"conv.weight", "bn.weight", "bn.running_var"}
    for name, tensor in shift.items():
        np.testing.assert_array_equal(tensor.numpy(), after[name].numpy() - before[name].numpy())


def test_add_scaled_adds_scale_times_the_vector_and_keeps_counters():
    weights, vector, scale = state(1, counter=9), floating(state(2)), -0.5
    assert same(add_scaled(state(1), floating(state(2)), 0.0), state(1))  # no bit is changed
    moved = add_scaled(weights, vector, scale)
    assert list(moved) == list(weights)
    for name, tensor in vector.items():
        expected = weights[name].numpy() + np.float32(scale) * tensor.numpy()
        np.testing.assert_allclose(moved[name].numpy(), expected, rtol=1e-6)
    assert moved[COUNTER].item() == 9
    assert moved[COUNTER].dtype == torch.int64


def test_a_random_vector_has_the_norm_of_every_tensor_and_no_more_in_common():
    vector = floating(state(1)) | {"zero": torch.zeros(3)}
    noise, again = (random_like(vector, torch.Generator().manual_seed(seed)) for seed in (0, 0))
    assert noise.keys() == vector.keys()
    assert same(noise, random_like(dict(reversed(vector.items())), torch.Generator().manual_seed(0)))
    for name, tensor in vector.items():
        assert noise[name].shape == tensor.shape
        assert np.linalg.norm(noise[name].numpy()) == pytest.approx(np.linalg.norm(tensor.numpy()), rel=1e-5)
    assert same(noise, again)
    assert abs(mean_distance_and_cosine([noise, vector])[1]) < 0.9
    other = random_like(vector, torch.Generator().manual_seed(1))
    assert not torch.equal(noise["conv.weight"], other["conv.weight"])


def test_the_mean_of_vectors_is_the_mean_of_every_entry():
    vectors = [floating(state(seed)) for seed in range(3)]
    expected = np.mean([flat(vector) for vector in vectors], axis=0)
    np.testing.assert_allclose(flat(mean(vectors)), expected, rtol=1e-5, atol=1e-7)
    assert same(mean(vectors[:1]), vectors[0])
    with pytest.raises(ValueError, match=re.escape("vectors=[]: the mean needs at least one")):
        mean([])


@pytest.mark.parametrize(
    "operation", [*MATCHED, lambda a, b: mean([a, a, b]), lambda *ab: mean_distance_and_cosine(ab)]
)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bn.weight": None}, "tensor 'bn.weight' is in one of the two sets of weights only"),
        ({"extra.bias": torch.zeros(1)}, "tensor 'extra.bias' is in one of the two sets of weights only"),
        ({"bn.weight": torch.zeros(1)}, "tensor 'bn.weight' has shapes (2,) and (1,)"),
        ({"bn.weight": torch.zeros(2).double()}, "tensor 'bn.weight' has dtypes torch.float32 and torch.float64"),
    ],
)
def test_what_does_not_match_is_refused_by_name(operation, change, message):
    changed = {name: tensor for name, tensor in (floating(state(2)) | change).items() if tensor is not None}
    with pytest.raises(ValueError, match=re.escape(message)):
        operation(floating(state(1)), changed)


@pytest.mark.parametrize("operation", [*MATCHED, lambda a, b: mean([floating(a), floating(b)])])
def test_inputs_are_never_mutated(operation):
    a, b = state(1), state(2)
    operation(a, b)
    assert same(a, state(1))
    assert same(b, state(2))


@pytest.mark.parametrize(
    "operation",
    [
        copied,
        lambda w: add_scaled(w, floating(state(2)), 0.0),
        lambda w: subtract(w, {name: torch.zeros_like(tensor) for name, tensor in w.items()}),
        lambda w: mean([floating(w)]),
    ],
)
def test_results_share_no_memory_with_inputs(operation):
    weights = state(1)
    for tensor in operation(weights).values():
        tensor.fill_(7)
    assert same(weights, state(1))


def test_the_norm_is_that_of_numpy():
    assert norm(floating(state(1))) == pytest.approx(np.linalg.norm(flat(state(1))), rel=1e-12)
    assert norm({}) == 0.0
    assert norm({"w": torch.full((4,), 1e4, dtype=torch.float16)}) == pytest.approx(2e4)


def test_below_takes_whole_names_only():
    weights = {"encoder.a.b": torch.tensor(1.0), "encoder2.a": torch.tensor(2.0), "head.encoder.a": torch.tensor(3.0)}
    assert below(weights, "encoder") == {"a.b": torch.tensor(1.0)}


NAMES = st.dictionaries(st.text("ab.", min_size=1, max_size=6), st.integers(-5, 5).map(torch.tensor), max_size=4)


@given(NAMES, NAMES)
def test_joined_is_the_inverse_of_below(encoder, head):
    whole = joined(encoder=encoder, head=head)
    assert below(whole, "encoder") == encoder
    assert below(whole, "head") == head


def test_a_fingerprint_is_a_sha256_over_name_dtype_shape_and_bytes():
    said = b"a torch.float32 (2,) " + struct.pack("<2f", 1.0, -2.5) + b"b torch.int64 () " + struct.pack("<q", 7)
    weights = {"b": torch.tensor(7), "a": torch.tensor([1.0, -2.5])}
    assert fingerprint(weights) == hashlib.sha256(said).hexdigest()


def test_a_fingerprint_does_not_depend_on_order_strides_or_gradients():
    weights = state(1)
    turned = {name: weights[name] for name in reversed(weights)}
    strided = torch.empty(3, 3, 1, 2).permute(3, 2, 0, 1).copy_(weights["conv.weight"])
    assert not strided.is_contiguous()
    turned |= {"conv.weight": strided, "bn.weight": torch.nn.Parameter(weights["bn.weight"])}
    assert fingerprint(turned) == fingerprint(weights)


def test_distances_and_cosines_of_all_pairs_are_those_of_numpy():
    many = [{name: torch.randn(shape) for name, shape in (("w", (5, 3)), ("b", (4,)))} for _ in range(6)]
    many[3] = many[1]
    distances, cosines = mean_distance_and_cosine(many)
    pairs, norm_of = [*combinations(map(flat, many), 2)], np.linalg.norm
    assert distances == pytest.approx(np.mean([norm_of(a - b) for a, b in pairs]), rel=1e-6)
    assert cosines == pytest.approx(np.mean([a @ b / norm_of(a) / norm_of(b) for a, b in pairs]), rel=1e-6)

    turned = [dict(reversed(weights.items())) for weights in many]
    assert mean_distance_and_cosine(many) == mean_distance_and_cosine(turned)


def test_vectors_that_are_alike_or_nothing_have_no_distance():
    vector = {"w": torch.randn(1000) * 1e3}
    assert mean_distance_and_cosine([vector] * 3) == (0.0, pytest.approx(1.0))
    assert mean_distance_and_cosine([vector]) == (0.0, 0.0)
    nothing = {"w": torch.zeros(3)}
    assert mean_distance_and_cosine([nothing, nothing]) == (0.0, 0.0)


def test_a_small_distance_between_long_vectors_keeps_its_digits():
    long = torch.full((100,), 1e6, dtype=torch.float64)
    near = long.clone()
    near[0] += 1e-4
    assert mean_distance_and_cosine([{"w": long}, {"w": near}])[0] == pytest.approx(1e-4, rel=1e-6)
