"""Mistakes that are one line before anything is trained, and what becomes of output that cannot be written."""

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ensemble_transfer.cli import compare, export, extend, predict
from ensemble_transfer.report.record import Record

WRONG = {
    "budget=1e308": "budget=1e+308: must be above 0 and at most 1,000,000 (in fine-tunings), or null for none",
    "recipe.full.steps=9999999999": "recipe.full.steps=9999999999: must be in 0..1,000,000,000",
    "evaluation.ood=1": "evaluation.ood=1: must be a group of settings, not a single value",
    "backbone.options.stem_width=0": "describes a layer without weights; widths must be above 0",
    "backbone.options.channels=[0,8,8,8]": "describes a layer without weights; widths must be above 0",
    f"store.root={'a' * 300}": "must be a folder that can be written: File name too long",
    f"backbone.checkpoint={'a' * 300}": "cannot be looked for: File name too long",
    "hydra.run.dir=": "hydra.run.dir='': must be a folder; an empty one would be the current folder",
    "hydra.run.dir=''": "must be a folder; an empty one would be the current folder",
    "strategy=full": "strategy='shift, full': must be one; a sweep is -m strategy=shift,full",
    "trainer.channels_last=2": "trainer.channels_last=2: must be true or false",
    "store.reuse=2": "store.reuse=2: must be true or false",
    "trainer.progress=0.5": "trainer.progress=0.5: must be true or false",
    "ensemble.members=['']": "ensemble.members=['']: must name files or folders, none of them empty",
    "backbone.mean=.5": "backbone.mean=0.5: must be a list of numbers, such as [0.5,0.5,0.5]",
    "backbone.checkpoint=/etc/passwd": "gives no weights for resnet10t: no .safetensors, .pt, .pth or .ckpt file that",
}


@pytest.mark.parametrize("override", WRONG)
def test_a_mistake_is_one_line_before_training(cli, quick, tmp_path, override):
    code, _, err = cli("+strategy=shift", *quick, override)
    [line] = [line for line in err.splitlines() if " task " not in line]
    assert code == 2
    assert line.startswith("error: ")
    assert WRONG[override] in line
    assert not list(tmp_path.rglob("fits/*/*"))
    assert not list(tmp_path.rglob("traceback.txt"))


def test_a_pickle_among_the_files_of_torchvision_is_one_line(cli, quick, tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    folder = tmp_path / "data" / "MNIST" / "processed"
    folder.mkdir(parents=True)
    for name in ("training.pt", "test.pt"):
        (folder / name).write_bytes(pickle.dumps(Evil()))
    own = [f"dataset.target.root={tmp_path / 'data'}", "dataset.target.download=false"]
    code, _, err = cli("+strategy=shift", "task@dataset.target=mnist", *quick, *own)
    assert code == 2
    assert err.splitlines()[-1].startswith(f"error: dataset.target.root='{tmp_path / 'data'}': MNIST cannot be read (")
    assert not (tmp_path / "ran").exists()


def test_no_command_takes_an_empty_path(finished_shift, capsys):
    run = str(finished_shift / "run")
    lines = [[extend, run, "ensemble.add=1", "--output", ""], [extend, "", "ensemble.add=1"], [compare, ""]]
    lines += [[compare, run, "--output", ""], [predict, run, "x.png", "--output", ""], [export, run, ""]]
    for module, *arguments in lines:
        with pytest.raises(SystemExit) as stop:
            module.main(arguments)
        assert stop.value.code == 2
        assert capsys.readouterr().err.splitlines()[-1].endswith(": must not be empty")


def test_overrides_may_stand_after_an_option_of_extend(finished_shift, tmp_path, monkeypatch, capsys):
    shutil.copytree(finished_shift, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    assert extend.main(["run", "ensemble.add=1", "--output", "larger", "trainer.threads=0"]) == 2
    assert capsys.readouterr().err == "error: trainer.threads=0: must be in 1..1024, or null\n"


@pytest.mark.parametrize("module", [export, predict])
def test_a_place_that_cannot_be_written_is_told_before_the_work(module, finished_shift, monkeypatch, capsys):
    def worked(*_):
        raise AssertionError

    monkeypatch.setattr(module, "open_saved", worked)
    monkeypatch.setattr(export, "find_spec", lambda _: True)
    out, images = "/proc/out.csv", ["x.png"] if module is predict else []
    given = [str(finished_shift / "run"), *images, *(["--output", out] if module is predict else [out])]
    assert module.main(given) == 2
    assert capsys.readouterr().err == f"error: output='{out}': cannot be written: No such file or directory\n"


def test_predict_names_the_file_that_was_asked_for(finished_shift, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("link.csv").symlink_to("/proc/real.csv")
    assert predict.main([str(finished_shift / "run"), "x.png", "--output", "link.csv"]) == 2
    assert capsys.readouterr().err == "error: output='link.csv': cannot be written: No such file or directory\n"


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("command", [["ensemble_transfer", "--help"], ["ensemble_transfer.compare", "run"]])
def test_output_that_is_full_is_one_line(finished_shift, tmp_path, command):
    shutil.copytree(finished_shift / "run", tmp_path / "run")
    with FULL.open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2
    assert done.stderr == "error: standard output cannot be written: No space left on device\n"


def test_a_summary_that_cannot_be_shown_takes_nothing_from_the_run(cli, quick, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ensemble_transfer.report.summary.write", full)
    code, _, err = cli("+strategy=full", *quick, "hydra.run.dir=run")
    assert code == 2
    line = "error: the run has finished, but its summary cannot be written: No space left on device"
    assert err.splitlines()[-1] == line
    assert Record.load(tmp_path / "run" / "record.json").status == "finished"
    assert not (tmp_path / "run" / "traceback.txt").exists()


@pytest.mark.parametrize("gone", ["run", ""])
def test_a_folder_that_is_removed_meanwhile_is_named(cli, quick, tmp_path, monkeypatch, gone):
    place, save = tmp_path / gone, np.savez_compressed

    def removed(*arguments: object, **arrays: object) -> None:
        shutil.rmtree(place)
        save(*arguments, **arrays)

    monkeypatch.setattr(np, "savez_compressed", removed)
    monkeypatch.setenv("PWD", str(tmp_path))
    code, _, err = cli("+strategy=full", *quick, "hydra.run.dir=run")
    monkeypatch.undo()  # first of all, back to a working directory that exists
    assert code == 2
    line = f"error: {place} was removed while the run was going on; finished fits are kept in the store"
    assert err.splitlines()[-1] == line


def test_a_working_directory_that_is_gone_is_one_line(tmp_path):
    script = f"mkdir {tmp_path}/gone && cd {tmp_path}/gone && rmdir ../gone && {sys.executable} -m ensemble_transfer "
    done = subprocess.run(["sh", "-c", script + "strategy=full"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: the working directory cannot be used: No such file or directory\n"
