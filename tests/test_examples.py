"""The examples run as they are, on their own small real data."""

import re
from pathlib import Path

from forks import Forks

EXAMPLES = Path(__file__).parent.parent / "examples"


def said_by(forks: Forks, example: str, tmp_path: Path) -> str:
    done = forks.run(EXAMPLES / example, cwd=tmp_path, TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_transfer_in_python(forks, tmp_path):
    said = said_by(forks, "transfer_in_python.py", tmp_path)
    source = float(re.search(r"source ensemble: accuracy (\S+)", said)[1])
    accuracies = {name: float(value) for name, value in re.findall(r"(shift|tiny): accuracy (\d\.\d+)", said)}
    answered, right = re.search(r"answered (\d+) of 500 test images, (\S+) of them right", said).groups()
    chance = 0.1
    assert source > 2 * chance
    assert accuracies["shift"] > 2 * chance
    assert 0 < accuracies["tiny"] < 1
    assert 0 < int(answered) < 500
    assert 2 * chance < float(right) <= 1
    assert re.search(r"^the first: {'label': '\d', 'probability': ", said, re.MULTILINE)
