import math

import pytest
import torch
from refusals import refusal

from ensemble_transfer import Ensemble, Recipe
from ensemble_transfer.models.architecture import Classifier
from ensemble_transfer.models.device import tf32
from ensemble_transfer.training import settings as settings_module
from ensemble_transfer.training.course import Course
from ensemble_transfer.training.settings import FLOPS_A_THREAD, TrainerSettings
from ensemble_transfer.transfer.shift.diagnostics import batch_loss


@pytest.mark.parametrize(
    ("setting", "value", "rule"),
    [
        ("accelerator", "tpu", "must be one of auto, cpu, gpu"),
        ("precision", "16-mixed", "must be one of 32-true, bf16-mixed"),
        ("executor", "vmap", "must be one of loop, vectorised, auto"),
        ("group_size", 0, "must be above 0, or null for all that fit"),
        ("threads", 0, "must be in 1..1024, or null"),
        ("workers", "many", "must be auto or in 1..1024"),
        ("checkpoint_seconds", math.nan, "must be above 0"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused(setting, value, rule):
    assert str(refusal(TrainerSettings, **{setting: value})) == f"{setting}={value!r}: {rule}"


def tf32_state():
    return torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()


@pytest.mark.parametrize(
    ("device", "asked", "state"),
    [("cuda", True, (True, "high")), ("cuda", False, (False, "highest")), ("cpu", True, (False, "highest"))],
)
def test_tf32_is_what_was_asked_for_while_settings_are_applied(monkeypatch, device, asked, state):
    monkeypatch.setattr(TrainerSettings, "device", torch.device(device))
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")  # which the user may have chosen for other work
        with TrainerSettings(tf32=asked).applied():
            assert tf32_state() == state
        assert tf32_state() == (True, "medium")
    finally:
        torch.set_float32_matmul_precision(before)


def test_fits_apply_their_settings_and_predictions_are_computed_without_tf32(
    monkeypatch, train, architecture, source_task
):
    def forward(self, images, original=Classifier.forward):
        if not images.is_meta:  # which measures memory
            seen.append(tf32_state())
        return original(self, images)

    seen, before = [], tf32_state()
    monkeypatch.setattr(Classifier, "forward", forward)
    with monkeypatch.context() as asking:
        asking.setattr(TrainerSettings, "_uses_tf32", True)
        [weights] = train([0], Recipe(1)).weights
    assert set(seen) == {(True, "high")}
    seen.clear()
    split = source_task.validation
    Ensemble(architecture, (weights,), source_task.classes).predict(split.images)
    batch_loss(architecture.classifier(weights), split.images, split.labels, torch.device("cpu"))
    assert set(seen) == {(False, "highest")}
    assert tf32_state() == before


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="torch 2.9 has these settings")
@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize(
    ("of", "value"),
    [
        (torch.backends, "tf32"),
        (torch.backends.cuda.matmul, "tf32"),
        (torch.backends.cudnn.conv, "ieee"),
        (torch.backends.mkldnn.matmul, "bf16"),
    ],
)
def test_torchs_newer_settings_of_precision_neither_stop_a_block_nor_outlast_it(of, value, asked):
    backends = torch.backends
    kinds = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, backends.mkldnn.matmul]
    at_first, own = tf32_state(), of.fp32_precision
    try:
        of.fp32_precision = value
        before = [kind.fp32_precision for kind in kinds]
        with tf32(asked):
            assert tf32_state() == ((True, "high") if asked else (False, "highest"))
            assert {kind.fp32_precision == "tf32" for kind in kinds} == {asked}
        assert [kind.fp32_precision for kind in kinds] == before
    finally:
        of.fp32_precision = own
    assert tf32_state() == at_first


def test_tf32_makes_another_key_where_it_changes_a_fit(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert TrainerSettings(tf32=True).arithmetic == "32-true+tf32"
    assert TrainerSettings().arithmetic == TrainerSettings("cpu", tf32=True).arithmetic == "32-true"


def test_the_device_follows_accelerator_and_machine(monkeypatch):
    for present, devices in ((True, {"auto": "cuda", "gpu": "cuda", "cpu": "cpu"}), (False, {"auto": "cpu"})):
        monkeypatch.setattr(torch.cuda, "is_available", lambda present=present: present)
        assert {name: TrainerSettings(name).device.type for name in devices} == devices
    said = "accelerator='gpu': torch finds no CUDA device here; use trainer=cpu or trainer=auto"
    assert str(refusal(TrainerSettings, "gpu")) == said


@pytest.fixture
def _threads_restored():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads_restored")
@pytest.mark.parametrize(
    ("threads", "cores", "work", "used"),
    [(3, 2, 1, 3), (None, 8, 0, 1), (None, 8, 3, 3), (None, 2, 100, 2)],
)
def test_threads_are_those_asked_for_or_what_a_step_can_feed_of_the_cores(monkeypatch, threads, cores, work, used):
    monkeypatch.setattr(settings_module, "usable_cores", lambda: cores)
    assert TrainerSettings(threads=threads).use_threads(work * FLOPS_A_THREAD) == used
    assert torch.get_num_threads() == used


@pytest.mark.usefixtures("_threads_restored")
@pytest.mark.parametrize(("threads", "used"), [(2, 2), (None, 3)])
def test_a_fitter_by_itself_uses_the_threads_that_were_asked_for(train, monkeypatch, threads, used):
    def begin(self, original=Course.begin):
        seen.append(torch.get_num_threads())
        original(self)

    seen = []
    monkeypatch.setattr(Course, "begin", begin)
    torch.set_num_threads(3)
    train([0], Recipe(1), threads=threads)
    assert seen == [used]
    assert torch.get_num_threads() == 3
