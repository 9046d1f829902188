"""A user's own groups and experiments, by ``--config-dir``, and what the experiments of conf/ sweep over."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from ensemble_transfer.report.plots.style import styles
from ensemble_transfer.report.record import Record, read_records
from ensemble_transfer.report.reference import references
from ensemble_transfer.report.rows import rows_of
from ensemble_transfer.runs.code import code_of
from ensemble_transfer.runs.presets import conf_folder

pytestmark = pytest.mark.usefixtures("undrawn")

EXPERIMENT = """# @package _global_
# Mine.
defaults:
  - override /strategy: mine
hydra:
  mode: MULTIRUN
  sweep:
    dir: multirun/by_name
  sweeper:
    params:
      seed: 0,1
"""


@pytest.fixture
def own(tmp_path):
    """A folder of configurations with a strategy and an experiment."""
    target = "_target_: ensemble_transfer.transfer.strategies.head.HeadOnly\n"
    files = {"strategy/mine": f"# Mine too.\n{target}", "experiment/exp": EXPERIMENT}
    for name, text in files.items():
        path = tmp_path / "my conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "my conf"


def test_an_experiment_names_the_strategy_and_the_folder_of_its_sweep(cli, quick, own, tmp_path):
    code, _, err = cli("+experiment=exp", *quick, "--config-dir", own.name)
    assert code == 0, err
    records = [Record.load(tmp_path / "multirun" / "by_name" / seed / "record.json") for seed in "01"]
    assert [(record.strategy, record.seed) for record in records] == [("head", 0), ("head", 1)]

    code, _, err = cli("-m", "+experiment=exp", *quick, f"--config-dir={own.name}")
    assert code == 0
    assert "2 of 2 done before" in err
    assert [path.name for path in (tmp_path / "multirun").iterdir()] == ["by_name"]


def test_the_recorded_command_repeats_a_job_with_its_folder_of_configurations(cli, quick, own, tmp_path):
    assert cli("strategy=mine", *quick, "-cd", own.name, "hydra.run.dir=run")[0] == 0
    record = Record.load(tmp_path / "run" / "record.json")
    words = shlex.split(record.command)
    assert words[:6] == ["python", "-m", "ensemble_transfer", "--config-dir", str(own), "strategy=mine"]
    assert cli(*words[3:], "hydra.run.dir=again")[0] == 0
    assert Record.load(tmp_path / "again" / "record.json").reproducible() == record.reproducible()


def test_mistakes_name_what_the_users_folder_has(cli, own):
    name = own.name
    assert "  strategy=mine          Mine too.\n" in cli("--config-dir", name)[2]
    assert "strategy='nope': must be one of auto, few, " in cli("strategy=nope", "--config-dir", name)[2]
    assert "mine, random_shift" in cli("strategy=nope", "--config-dir", name)[2]
    assert cli("strategy=mine", "strategy.x=1", "--config-dir", name)[2].endswith("strategy has _target_\n")
    assert "nowhere' not found" in cli("strategy=head", "--config-dir", "nowhere")[2]


SWEEPS = sorted(p.stem for p in (conf_folder() / "experiment").glob("*.yaml") if "strategy:" in p.read_text())


@pytest.fixture
def launched(monkeypatch):
    """The jobs that a sweep would start, as their overrides."""
    jobs = []

    class Launcher:
        def launch(self, batch, initial_job_idx):
            assert initial_job_idx == 0
            jobs.extend(batch)
            return []

    monkeypatch.setattr("hydra.core.plugins.Plugins.instantiate_launcher", lambda *_, **__: Launcher())
    for name in ("settings", "_composed_like"):
        monkeypatch.setattr(f"ensemble_transfer.cli.grid.Jobs.{name}", lambda *_: {})
    return jobs


@pytest.mark.parametrize("name", SWEEPS)
def test_a_strategy_on_the_command_line_replaces_those_of_an_experiment(cli, launched, name):
    def strategies(*given):
        launched.clear()
        assert cli(f"+experiment={name}", *given)[0] == 0
        return {word for job in launched for word in job if "strategy=" in word}

    known = {f"strategy={path.stem}" for path in (conf_folder() / "strategy").glob("*.yaml")}
    assert set() < strategies() <= known
    assert strategies("+strategy=scratch") == {"strategy=scratch"}


def test_the_experiment_of_the_documentation_sweeps(cli, launched, tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "sweeps.md").read_text()
    experiment = tmp_path / "my_conf" / "experiment" / "mine.yaml"
    experiment.parent.mkdir(parents=True)
    experiment.write_text(text.split("```yaml\n")[1].split("```")[0])
    [command] = [line for line in text.splitlines() if "--config-dir my_conf" in line]
    code, _, err = cli(*command.split()[3:])
    assert code == 0, err
    assert len(launched) == 9
    assert {word for job in launched for word in job} >= {"strategy=full", "seed=2", "+experiment=mine"}
    assert Path("multirun/mine/multirun.yaml").is_file()


STRATEGY = """
from ensemble_transfer.transfer.strategies.{module} import {name}


