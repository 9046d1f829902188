"""EnsembleModule and TaskDataModule under a user's own Trainer."""

import csv
import logging
from dataclasses import replace
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from fits import plain_loop
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.plugins.precision import MixedPrecision
from torch.utils.data import DataLoader, TensorDataset

from ensemble_transfer import Backbone, EnsembleModule, SettingError, TaskDataModule
from ensemble_transfer.lightning.module import member_seed
from ensemble_transfer.metrics.evaluate import evaluate
from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.seeding import derive
from ensemble_transfer.tasks.chosen import ChosenImages
from ensemble_transfer.tasks.task import Split
from ensemble_transfer.training.fit import Fitter, Start
from ensemble_transfer.training.recipe import Recipe

RECIPE = Recipe(steps=8, batch_size=25, lr=1e-2)  # two epochs of the target task

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\)"),
    pytest.mark.filterwarnings("ignore:.*have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization"),
    pytest.mark.filterwarnings("ignore:GPU available but not used"),
]


def trainer(**changes):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    usual = {"accelerator": "cpu", "enable_model_summary": False, "log_every_n_steps": 1, "max_epochs": -1}
    return pl.Trainer(**usual | quiet | changes)


def equal(one, other):
    return all(torch.equal(a[name], b[name]) for a, b in zip(one.members, other.members, strict=True) for name in a | b)


@pytest.fixture
def module(source_ensemble, target_task):
    return EnsembleModule(source_ensemble, RECIPE, classes=target_task.classes)


@pytest.mark.parametrize(
    "recipe",
    [
        RECIPE,
        replace(RECIPE, batchnorm="frozen", class_weights=[0.1, 1, 2, 3, 4]),
        replace(RECIPE, optimizer="sgd", clip=0.5, warmup=0.3, label_smoothing=0.1, augment="crop", head_lr_factor=3.0),
    ],
)
def test_members_are_those_of_the_runner_and_of_plain_pytorch_bit_for_bit(
    source_ensemble, source_task, settings, recipe
):
    module = EnsembleModule(source_ensemble, recipe, seed=5)
    trainer().fit(module, TaskDataModule(source_task, recipe, members=3, seed=5))
    starts = [Start(m, weights, member_seed(5, m)) for m, weights in enumerate(source_ensemble.members)]
    fits = Fitter(settings).fit(source_ensemble.architecture, starts, source_task, recipe, "full")
    assert equal(module.ensemble(), replace(source_ensemble, members=fits.weights))
    plain = [plain_loop(source_ensemble.architecture, start, source_task.train, recipe) for start in starts]
    assert equal(module.ensemble(), replace(source_ensemble, members=plain))
    assert not equal(module.ensemble(), source_ensemble)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_optimizer_is_the_recipes(source_ensemble, name):
    recipe = replace(RECIPE, optimizer=name, lr=0.02, head_lr_factor=3.0, weight_decay=0.3, momentum=0.7)
    optimizer = EnsembleModule(source_ensemble, recipe).configure_optimizers()["optimizer"]
    groups = {group["name"]: group for group in optimizer.param_groups}
    assert groups["encoder"]["initial_lr"] == 0.02
    assert groups["head"]["initial_lr"] == pytest.approx(0.06)
    assert len(groups["head"]["params"]) == 3 * 2
    for group in groups.values():
        assert group["weight_decay"] == 0.3
        assert name == "adamw" or (group["momentum"], group["nesterov"]) == (0.7, True)


def test_batches_of_images_on_disk_are_tensors_that_can_be_sent_to_a_device(source_ensemble, target_task):
    images = target_task.test.images
    on_disk = replace(target_task, test=Split(ChosenImages(images, torch.arange(len(images))), target_task.test.labels))
    [*batches] = TaskDataModule(on_disk, RECIPE).test_dataloader()
    assert all(type(part) is torch.Tensor for batch in batches for part in batch)
    assert torch.equal(torch.cat([of for of, _ in batches]), images)


