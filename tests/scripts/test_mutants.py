"""The mutants that show that tests can fail are of today's package and tests."""

from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_mutant_stands_once_in_the_package_and_names_tests_that_exist(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from mutants import mutants

    package = "".join(path.read_text() for path in sorted((ROOT / "src" / "ensemble_transfer").rglob("*.py")))
    listed = mutants()
    assert len(listed) > 100
    assert [old for _, old, _ in listed if package.count(old) != 1] == []
    assert [test for tests, _, _ in listed for test in tests.split() if not (ROOT / test).exists()] == []
