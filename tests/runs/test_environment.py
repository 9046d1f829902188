"""The git commit of a record is that of the code, never of a folder that the code happens to lie in."""

import shutil
import subprocess
from pathlib import Path

import pytest

from ensemble_transfer.runs import environment


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=x", "-c", "user.email=x@x"]
    done = subprocess.run(["git", "-C", folder, *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def module(tmp_path, monkeypatch) -> Path:
    """A copy of the module inside a repository with one commit, which does not hold it."""
    git(tmp_path, "init", "-q")
    (tmp_path / "theirs").touch()
    git(tmp_path, "add", "theirs")
    git(tmp_path, "commit", "-q", "-m", "theirs")
    copy = tmp_path / "venv" / "environment.py"
    copy.parent.mkdir()
    shutil.copy(environment.__file__, copy)
    monkeypatch.setattr(environment, "__file__", str(copy))
    return copy


def test_a_package_installed_inside_another_repository_has_no_commit(module):
    assert environment._git_commit() is None


def test_a_checkout_has_its_commit_and_a_mark_where_it_was_changed(module, tmp_path):
    git(tmp_path, "add", str(module))
    git(tmp_path, "commit", "-q", "-m", "ours")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert environment._git_commit() == commit
    module.write_text("changed")
    assert environment._git_commit() == f"{commit}-dirty"
