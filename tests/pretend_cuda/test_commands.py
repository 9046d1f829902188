"""A command of every strategy, at tiny size, with every tensor on the device where it belongs."""

import json
import sys
from pathlib import Path

import pytest
import torch
from forks import SMALL
from hydra.core.global_hydra import GlobalHydra

from ensemble_transfer.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
STRATEGIES = sorted(path.stem for path in (ROOT / "conf" / "strategy").glob("*.yaml"))
NEEDS = {"auto": ["budget=3"], "few": ["budget=2"], "turns": ["strategy.donors=1", "strategy.scales=[0.5,1]"]}
ON_GPU = ["ensemble.size=3", "trainer=gpu", "trainer.progress=false", "recipe.full.augment=crop_flip"]
QUICK = [*SMALL, *ON_GPU, "evaluation.diagnostics=true"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder, so that the strategies share a store and the source ensemble is trained once."""
    return tmp_path_factory.mktemp("commands")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_command_of_every_strategy_runs_on_the_device(strategy, folder, monkeypatch, capsys):
    run = folder / strategy
    monkeypatch.chdir(folder)
    where = [f"hydra.run.dir={run}", f"store.root={folder / 'store'}"]
    chosen = ["ensemble_transfer", f"strategy={strategy}", *QUICK, *NEEDS.get(strategy, []), *where]
    monkeypatch.setattr(sys, "argv", chosen)
    GlobalHydra.instance().clear()
    code = main()
    assert code == 0, capsys.readouterr().err
    record = json.loads((run / "record.json").read_text())
    assert (record["status"], record["strategy"]) == ("finished", strategy)
    assert record["environment"]["device"] == torch.cuda.get_device_name()
    assert 0 <= record["metrics"]["target/test/ensemble/accuracy"] <= 1
