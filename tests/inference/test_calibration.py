import numpy as np
import pytest
import torch
from drawn import draw
from refusals import refusal
from safetensors.torch import save_file

from ensemble_transfer.errors import SettingError
from ensemble_transfer.inference.calibration import Calibration, decide
from ensemble_transfer.layout import CALIBRATION
from ensemble_transfer.metrics.evaluate import evaluate
from ensemble_transfer.tensor_files import checksum


@pytest.fixture
def calibration():
    return Calibration.fit(*draw())


def test_it_is_what_evaluate_fits(calibration):
    probabilities, labels = draw()
    metrics = evaluate(probabilities, labels, validation=(probabilities, labels))
    assert calibration.temperature == metrics["calibrated/temperature"] != 1
    mean = probabilities.astype(np.float64).mean(0)
    scaled = mean ** (1 / calibration.temperature)
    scaled /= scaled.sum(-1, keepdims=True)
    np.testing.assert_allclose(calibration.confidence, scaled.max(-1), atol=1e-9)
    assert calibration.correct.tolist() == (mean.argmax(-1) == labels).tolist()
    np.testing.assert_allclose(decide(torch.from_numpy(probabilities), calibration.temperature).probabilities, scaled)
    np.testing.assert_allclose(decide(torch.from_numpy(probabilities)).probabilities, mean)


def test_saved_and_loaded_it_is_the_same_and_belongs_to_one_ensemble(calibration, tmp_path):
    calibration.save(tmp_path, "abc")
    loaded = Calibration.load(tmp_path, "abc")
    assert loaded.temperature == calibration.temperature
    assert torch.equal(loaded.stage_confidence, calibration.stage_confidence)
    assert torch.equal(loaded.stage_correct, calibration.stage_correct)
    with pytest.raises(SettingError, match="belongs to another ensemble"):
        Calibration.load(tmp_path, "abd")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": torch.tensor(0.0).double()}, "temperature must be one number above 0"),
        ({"temperature": torch.ones(1).double()}, "temperature must be one number above 0"),
        ({"stage_confidence": None}, "must hold temperature (torch.float64), stage_confidence"),
        ({"stage_confidence": torch.ones(3, 39).double()}, "must have a row a network"),
        ({"stage_confidence": torch.full((3, 40), 1.5).double()}, "must have a row a network, confidence in 0..1"),
    ],
)
def test_a_file_that_is_no_calibration_is_refused_by_name(calibration, tmp_path, change, message):
    tensors = {"temperature": torch.tensor(1.0).double(), "stage_confidence": torch.ones(3, 40).double()}
    tensors |= {"stage_correct": calibration.stage_correct} | change
    tensors, header = {k: v for k, v in tensors.items() if v is not None}, {"ensemble": "abc"}
    save_file(tensors, tmp_path / CALIBRATION, header | {"sha256": checksum(tensors, header)})
    said = str(refusal(Calibration.load, tmp_path, "abc"))
    assert f"calibration='{tmp_path / CALIBRATION}'" in said
    assert message in said


def test_every_flipped_bit_is_refused(calibration, tmp_path):
    calibration.save(tmp_path, "abc")
    path = tmp_path / CALIBRATION
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for place, bit in zip(rng.integers(len(whole), size=400), rng.integers(8, size=400), strict=True):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << bit
        path.write_bytes(flipped)
        try:
            loaded = Calibration.load(tmp_path, "abc")
        except SettingError:
            continue
        # Only the padding of the header may change without being seen.
        assert loaded.temperature == calibration.temperature
        assert torch.equal(loaded.stage_confidence, calibration.stage_confidence)
        assert torch.equal(loaded.stage_correct, calibration.stage_correct)
