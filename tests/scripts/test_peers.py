"""The benchmark of peers: same photos and weights for all, and what its page says of finished runs."""

import csv
import importlib
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import write_pictures
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss

from ensemble_transfer.models.pretrained import packaged

FOLDER = Path(__file__).parents[2] / "scripts" / "benchmarks" / "peers"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name in [name for name, module in sys.modules.items() if str(FOLDER) in str(getattr(module, "__file__", ""))]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    scans, root = load_digits(), tmp_path_factory.mktemp("data")
    for label in range(10):
        write_pictures(root / "signs" / str(label), (scans.images[scans.target == label] * 15.9).astype(np.uint8))
    return root


def test_peers_start_from_our_weights(script):
    theirs, ours = script("peer").weights(), packaged("tf_efficientnet_lite0")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)


def test_peers_get_our_photos_and_no_labels_of_the_test(script, data, tmp_path):
    photos = script("peers_photos")
    task = photos.load("signs", data, 3)
    photos.write(task, tmp_path / "photos.npz")
    with np.load(tmp_path / "photos.npz") as file:
        assert file["images"].shape == (240, 128, 128, 3)
        assert np.array_equal(file["labels"], task.train.labels)
        assert np.array_equal(file["test_images"], task.test.images.permute(0, 2, 3, 1))
        assert [name for name in file.files if len(file[name].shape) and len(file[name]) == 1000] == ["test_images"]


def test_the_page_has_means_over_seeds_and_keeps_what_they_come_from(script, data, tmp_path):
    run, page, peer = script("run"), script("peers_page"), script("peer")
    place = run.Place(data, tmp_path / "runs", tmp_path)
    place.runs.mkdir()
    expected = []
    for seed in (0, 1):
        validation, test = page.labels("signs", seed, data)
        rng = np.random.default_rng(seed)
        drawn = {name: rng.dirichlet(np.ones(10), len(of)) for name, of in (("validation", validation), ("test", test))}
        row = next(row for row in run.ROWS if row.module == "plain_loop")
        peer.save(run.finished(row, "signs", seed, place), 10.0 + seed, **drawn, comes=drawn["test"])
        expected.append((np.mean(drawn["test"].argmax(1) == test), log_loss(test, drawn["test"])))
    page.write_page(place, run.ROWS, ["signs"], tmp_path / "page")
    [line] = [line for line in (tmp_path / "page/README.md").read_text().splitlines() if line.startswith("| a plain")]
    cells = [cell.strip() for cell in line.split("|")]
    (first, nll), (second, other) = expected
    assert cells[2:4] == [
        f"{np.mean(both):.3f} ± {np.std(both, ddof=1):.3f}" for both in ((first, second), (nll, other))
    ]
    assert cells[6:9] == ["10 ± 1", "11", "2"]
    with (tmp_path / "page/runs.csv").open() as file:
        assert [float(row["accuracy"]) for row in csv.DictReader(file)] == pytest.approx([first, second], abs=1e-5)
    with tarfile.open(tmp_path / "page/predictions.tar.xz") as archive:
        assert len(archive.getnames()) == 2


def test_what_has_finished_is_not_run_again(script, tmp_path):
    run = script("run")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").touch()
    place = run.Place(tmp_path, tmp_path, tmp_path)
    asked = run.argparse.Namespace(seeds=[0, 1], tasks=["signs"])
    first, second, *_ = run.ROWS
    run.finished(first, "signs", 0, place).touch()
    assert list(run.missing([first, second], asked, place)) == [
        (second, "signs", 0),
        (first, "signs", 1),
        (second, "signs", 1),
    ]
