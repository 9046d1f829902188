"""Mistakes that are one line before anything is trained, and what becomes of output that cannot be written."""

import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from ensemble_transfer.cli import compare, export, extend, main, predict
from ensemble_transfer.report.record import Record

WRONG = {
    "budget=1e308": "budget=1e+308: must be above 0 and at most 1,000,000 fine-tunings, a time such as 10min, or null for none",
    "strategy=auto task@dataset.target=image_folder dataset.target.path=none": "budget=None: is required by auto",
    "evaluation.ood=1": "evaluation.ood=1: must be a group of settings, not a single value",
    "backbone.options.channels=[0,8,8,8]": "describes a layer without weights; widths must be above 0",
    "strategy=shift strategy=full": "strategy='shift, full': must be one; a sweep is -m strategy=shift,full",
    "backbone.checkpoint=/etc/passwd": "gives no weights for resnet10t: no .safetensors, .pt, .pth or .ckpt file that",
    "dataset=nope": "dataset='nope': must be one of ",
    "recipe.tiny.lr=abc": "recipe.tiny.lr='abc': must be a number",
    "recipe.tiny.lr=-1": "recipe.tiny.lr=-1.0: must be above 0",
    "recipe.tiny.nokey=1": "recipe.tiny.nokey: is not a setting; recipe.tiny has steps, ",
    "nokey=1": "nokey: is not a setting; the configuration has seed, ",
    "seed=0,1": "seed='0,1': several values make a sweep: add -m; an experiment that is a sweep by itself",
    "strategy.donors=9": "strategy.donors=9: must be at most ensemble.size=8",
    "strategy._target_=os.system": "strategy._target_='os.system': ",
    "trainer=gpu": "trainer.accelerator='gpu': torch finds no CUDA device here",
    "backbone.name=resnet": "backbone.name='resnet': must be an architecture that timm knows",
    "+backbone.options.foo=1": "does not fit timm's resnet10t",
    "+backbone.options.checkpoint_path=x": "is set by the framework",
    "task@dataset.target=image_folder dataset.target.path=none": "dataset.target.path='none': ",
    "dataset.target.train=90000": "dataset.target.train=90000: asks for 90000 images",
    "dataset.channels=2": "dataset.channels=2: must be 1 (gray) or 3 (RGB)",
    "store.root=/dev/null/store": "store.root='/dev/null/store': must be a folder that can be written",
    "hydra.run.dir=/dev/null/run": "/dev/null/run: cannot be written",
    "backbone.options.drop_rate=0.1": "is not there yet; add it with +backbone.options.drop_rate=...",
    "backbone=resnet18 backbone.options.depth=1": "is not there yet; add it with +backbone.options.depth=...",
    "backbone.options={depth:1}": "options: is given a setting that it does not have; a new one is added with +",
    "recipe.full={lr:0.1,foo:2}": "recipe.full: is given a setting that it does not have",
    "evaluation.ood.x=mnist_sample": "evaluation.ood.x: is not there yet; add it with +task@evaluation.ood.x=TASK",
    "ensemble.fork=0.9999": "ensemble.fork=0.9999: leaves members none of the 650 steps of recipe.ancestor",
    "oops": "missing EQUAL",
    "logger.project=Проект": "for Hydra and for the shell: 'logger.project=\"Проект\"'",
    "--config-dir": "--config-dir=None: needs a value",
    "recipe.full.steps=9999999999": "recipe.full.steps=9999999999: must be in 0..1,000,000,000",
    f"store.root={'a' * 300}": "must be a folder that can be written: File name too long",
    f"backbone.checkpoint={'a' * 300}": "cannot be looked for: File name too long",
    "trainer.channels_last=2": "trainer.channels_last=2: must be true or false",
    "ensemble.members=['']": "ensemble.members=['']: must name files or folders, none of them empty",
    "backbone.mean=.5": "backbone.mean=0.5: must be a list of numbers, such as [0.5,0.5,0.5]",
    "backbone.options.output_stride=7": "resnet10t: assert output_stride in (8, 16, 32); ",
    "dataset=null": "dataset=None: must be one of cifar10_to_cifar100, ",
    "dataset.target.seed=${sed}": "dataset.target.seed='${sed}': cannot be resolved: Interpolation ",
    "experiment=quick": "experiment: is a group without a default; add it with +experiment=...",
}
"""Overrides, of ``strategy=shift`` where they name none, with the line that they get."""


@pytest.mark.parametrize("overrides", WRONG)
def test_a_mistake_is_one_line_before_training(cli, tmp_path, overrides):
    strategy = [] if overrides.startswith("strategy=") else ["strategy=shift"]
    code, out, err = cli(*strategy, "trainer.threads=1", *overrides.split())
    [line] = [line for line in err.splitlines() if " task " not in line]
    assert (code, out) == (2, "")
    assert line.startswith("error: ")
    assert WRONG[overrides] in line
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


def test_a_place_that_cannot_be_written_is_told_before_the_work_as_it_was_given(
    finished_shift, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("link.csv").symlink_to("/proc/real.csv")
    for module in (export, predict):
        monkeypatch.setattr(module, "open_saved", None)
    monkeypatch.setattr(export, "find_spec", lambda _: True)
    run = str(finished_shift / "run")
    for module, *given, out in (
        (export, "/proc/out.onnx"),
        (predict, "x.png", "--output", "/proc/out.csv"),
        (predict, "x.png", "--output", "link.csv"),
    ):
        assert module.main([run, *given, out]) == 2
        assert capsys.readouterr().err == f"error: output='{out}': cannot be written: No such file or directory\n"


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
def test_output_that_is_full_is_one_line(forks, tmp_path):
    done = forks.start("ensemble_transfer", "--help", cwd=tmp_path, stdout=FULL).wait()
    assert done.returncode == 2
    assert done.stderr == "error: standard output cannot be written: No space left on device\n"


def test_a_summary_that_cannot_be_shown_takes_nothing_from_the_run(cli, quick, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
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


def test_a_working_directory_that_is_gone_is_one_line(tmp_path, monkeypatch, capsys):
    gone = tmp_path / "gone"
    gone.mkdir()
    with monkeypatch.context() as patch:
        patch.chdir(gone)
        patch.setattr(sys, "argv", ["ensemble_transfer", "strategy=full"])
        gone.rmdir()
        assert main.main() == 2
    assert capsys.readouterr().err == "error: the working directory cannot be used: No such file or directory\n"