def test_what_is_logged_is_what_the_ensemble_says(module, target_task, tmp_path):
    logger, rates = CSVLogger(tmp_path, name=""), LearningRateMonitor()
    fit = trainer(logger=logger, val_check_interval=2, callbacks=[rates])
    data = TaskDataModule(target_task, RECIPE, eval_batch_size=15)
    fit.fit(module, data)
    assert fit.global_step == RECIPE.steps  # the module ends the fit
    split = target_task.validation
    expected = evaluate(module.ensemble().predict(split.images), split.labels)
    logged = {name: float(value) for name, value in fit.callback_metrics.items()}
    for ours, name in (("loss", "nll"), ("accuracy", "accuracy")):
        for whose in ("ensemble", "member"):
            value = logged[f"validation/{whose}/{ours}"]
            assert value == pytest.approx(expected[f"{whose}/{name}"], abs=1e-4), (whose, ours)
    with (tmp_path / "version_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len([row for row in rows if row["train/ensemble/loss"]]) == RECIPE.steps
    assert len([row for row in rows if row["validation/member/accuracy"]]) == RECIPE.steps // 2
    heads = [float(row["lr-AdamW/head"]) for row in rows if row.get("lr-AdamW/head")]
    assert heads == pytest.approx([RECIPE.lr * RECIPE.rate(step) for step in range(RECIPE.steps)])
    assert (tmp_path / "version_0" / "hparams.yaml").read_text().count("backbone: resnet10t") == 1
    [tested] = fit.test(module, data, verbose=False)
    assert {name for name in tested if name.startswith("test/")} == {
        f"test/{whose}/{what}" for whose in ("member", "ensemble") for what in ("loss", "accuracy")
    }
    predicted = torch.cat(fit.predict(module, data), 1)
    assert torch.allclose(predicted, module.ensemble().predict(target_task.test.images), atol=1e-6)


def test_a_checkpoint_is_all_that_is_needed(module, source_ensemble, target_task, tmp_path):
    kept = ModelCheckpoint(tmp_path, monitor="validation/ensemble/loss", filename="best")
    fit = trainer(enable_checkpointing=True, callbacks=[kept], max_epochs=2)
    fit.fit(module, TaskDataModule(target_task, RECIPE))
    fit.save_checkpoint(tmp_path / "last.ckpt")
    torch.load(tmp_path / "last.ckpt", weights_only=True)  # plain data
    back = EnsembleModule.load_from_checkpoint(tmp_path / "last.ckpt")
    assert equal(back.ensemble(), module.ensemble())
    assert back.recipe == RECIPE
    assert back.ensemble().classes == target_task.classes
    moved = {"strategy": "EnsembleModule", "target": target_task.name}
    assert back.ensemble().history == dict(source_ensemble.history) | moved
    module.ensemble().save(tmp_path / "saved")
    assert equal(Ensemble.load(tmp_path / "saved"), back.ensemble())
    assert EnsembleModule.load_from_checkpoint(kept.best_model_path).hparams == module.hparams


@pytest.mark.parametrize("stop", [{"max_epochs": 1}, {"max_steps": 6}])
def test_a_fit_goes_on_from_a_checkpoint(source_ensemble, target_task, tmp_path, stop):
    whole, first, rest = (EnsembleModule(source_ensemble, RECIPE, target_task.classes) for _ in range(3))
    data = TaskDataModule(target_task, replace(RECIPE, augment="flip"))
    trainer().fit(whole, data)
    inside = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=3)
    fit = trainer(enable_checkpointing=True, callbacks=[inside], **stop)
    fit.fit(first, data)
    fit.save_checkpoint(tmp_path / "end.ckpt")
    assert not equal(whole.ensemble(), first.ensemble())
    for path in (tmp_path / "end.ckpt", inside.best_model_path):
        trainer().fit(rest, data, ckpt_path=path)
        assert equal(whole.ensemble(), rest.ensemble())


