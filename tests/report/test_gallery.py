"""The errors of a run as pictures: which are shown, and what the page holds."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from ensemble_transfer.report.gallery import read_errors
from ensemble_transfer.runs.gallery import SUREST, UNSURE, show_errors
from ensemble_transfer.tasks.task import Split

CLASSES = ("a <b>", "c & d")


@pytest.fixture
def test_split():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (200, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return Split(images, torch.arange(200) % 2)


def arrays_of(split, right):
    """Two members that are alike: sure of image i by .5 + i / 500, right where ``right`` says so."""
    sure, labels = 0.5 + np.arange(200) / 500 + 0.001, split.labels.numpy()
    chances = np.stack([1 - sure, sure], 1)
    flipped = np.where(right, labels == 0, labels == 1)
    chances = np.where(flipped[:, None], chances[:, ::-1], chances).astype(np.float32)
    both = np.stack([chances, chances])
    return {"probabilities": both, "validation/probabilities": both, "validation/labels": labels}


def test_the_surest_errors_and_the_least_sure_right_ones_are_shown(test_split, tmp_path):
    right = np.arange(200) % 3 > 0
    show_errors(tmp_path, "few: a -> b", arrays_of(test_split, right), test_split, CLASSES)
    shown = read_errors(tmp_path / "errors.html")
    wrong, fine = shown[:SUREST], shown[SUREST:]
    assert [s.place for s in wrong] == [place for place in reversed(range(200)) if not right[place]][:SUREST]
    assert [s.place for s in fine] == [place for place in range(200) if right[place]][:UNSURE]
    assert all(s.truth == CLASSES[s.place % 2] != s.predicted for s in wrong)
    assert all(s.truth == CLASSES[s.place % 2] == s.predicted for s in fine)
    assert all(0.5 <= s.probability <= 1 for s in shown)
    for one in (wrong[0], fine[-1]):
        pixels = np.asarray(Image.open(BytesIO(one.png)))
        assert np.array_equal(pixels, test_split.images[one.place].permute(1, 2, 0).numpy())


def test_the_page_asks_nobody_and_escapes_what_it_is_given(test_split, tmp_path):
    show_errors(tmp_path, "<script>", arrays_of(test_split, np.zeros(200, bool)), test_split, CLASSES)
    page = (tmp_path / "errors.html").read_text()
    assert "<script>" not in page
    assert "<b>" not in page.replace("<b>a &lt;b&gt;</b>", "").replace("<b>c &amp; d</b>", "")
    assert "http" not in page.replace("http-equiv", "")


def test_an_ensemble_without_errors_says_so(test_split, tmp_path):
    show_errors(tmp_path, "few", arrays_of(test_split, np.ones(200, bool)), test_split, CLASSES)
    assert "No test image is predicted wrongly." in (tmp_path / "errors.html").read_text()
    assert len(read_errors(tmp_path / "errors.html")) == UNSURE
    assert read_errors(tmp_path / "none.html") == []