class Mine({name}):
    name, about, role = "mine", "Do it my way: with heads.", "rival"
"""


def test_a_strategy_is_added_by_its_file_and_its_yaml_alone(cli, quick, tmp_path, monkeypatch):
    (tmp_path / "mine_alone.py").write_text(STRATEGY.format(module="head", name="HeadOnly"))
    yaml = tmp_path / "conf" / "strategy" / "mine.yaml"
    yaml.parent.mkdir(parents=True)
    yaml.write_text("# Do it my way: with heads.\n_target_: mine_alone.Mine\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "  strategy=mine          Do it my way: with heads.\n" in cli("--config-dir", "conf")[2]

    sweep = ("-m", "strategy=head,mine", "budget=0.2", *quick, "--config-dir", "conf")
    assert cli(*sweep, "hydra.sweep.dir=sweep")[0] == 0
    records = read_records([tmp_path / "sweep"])
    folder, mine = next((folder, record) for folder, record in records.items() if record.strategy == "mine")
    assert (mine.role, mine.about) == ("rival", "Do it my way: with heads.")
    card = " ".join((folder / "ensemble" / "README.md").read_text().split())
    assert "by the strategy `mine`: do it my way: with heads." in card

    rows, _ = rows_of(records.values())
    assert [row.strategy for row in rows] == ["head", "mine"]
    head, own = (styles(rows)[row.label] for row in rows)
    assert (head.colour, head.marker) != (own.colour, own.marker)
    assert {row.strategy for row in references(rows).values()} == {"mine"}  # the rival, which the rows are held against


@pytest.mark.usefixtures("undrawn")
def test_a_sweep_repeats_what_ran_other_code_of_ones_own(cli, quick, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("from helpers import count\n" + STRATEGY.format(module="few", name="Few"))
    (tmp_path / "helpers").mkdir()
    (tmp_path / "helpers" / "__init__.py").write_text("from .counts import count\n")
    monkeypatch.syspath_prepend(tmp_path)
    own = ("strategy=few", "strategy._target_=mine.Mine", "budget=1", "seed=0,1", "hydra.sweep.dir=s")
    told = "warning: 2 finished runs: the code of strategy (mine.Mine) has changed since: they run again"
    for count, first in (("1", None), ("1", "2 of 2 done before"), ("100", told)):
        for name in ("mine", "helpers", "helpers.counts"):  # as another process would
            sys.modules.pop(name, None)
        code_of.cache_clear()
        (tmp_path / "helpers" / "counts.py").write_text(f"count = {count}\n")
        code, _, err = cli("-m", *own, *quick)
        assert code == 0
        assert first in (None, err.splitlines()[1])


def test_a_class_of_ones_own_is_found_by_the_program(forks, tmp_path):
    (tmp_path / "mine.py").write_text("from pathlib import Path\nPath('imported').touch()\n")
    project = Path(__file__).parents[2] / "pyproject.toml"
    [line] = re.findall(r'^ensemble-transfer = "(.+)"$', project.read_text(), re.MULTILINE)
    module, _, name = line.partition(":")
    script = tmp_path / "bin" / "ensemble-transfer"
    script.parent.mkdir()
    script.write_text(f"import sys\nfrom {module} import {name}\nsys.exit({name}())\n")  # as pip writes it
    done = forks.run(script, "strategy=few", "strategy._target_=mine.Few", cwd=tmp_path)
    assert "has no attribute" in done.stderr or "mine.Few" in done.stderr
    assert (tmp_path / "imported").exists()
