"""An ensemble in use from Python, and by the lines of docs/own_data.md with FastAPI as they are written there."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch
from page import blocks

from ensemble_transfer import SettingError, open_saved
from ensemble_transfer.inference.calibration import decide


def test_a_saved_ensemble_predicts_files_bytes_arrays_and_tensors(photographs, tmp_path):
    opened, files, arrays = open_saved(photographs.run, device="cpu"), photographs.files, photographs.arrays
    expected = decide(opened.ensemble.predict(photographs.images), opened.temperature).probabilities.numpy()
    assert np.ptp(expected, axis=0).max() > 0.1
    assert abs(opened.temperature - 1) > 0.01
    folder, contents = files[0].parent, [file.read_bytes() for file in files]
    for given in (files, list(map(str, files)), folder, contents, arrays, torch.from_numpy(arrays), arrays / 255):
        np.testing.assert_allclose(opened.predict_proba(given), expected, atol=1e-5)
        assert opened.predict(given).tolist() == [opened.classes[label] for label in expected.argmax(1)]
    np.testing.assert_allclose(opened.predict_proba(contents[4]), expected[4:5], atol=1e-5)
    (tmp_path / "broken.png").write_bytes(contents[0][:99])
    for broken in ([files[0], tmp_path / "broken.png"], contents[0][:99]):
        with pytest.raises(SettingError, match=r"^images='.*broken.png'|^images='bytes of image 0'") as refused:
            opened.predict(broken)
        assert refused.value.rule.startswith("cannot be read: ")


def test_the_lines_with_fastapi_answer(photographs, monkeypatch):
    pytest.importorskip("fastapi", reason="needs the extra dev: fastapi")
    httpx = pytest.importorskip("httpx", reason="needs the extra dev: httpx")
    monkeypatch.chdir(photographs.run.parent)
    exec(blocks("own_data")[-2], served := {})

    async def post(file: Path) -> dict[str, float]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(served["app"]), base_url="http://here") as client:
            form = {"Content-Type": "application/x-www-form-urlencoded"}  # as curl says of any file
            return (await client.post("/", content=file.read_bytes(), headers=form)).json()

    for file in photographs.files:
        answer = asyncio.run(post(file))
        assert list(answer) == ["roof", "sky", "tree"]
        np.testing.assert_allclose(list(answer.values()), open_saved("RUN").predict_proba(file)[0], atol=1e-5)
