"""Jobs in processes of their own: launchers, as far as they are installed."""

import importlib.util

import pytest

from ensemble_transfer.report.record import Record

LAUNCHERS = {
    "jobs": "hydra_joblib_launcher",
    "slurm_local": "hydra_submitit_launcher",
    "ray_jobs": "hydra_ray_launcher",
}
SWEEPER = "hydra_optuna_sweeper"


def installed(plugin: str) -> bool:
    return importlib.util.find_spec(f"hydra_plugins.{plugin}") is not None


@pytest.mark.filterwarnings("ignore")  # of the launchers' own
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_concurrent_jobs_train_nothing_twice(cli, quick, tmp_path, launcher):
    if not installed(LAUNCHERS[launcher]):
        pytest.skip(f"{LAUNCHERS[launcher]} is not installed")
    code, out, err = cli("-m", f"hydra/launcher={launcher}", "strategy=full,head", *quick, "hydra.sweep.dir=s")
    assert code == 0, err
    records = [Record.load(path) for path in tmp_path.glob("s/*/record.json")]
    assert {record.strategy for record in records} == {"full", "head"}
    reused = [
        {(fit["phase"], fit["member"]) for fit in record.reused_fits if fit["phase"] in ("ancestor", "source")}
        for record in records
    ]
    assert reused[0].isdisjoint(reused[1]), "a source fit was trained by no job"
    assert len(reused[0] | reused[1]) == 3, "a source fit was trained by more than one job"
    assert "accuracy" in out


@pytest.mark.parametrize(
    ("choice", "plugin", "packages"),
    [
        (
            "hydra/launcher=ray_jobs",
            "hydra_ray_launcher",
            "hydra-ray-launcher 'ray>=2.40' 'cloudpickle<3' 'joblib<1.6'",
        ),
        ("hydra/sweeper=tune", SWEEPER, "hydra-optuna-sweeper 'SQLAlchemy<2' 'alembic<1.14'"),
    ],
)
def test_a_plugin_that_is_missing_is_named_with_the_command_that_installs_it(cli, choice, plugin, packages):
    if installed(plugin):
        pytest.skip(f"{plugin} is installed")
    code, _, err = cli("-m", choice, "+strategy=full")
    assert code == 2
    assert err.endswith(f"needs a plugin that is not installed here: pip install {packages}\n")
    assert err.count("\n") == 1
