"""Lightning's words for settings: each is answered with what does the same here, before anything heavy is imported."""

from collections.abc import Collection, Iterable, Mapping

from ensemble_transfer.errors import SettingError

_ONE_DEVICE = (
    "trainer=gpu or trainer=cpu: a run has one device; hydra/launcher=jobs runs several at a time, "
    "hydra/launcher=slurm on a cluster"
)

_ANSWERS = {
    "max_epochs min_epochs epochs max_steps min_steps": (
        "recipe.full.steps=N, likewise recipe.tiny.steps and the others: a fit is counted in steps"
    ),
    "max_time": "budget=B, in full fine-tunings of one member",
    "gradient_clip_val": "recipe.full.clip=NORM, likewise for the other recipes",
    "gradient_clip_algorithm": "recipe.full.clip=NORM: gradients are clipped by their norm, for each member",
    "accumulate_grad_batches": (
        "recipe.full.batch_size=N; if memory is short, trainer.group_size=1 trains one member at a time"
    ),
    "fast_dev_run": "+experiment=quick, a run of seconds",
    "overfit_batches limit_train_batches": "dataset.target.train=N",
    "limit_val_batches": "dataset.target.validation=N",
    "limit_test_batches limit_predict_batches": "dataset.target.test=N",
    "val_check_interval check_val_every_n_epoch num_sanity_val_steps": (
        "nothing: a fit validates nothing on the way; the ensemble is evaluated once, at the end of a run"
    ),
    "devices num_nodes num_processes sync_batchnorm use_distributed_sampler": _ONE_DEVICE,
    "strategy": (
        "trainer.workers=auto, which splits the members over processes, on one device; strategy=... is a strategy of "
        "the transfer"
    ),
    "gpus": "trainer=gpu",
    "num_workers": "nothing: images are in memory, or mapped; trainer.workers are processes that train members",
    "logger": "logger=csv, logger=tensorboard or logger=wandb",
    "log_every_n_steps": "logger=csv, which gets about fifty points of each fit's curve",
    "enable_checkpointing": "trainer.checkpoint_seconds=S: every fit is kept in the store, and goes on there",
    "ckpt_path resume_from_checkpoint": (
        "the same command: a run, sweep or search that was stopped goes on where it stopped"
    ),
    "default_root_dir": "hydra.run.dir=FOLDER",
    "enable_progress_bar": "trainer.progress=false",
    "enable_model_summary": "'trainer.callbacks=[{_target_: pytorch_lightning.callbacks.ModelSummary}]'",
    "deterministic": "seed=N: fits are deterministic on a CPU",
    "benchmark": "nothing: shapes are constant, and torch decides",
    "inference_mode": "nothing: predictions are made without gradients",
    "detect_anomaly": "nothing: a fit stops at its first loss that is not finite, and names member and step",
    "profiler": "+experiment=debug_profile, a short run under a profiler; a record has FLOPs and seconds by phase",
    "barebones": "trainer.progress=false and logger=none",
    "plugins": "trainer.precision=bf16-mixed, the one that people ask for",
    "reload_dataloaders_every_n_epochs": "nothing: batches are drawn anew by seed and step",
    "enable_autolog_hparams": "logger=none",
    "model_registry": "logger=wandb, which keeps ensembles as artifacts",
    "auto_lr_find": "strategy=auto budget=B, which looks for the rate within the budget",
    "auto_scale_batch_size": "nothing: groups of members fit themselves into the memory",
    "lr learning_rate": "recipe.full.lr=RATE",
    "batch_size": "recipe.full.batch_size=N",
    "optimizer": "recipe.full.optimizer=adamw or sgd",
    "weight_decay": "recipe.full.weight_decay=W",
}
"""What does here what Lightning's words do: arguments of its Trainer, past ones, and a few others."""

WORDS: Mapping[str, str] = {word: answer for words, answer in _ANSWERS.items() for word in words.split()}
"""The answers by the word."""

_PRECISION = "must be one of 32-true, bf16-mixed; for "
_BF16 = _PRECISION + "16 bits take trainer.precision=bf16-mixed, whose losses need no scaling"
_FULL = _PRECISION + "32 bits take trainer.precision=32-true"
_OVER_DEVICES = "ddp ddp_spawn ddp_notebook dp fsdp deepspeed ddp_find_unused_parameters_true"

VALUES: Mapping[str, Mapping[str, str]] = {
    "trainer.precision": dict.fromkeys(("16", "16-mixed", "16-true", "bf16", "bf16-true"), _BF16)
    | dict.fromkeys(("32", "64", "64-true"), _FULL),
    "trainer.accelerator": dict.fromkeys(
        ("cuda", "mps", "tpu", "hpu"), "must be auto, cpu or gpu: trainer=gpu is CUDA's"
    ),
    "strategy": dict.fromkeys(_OVER_DEVICES.split(), f"is Lightning's way over devices; here take {_ONE_DEVICE}"),
}
"""Rules for Lightning's values of settings that are ours too."""

_MEMBERS = ("callbacks", "precision", "accelerator")
"""Settings of the trainer here too, which need its name before them."""


def require_ours(overrides: Iterable[str], groups: Collection[str]) -> None:
    """Raise a SettingError for the first override that is written in Lightning's words.

    Raises:
        SettingError: It names the setting that does the same here.
    """
    for override in overrides:
        written, given, value = override.partition("=")
        name = written.lstrip("+~")
        group, _, word = name.rpartition(".")
        if not given or (not group and word in groups):
            answer = None
        elif not group and word in _MEMBERS:
            raise SettingError(name, value, f"is set as trainer.{word}=...")
        else:
            answer = WORDS.get(word) if group in ("", "trainer") else None
        if answer is not None:
            start, _, why = answer.partition("nothing: ")
            said = f"needs nothing here: {why}" if why and not start else f"is Lightning's word; here it is {answer}"
            raise SettingError(name, value, said)
        for part in value.split(","):
            if part in VALUES.get(name, {}):
                raise SettingError(name, part, VALUES[name][part])
