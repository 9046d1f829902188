"""Callbacks from the configuration: made by Hydra for a run, and never from a record alone."""

import pytest

from ensemble_transfer.cli.extend import main

OWN = """
from pathlib import Path
from pytorch_lightning.callbacks import Callback

Path("imported").touch()


class Notes(Callback):
    def __init__(self, file):
        self.file = Path(file)

    def on_train_start(self, trainer, pl_module):
        with self.file.open("a") as file:
            file.write(f"{pl_module.recipe.steps}\\n")
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of the user's with a callback; leaves a file where it is imported."""
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / f"notes_{tmp_path.name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path / "library")
    return f"notes_{tmp_path.name}.Notes"


WRONG = {
    "[{file: x}]": "callbacks.0._target_=None: must name a class",
    "[x]": "callbacks.0='x': must be a group of settings",
    "x": "callbacks='x': must be a list",
    "[{_target_: shutil.copy, src: secret, dst: taken}]": "callbacks.0._target_='shutil.copy': ",
    "[{_target_: zipfile.ZipFile, file: taken, mode: w}]": "callbacks.0._target_='zipfile.ZipFile': must be a Lightn",
}


def test_mistakes_are_one_line_and_nothing_but_a_callback_is_called(cli, quick, tmp_path):
    (tmp_path / "secret").write_text("kept")
    for value, line in WRONG.items():
        code, _, err = cli("+strategy=full", *quick, f"trainer.callbacks={value}", "hydra.run.dir=run")
        assert code == 2
        assert f"error: trainer.{line}" in err
        assert len(err.splitlines()) == 1
    assert not (tmp_path / "taken").exists()
    assert not (tmp_path / "run" / "predictions.npz").exists()


def test_an_extension_imports_no_callback_that_a_record_names(run, changed, own, tmp_path, capsys):
    changed(run, lambda data: data["config"]["trainer"].update(callbacks=[{"_target_": own, "file": "seen"}]))
    add = ["run", "ensemble.add=1"]
    assert main(add) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: trainer.callbacks.0._target_='{own}': is no class of ensemble_transfer; a record")
    assert main([*add, "trainer.callbacks.0._target_=another.Class"]) == 2
    assert not (tmp_path / "imported").exists()
    assert main([*add, "trainer.callbacks=[]"]) == 0
    assert not (tmp_path / "imported").exists()
    assert main(["--output", "with", *add, f"trainer.callbacks.0._target_={own}"]) == 0
    assert (tmp_path / "imported").exists()
    assert "2" in (tmp_path / "seen").read_text().split()  # the tiny fine-tuning of the new member
