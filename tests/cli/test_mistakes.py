"""Mistakes that are one line before anything is trained, and what becomes of output that cannot be written."""

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ensemble_transfer.cli import compare, export, extend, main, mistakes, predict
from ensemble_transfer.report.record import Record

FILE = f"backbone.checkpoint={'a' * 300}"
WRONG = {
    "budget=1e308": ("budget", 1e308, "at most 1,000,000"),
    "budget=abc": ("budget", "abc", "fine-tunings, or a time"),
    "strategy=auto task@dataset.target=image_folder dataset.target.path=.": ("budget", None, "is required by auto"),
    "evaluation.ood=false": ("evaluation.ood", False, "must be a group"),
    "backbone.options.channels=[0,8,8,8]": ("backbone.options", None, "widths must be above 0"),
    "backbone.options.channels=[4,8]": ("backbone.options", None, "no whole network"),
    "strategy=shift strategy=full": ("strategy", "shift, full", "-m strategy=shift,full"),
    "backbone.checkpoint=/etc/passwd": ("backbone.checkpoint", "/etc/passwd", "gives no weights"),
    "dataset=nope": ("dataset", "nope", "must be one of cifar10_to_cifar100, "),
    "dataset=null": ("dataset", None, "must be one of cifar10_to_cifar100, "),
    "recipe.tiny.lr=abc": ("recipe.tiny.lr", "abc", "must be a number"),
    "recipe.tiny.lr=-1": ("recipe.tiny.lr", -1.0, "above 0"),
    "recipe.tiny.nokey=1": ("recipe.tiny.nokey", 1, "recipe.tiny has steps, "),
    "recipe.full.lrr=1": ("recipe.full.lrr", 1, "did you mean recipe.full.lr?"),
    "recipe.full={lr:0.1,foo:2}": ("recipe.full.foo", 2, "recipe.full has steps, "),
    "nokey=1": ("nokey", 1, "the configuration has seed, "),
    "image_size=128": ("image_size", 128, "did you mean dataset.image_size"),
    "dataset.target.image_size=128": ("dataset.target.image_size", 128, "did you mean dataset.image_size"),
    "imagesize=128": ("imagesize", 128, "did you mean dataset.image_size"),
    "lr=1": ("lr", 1, "did you mean recipe.full.lr or "),
    "trainer.max_epochs=3": ("trainer.max_epochs", 3, "docs/lightning.md"),
    "seed=0,1": ("seed", "0,1", "several values make a sweep: add -m"),
    "strategy.donors=9": ("strategy.donors", 9, "at most ensemble.size=8"),
    "strategy._target_=os.system": ("strategy._target_", "os.system", "class"),
    "trainer=gpu": ("trainer.accelerator", "gpu", "no CUDA device"),
    "trainer.progress=3": ("trainer.progress", 3, "must be true or false"),
    "trainer.channels_last=2": ("trainer.channels_last", 2, "true or false"),
    "backbone=timm": ("backbone.name", None, "is required"),
    "backbone.name=resnet": ("backbone.name", "resnet", "timm knows"),
    "backbone.options.drop_rate=0.1": ("backbone.options.drop_rate", 0.1, "add it with +backbone.options.drop_rate="),
    "+backbone.options.foo=1": ("backbone.options", None, "does not fit timm's resnet10t"),
    "+backbone.options.checkpoint_path=x": ("backbone.options.checkpoint_path", "x", "set by the framework"),
    "backbone.options.output_stride=7": ("backbone.options", None, "assert output_stride in (8, 16, 32)"),
    "backbone.mean=.5": ("backbone.mean", 0.5, "list of numbers"),
    FILE: ("backbone", None, "File name too long"),
    "task@dataset.target=image_folder dataset.target.path=none": ("dataset.target.path", "none", "exists"),
    "dataset.target.train=90000": ("dataset.target.train", 90000, "asks for 90000 images"),
    "dataset.target.seed=${sed}": ("dataset.target.seed", "${sed}", "cannot be resolved"),
    "dataset.channels=2": ("dataset.channels", 2, "must be 1 (gray) or 3 (RGB)"),
    "store.root=/dev/null/store": ("store.root", "/dev/null/store", "can be written"),
    "evaluation.ood.x=mnist_sample": ("evaluation.ood.x", "mnist_sample", "add it with +task@evaluation.ood.x=TASK"),
    "ensemble.fork=0.9999": ("ensemble.fork", 0.9999, "650 steps"),
    "ensemble.members=['']": ("ensemble.members", [""], "none of them empty"),
    "experiment=quick": ("experiment", "quick", "add it with +experiment="),
    "+seed=1": ("seed", 1, "change it with seed="),
    "~recipe.full": ("~recipe.full", None, "its record lacks"),
    "oops": ("argument", "oops", "name=value"),
    "logger.project=Проект": ("logger.project", "Проект", "'logger.project=\"Проект\"'"),
    "--config-dir": ("--config-dir", None, "needs a value"),
    "-m seed=range(0)": ("seed", "range(0)", "no value"),
    "-m seed=range(2,1)": ("seed", "range(2,1)", "no value"),
    "-m seed=range(0,2,0)": ("seed", "range(0,2,0)", "zero"),
    "-m seed=glob(*)": ("seed", "glob(*)", "no value"),
    "-m strategy=glob(zz*)": ("strategy", "glob(zz*)", "no value"),
    "-m seed=interval(0,1)": ("seed", "interval(0,1)", "hydra/sweeper=tune"),
    "-m seed=0,1 hydra.sweeper.max_batch_size=-1": ("hydra.sweeper.max_batch_size", -1, "1 or more"),
    "-m hydra.sweeper.params=3": ("hydra.sweeper.params", "3", "-m NAME=VALUE,VALUE"),
    "-m +hydra.sweeper.params={seed:[1,2]}": ("hydra.sweeper.params", "{seed:[1,2]}", "-m NAME=VALUE,VALUE"),
    "-m hydra/launcher=slurm seed=0,1": ("hydra/launcher", "slurm", "needs SLURM"),
}
"""Overrides, of ``strategy=shift`` where they name none, with the setting, the value and words of the rule."""


