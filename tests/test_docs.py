"""What README, docs and conf tell people to type is there: commands compose or parse, paths exist, snippets run."""

import argparse
import ast
import re
import runpy
import shlex
import sys
import tomllib
import types
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from functools import cache
from importlib import import_module
from itertools import zip_longest
from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from page import blocks

from ensemble_transfer import EnsembleSettings, Shift, train_source, transfer_ensemble
from ensemble_transfer.cli.main import COMMANDS
from ensemble_transfer.metrics.evaluate import evaluate
from ensemble_transfer.runs import estimator
from ensemble_transfer.runs.evaluation import SOUP
from ensemble_transfer.runs.presets import conf_folder, preset_names
from ensemble_transfer.runs.settings import preset_object
from ensemble_transfer.weights import fingerprint

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
SCRIPTS = sorted((ROOT / "scripts").rglob("*.py"))
SOURCES = [*PAGES, *sorted(conf_folder().rglob("*.yaml")), *SCRIPTS]
PROGRAMS = ("python -m ensemble_transfer", "python scripts/", "ensemble-transfer ", "make ", "pip install ", "tar xJf ")
OPTIONS_WITH_VALUE = ("--config-dir", "-cd", "--cfg", "-c")
PLUGINS = ("hydra/launcher", "hydra/sweeper")