def test_a_fit_that_has_ended_takes_no_step_more(source_ensemble, target_task, tmp_path):
    module = EnsembleModule(source_ensemble, replace(RECIPE, schedule="constant"), target_task.classes)
    data, first = TaskDataModule(target_task, RECIPE), trainer()
    first.fit(module, data)
    first.save_checkpoint(tmp_path / "end.ckpt")
    ended, again = module.ensemble(), trainer()
    again.fit(module, data, ckpt_path=tmp_path / "end.ckpt")
    assert again.global_step == first.global_step == RECIPE.steps
    assert equal(ended, module.ensemble())


def test_16_bit_scaling_scales_and_unscales(source_ensemble, source_task):
    recipe = replace(RECIPE, steps=2, clip=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    plain, scaled = (EnsembleModule(source_ensemble, recipe) for _ in range(2))
    seen = []
    scaled.manual_backward = lambda loss: (seen.append(loss), EnsembleModule.manual_backward(scaled, loss))
    data = TaskDataModule(source_task, recipe)
    trainer().fit(plain, data)
    trainer(plugins=[MixedPrecision("16-mixed", "cpu", scaler)]).fit(scaled, data)
    assert len(seen) == 6
    assert scaler.get_scale() == 256.0  # no step was skipped
    for one, other in zip(plain.ensemble().members, scaled.ensemble().members, strict=True):
        for name, tensor in one.items():
            assert torch.allclose(tensor.float(), other[name].float(), atol=0.05), name
    assert not equal(scaled.ensemble(), source_ensemble)


@pytest.fixture
def without_batchnorm(target_task):
    """Members whose gradient is the mean of those of the parts of a batch, since no statistics tie examples."""
    backbone = Backbone("test_vit", {"patch_size": 4, "img_size": 8})
    architecture = backbone.architecture(8, 1, len(target_task.classes))
    members = tuple(architecture.initial(seed) for seed in range(2))
    return Ensemble(architecture, members, tuple(target_task.classes), "independent")


@pytest.mark.parametrize("clip", [None, 0.1])
def test_accumulated_batches_make_the_step_of_a_larger_batch(without_batchnorm, target_task, clip):
    recipe = Recipe(steps=3, lr=1e-3, clip=clip)
    data = TensorDataset(target_task.train.images, target_task.train.labels)
    whole, parts = (EnsembleModule(without_batchnorm, recipe, accumulate_grad_batches=n) for n in (1, 4))
    trainer().fit(whole, DataLoader(data, batch_size=40))
    fit = trainer()
    fit.fit(parts, DataLoader(data, batch_size=10))
    assert fit.global_step == recipe.steps  # 100 images: batches of 40, 40 and 20, in parts of 10
    for one, other in zip(whole.ensemble().members, parts.ensemble().members, strict=True):
        for name, tensor in one.items():
            assert torch.allclose(tensor, other[name], atol=1e-4), name
    assert not equal(parts.ensemble(), without_batchnorm)


def test_balanced_classes_are_counted_in_the_data_of_the_fit(module, target_task):
    recipe = replace(RECIPE, class_weights="balanced")
    labels, few = target_task.train.labels, target_task.train.take((target_task.train.labels > 0).nonzero()[:, 0])
    rare = replace(target_task, train=target_task.train.take(torch.cat([labels.argsort()[:3], few.labels.argsort()])))
    balanced = EnsembleModule(module.ensemble(), recipe)
    with pytest.raises(SettingError) as error:
        trainer().fit(balanced, DataLoader(TensorDataset(rare.train.images, rare.train.labels), batch_size=20))
    assert (error.value.setting, error.value.value) == ("class_weights", "balanced")
    trainer().fit(balanced, TaskDataModule(rare, recipe))
    counts = rare.train.labels.bincount()
    told = replace(RECIPE, class_weights=(len(rare.train) / (5 * counts.double())).tolist())
    listed = EnsembleModule(module.ensemble(), told)
    trainer().fit(listed, TaskDataModule(rare, told))
    assert equal(balanced.ensemble(), listed.ensemble())
    assert balanced.state_dict().keys() == module.state_dict().keys()  # a checkpoint holds no weights of classes


def test_parts_of_a_step_have_draws_of_their_own(source_ensemble):
    plain, parts = (EnsembleModule(source_ensemble, RECIPE, accumulate_grad_batches=n) for n in (1, 2))
    for module in (plain, parts):
        module._trainer = SimpleNamespace(global_step=3)
    assert plain.streams() == parts.streams() == [derive(member_seed(0, member), "step", 3) for member in range(3)]
    parts._summed = 1
    assert not {*parts.streams()} & {*plain.streams()}


def test_accumulation_is_kept_in_a_checkpoint_and_counted_in_steps(source_ensemble, target_task, tmp_path, caplog):
    module = EnsembleModule(source_ensemble, RECIPE, target_task.classes, accumulate_grad_batches=3)
    fit = trainer(max_epochs=2)  # of four batches: a step of three and one of one
    with caplog.at_level(logging.WARNING, "ensemble_transfer"):
        fit.fit(module, TaskDataModule(target_task, RECIPE))
    assert fit.global_step == 4
    assert "the trainer ends after 4 of the recipe's 8 steps" in caplog.text
    fit.save_checkpoint(tmp_path / "last.ckpt")
    assert EnsembleModule.load_from_checkpoint(tmp_path / "last.ckpt").accumulate_grad_batches == 3
    with pytest.raises(SettingError, match="accumulate_grad_batches=0: must be at least 1"):
        EnsembleModule(source_ensemble, RECIPE, accumulate_grad_batches=0)


def test_classes_of_another_task_get_heads_of_their_own(source_ensemble, target_task, module):
    same = EnsembleModule(source_ensemble, RECIPE, classes=source_ensemble.classes)
    assert equal(same.ensemble(), source_ensemble)
    again = EnsembleModule(source_ensemble, RECIPE, classes=target_task.classes)
    assert equal(again.ensemble(), module.ensemble())
    heads = [member["head.weight"] for member in module.ensemble().members]
    assert not torch.equal(heads[0], heads[1])
    for before, after in zip(source_ensemble.members, module.ensemble().members, strict=True):
        assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("encoder."))


