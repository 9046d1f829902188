"""Sweeps over all combinations: composed fast, without what has finished, with one line of progress."""

import os
import time
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf
from records import a_record

from ensemble_transfer.cli.configuration import plain
from ensemble_transfer.cli.grid import Grid, Jobs, _in_place, _numbered, _require_launcher
from ensemble_transfer.cli.sweep_progress import SweepProgress
from ensemble_transfer.report.record import Record
from ensemble_transfer.runs.presets import conf_folder

NICENESS = "RAY_worker_niceness"


@pytest.fixture
def loader():
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()
    GlobalHydra.instance().clear()


def jobs_of(loader, *arguments):
    return Jobs(arguments, loader, compose("config", return_hydra_config=True))


@pytest.mark.parametrize(
    "arguments",
    [
        ["strategy=head,shift", "seed=range(3)", "recipe.full.lr=0.1,2", "recipe=pretrained,default"],
        ["strategy=shift,lp_ft", "strategy.head=probe,fresh", "seed=0,1,0", "trainer.progress=true,false"],
        ["strategy=full", "+evaluation.new=1,2", "++seed=3,4", "task@dataset.source=mnist_low,digits"],
        ["strategy=full", "recipe.full.lr=0.4,0.5", "recipe.full={lr:0.3,steps:4}", "evaluation.severities=[1],[2]"],
        ["strategy=full", "dataset=target", "dataset.target.path='a b,c',d", "ensemble.size=2,null", "budget=0.5,1"],
    ],
)
def test_jobs_are_composed_as_hydra_composes_them(loader, arguments):
    jobs = jobs_of(loader, *arguments)
    expected = [plain(compose("config", overrides=list(job))) for job in jobs.overrides]
    assert [jobs.settings(job) for job in jobs.overrides] == expected
    assert len(set(jobs.overrides)) == len(jobs.overrides) > 1


def test_each_choice_of_groups_is_composed_once(loader, monkeypatch):
    composed, load = [], type(loader).load_sweep_config
    counted = lambda self, *args: composed.append(args[1]) or load(self, *args)  # noqa: E731
    monkeypatch.setattr(type(loader), "load_sweep_config", counted)
    jobs = jobs_of(loader, "strategy=head,full", "seed=range(20)")
    assert [jobs.settings(job)["seed"] for job in jobs.overrides] == 2 * list(range(20))
    assert composed == [["strategy=head", "seed=0"], ["strategy=full", "seed=0"]]


def test_a_job_keeps_its_folder_whichever_jobs_are_left_out():
    assert _in_place(["seed=1"], "${hydra.job.num}", 7) == ["seed=1", "hydra.sweep.subdir='7'"]
    assert _in_place(["seed=1"], "${hydra.job.override_dirname}", 7) == ["seed=1"]


def test_a_job_takes_no_folder_in_which_another_has_finished(tmp_path):
    number, taken = "${hydra.job.num}", {tmp_path / name for name in "0145"}
    assert _numbered([1, 2, 4], 5, number, taken, tmp_path) == [6, 2, 7]
    assert _numbered([1, 2], 5, "${hydra.job.override_dirname}", taken, tmp_path) == [1, 2]
    assert _numbered([0, 1], 2, "0", taken, tmp_path) == [0, 1]


def test_rays_workers_run_at_normal_priority_unless_the_user_says_otherwise(monkeypatch):
    ray = OmegaConf.create({"_target_": "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher", "ray": {}})
    monkeypatch.setenv(NICENESS, "5")
    _require_launcher(ray)
    assert os.environ[NICENESS] == "5"
    monkeypatch.delenv(NICENESS)
    _require_launcher(OmegaConf.create({"_target_": "joblib"}))
    assert NICENESS not in os.environ
    _require_launcher(ray)
    assert os.environ[NICENESS] == "0"
    monkeypatch.delenv(NICENESS)


def saved(folder, status="finished"):
    a_record(status=status).save(folder)


def started(folder):
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("[]")


def test_the_line_counts_jobs_that_are_done_run_and_have_failed(tmp_path, capsys, monkeypatch):
    start = time.monotonic()
    monkeypatch.setattr("ensemble_transfer.cli.sweep_progress.time.monotonic", lambda: start)
    for place in ("7", "8"):
        started(tmp_path / place)
        saved(tmp_path / place, status="failed")  # by an earlier start of the sweep
        for path in (tmp_path / place / "record.json", tmp_path / place / ".hydra" / "overrides.yaml"):
            os.utime(path, ns=(1, 1))
    since = time.time_ns() - 10**9
    progress = SweepProgress(tmp_path, 200, [str(place) for place in range(5, 200)], since)
    progress.look()
    assert progress.line() == "5 of 200 done"
    for place in ("5", "6", "9"):
        started(tmp_path / place)
    (tmp_path / "8" / ".hydra" / "overrides.yaml").write_text("[]")
    saved(tmp_path / "5")
    saved(tmp_path / "6")
    saved(tmp_path / "7", status="failed")
    started(tmp_path / "10")
    saved(tmp_path / "10", status="interrupted")
    monkeypatch.setattr("ensemble_transfer.cli.sweep_progress.time.monotonic", lambda: start + 30)
    progress.look()
    progress.look()
    line = "7 of 200 done, 1 failed, 1 interrupted, 2 running, about 24 min left\n"  # 7.5 s a job, 191 left
    assert capsys.readouterr().err == line


def test_jobs_that_end_are_told_while_others_run(tmp_path, capsys):
    with SweepProgress(tmp_path, 2, ["0", "1"], since=time.time_ns() - 10**9):
        started(tmp_path / "0")
        saved(tmp_path / "0")
        deadline = time.monotonic() + 60
        while (said := capsys.readouterr().err) in ("", "0 of 2 done\n") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert said.splitlines()[-1].startswith("1 of 2 done, about ")
        saved_late = tmp_path / "1"
        saved_late.mkdir()
        saved(saved_late)
    assert capsys.readouterr().err == "2 of 2 done\n"


@pytest.mark.usefixtures("undrawn")
def test_a_job_that_fails_keeps_no_later_batch_from_starting(cli, quick, tmp_path):
    code, _, _ = cli("-m", "strategy=head", "seed=-1,0", "hydra.sweeper.max_batch_size=1", *quick, "hydra.sweep.dir=s")
    assert code == 1
    assert Record.load(tmp_path / "s" / "1" / "record.json").status == "finished"


def test_what_another_process_raised_is_raised_when_all_batches_have_been_launched(loader, tmp_path):
    launched = []

    def launch(jobs, initial_job_idx):
        launched.extend(jobs)
        return [JobReturn(status=JobStatus.FAILED, _return_value=RuntimeError(str(initial_job_idx)))]

    grid = Grid(max_batch_size=1)
    grid.launcher, grid.loader = SimpleNamespace(launch=launch), loader
    grid.config = compose(
        "config", overrides=["strategy=head", f"hydra.sweep.dir={tmp_path}"], return_hydra_config=True
    )
    with pytest.raises(RuntimeError, match=r"^0$"):
        grid.sweep(["strategy=head,full"])
    assert [job[0] for job in launched] == ["strategy=head", "strategy=full"]
