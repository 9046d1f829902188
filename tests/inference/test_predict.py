import csv
import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import write_pictures
from scipy.stats import entropy

from ensemble_transfer import Calibration, Ensemble
from ensemble_transfer.cli.predict import main
from ensemble_transfer.inference.cascade import choose_cascade
from ensemble_transfer.inference.predict import COLUMNS
from ensemble_transfer.inference.saved import SavedEnsemble
from ensemble_transfer.metrics import selective
from ensemble_transfer.metrics.evaluate import evaluate


@pytest.fixture(scope="module")
def made(tmp_path_factory, source_ensemble, source_task):
    """A run's folder, and folders of its validation and test images."""
    folder = tmp_path_factory.mktemp("made")
    source_ensemble.save(folder / "run" / "ensemble")
    test, validation = source_task.test, source_task.validation
    fitted = Calibration.fit(source_ensemble.predict(validation.images), validation.labels)
    fitted.save(folder / "run" / "ensemble", source_ensemble.fingerprint)
    write_pictures(folder / "test", test.images)
    write_pictures(folder / "validation", validation.images)
    return folder


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    """A copy of it as the working folder."""
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def predict(here, capsys):
    """Run the command; return its exit code, the rows on standard output, and standard error."""

    def run(*arguments):
        code = main(["--device=cpu", *arguments])
        out, err = capsys.readouterr()
        return code, list(csv.DictReader(io.StringIO(out))), err

    return run


@pytest.fixture(scope="module")
def temperature(source_ensemble, source_task):
    validation = source_ensemble.predict(source_task.validation.images), source_task.validation.labels
    return evaluate(*validation, validation=validation)["calibrated/temperature"]


def expected_rows(members, temperature, classes):
    """The columns by NumPy and SciPy."""
    members = members.double().numpy()
    mean = members.mean(0)
    scaled = mean ** (1 / temperature)
    scaled /= scaled.sum(-1, keepdims=True)
    own = members.argmax(-1)
    return {
        "label": [classes[label] for label in mean.argmax(-1)],
        "probability": scaled.max(-1),
        "entropy": entropy(scaled, axis=-1),
        "mutual_information": entropy(mean, axis=-1) - entropy(members, axis=-1).mean(0),
        "disagreement": (own != mean.argmax(-1)).mean(0),
    }


def check(rows, expected):
    assert [row["label"] for row in rows] == expected["label"]
    for name in ("probability", "entropy", "mutual_information", "disagreement"):
        np.testing.assert_allclose([float(row[name]) for row in rows], expected[name], atol=2e-6)


def test_rows_are_the_ensembles_predictions_with_the_temperature(predict, source_ensemble, source_task, temperature):
    code, rows, err = predict("run", "test", "--batch-size", "7")
    assert code == 0
    assert list(rows[0]) == list(COLUMNS)
    assert [row["path"] for row in rows] == [f"test/{place:02d}.png" for place in range(60)]
    expected = expected_rows(source_ensemble.predict(source_task.test.images), temperature, source_task.classes)
    check(rows, expected)
    assert expected["disagreement"].max() > 0
    assert abs(temperature - 1) > 0.01
    assert {row["abstain"] for row in rows} == {"false"}
    assert err == f"temperature {temperature:.3f}, fitted on 40 validation images\n60 images, 0 abstained, 0 left out\n"


def test_without_validation_it_predicts_as_it_is_and_says_so(predict, here, source_ensemble, source_task):
    (here / "run" / "ensemble" / "calibration.safetensors").unlink()
    code, rows, err = predict("run/ensemble", "test")
    assert code == 0
    check(rows, expected_rows(source_ensemble.predict(source_task.test.images), 1, source_task.classes))
    assert "run/ensemble: no validation predictions, so no temperature and no threshold is known" in err
    for limit in ("--risk=0.1", "--coverage=0.9"):
        code, rows, err = predict("run/ensemble", "test", limit)
        assert (code, rows) == (2, [])
        assert f"error: {limit.strip('-')}: needs the validation predictions" in err


# Abstaining


