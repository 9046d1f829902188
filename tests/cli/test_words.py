"""Lightning's words for settings are answered with what does the same here, at once."""

import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest
import pytorch_lightning as pl
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from ensemble_transfer.cli.words import VALUES, WORDS, require_ours
from ensemble_transfer.errors import SettingError
from ensemble_transfer.runs.presets import conf_folder
from ensemble_transfer.training.settings import TrainerSettings

GUIDE = Path(__file__).parents[2] / "docs" / "lightning.md"
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in GUIDE.read_text(encoding="utf-8").partition("## Lightning's words")[2].splitlines()
    if line.startswith("| `")
]
GROUPS = {path.name for path in conf_folder().iterdir()}


def test_every_argument_of_lightnings_trainer_is_ours_or_has_an_answer():
    ours = {field.name for field in fields(TrainerSettings)}
    theirs = set(inspect.signature(pl.Trainer).parameters)
    assert theirs - ours <= set(WORDS)
    assert not ours & set(WORDS)


def written(word):
    """A word of the guide as on the command line: with the value that it has there, or any."""
    name = word if "=" in word else f"{word}=3"
    return name if name.startswith(("trainer.", "strategy=")) else f"trainer.{name}"


def test_the_guide_has_every_word_with_its_answer(cli):
    said = set()
    for row in ROWS:
        words, here = re.findall(r"`([^`]+)`", row[0]), re.findall(r"`([^`]+)`", row[1])
        for word in words:
            name = written(word).partition("=")[0]
            said.add(name)
            with pytest.raises(SettingError) as error:
                require_ours([written(word)], GROUPS)
            err = str(error.value)
            assert err.startswith(f"{name}=")
            assert here or "needs nothing here" in err or "the same command" in err, word
            assert all(setting in err for setting in here), (word, err)
    assert said == {f"trainer.{word}" for word in WORDS} | set(VALUES)
    code, out, err = cli("strategy=few", "trainer.max_epochs=3")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: trainer.max_epochs='3': is Lightning's word; here it is recipe.full.steps=N")


def test_words_without_their_group_are_answered_and_our_own_are_left_alone():
    for override, line in (
        ("precision=16-mixed", "precision='16-mixed': is set as trainer.precision=..."),
        ("callbacks=[x]", "callbacks='[x]': is set as trainer.callbacks=..."),
        ("max_epochs=3", "max_epochs='3': is Lightning's word; here it is recipe.full.steps=N"),
    ):
        with pytest.raises(SettingError) as error:
            require_ours(["seed=1", override], GROUPS)
        assert line in str(error.value)
    ours = (
        "trainer.precision=bf16-mixed trainer=gpu strategy=few logger=csv recipe.full.lr=1 +seed=1 ~trainer.callbacks"
    )
    require_ours([*ours.split(), "backbone.options.lr=1", "profiler=mine"], {*GROUPS, "profiler"})


def test_the_settings_of_the_answers_are_there():
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = compose("config", overrides=["strategy=few"])
    named = {
        name for answer in WORDS.values() for name in re.findall(r"\b((?:recipe|trainer|dataset)\.[\w.]+)=", answer)
    }
    assert {"recipe.full.steps", "recipe.full.clip", "trainer.group_size", "dataset.target.train"} <= named
    for name in named:
        node, _, key = name.rpartition(".")
        assert key in OmegaConf.select(cfg, node), name
    groups = {part for answer in WORDS.values() for part in re.findall(r"((?:\w+/)?\w+=\w+)\b", answer)}
    for group, _, name in (part.partition("=") for part in groups):
        if (conf_folder() / group).is_dir():
            assert (conf_folder() / group / f"{name}.yaml").is_file(), (group, name)