def commands(path: Path) -> Iterator[str]:
    """Yield the commands of a page: lines of code blocks and code in the text; in a YAML's comments, a docstring."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        text = ast.get_docstring(ast.parse(text)) or ""
    if path.suffix == ".yaml":
        text = "\n".join(line.removeprefix("#") for line in text.splitlines() if line.startswith("#"))
    text = re.sub(r" *\\\n +", " ", text)
    blocks = [line.strip().removeprefix("$ ") for line in text.splitlines() if line.startswith("   ")]
    for line in [*blocks, *re.findall(r"`([^`\n]+)`", text)]:
        for part in line.split("; "):
            command = re.sub(r"^(\.venv/bin/)?", "", part)
            if command.startswith(PROGRAMS):
                yield command


ALL = sorted({(command, path) for path in SOURCES for command in commands(path)})


def told(start: str) -> list[str]:
    """Return the commands that start like this, each once."""
    return sorted({command for command, _ in ALL if command.startswith(start)})


def words(command: str) -> list[str]:
    return shlex.split(command, comments=True)


def jobs(overrides: Sequence[str]) -> list[list[str]]:
    """Return overrides without sweeps: a job for each choice of a swept group, and the first value of other sweeps."""
    choices = []
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        name, line = override.input_line.partition("=")[0], override.input_line
        values = list(override.sweep_string_iterator()) if override.is_sweep_override() else None
        given = [line] if values is None else [f"{name}={value}" for value in values]
        choices.append(given if (conf_folder() / name.lstrip("+")).is_dir() else given[:1])
    return [[a or b[0] for a, b in zip(job, choices, strict=True)] for job in zip_longest(*choices)]


@pytest.fixture(scope="module")
def own_conf(tmp_path_factory):
    """A folder with the files that pages tell people to write into ``my_conf``."""
    folder = tmp_path_factory.mktemp("my_conf")
    for page in PAGES:
        for name, text in re.findall(r"`my_conf/([\w/]+\.yaml)`[^`]*```yaml\n(.*?)```", page.read_text(), re.DOTALL):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def composed(own_conf):
    """Compose overrides as the command line does."""

    @cache
    def once(*overrides):
        return compose("config", overrides=[*overrides, f"hydra.searchpath=[file://{own_conf}]"])

    def run(overrides):
        given = [re.sub(r"^\+{1,2}strategy=", "strategy=", override) for override in overrides]
        return once(*given, *["strategy=shift"] * (not any(word.startswith("strategy=") for word in given)))

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        yield run
    GlobalHydra.instance().clear()


DOOR = ("python -m ensemble_transfer ", "ensemble-transfer ")
TOLD = {command.removeprefix(door) for door in DOOR for command in told(door)} - {"[COMMAND]"}
OTHERS = {command for command in TOLD if command.partition(" ")[0] in (*COMMANDS, "NAME")}


@pytest.mark.parametrize("command", sorted(TOLD - OTHERS))
def test_a_command_of_the_main_program_composes(composed, command):
    arguments = words(command)
    overrides, before = [], ""
    for argument in arguments:
        if not argument.startswith("-") and before not in OPTIONS_WITH_VALUE:
            overrides.append(argument)
        before = argument
    plugins = [o for o in overrides if o.startswith(PLUGINS)]
    for plugin in plugins:  # tests/cli/test_launchers.py composes those whose plugins are installed
        assert (conf_folder() / f"{plugin.replace('=', '/')}.yaml").is_file(), plugin
    rest = [o for o in overrides if not o.lstrip("+").startswith((*PLUGINS, "hydra.launcher.", "hydra.sweeper."))]
    for job in jobs(rest):
        composed(job)


def test_a_wrong_command_would_be_found(composed):
    for wrong in (["+strategy=shfit"], ["strategy=shift", "ensemble.sise=3"], ["+experiment=studies"]):
        with pytest.raises(HydraException):
            composed(wrong)
    with pytest.raises(SystemExit):
        parsed(["--baselines", "full", "x"], "compare")


class ParsedError(Exception):
    """Raised in the place of what a command does after it has parsed its arguments."""


def parsed(arguments, name="", script=None):
    """Let a command's or script's own parser parse arguments, and do nothing more."""

    def stopping(parse):
        def stop(self, args=None, namespace=None):
            parse(self, args, namespace)
            raise ParsedError

        return stop

    with pytest.MonkeyPatch.context() as patch:
        for parse in ("parse_args", "parse_intermixed_args"):
            patch.setattr(argparse.ArgumentParser, parse, stopping(getattr(argparse.ArgumentParser, parse)))
        patch.setattr(sys, "argv", [str(script), *arguments])
        if script is None:
            import_module(f"ensemble_transfer.cli.{name}").main(arguments)
        else:
            patch.syspath_prepend(str(script.parent))
            runpy.run_path(str(script), run_name="__main__")


@pytest.mark.parametrize("command", sorted(OTHERS))
def test_a_command_of_another_name_parses(command):
    name, *arguments = words(command)
    if arguments and "--help" not in arguments:
        with pytest.raises(ParsedError):
            parsed(arguments, name)


@pytest.mark.parametrize("command", told("python scripts/"))
def test_a_command_of_a_script_parses(command):
    script, *arguments = words(command)[1:]
    assert (ROOT / script).is_file()
    if "--help" not in arguments:
        with pytest.raises(ParsedError):
            parsed(arguments, script=ROOT / script)


def test_targets_of_make_extras_of_pip_and_files_of_tar_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in told("make "):
        assert words(command)[1] in targets, command
    for command in told("pip install "):
        for extra in re.findall(r"\[([\w,]+)\]", command):
            assert set(extra.split(",")) <= set(project["optional-dependencies"]), command
    for command in told("tar "):
        assert (ROOT / words(command)[2]).is_file()
    assert told("make test")
    assert told("make setup")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_snippets_of_a_page_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert re.match(r"https?://", link) or (page.parent / link).exists(), link
    assert "--8 <" not in text  # ruff format does this to a snippet's marker
    for included in re.findall(r"--8<--\s*\"([^\"]+)\"", text):
        assert (ROOT / included).is_file(), included
    if page.name == "CHANGELOG.md":  # which names what was
        return
    for place in re.findall(r"`((?:benchmarks|conf|scripts|tests|examples|docs)/[\w/.]+)`", text):
        assert (ROOT / place).exists(), place


@pytest.mark.parametrize("group", ["dataset", "experiment"])
def test_the_guide_to_running_names_every_choice(group):
    text = (ROOT / "docs" / "running.md").read_text(encoding="utf-8")
    choices = {path.stem for path in (conf_folder() / group).glob("*.yaml")}
    assert not {name for name in choices if not re.search(rf"`(\+?{group}=)?{name}`", text)}


def test_the_pages_that_are_built_list_every_strategy_and_its_class():
    hook = runpy.run_path(str(ROOT / "scripts" / "docs" / "strategies.py"))["on_page_markdown"]
    running, api = (hook((ROOT / "docs" / page).read_text()) for page in ("running.md", "api/strategies.md"))
    for name in preset_names("strategy"):
        strategy = preset_object("strategy", name)
        assert f"| `{name}` | {strategy.about} |\n" in running
        assert api.count(f"::: {type(strategy).__module__}.{type(strategy).__qualname__}\n") == 1


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_python_of_a_page_compiles_and_imports_what_there_is(page):
    for block in blocks(page):
        if "--8<--" in block:
            continue
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ensemble_transfer"):
                module = import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


def test_the_python_of_the_readme_runs(monkeypatch, recipes):
    [block] = blocks(ROOT / "README.md")
    made, quick = estimator.preset_object, replace(recipes, full=replace(recipes.full, steps=60))
    monkeypatch.setattr(estimator, "preset_object", lambda *named: quick if named[0] == "recipe" else made(*named))
    namespace = {}
    exec(block.replace("image_size=16", "image_size=8").replace("size=4)", "size=2, progress=False)"), namespace)
    assert 0 <= namespace["model"].score(namespace["target"].test.images, namespace["target"].test.labels) <= 1
    assert namespace["model"].cost_["total"]["fine_tunings"] <= 1.05


def test_the_strategy_of_the_guide_runs_within_a_budget(monkeypatch, source_ensemble, target_task, recipes, fitter):
    guide = types.ModuleType("my_package")
    monkeypatch.setitem(sys.modules, "my_package", guide)
    page = ROOT / "docs" / "own_strategy.md"
    for block in blocks(page):
        exec(block, guide.__dict__)
    strategy = guide.FirstSteps(steps=2)
    result = transfer_ensemble(strategy, source_ensemble, target_task, 0, recipes, fitter)
    assert len(result.ensemble) == 3
    assert result.ledger.total().steps == 6
    within = transfer_ensemble(strategy, source_ensemble, target_task, 0, recipes, fitter, budget=1.0)
    assert within.ledger.total().steps == 12  # one fine-tuning, in three equal parts
    [options] = [yaml.safe_load(text) for text in blocks(page, "yaml")]
    assert options.pop("_target_") == "my_package.FirstSteps"
    assert set(options) == {field.name for field in fields(guide.FirstSteps)}


def test_the_snippet_of_the_guide_to_more_members_adds_one(
    source_ensemble, source_task, target_task, backbone, recipes, fitter
):
    larger, _ = train_source(EnsembleSettings(4), backbone, source_task, 0, recipes, fitter)
    result = transfer_ensemble(Shift(), source_ensemble, target_task, 0, recipes, fitter)
    names = {"larger_source": larger, "target": target_task, "moved": result.ensemble, "shift": result.shift}
    [code] = blocks(ROOT / "docs" / "extend.md")
    exec(code, names)
    members = names["larger"].members
    assert [fingerprint(member) for member in members[:3]] == [fingerprint(m) for m in result.ensemble.members]
    assert len(members) == 4


def test_the_page_of_metrics_names_every_metric_and_no_other():
    members = torch.full((2, 4, 2), 0.5)
    found = evaluate(members, [0, 1, 0, 1], ood={"NAME": members}, corruptions={("NAME", 1): members})
    keys = {re.sub(r"(ood/NAME|corruption/\w+)/\w+/", r"\1/*/", key).replace("mean/*", "NAME/*") for key in found}
    keys |= {f"soup/{metric.__name__}" for metric in SOUP}
    page = (ROOT / "docs" / "metrics.md").read_text()
    rows = "".join(line.split(" | ")[0] for line in page.splitlines() if line.startswith("| `"))
    assert {re.sub("SCORE|SEVERITY", "*", key) for key in re.findall("`(.*?)`", rows)} == keys