@pytest.mark.parametrize(("coverage", "answered"), [("0.71", 29), ("0.01", 1)])
def test_the_coverage_holds_on_validation(predict, source_task, coverage, answered):
    code, rows, err = predict("run", "validation", "--coverage", coverage)
    sure = sorted((float(row["probability"]) for row in rows if row["abstain"] == "false"), reverse=True)
    unsure = [float(row["probability"]) for row in rows if row["abstain"] == "true"]
    assert code == 0
    assert len(sure) == answered
    assert len(sure) + len(unsure) == 40
    assert min(sure) > max(unsure)
    labels = [source_task.classes[label] for label in source_task.validation.labels]
    wrong = sum(row["label"] != label for row, label in zip(rows, labels, strict=True) if row["abstain"] == "false")
    assert f"coverage {answered / 40:.3f}, risk {wrong / answered:.4f} ({wrong} wrong of {answered})" in err
    assert "an estimate, for images like those" in err
    assert f"40 images, {40 - answered} abstained" in err


def validation_predictions(here, examples=400, sharpness=6.0):
    """Replace the calibration of the run by one of drawn predictions, which no net has to be good for."""
    rng = np.random.default_rng(0)
    labels = rng.integers(5, size=examples)
    logits = rng.normal(size=(3, examples, 5)) + sharpness * rng.random((examples, 1)) * np.eye(5)[labels]
    probabilities = (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)).astype(np.float32)
    fitted, folder = Calibration.fit(probabilities, labels), here / "run" / "ensemble"
    fitted.save(folder, Ensemble.load(folder).fingerprint)
    return fitted


def test_the_risk_is_kept_on_validation(predict, here):
    known = validation_predictions(here)
    found = selective.threshold_at_risk(known.confidence, known.correct, 0.15)
    code, rows, err = predict("run", "test", "--risk", "0.15")
    assert code == 0
    assert 40 < found.answered < 400
    assert found.bound <= 0.15 < (~known.correct).double().mean()
    assert {row["abstain"] for row in rows if float(row["probability"]) < found.value} <= {"true"}
    assert {row["abstain"] for row in rows if float(row["probability"]) >= found.value} <= {"false"}
    assert f"answers where the probability is at least {found.value:.6f}; on 400 validation images" in err
    assert f"({found.errors} wrong of {found.answered}), below {found.bound:.4f} with 95% confidence" in err


@pytest.mark.parametrize("chosen", [True, False])
def test_the_risk_can_be_higher_where_the_ensemble_was_chosen_on_the_same_images(
    predict, here, source_ensemble, chosen
):
    history = {"strategy": "auto", "target": "mnist"} | ({"chosen_on": "validation"} if chosen else {})
    replace(source_ensemble, history=history).save(here / "run" / "ensemble")
    validation_predictions(here)
    higher = "the true risk can be higher: auto chose the ensemble on the same images\n"
    for limit in (("--risk", "0.15"), ("--coverage", "0.8")):
        assert (higher in predict("run", "test", *limit)[2]) == chosen


def test_a_cascade_has_thresholds_and_a_mean_number_of_networks_of_its_own(predict, here):
    known = validation_predictions(here, sharpness=12)
    code, rows, err = predict("run", "test", "--cascade", "--coverage", "0.8")
    ran = [int(row["networks"]) for row in rows]
    assert code == 0
    assert list(rows[0]) == [*COLUMNS, "networks"]
    assert set(ran) <= {1, 2, 3}
    cascade = choose_cascade(SavedEnsemble(here, Ensemble.load(here / "run" / "ensemble"), known))
    own = cascade.calibration
    assert cascade.about in err
    found = selective.threshold_at_coverage(own.confidence, own.correct, 0.8)
    assert f"answers where the probability is at least {found.value:.6f}; on 400 validation images" in err
    assert found.value != selective.threshold_at_coverage(known.confidence, known.correct, 0.8).value
    assert err.endswith(f"0 left out, {np.mean(ran):.2f} networks an image\n")


def test_a_risk_that_needs_more_images_says_so(predict, here):
    validation_predictions(here, examples=30)
    _, rows, err = predict("run", "test", "--risk", "0.05")
    assert {row["abstain"] for row in rows} == {"true"}
    assert "on 30 validation images: abstains on all images; it takes 90, even if all answers are right; allow" in err


# Images


def test_no_cell_of_a_table_is_a_formula(predict, here):
    shutil.copy(here / "test" / "00.png", "=1+1.png")
    _, rows, _ = predict("run", "=1+1.png", "test/00.png")
    assert [row["path"] for row in rows] == ["'=1+1.png", "test/00.png"]