@pytest.fixture
def told(cli, monkeypatch):
    """Run the command line; return the error that it tells."""
    errors = []

    def found(*given):
        errors.append(mistakes.mistake(*given))
        return errors[-1]

    def run(*arguments):
        code, out, err = cli(*arguments)
        [line] = [line for line in err.splitlines() if " task " not in line]
        assert (code, out, line.startswith("error: ")) == (2, "", True)
        assert line.removeprefix("error: ") == str(errors[-1])
        return errors[-1]

    monkeypatch.setattr(main, "mistake", found)
    return run


@pytest.mark.parametrize("overrides", WRONG)
def test_a_mistake_is_one_line_before_training(told, tmp_path, monkeypatch, overrides):
    monkeypatch.setenv("PATH", "")
    setting, value, rule = WRONG[overrides]
    strategy = [] if "strategy=" in overrides else ["strategy=shift"]
    error = told(*strategy, "trainer.threads=1", *overrides.split())
    assert error.setting == setting
    assert value is None or error.value == value
    assert rule in error.rule
    assert not list(tmp_path.rglob("fits/*/*"))
    assert not list(tmp_path.rglob("traceback.txt"))


def test_what_hydra_alone_can_say_is_its_first_line(told):
    assert str(told("strategy=head", "hydra.sweeper.max_batch_size=abc", "-m")).startswith(
        "hydra.sweeper.max_batch_size: "
    )
    assert "nowhere' not found" in str(told("strategy=head", "--config-dir", "nowhere"))


EARLY = """
import sys
from ensemble_transfer.cli.main import main
for line in sys.argv[1].splitlines():
    sys.argv[1:] = ["strategy=few", *line.split(), "hydra.run.dir=run"]
    assert main() == 2
heavy = {"torch", "pandas", "PIL", "timm", "pytorch_lightning", "torchmetrics", "matplotlib"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""


def test_what_needs_no_torch_is_told_before_torch_is_imported(tmp_path):
    lines = ["evaluation.ood=false", "budget=abc", "budget=0", "seed=-1", "seed=x", "image_size=8", "dataset=nope"]
    lines += ["recipe.full.lr=x", "recipe.tiny.lr=-1", "recipe.full.augment=blur", "recipe.statistics=1"]
    lines += ["trainer.progress=1", "trainer.threads=0", "trainer.precision=16", "logger.kind=paper", "store.root=''"]
    lines += ["ensemble.size=0", "ensemble.lineage=none", "ensemble.fork=1", "evaluation.keep=all"]
    lines += ["evaluation.severities=[6]", "dataset.channels=2", "dataset.image_size=7", "-m seed=range(0)"]
    lines += [f"dataset=target dataset.target.path={path}" for path in ("none", "a" * 300, "'~nobody-of-that-name/x'")]
    done = subprocess.run([sys.executable, "-c", EARLY, "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("error: ") == len(lines)


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
