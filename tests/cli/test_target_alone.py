"""A target alone, from the command line: every strategy, what a run leaves, and the commands that take it up."""

import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from ensemble_transfer.cli import compare, evaluate, extend, predict
from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.report.record import Record
from ensemble_transfer.weights import below

QUICK = ["backbone.options.channels=[4,8,8,8]", "backbone.options.stem_width=4", "dataset.image_size=8"]
SHORT = [f"recipe.{phase}.steps={steps}" for phase, steps in (("full", 5), ("tiny", 2), ("probe", 4), ("head", 4))]
ALONE = ["dataset=target", "dataset.target.path=photos", "dataset.channels=1", "trainer.progress=false", *QUICK, *SHORT]


def pictures(root, digits):
    """Write scans as PNG, in a folder for each digit."""
    scans = load_digits()
    for number, (image, label) in enumerate(zip(scans.images, scans.target, strict=True)):
        folder = root / f"digit {label}"
        if label in digits and (not folder.is_dir() or len(list(folder.iterdir())) < 40):
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.rint(image * 255 / 16).astype(np.uint8)).save(folder / f"{number:04}.png")


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    pictures(folder / "photos", range(5, 9))
    return folder / "photos"


@pytest.fixture
def here(tmp_path, photos, source_ensemble):
    """A folder with pictures, and three checkpoints of one's own."""
    shutil.copytree(photos, tmp_path / "photos")
    for member, weights in enumerate(source_ensemble.members):
        save_file(below(weights, "encoder"), tmp_path / f"own{member}.safetensors")
    return tmp_path


START = ["backbone.checkpoint=own0.safetensors", "backbone.mean=[0.5]", "backbone.std=[0.5]"]
GIVEN = "ensemble.members=[own0.safetensors,own1.safetensors,own2.safetensors]"


def without_source(folder):
    """Assert that nothing of a run speaks of a source task; return its record."""
    record = Record.load(folder / "record.json")
    assert record.dataset == "photos"
    assert not record.has_source
    assert not [key for key in record.metrics if key.startswith("source/")]
    assert not [key for key in record.metrics if "/ood/" in key]
    assert "source" not in record.cost
    assert record.notes == []
    with np.load(folder / "predictions.npz") as arrays:
        assert not [name for name in arrays.files if name.startswith("source/")]
    for text in ("summary.md", "ensemble/README.md"):
        assert "source" not in (folder / text).read_text().replace("dataset.source", "")
    return record


def test_members_are_copies_of_the_pretrained_network(cli, here):
    run = ["strategy=auto", "budget=3", "ensemble.size=3", "hydra.run.dir=run"]
    code, _, err = cli(*ALONE, *START, *run)
    assert code == 0, err
    record = without_source(here / "run")
    assert record.ensemble["lineage"] == "copies"
    assert record.metrics["target/test/ensemble/accuracy"] is not None


def test_a_shift_of_copies_is_refused(cli, here):
    code, _, err = cli(*ALONE, *START, "strategy=shift")
    assert code == 2
    assert err.splitlines()[-1] == (
        "error: strategy='shift': needs members that differ; here all are copies of one encoder, and a shift of copies "
        "gives copies: take few, snapshots, head or auto, or give members that differ: ensemble.members=[...] or a "
        "source task"
    )
    same = "ensemble.members=[own0.safetensors,own0.safetensors]"
    code, _, err = cli(*ALONE, "strategy=turns", "strategy.donors=1", same)
    assert code == 2
    assert "a shift of copies gives copies" in err


def test_given_members_are_shifted_extended_and_predicted_with(cli, here, capsys):
    code, _, err = cli(*ALONE, "strategy=shift", GIVEN, "hydra.run.dir=run")
    assert code == 0, err
    record = without_source(here / "run")
    assert {"size": 3, "lineage": "shared"}.items() <= record.ensemble.items()
    assert record.config["ensemble"]["size"] == 3
    assert "source/validation/barrier" not in record.metrics
    save_file(below(Ensemble.load(here / "run" / "ensemble").members[1], "encoder"), here / "own3.safetensors")
    assert extend.main(["run", "ensemble.add=1"]) == 2
    assert "the run's own members were given, so the new ones must be too" in capsys.readouterr().err
    assert extend.main(["run", "ensemble.members=[own3.safetensors]"]) == 0
    assert {"size": 4, "lineage": "shared"}.items() <= without_source(here / "run" / "extended_4").ensemble.items()
    grown, before = (Ensemble.load(here / "run" / place) for place in ("extended_4/ensemble", "ensemble"))
    assert Ensemble(grown.architecture, grown.members[:3], grown.classes).fingerprint == before.fingerprint
    assert predict.main(["run", "photos", "--output", "labels.csv"]) == 0
    assert len((here / "labels.csv").read_text().splitlines()) == 161
    assert evaluate.main(["run/predictions.npz", "--json"]) == 0


