import importlib.util
import json
import os
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from page import blocks
from pictures import write_pictures

from ensemble_transfer import Calibration, Ensemble, open_saved
from ensemble_transfer.cli import export as command
from ensemble_transfer.inference import export

MISSING = [name for name in command.NEEDED if importlib.util.find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(MISSING), reason=f"needs the extra onnx: {', '.join(MISSING)}")


@pytest.fixture(scope="module")
def ensemble(source_ensemble):
    return replace(source_ensemble, members=source_ensemble.members[:2])


@pytest.fixture(scope="module")
def run(tmp_path_factory, ensemble, source_task):
    """The folder of an ensemble with a calibration, beside a few of its task's images."""
    folder = tmp_path_factory.mktemp("run")
    ensemble.save(folder / "ensemble")
    split = source_task.validation
    fitted = Calibration.fit(ensemble.predict(split.images), split.labels)
    fitted.save(folder / "ensemble", ensemble.fingerprint)
    write_pictures(folder, source_task.test.images[:5])
    return folder


def test_a_link_is_kept_and_what_is_no_onnx_file_too(run, tmp_path, capsys, monkeypatch):
    os.mkfifo(tmp_path / "pipe.onnx")
    (tmp_path / "photo.png").write_bytes(b"mine")
    for name in ("pipe.onnx", "photo.png"):
        assert command.main([str(run), str(tmp_path / name)]) == 2
        assert f"{name}': must be an .onnx file, or not there yet" in capsys.readouterr().err
    assert (tmp_path / "photo.png").read_bytes() == b"mine"
    (tmp_path / "link").symlink_to(tmp_path / "real.onnx")
    monkeypatch.setattr(command, "NEEDED", ())
    monkeypatch.setattr(command, "export", lambda *arguments: arguments[-1].write_text("net") and 0.0)
    assert command.main([str(run), str(tmp_path / "link")]) == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real.onnx").read_text() == "net"


@needs_onnx
def test_the_file_gives_the_ensembles_probabilities(photographs, tmp_path, capsys, monkeypatch):
    import onnxruntime

    path, ensemble, images = tmp_path / "ensemble.onnx", photographs.ensemble, photographs.images
    assert command.main([str(photographs.run), str(path), "--images", *map(str, photographs.files[:5])]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    temperature = open_saved(photographs.run).temperature
    assert out.splitlines()[0] == f"temperature {temperature:.3f}, fitted on 6 validation images"
    assert float(out.split("on 5 of your images: ")[1].split()[0]) < 1e-5
    assert [entry.name for entry in tmp_path.iterdir()] == ["ensemble.onnx"]
    net = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert export._difference(path, ensemble, temperature, images) < 1e-5
    assert export._difference(path, ensemble, temperature + 1, images) > export.TOLERANCE
    [given] = net.get_inputs()
    assert (given.name, given.type, given.shape[1:]) == ("images", "tensor(uint8)", [3, 16, 16])
    members = ensemble.predict(images).double().numpy()
    scaled = members.mean(0) ** (1 / temperature)
    for count in (6, 1, 3):
        found = net.run(["probabilities", "member_probabilities"], {"images": images[:count].numpy()})
        expected = scaled[:count] / scaled[:count].sum(-1, keepdims=True)
        np.testing.assert_allclose(found[0], expected, atol=1e-5)
        np.testing.assert_allclose(found[1], members[:, :count], atol=1e-5)
    texts = net.get_modelmeta().custom_metadata_map
    assert json.loads(texts["classes"]) == list(ensemble.classes)
    assert float(texts["temperature"]) == temperature
    steps = json.loads(texts["preprocessing"])
    assert steps["resize"] == "16x16, bilinear with antialiasing"
    assert steps["layout"] == "uint8 (N, 3, 16, 16)"
    assert steps["scaling"].endswith("by the model itself: 16, 8 pixels")
    assert (steps["mean"], steps["std"]) == ([0.5], [0.5])
    _the_lines_of_the_guide_answer(photographs, tmp_path, monkeypatch)


def _the_lines_of_the_guide_answer(photographs, tmp_path, monkeypatch):
    """Run them as docs/own_data.md has them, on the file that was exported."""
    monkeypatch.chdir(tmp_path)
    saved, told = open_saved(photographs.run, device="cpu"), set()
    for file in photographs.files:
        shutil.copy(file, "photo.jpg")  # still a PNG: of a JPEG, saved.predict_proba would decode an eighth
        exec(blocks("own_data")[-1], served := {})
        [expected] = saved.predict_proba("photo.jpg")
        np.testing.assert_allclose(served["probabilities"], expected, atol=0.05)  # Pillow rounds a little otherwise
        told.add(int(served["probabilities"].argmax()))
    assert len(told) > 1


@pytest.fixture
def untranslated(monkeypatch):
    """Write a text instead of a network in ONNX, and return the networks that are to be written."""

    def program(module, _):
        written.append(module)
        return SimpleNamespace(model=SimpleNamespace(metadata_props={}), save=lambda path, **_: path.write_text("new"))

    written = []
    monkeypatch.setattr(command, "NEEDED", ())
    monkeypatch.setattr(export, "_program", program)
    monkeypatch.setattr(export, "_difference", lambda *_: 0.0)
    return written


def test_the_soup_is_one_network_of_mean_weights(run, tmp_path, capsys, ensemble, source_task, untranslated):
    assert command.main([str(run), str(tmp_path / "soup.onnx"), "--soup"]) == 0
    out = capsys.readouterr().out
    assert "mean weights of 2 members, BatchNorm statistics included" in out
    assert "temperature is not this network's and is left out" in out
    assert "images of digits" in out
    weights = {
        name: torch.stack([member[name] for member in ensemble.members]).double().mean(0).to(tensor.dtype)
        for name, tensor in ensemble.members[0].items()
    }
    expected = Ensemble(ensemble.architecture, (weights,), ensemble.classes)
    images = source_task.test.images
    with torch.inference_mode():
        mean, members = untranslated[0](images)
    np.testing.assert_allclose(members, expected.predict(images), atol=1e-5)
    np.testing.assert_allclose(mean, members[0], atol=1e-6)
    assert not np.allclose(mean, ensemble.predict(images).mean(0), atol=1e-3)


@pytest.mark.usefixtures("untranslated")
def test_a_file_that_differs_from_torch_is_not_written(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(export, "_difference", lambda *_: 2e-4)
    (tmp_path / "out.onnx").write_text("before")
    assert command.main([str(run), str(tmp_path / "out.onnx")]) == 2
    assert "would not be the same as in torch: probabilities differ by 0.0002" in capsys.readouterr().err
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("out.onnx", "before")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "out.onnx"], "RUN='nowhere': must be the folder of a run"),
        (["RUN", "no/out.onnx"], "output='no/out.onnx': must be a file in a folder that exists"),
        (["RUN", "."], "output='.': must be a file in a folder that exists"),
        (
            ["RUN", "out.onnx", "--images", "no.png"],
            "images='no.png': holds no image that can be read (no.png: no such",
        ),
    ],
)
def test_a_mistake_is_one_line(run, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(command, "NEEDED", ())
    monkeypatch.chdir(tmp_path)
    assert command.main([str(run) if word == "RUN" else word for word in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_without_the_extra_it_says_how_to_get_it(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "NEEDED", ("onnx_that_nobody_has",))
    assert command.main([str(run), str(tmp_path / "out.onnx")]) == 2
    said = "needs onnx_that_nobody_has, which are missing: pip install onnx_that_nobody_has\n"
    assert capsys.readouterr().err.endswith(said)
