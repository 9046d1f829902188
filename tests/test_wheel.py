"""The wheel carries the configuration and works from any folder, without the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_wheel_carries_conf_and_runs_elsewhere(tmp_path):
    build = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, tmp_path], cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "installed")
    inside = {path.relative_to(tmp_path / "installed/ensemble_transfer/conf") for path in tmp_path.rglob("*.yaml")}
    assert inside == {path.relative_to(ROOT / "conf") for path in (ROOT / "conf").rglob("*.yaml")}
    assert (tmp_path / "installed/ensemble_transfer/py.typed").is_file()  # type checkers may read the annotations
    done = subprocess.run(
        [sys.executable, "-m", "ensemble_transfer", "+strategy=nope"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: strategy='nope': must be one of auto, few, full, head, ")
    assert done.stderr.count("\n") == 1
    where = "import ensemble_transfer.cli.main as m; print(m.conf_folder())"
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "installed")}
    found = subprocess.run([sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert found.stdout.strip() == str(tmp_path / "installed/ensemble_transfer/conf")
