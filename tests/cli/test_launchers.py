"""Jobs in processes of their own: launchers, as far as they are installed."""

import importlib.util
import os

import pytest
from forks import program

from ensemble_transfer.report.record import Record

LAUNCHERS = {
    "jobs": "hydra_joblib_launcher",
    "slurm": "hydra_submitit_launcher",
    "ray_jobs": "hydra_ray_launcher",
}


def installed(plugin: str) -> bool:
    return importlib.util.find_spec(f"hydra_plugins.{plugin}") is not None


SBATCH = """#!/bin/bash
# In the place of SLURM: runs the tasks of an array here, from a copy, since submitit then renames the script.
script=$(mktemp -p "$(dirname "$0")")
cp "${@: -1}" "$script"
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$script")
for task in $(seq 0 "$last"); do
    SLURM_JOB_ID=$((7 + task)) SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$task bash "$script" > /dev/null 2>&1 &
done
echo "Submitted batch job 7"
"""
SRUN = """#!/bin/bash
export SLURM_JOB_NODELIST=here SLURM_JOB_NUM_NODES=1 SLURM_NTASKS=1 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_PROCID=0
exec "$(dirname "$0")/python" "$@"
"""
SACCT = """#!/bin/bash
echo "JobID|State|NodeList"
for task in 0 1 2 3; do echo "7_$task|RUNNING|here"; done
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Give the commands of SLURM that submitit calls."""
    (tmp_path / "bin").mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    program(tmp_path / "bin" / "python")  # what srun runs
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)


@pytest.mark.filterwarnings("ignore")  # of the launchers' own
@pytest.mark.usefixtures("undrawn", "slurm")
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_concurrent_jobs_train_nothing_twice(cli, quick, tmp_path, launcher):
    if not installed(LAUNCHERS[launcher]):
        pytest.skip(f"{LAUNCHERS[launcher]} is not installed")
    code, out, err = cli("-m", f"hydra/launcher={launcher}", "strategy=full,head", *quick, "hydra.sweep.dir=s")
    assert code == 0, err
    records = [Record.load(path) for path in tmp_path.glob("s/*/record.json")]
    assert sorted(record.strategy for record in records) == ["full", "head"]
    fits = [fit for record in records for fit in record.reused_fits if fit["phase"] in ("ancestor", "source")]
    reused = [(fit["phase"], fit["member"]) for fit in fits]
    assert len(reused) == len(set(reused)) == 3, "a source fit was not trained by one job alone"
    assert "accuracy" in out
    lines = err.splitlines()
    assert lines[:2] == ["sweep of 2 jobs in s", "0 of 2 done"]
    assert lines[-1] == "2 of 2 done"


@pytest.mark.skipif(not installed("hydra_submitit_launcher"), reason="hydra_submitit_launcher is not installed")
def test_a_launcher_that_leaves_orphans_is_refused(cli, quick, tmp_path):
    code, _, err = cli("-m", "hydra/launcher=submitit_local", "strategy=head", "seed=0,1", *quick, "hydra.sweep.dir=s")
    assert (code, err) == (
        2,
        "error: hydra/launcher='submitit_local': starts all jobs at once and leaves them behind after Ctrl-C; "
        "use hydra/launcher=jobs\n",
    )
    assert not (tmp_path / "s").exists()


def test_a_plugin_that_is_missing_is_named_with_its_extra(cli):
    if installed("hydra_ray_launcher"):
        pytest.skip("hydra_ray_launcher is installed")
    code, _, err = cli("-m", "hydra/launcher=ray_jobs", "+strategy=full")
    assert code == 2
    assert err == "error: hydra/launcher='ray': needs the extra ray of this package, which is not installed here\n"