def test_images_come_in_the_order_given_from_files_folders_patterns_and_a_list(predict, here, monkeypatch):
    nested = here / "more" / "deep"
    shutil.copytree("test", nested)
    (here / "more" / "notes.txt").write_text("no image")
    for path in list(nested.glob("*.png"))[2:]:
        path.unlink()
    kept = sorted(f"more/deep/{path.name}" for path in nested.glob("*.png"))
    (here / "odd[1].png").write_bytes((here / kept[0]).read_bytes())
    listed = "test/31.png\n\nodd[1].png\r\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(listed.encode())))
    code, rows, _ = predict("run", "test/05.png", "more", "test/1[0-2].png", "-", "mo*/deep/*.png", "test/05.png")
    assert code == 0
    patterned = ["test/10.png", "test/11.png", "test/12.png"]
    expected = ["test/05.png", *kept, *patterned, "test/31.png", "odd[1].png", *kept, "test/05.png"]
    assert [row["path"] for row in rows] == expected


def test_what_cannot_be_read_is_named_and_left_out(predict, here):
    (here / "test" / "02.png").write_bytes((here / "test" / "02.png").read_bytes()[:60])
    (here / "test" / "04.png").write_bytes(b"")
    (here / "test" / "06.png").write_bytes(b"hello")
    (here / "empty").mkdir()
    code, rows, err = predict("run", "missing.png", "test", "empty", "no*.png", 300 * "x", "--batch-size", "5")
    assert code == 1
    assert [row["path"] for row in rows] == [f"test/{n:02d}.png" for n in range(60) if n not in (2, 4, 6)]
    whole = predict("run", "validation/03.png", "test/03.png")[1][1]
    assert rows[2] == whole  # its neighbours are broken: no row has moved
    assert "missing.png: no such file; left out\n" in err
    assert "test/02.png: " in err
    assert "test/04.png: not an image; left out\n" in err
    assert "test/06.png: not an image; left out\n" in err
    assert "empty: a folder without images; left out\n" in err
    assert "no*.png: a pattern that matches no file; left out\n" in err
    assert f"{300 * 'x'}: no such file; left out\n" in err
    assert err.endswith("57 images, 0 abstained, 7 left out\n")


def test_a_folder_that_cannot_be_read_is_named_once_and_the_others_are_predicted(predict, here, monkeypatch):
    (here / "all" / "locked").mkdir(parents=True)
    shutil.copytree("test", here / "all" / "open")
    iterdir = Path.iterdir

    def refused(self):
        if self.name == "locked":
            raise PermissionError(13, "Permission denied", str(self))
        return iterdir(self)

    monkeypatch.setattr(Path, "iterdir", refused)
    code, rows, err = predict("run", "all", "all/locked")
    assert (code, len(rows)) == (1, 60)
    assert err.count("all/locked: Permission denied; left out\n") == 2  # as a part, and by itself
    assert err.endswith("60 images, 0 abstained, 2 left out\n")


def test_paths_of_which_none_is_there_are_refused_in_one_line(predict):
    code, rows, err = predict("run", "new_photo", "other")
    assert (code, rows, err) == (2, [], "error: IMAGES='new_photo other': no such file or folder\n")


# Output


def test_output_is_a_table_or_lines_of_json_by_its_name(predict, here):
    _, rows, _ = predict("run", "test", "--coverage", "0.5")
    for arguments in (["--output", "out.csv"], ["--output", "out.table"]):
        code, shown, _ = predict("run", "test", "--coverage", "0.5", *arguments)
        assert (code, shown) == (0, [])
        with open(arguments[1], newline="", encoding="utf-8") as file:  # noqa: PTH123
            assert list(csv.DictReader(file)) == rows
    assert predict("run", "test", "--coverage", "0.5", "--output", "out.jsonl")[0] == 0
    lines = [json.loads(line) for line in (here / "out.jsonl").read_text().splitlines()]
    assert [list(line) for line in lines] == [list(COLUMNS)] * 60
    for line, row in zip(lines, rows, strict=True):
        assert line["abstain"] is (row["abstain"] == "true")
        assert (line["path"], line["label"]) == (row["path"], row["label"])
        assert line["probability"] == float(row["probability"])


