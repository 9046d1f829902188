"""Members over processes: the same fits, nothing lost when a worker dies, nothing left when the work is interrupted."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from fits import Curves, assert_same

from ensemble_transfer import EnsembleSettings, Fitter, Recipe, Split, train_source
from ensemble_transfer.errors import RunError, SettingError
from ensemble_transfer.tasks.mapped import stored
from ensemble_transfer.training import worker as worker_module
from ensemble_transfer.training import workers as workers_module
from ensemble_transfer.training.groups import GroupFitter
from ensemble_transfer.training.worker import opened
from ensemble_transfer.training.workers import (
    BYTES_A_WORKER,
    STARTING,
    Worker,
    _environment,
    _pool,
    _shared,
    close_workers,
    number_of_workers,
    sharing_a_device,
    start_workers,
)

RECIPE, TWO = Recipe(4), {"workers": 2}


@pytest.fixture(scope="module", autouse=True)
def _no_worker_is_left():
    yield
    close_workers()


@pytest.fixture
def train(train):
    return partial(train, range(3))


@pytest.fixture
def mapped(tmp_path, source_task):
    """The task, whose training images are mapped from a file."""
    images, labels = source_task.train.images, source_task.train.labels
    [there, _] = stored(tmp_path / "some.npy", tuple(images.shape[1:]), lambda _: [images])
    return replace(source_task, train=Split(there, labels))


def test_fits_of_workers_are_those_of_one_process_bit_for_bit(train, store, capfd, mapped):
    here, there = Curves(), Curves()
    alone = train(RECIPE, tracker=here, workers=1)
    beside = train(RECIPE, store, there, progress=True, **TWO)
    pids = [worker._process.pid for worker in _pool]
    assert len(set(pids)) == 2
    assert alone.members == beside.members
    assert_same(alone, beside)
    assert sorted(here) == sorted(there)
    shown = capfd.readouterr().err
    assert all(label in shown for label in ("full fine-tuning, member 1", "full fine-tuning, members 2-3"))
    assert not any(fitted.reused for fitted in beside.fitted)
    assert all(fitted.reused for fitted in train(RECIPE, store, **TWO).fitted)
    probes = {"recipe": Recipe(5, augment="crop", views=2), "heads": True}
    assert_same(train(workers=1, **probes), train(**TWO, **probes))
    assert_same(alone, train(RECIPE, task=mapped, **TWO))
    assert [worker._process.pid for worker in _pool] == pids  # they stay alive


def test_workers_import_while_the_ancestor_trains(backbone, source_task, recipes, settings, monkeypatch):
    close_workers()
    monkeypatch.setattr(workers_module, "usable_cores", lambda: 2)

    def compute(*_):
        raise LookupError(len(_pool))

    monkeypatch.setattr(GroupFitter, "compute", compute)
    with pytest.raises(LookupError, match=r"^2$"):  # when this process is to train the ancestor
        train_source(EnsembleSettings(2), backbone, source_task, 0, recipes, Fitter(replace(settings, workers=2)))
    close_workers()


def test_an_error_in_a_worker_is_raised_here_and_ends_the_workers(train, store):
    with pytest.raises(SettingError, match=r"^lr=1e\+30: is too high: .* member \d, at step 2 of 9"):
        train(Recipe(9, optimizer="sgd", lr=1e30), store, **TWO)
    assert _pool == []


def test_a_full_disk_is_an_error_of_this_process(train, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(workers_module, "_shared", full)
    with pytest.raises(OSError, match="No space left"):
        train(RECIPE, **TWO)
    assert _pool == []


class Killer(Curves):
    """Kills the first worker once, at a point of its curves."""

    def curve(self, phase, step, losses, also):
        if 0 in losses and not self:
            os.kill(_pool[0]._process.pid, signal.SIGKILL)
        super().curve(phase, step, losses, also)


class Stillborn(Worker):
    """The second worker dies as soon as it is started."""

    def __init__(self, place):
        super().__init__(place)
        if place == 1:
            self._process.kill()


def test_fits_of_a_dead_worker_are_tried_once_more_and_cost_no_other_fit(train, store, caplog, monkeypatch):
    monkeypatch.setattr(workers_module, "Worker", Stillborn)
    with pytest.raises(RunError) as caught:
        train(RECIPE, store, Killer(), **TWO)
    said = "was killed by signal 9; these fits are tried once more"
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert sorted(warned) == [
        f"the worker process of full fine-tuning, {who} {said}" for who in ("member 1", "members 2-3")
    ]
    assert str(caught.value).startswith(
        "the worker process of full fine-tuning, members 2-3 was killed by signal 9, twice; memory"
    )
    alone, kept = train(RECIPE, workers=1), train(RECIPE, store, workers=1)
    assert [fitted.reused for fitted in kept.fitted] == [True, False, False]
    assert_same(alone, kept)


def test_a_worker_whose_process_has_ended_does_not_even_import_torch(tmp_path):
    (tmp_path / "own").mkdir()
    program = workers_module._PROGRAM.format(parent=1, descriptor=0)
    command = [sys.executable, "-X", "importtime", "-c", program]
    done = subprocess.run(command, env=os.environ | {"TMPDIR": str(tmp_path / "own")}, capture_output=True, text=True)
    assert (done.returncode, list(tmp_path.iterdir())) == (1, [])
    assert "| torch\n" not in done.stderr


def test_an_interrupt_ends_all_workers(train, monkeypatch):
    start_workers(2)
    processes = [worker._process for worker in _pool]

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(workers_module, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(RECIPE, **TWO)
    assert _pool == []
    assert all(process.returncode == -signal.SIGKILL for process in processes)


@pytest.fixture
def choose(monkeypatch):
    """Return the number of workers for a long fit of 8 members on a machine with 4 cores, but for what is changed."""

    def number(
        asked="auto", members=8, cores=4, threads=1, free=2**40, one_of_many=False, seconds=1e6, gpus=0, alive=0
    ):
        monkeypatch.setattr(workers_module, "usable_cores", lambda: cores)
        monkeypatch.setattr(workers_module, "free_memory", lambda: free)
        monkeypatch.setattr(workers_module, "is_one_of_many", lambda: one_of_many)
        monkeypatch.setattr(workers_module, "_pool", [None] * alive)
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        spec = SimpleNamespace(seconds=seconds / members)
        device = torch.device("cuda" if gpus else "cpu")
        return number_of_workers(SimpleNamespace(workers=asked, device=device, callbacks=[]), spec, members)

    return number


@pytest.mark.parametrize(
    ("changes", "workers"),
    [
        ({}, 4),
        ({"cores": 64}, 8),
        ({"cores": 16, "threads": 4}, 4),
        ({"threads": 16}, 1),
        ({"members": 3}, 3),
        ({"free": 5 * BYTES_A_WORKER}, 2),
        ({"one_of_many": True}, 1),
        ({"seconds": STARTING}, 1),
        ({"seconds": STARTING, "alive": 4}, 4),
        ({"seconds": 2 * STARTING}, 4),
        ({"gpus": 2}, 2),
        ({"asked": 20}, 8),
        ({"asked": 3, "seconds": 0.1, "one_of_many": True}, 3),
    ],
    ids=str,
)
def test_auto_takes_as_many_as_pay(choose, changes, workers):
    assert choose(**changes) == workers


@pytest.mark.parametrize(
    ("device", "gpus", "workers", "sharing"), [("cuda", 2, 3, [2, 1, 2]), ("cuda", 8, 2, [1, 1]), ("cpu", 4, 2, [2, 2])]
)
def test_only_workers_on_one_device_share_its_memory(monkeypatch, device, gpus, workers, sharing):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert sharing_a_device(workers, torch.device(device)) == sharing


def test_mapped_images_are_shared_by_their_own_file_and_others_by_a_copy(tmp_path, source_task, mapped):
    images, labels = source_task.train.images, source_task.train.labels
    own, *_ = _shared(Split(mapped.train.images[7:20], labels[7:20]))
    every_other = _shared(Split(mapped.train.images[::2], labels[::2]))[0]
    assert torch.equal(every_other.open(), images[::2])
    offset = mapped.train.images.storage_offset() + 7 * 64
    assert (own.file, own.offset, own.shape) == (tmp_path / "some.npy", offset, (13, 1, 8, 8))
    file = _shared(Split(images, labels))[0].file
    assert file.read_bytes() == images.numpy().tobytes()
    assert file == _shared(Split(images.clone(), labels))[0].file
    close_workers()
    assert not file.exists()


def test_a_worker_keeps_few_splits_since_a_file_that_is_mapped_stays(source_task, monkeypatch):
    monkeypatch.setattr(worker_module, "_splits", {})
    place, labels, _ = _shared(source_task.train)
    for name in map(str, range(9)):
        split = opened(place, labels, name)
        assert split.fingerprint == name
        assert opened(place, labels, name) is split
    assert list(worker_module._splits) == ["5", "6", "7", "8"]


@pytest.mark.parametrize(("visible", "seen"), [(None, ["0", "1", "0"]), ("GPU-a,GPU-b", ["GPU-a", "GPU-b", "GPU-a"])])
def test_every_worker_sees_one_gpu(monkeypatch, visible, seen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [_environment(place)["CUDA_VISIBLE_DEVICES"] for place in range(3)] == seen
