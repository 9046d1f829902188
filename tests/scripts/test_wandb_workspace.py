"""The workspace as code: what it holds without a key, and that it arrives at a server."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from forks import Done
from report import wandb_stub

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "evidence" / "wandb_workspace.py"


installed = pytest.mark.skipif(importlib.util.find_spec("wandb_workspaces") is None, reason="needs wandb-workspaces")


@pytest.fixture
def run(forks, tmp_path):
    own = {"WANDB_ERROR_REPORTING": "false", "WANDB_API_KEY": "", "WANDB_BASE_URL": ""}

    def run(*arguments: str, **environment: str) -> Done:
        return forks.run(SCRIPT, "--entity", "team", *arguments, cwd=tmp_path, **own | environment)

    return run


@installed
def test_a_dry_run_prints_the_panels_without_a_key(run):
    done = run("--project", "p", "--dry-run")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert (data["entity"], data["project"]) == ("team", "p")
    sections = data["spec"]["section"]["panelBankConfig"]["sections"]
    names = ["Accuracy against compute", "Diversity by strategy", "Learning curves by member", "Cost by phase"]
    assert [section["name"] for section in sections] == names
    scatter, bars, curves, cost = (section["panels"][0]["config"] for section in sections)
    assert (scatter["xAxis"], scatter["yAxis"]) == (
        "summary:cost/total/flops",
        "summary:target/test/ensemble/accuracy",
    )
    assert bars["groupBy"] == "strategy_name.value"
    assert "member_" in json.dumps(curves)
    drawn = json.dumps(cost)
    assert all(f"cost/phase/{phase}/flops" in drawn for phase in ("full", "cycle", "pilot", "choice", "tiny", "head"))


@installed
def test_a_workspace_arrives_at_the_server(run):
    server = wandb_stub.StubServer()
    try:
        done = run("--project", "p", WANDB_BASE_URL=server.url, WANDB_API_KEY=wandb_stub.KEY)
    finally:
        server.stop()
    assert done.returncode == 0, done.stderr
    (view,) = server.views
    assert "summary:cost/total/flops" in json.dumps(view)


def test_a_missing_package_is_one_line(tmp_path):
    (tmp_path / "wandb_workspaces.py").write_text("raise ImportError('no')\n")
    done = subprocess.run(
        [sys.executable, SCRIPT, "--entity=team", "--dry-run"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 2
    assert done.stderr == "error: wandb-workspaces is missing; pip install wandb-workspaces\n"