def test_every_class_has_a_column_of_probabilities(predict, source_ensemble, source_task, temperature):
    _, rows, _ = predict("run", "test", "--probabilities")
    names = [f"probability_{name}" for name in source_task.classes]
    assert list(rows[0]) == [*COLUMNS, *names]
    mean = source_ensemble.predict(source_task.test.images).double().numpy().mean(0) ** (1 / temperature)
    found = np.array([[float(row[name]) for name in names] for row in rows])
    np.testing.assert_allclose(found, mean / mean.sum(-1, keepdims=True), atol=2e-6)
    assert predict("run", "test", "--probabilities", "--output", "out.jsonl")[0] == 0
    lines = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [[line[name] for name in names] for line in lines] == found.tolist()


def test_a_full_disk_is_one_line_that_names_the_output(predict):
    code, _, err = predict("run", "test", "--output", "/dev/full")
    assert code == 2
    assert err.splitlines()[-1] == "error: output='/dev/full': cannot be written: No space left on device"


def test_an_existing_output_is_replaced_when_all_is_written_and_kept_when_it_is_not(predict, here, source_ensemble):
    kept = sorted(path.name for path in here.iterdir())
    (here / "out.csv").write_text(before := ",".join(COLUMNS) + "\nan older one")
    broken = {
        name: tensor * torch.nan if "head" in name else tensor for name, tensor in source_ensemble.members[0].items()
    }
    replace(source_ensemble, members=(broken,)).save(here / "run" / "other")
    code, _, err = predict("run/other", "test", "--output", "out.csv")
    assert code == 2
    assert "error: probabilities holds nan" in err
    assert (here / "out.csv").read_text() == before
    assert predict("run", "test", "--output", "out.csv")[0] == 0
    assert (here / "out.csv").read_text().count("\n") == 61
    assert sorted(path.name for path in here.iterdir()) == sorted([*kept, "out.csv"])


def test_nothing_but_its_own_rows_is_overwritten_unless_forced(predict, here):
    (here / "run" / "record.json").write_text('{"status": "finished"}')
    (here / "notes").write_text("my only copy")
    (here / "link").symlink_to("notes")
    paths = "test/00.png", "new.JPG", "run/record.json", "run/summary.md", "run/ensemble/ensemble.json", "notes", "link"
    for path in paths:  # where IMAGES follow, the first is a picture whose turn as OUT nobody meant
        kept = Path(path).read_bytes() if Path(path).exists() else None
        code, _, err = predict("run", "--output", path, "test/01.png", "test/02.png")
        assert (code, err.count("\n")) == (2, 1)
        assert err.startswith(f"error: output={path!r}: ")
        assert "--force" in err
        assert (Path(path).read_bytes() if Path(path).exists() else None) == kept
    (here / "run" / "record.json").unlink()
    for path, *force in (["notes", "--force"], ["notes"], ["new.JPG", "--force"], ["rows.jsonl"], ["rows.jsonl"]):
        assert predict("run", "test/01.png", "test/02.png", "--output", path, *force)[0] == 0
        assert Path(path).read_text().count("\n") == 2 + (path != "rows.jsonl")


def test_a_reader_that_stops_reading_ends_it_quietly(here, forks):
    """``predict RUN IMAGES | head -1`` ends as ``cat`` would: with the code of a process that SIGPIPE has ended."""
    os.mkfifo("pipe")
    words = ["ensemble_transfer", "predict", "run", "test", "--batch-size=1", "--device=cpu"]
    command = forks.start(*words, cwd=here, stdout=here / "pipe")
    with Path("pipe").open() as pipe:
        line = pipe.readline()
    done = command.wait()
    assert line == "path,label,probability,entropy,mutual_information,disagreement,abstain\n"
    assert done.returncode == 141
    assert done.stderr.startswith("temperature")
    assert done.stderr.count("\n") == 1


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "test"], "RUN='nowhere': must be the folder of a run"),
        (["run", "test", "--risk", "1"], "risk=1.0: must be above 0 and below 1"),
        (["run", "test", "--output", "no/a.csv"], "output='no/a.csv': must be a file in a folder that exists"),
    ],
)
def test_a_mistake_is_one_line(predict, arguments, message):
    code, rows, err = predict(*arguments)
    assert (code, rows) == (2, [])
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1