def test_mistakes_are_one_line(source_ensemble, target_task):
    with pytest.raises(SettingError, match="steps=0: must be above 0"):
        EnsembleModule(source_ensemble, Recipe(0))
    with pytest.raises(SettingError, match="members=0: must be above 0"):
        TaskDataModule(target_task, RECIPE, members=0)
    module = EnsembleModule(source_ensemble, RECIPE)
    module._trainer = SimpleNamespace(world_size=2)
    with pytest.raises(SettingError, match="devices=2: must be 1"):
        module.on_fit_start()
    about = dict(EnsembleModule(source_ensemble, RECIPE).hparams["ensemble"])
    with pytest.raises(SettingError, match="more than are free"):
        EnsembleModule(about | {"members": 10**12}, RECIPE)


@pytest.mark.parametrize("change", [lambda images: images / 255, lambda images: images[..., 1:]], ids=["float", "size"])
def test_images_that_the_saved_ensemble_would_not_be_given_are_refused(module, target_task, change):
    images = change(target_task.train.images[:3])
    for use in (module, module.predict_step, lambda given: module.test_step((given, target_task.train.labels[:3]))):
        with pytest.raises(SettingError, match=r"must be uint8 of shape \(\.\.\., 1, 8, 8\)"):
            use(images)


def test_the_classes_of_another_task_are_refused(source_ensemble, target_task):
    module = EnsembleModule(source_ensemble, RECIPE)
    with pytest.raises(SettingError, match=r"classes=.*must be the module's, .*classes=task.classes"):
        trainer().fit(module, TaskDataModule(target_task, RECIPE, members=len(source_ensemble)))
