"""The second program agrees with the page of the development seeds, and finds a cell that is wrong."""

import tarfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
PHOTOS = ROOT / "benchmarks" / "photos"
CLAIMS = ["--claims", str(PHOTOS / "claims.yaml"), "--seeds", "0", "1", "2"]


@pytest.fixture
def recompute(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "evidence"))
    import recompute

    return recompute


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    with tarfile.open(PHOTOS / "development.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def test_the_page_of_the_development_seeds_is_right(recompute, records, capsys):
    assert recompute.main([str(records), str(PHOTOS / "development"), *CLAIMS]) == 0
    assert "54 runs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("right", "wrong", "place"),
    [
        ("| +0.062 [-0.022, +0.147] |", "| +0.062 [-0.022, +0.148] |", "size-one, lead"),
        ("| 0.688 | 0.250 | undecided |", "| 0.688 | 0.250 | **supported** |", "size-one, verdict"),
        ("solar +0.062 [-0.018", "solar +0.063 [-0.018", "size-one, solar"),
        ("| 2 | auto | 0.951 ± 0.015 |", "| 2 | auto | 0.952 ± 0.015 |", "signs at 2, auto, accuracy"),
        (
            "| 2 | 2 | auto | 0.843 ± 0.002 |",
            "| 2 | 2 | auto | 0.843 ± 0.003 |",
            "mean over pairs at 2, auto, accuracy",
        ),
    ],
)
def test_a_wrong_cell_is_found(recompute, records, tmp_path, capsys, right, wrong, place):
    page = (PHOTOS / "development" / "README.md").read_text()
    assert right in page
    (tmp_path / "README.md").write_text(page.replace(right, wrong, 1))
    assert recompute.main([str(records), str(tmp_path), *CLAIMS]) == 1
    assert capsys.readouterr().out.startswith(f"{place}: the page has")


def test_a_row_that_is_left_out_is_found(recompute, records, tmp_path, capsys):
    lines = (PHOTOS / "development" / "README.md").read_text().splitlines()
    kept = [line for line in lines if not line.startswith("| 2 | auto | 0.951")]
    (tmp_path / "README.md").write_text("\n".join(kept))
    assert recompute.main([str(records), str(tmp_path), *CLAIMS]) == 1
    assert "signs, rows: the page has 8, recomputed [9]" in capsys.readouterr().out


@pytest.mark.parametrize("lacking", ["records", "page", "table"])
def test_what_cannot_be_compared_is_named_in_a_line(recompute, records, tmp_path, capsys, lacking):
    page = tmp_path / "page"
    page.mkdir()
    if lacking == "table":
        (page / "README.md").write_text("# No table\n")
    runs, page = (tmp_path, PHOTOS / "development") if lacking == "records" else (records, page)
    assert recompute.main([str(runs), str(page), *CLAIMS]) == 2
    line, named = capsys.readouterr().err, {"records": "no finished run of seeds 0 to 2", "page": "README.md"}
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    assert named.get(lacking, "no table of Claims, Means over pairs, Regret of auto, signs, solar") in line


def test_sure_predictions_that_are_wrong_a_fifth_of_the_time_are_calibrated_to_it(recompute, tmp_path):
    """Two classes, two members that agree, and as many images on validation as on test: T is known by hand."""
    sure = np.tile([[0.99, 0.01]], (2, 1000, 1)).astype(np.float32)
    labels = (np.arange(1000) % 5 == 0).astype(int)
    both = {"probabilities": sure, "labels": labels}
    np.savez(tmp_path / "predictions.npz", **both, **{f"validation/{name}": value for name, value in both.items()})
    found = recompute.predicted(tmp_path / "predictions.npz")
    assert found["accuracy"] == 0.8
    assert found["calibrated NLL"] == pytest.approx(-0.8 * np.log(0.8) - 0.2 * np.log(0.2), abs=1e-4)
