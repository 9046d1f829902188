"""What the fitter does with the remains of earlier work."""

from dataclasses import replace

import pytest
import torch

from ensemble_transfer.backbone import Backbone
from ensemble_transfer.store import Store
from ensemble_transfer.training.fit import Fitter, Start
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.training.run import CHECKPOINT


@pytest.fixture
def start(backbone):
    return Start(0, backbone.architecture(8, 1, 5).initial(1), seed=2)


def fit(fitter, start, backbone, source_task, steps=6):
    [weights] = fitter.fit(backbone.architecture(8, 1, 5), [start], source_task.train, Recipe(steps), "full").weights
    return weights


def interrupted(fitter, start, backbone, source_task, monkeypatch):
    """Stop a fit right after a checkpoint, and return the checkpoint's path."""
    settings = replace(fitter.settings, checkpoint_seconds=1e-9)

    def stop(self, _seen=[]):  # noqa: B006  # counts the calls
        _seen.append(1)
        if len(_seen) > 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as stopping:
        stopping.setattr("ensemble_transfer.training.lockstep.Lockstep.on_train_batch_start", lambda s, *_: stop(s))
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fit(replace(fitter, settings=settings), start, backbone, source_task)
    [path] = fitter.store.root.glob(f"unfinished/*/{CHECKPOINT}")
    return path


@pytest.mark.parametrize("remains", [b"garbage text here", b"", b"\x80\x04N."])
def test_a_damaged_checkpoint_starts_the_fit_again(
    settings, store, start, backbone, source_task, monkeypatch, caplog, remains
):
    fitter = Fitter(settings, store)
    interrupted(fitter, start, backbone, source_task, monkeypatch).write_bytes(remains)
    whole = fit(Fitter(settings), start, backbone, source_task)
    again = fit(fitter, start, backbone, source_task)
    assert any("is damaged" in message for message in caplog.messages)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_measuring_afresh_does_not_go_on_with_what_was_interrupted(
    settings, store, start, backbone, source_task, monkeypatch, caplog
):
    caplog.set_level("INFO")
    interrupted(Fitter(settings, store), start, backbone, source_task, monkeypatch)
    fit(Fitter(settings, Store(store.root, reuse=False)), start, backbone, source_task)
    assert not any("going on" in message for message in caplog.messages)


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "test_vit"])
def test_encoders_that_end_in_another_width_train(settings, name, source_task):
    backbone = Backbone(name)
    architecture = backbone.architecture(160 if name == "test_vit" else 32, 1, 5)
    size = architecture.image_size
    images = torch.nn.functional.interpolate(source_task.train.images[:6], size=size)
    data = type(source_task.train)(images, source_task.train.labels[:6])
    start = Start(0, architecture.initial(0), seed=0)
    fits = Fitter(settings).fit(architecture, [start], data, Recipe(1), "full")
    assert fits.weights[0]["head.weight"].shape == (5, architecture.features)
