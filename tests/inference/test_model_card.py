import json
import math
import re
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard
from scipy.stats import binomtest

from ensemble_transfer import Backbone, Ensemble
from ensemble_transfer.inference.model_card import write_card

ARCHITECTURE = Backbone("resnet10t", {"channels": [4, 8, 8, 8], "stem_width": 4}, mean=[0.3], std=[0.2]).architecture(
    8, 1, 3
)
HISTORY = {"source": "digits", "seed": 1, "strategy": "shift", "target": "letters", "source_ensemble": "abc123"}
HISTORY |= {"about": "Fine-tune a donor, then shift."}
METRICS = {
    "target/test/ensemble/accuracy": 0.91,
    "target/test/ensemble/nll": 0.31,
    "target/test/calibration/ece": 0.059,
    "target/test/calibrated/nll": 0.29,
    "target/test/calibrated/temperature": 0.76,
    "target/test/diversity/disagreement": 0.108,
    "target/validation/ensemble/accuracy": 0.99,
    "target/test/calibrated/ece": None,
    "target/test/member/accuracy": math.nan,
}
COST = {
    "total": {
        "steps": 500,
        "flops": 37.5e9,
        "fine_tunings": 1.251,
        "fine_tunings_by_time": 1.4,
        "seconds": 2.31,
        "examples": 9,
    },
    "marginal": None,
    "source": {"steps": 210.0, "flops": 6.5e10, "seconds": 3.7},
    "prediction": {"networks": 2, "flops": 2_500_000},
}


@pytest.fixture(scope="module")
def ensemble():
    members = tuple(ARCHITECTURE.initial(seed) for seed in range(2))
    return Ensemble(ARCHITECTURE, members, ("a", "b|`c`\n- d", "é"), "shared", HISTORY)


@pytest.fixture
def text(ensemble, tmp_path):
    return write_card(tmp_path, ensemble, METRICS, COST, {"train": 500, "test": 300}).read_text(encoding="utf-8")


def rows(text):
    """The cells of every table's row, by the first."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return {first: rest for first, *rest in cells}


def test_the_hub_reads_its_front_matter(text):
    data = ModelCard(text).data
    assert data.library_name == "ensemble_transfer"
    assert data.pipeline_tag == "image-classification"
    assert {"ensemble", "transfer-learning", "resnet10t"} <= set(data.tags)
    assert data.license is None
    found = {(result.metric_type, result.metric_name): result.metric_value for result in data.eval_results}
    names = ("accuracy", "Accuracy"), ("nll", "Negative log likelihood"), ("ece", "Expected calibration error")
    assert found == dict(zip(names, (0.91, 0.31, 0.059), strict=True))
    assert {(result.dataset_name, result.dataset_split) for result in data.eval_results} == {("letters", "test")}


def test_it_tells_what_the_ensemble_is_and_came_from(text):
    facts = rows(text)
    assert facts["3 classes"] == ["`a`, `b\\|'c' - d`, `é`"]
    assert facts["color"][0].startswith("gray")
    assert facts["resize"] == ["8x8, bilinear with antialiasing"]
    assert (facts["mean"], facts["std"]) == (["[0.3]"], ["[0.2]"])
    assert facts["lineage"] == ["`shared`"]
    assert facts["source ensemble"] == ["`abc123`"]
    weights = sum(tensor.numel() for tensor in ARCHITECTURE.initial(0).values())
    assert facts["members"] == [f"2, each `resnet10t` with {weights:,} weights and statistics"]
    assert "moved to `letters` by the strategy `shift`: fine-tune a donor, then shift. Made" in " ".join(text.split())


def test_it_shows_the_test_split_and_leaves_out_what_is_undefined(text):
    facts = rows(text)
    assert facts["accuracy of the ensemble"] == ["0.9100"]
    assert facts["NLL with the temperature"] == ["0.2900"]
    assert not [name for name in facts if name.startswith(("accuracy of a member", "ECE with"))]
    assert "0.99" not in text
    assert "nan" not in text
    interval = binomtest(273, 300).proportion_ci(method="exact")
    assert f"{interval.low:.3f} to {interval.high:.3f}" in text
    assert "of the accuracy from 300 images" in text
    assert "The target task had 500 training images" in text


def test_it_shows_what_the_training_cost(text):
    facts = rows(text)
    assert facts["moving all 2 members"] == ["500", "37.5", "1.25", "1.40", "2.3"]
    assert facts["training the source"] == ["210", "65.0", "-", "-", "3.7"]
    assert "one more member" not in facts
    assert "A prediction takes 2.5 MFLOPs an image; networks: 2." in text


def test_its_example_runs(ensemble, tmp_path):
    ensemble.save(tmp_path)
    write_card(tmp_path, ensemble)
    [example] = re.findall(r"```python\n(.*?)```", (tmp_path / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(example.splitlines()) == 3
    import torch

    scope = {"images": torch.zeros(5, 1, 8, 8, dtype=torch.uint8)}
    exec(example.replace("FOLDER", str(tmp_path)), scope)
    assert scope["probabilities"].shape == (2, 5, 3)
    assert "(N, 1, 8, 8) -> (2, N, 3)" in example


@pytest.mark.parametrize("history", [{}, {"source": "digits"}, {"strategy": "new", "target": "x", "added": [{"a": 1}]}])
def test_any_history_gives_a_card(ensemble, tmp_path, history):
    text = write_card(tmp_path, replace(ensemble, history=history)).read_text(encoding="utf-8")
    assert "Not evaluated: no metrics were known" in text
    assert all(f"`{value if isinstance(value, str) else json.dumps(value)}`" in text for value in history.values())
    assert ModelCard(text).data.library_name == "ensemble_transfer"
