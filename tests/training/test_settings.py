import math
import os
from pathlib import Path

import pytest
import torch

from ensemble_transfer.errors import SettingError
from ensemble_transfer.training import settings as settings_module
from ensemble_transfer.training.settings import FLOPS_A_THREAD, TrainerSettings, usable_cores


@pytest.mark.parametrize(
    ("setting", "value", "rule"),
    [
        ("accelerator", "tpu", "must be one of auto, cpu, gpu"),
        ("precision", "16-mixed", "must be one of 32-true, bf16-mixed"),
        ("executor", "vmap", "must be one of loop, vectorised, auto"),
        ("group_size", 0, "must be above 0, or null for all that fit"),
        ("threads", 0, "must be above 0, or null"),
        ("threads", -2, "must be above 0, or null"),
        ("checkpoint_seconds", 0.0, "must be above 0"),
        ("checkpoint_seconds", math.nan, "must be above 0"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused(setting, value, rule):
    with pytest.raises(SettingError) as caught:
        TrainerSettings(**{setting: value})
    assert str(caught.value) == f"{setting}={value!r}: {rule}"


@pytest.mark.parametrize(
    ("accelerator", "present", "device"),
    [
        ("auto", True, "cuda"),
        ("auto", False, "cpu"),
        ("cpu", True, "cpu"),
        ("cpu", False, "cpu"),
        ("gpu", True, "cuda"),
    ],
)
def test_the_device_follows_accelerator_and_machine(monkeypatch, accelerator, present, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: present)
    assert TrainerSettings(accelerator=accelerator).device == torch.device(device)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingError) as caught:
        TrainerSettings(accelerator="gpu")
    said = "accelerator='gpu': torch finds no CUDA device here; use trainer=cpu or trainer=auto"
    assert str(caught.value) == said


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Pretend to have so many cores, a quota of the container, and a number that a launcher asked for."""

    def pretend(cores, quota=None, asked=None):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
        monkeypatch.setattr(settings_module, "Path", lambda _: tmp_path / "cpu.max")
        if quota is not None:
            (tmp_path / "cpu.max").write_text(quota + "\n")
        if asked is None:
            monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        else:
            monkeypatch.setenv("OMP_NUM_THREADS", asked)

    return pretend


@pytest.mark.parametrize(
    ("cores", "quota", "asked", "usable"),
    [
        (8, None, None, 8),
        (8, "max 100000", None, 8),
        (8, "300000 100000", None, 3),
        (8, "250000 100000", None, 2),
        (8, "50000 100000", None, 1),
        (2, "800000 100000", None, 2),
        (8, None, "4", 4),
        (8, None, "16", 8),
        (8, None, "0", 8),
        (8, None, "4,2", 8),
        (8, None, "", 8),
        (8, "300000 100000", "2", 2),
        (8, "100000 100000", "2", 1),
    ],
)
def test_usable_cores_are_the_fewest_of_affinity_container_and_request(machine, cores, quota, asked, usable):
    machine(cores, quota, asked)
    assert usable_cores() == usable


def test_the_containers_quota_is_read_from_its_file(monkeypatch):
    asked = []
    monkeypatch.setattr(settings_module, "Path", lambda path: asked.append(path) or Path("/nowhere"))
    usable_cores()
    assert asked == ["/sys/fs/cgroup/cpu.max"]


@pytest.fixture
def _threads_restored():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads_restored")
@pytest.mark.parametrize(
    ("threads", "cores", "work", "used"),
    [(3, 2, 1, 3), (1, 8, 100, 1), (None, 8, 0, 1), (None, 8, 1, 1), (None, 8, 3, 3), (None, 2, 100, 2)],
)
def test_threads_are_those_asked_for_or_what_a_step_can_feed_of_the_cores(machine, threads, cores, work, used):
    machine(cores)
    assert TrainerSettings(threads=threads).use_threads(work * FLOPS_A_THREAD) == used
    assert torch.get_num_threads() == used