def test_runs_with_and_without_a_source_are_marked_and_not_paired(cli, here, undrawn):
    pictures(here / "old", range(5))
    alone = [*ALONE, "strategy=few", "ensemble.size=2"]
    pair = [word for word in alone if word != "dataset=target"]
    assert cli(*alone, "hydra.run.dir=runs/alone")[0] == 0
    short = ["recipe.ancestor.steps=5", "recipe.source.steps=2", "dataset.source.path=old", "hydra.run.dir=runs/pair"]
    assert cli(*pair, "dataset=folders", *short)[0] == 0
    assert compare.main(["runs"]) == 0
    table = (here / "runs" / "comparison" / "table.md").read_text()
    assert "photos, no source" in table
    assert "dataset=" not in table
    assert "old -> photos" in table
    assert "difference to the baseline" not in table  # numbers of one are not set against the other
    page = (here / "runs" / "comparison" / "photos" / "index.html").read_text()
    assert "source ensemble" not in page


def test_a_source_that_is_the_target_is_said(cli, here):
    same = [word for word in ALONE if word != "dataset=target"]
    short = ["recipe.ancestor.steps=5", "recipe.source.steps=2", "dataset.source.path=photos", "ensemble.size=1"]
    code, _, err = cli(*same, "dataset=folders", "strategy=head", "dataset.source.train=20", *short)
    assert code == 0, err
    line = "the source is the target, so that nothing is transferred; leave the source out: dataset=target"
    assert err.count(line) == 1


def test_missing_paths_and_settings_of_a_source_are_one_line(cli, here):
    for words, line in (
        (["dataset=target", "strategy=few"], "dataset.target.path=None: is required: dataset.target.path=..."),
        (
            [*ALONE, "strategy=few", "ensemble=independent"],
            "ensemble.lineage='independent': must be left out:",
        ),
        (
            [*ALONE, "strategy=few", "ensemble.members=[nowhere.pt]"],
            "ensemble.members='nowhere.pt': is no file or",
        ),
    ):
        code, _, err = cli(*words)
        assert code == 2
        assert line in err.splitlines()[-1]


@pytest.mark.usefixtures("undrawn")
def test_a_sweep_repeats_what_read_other_photos_or_weights_through_links_too(cli, changed, here):
    sweep = ["-m", "+strategy=few", "seed=0", *ALONE, *START, "budget=1", "hydra.sweep.dir=s"]
    photos, fives = here / "photos", here / "fives"
    (photos / "digit 5").rename(fives)
    (photos / "digit 5").symlink_to(fives)
    photos.rename(here / "old")
    photos.symlink_to("old")
    shutil.copytree(here / "old", here / "new")
    assert cli(*sweep)[0] == 0
    first, *_, last = sorted(fives.iterdir())
    target = "dataset.target (photos)"
    for change, named in (
        (lambda: shutil.copy2(first, fives / "new.png"), target),  # with its time of modification
        (last.unlink, target),
        (lambda: photos.unlink() or photos.symlink_to("new"), target),
        ((here / "own0.safetensors").touch, "backbone.checkpoint (own0.safetensors)"),
    ):
        change()
        before = Record.load(here / "s" / "0" / "record.json")
        code, _, err = cli(*sweep)
        assert (code, err.splitlines()[1]) == (0, f"warning: 1 finished run: {named} has changed since: they run again")
        after = Record.load(here / "s" / "0" / "record.json")
        assert (before.data != after.data) == (named == target)
        assert before.inputs.keys() == after.inputs.keys() == {"dataset.target", "backbone.checkpoint"}
        assert [path.parent.name for path in (here / "s").glob("*/record*.json")] == ["0"]
        assert cli(*sweep)[2].splitlines()[1:] == ["1 of 1 done before"]

    for change, words in (
        (lambda: changed(here / "s" / "0", lambda data: data.pop("inputs")), "they do not say what they read"),
        (photos.unlink, "what they read cannot be looked at: dataset.target.path='photos'"),
    ):
        change()
        code, _, err = cli(*sweep)
        assert (code, err.splitlines()[2]) == (0, "1 of 1 done before")
        assert err.splitlines()[1].startswith(f"warning: 1 finished run: {words}")


@pytest.mark.usefixtures("undrawn")
def test_a_sweep_keeps_what_read_the_same_photos_on_another_machine(cli, here):
    sweep = ["-m", "+strategy=few", "seed=0,1", *ALONE, *START, "budget=1", "hydra.sweep.dir=s"]
    assert cli(*sweep)[0] == 0
    before = [Record.load(path) for path in sorted((here / "s").glob("*/record.json"))]
    (here / "photos").rename(here / "old")
    shutil.copytree(here / "old", here / "photos", copy_function=shutil.copyfile)  # with other times
    assert cli(*sweep)[2].splitlines()[1:] == ["2 of 2 done before"]
    after = [Record.load(path) for path in sorted((here / "s").glob("*/record.json"))]
    assert [record.reproducible() for record in before] == [record.reproducible() for record in after]
    assert len({record.inputs["dataset.target"] for record in before + after}) == 2  # told again, so not read again

    first = min((here / "photos" / "digit 5").iterdir())
    picture = np.asarray(Image.open(first)).copy()
    picture[0, 0] ^= 1
    Image.fromarray(picture).save(first)
    line = "warning: 2 finished runs: dataset.target (photos) has changed since: they run again"
    assert line in cli(*sweep)[2].splitlines()
