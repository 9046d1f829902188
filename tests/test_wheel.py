"""The wheel in an environment of its own: it carries the configuration and works from an empty folder."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of the programs of an environment in which the wheel is installed, beside this one's packages."""
    folder = tmp_path_factory.mktemp("wheel")
    build = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, folder], cwd=ROOT, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    fresh = folder / "fresh"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", fresh], check=True, capture_output=True)
    [packages] = fresh.glob("lib/python*/site-packages")
    (packages / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")
    options = ["--quiet", "--no-deps", "--no-index", "--ignore-installed"]
    pip = [sys.executable, "-m", "pip", "--python", fresh, "install", *options, wheel]
    subprocess.run(pip, check=True, capture_output=True)
    return fresh / "bin"


def said(command, folder, code=0):
    """Return what a command prints to standard output and error in a folder where no checkout is seen."""
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(list(map(str, command)), cwd=folder, env=outside, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


def test_it_carries_the_configuration_and_types(installed):
    [package] = installed.parent.glob("lib/python*/site-packages/ensemble_transfer")
    inside = {path.relative_to(package / "conf") for path in package.rglob("*.yaml")}
    assert inside == {path.relative_to(ROOT / "conf") for path in (ROOT / "conf").rglob("*.yaml")}
    assert (package / "py.typed").is_file()  # type checkers may read the annotations


def test_its_program_works_in_an_empty_folder(installed, tmp_path):
    program = installed / "ensemble-transfer"
    _, error = said([program, "+strategy=nope"], tmp_path, code=2)
    assert error.startswith("error: strategy='nope': must be one of auto, few, full, head, ")
    assert error.count("\n") == 1
    composed, _ = said([program, "+experiment=quick", "+strategy=zero_shot", "--cfg", "job"], tmp_path)
    assert "finish: head" in composed
    assert not list(tmp_path.iterdir())


def test_python_finds_the_package_and_its_presets(installed, tmp_path):
    code = "from ensemble_transfer.runs import presets as p; print(p.conf_folder(), p.preset('strategy', 'lp_ft'))"
    folder, settings = said([installed / "python", "-c", code], tmp_path)[0].split(maxsplit=1)
    assert Path(folder).is_relative_to(installed.parent)
    assert "'head': 'probe'" in settings
