"""Show that the tests can fail: change the source in one place after another, and run the tests that should notice.

    python scripts/mutants.py                # all mutants of tests/mutants.toml
    python scripts/mutants.py test_few lr    # of test files or texts that have one of these words

A mutant is a text that stands once in the package, and what replaces it. Exits with 1 if a mutant survives, or if its
text is no longer there. It is no part of `make test`: it takes minutes.
"""

import argparse
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
SLOW = ("torch", "pytorch_lightning", "torchmetrics.functional", "timm", "sklearn.metrics", "scipy.stats", "pytest")
SECONDS = 600
"""Time after which a mutant counts as killed: it hangs."""


def mutants() -> list[tuple[str, str, str]]:
    """Return test file, old and new text of every mutant."""
    listed = tomllib.loads((ROOT / "tests/mutants.toml").read_text(encoding="utf-8"))
    return [(tests, old, new) for tests, changes in listed.items() for old, new in changes]


def mutated(old: str, new: str, package: Path) -> str:
    """Change a copy of the package, and return where; empty if the text does not stand in it once."""
    places = [path for path in sorted(package.rglob("*.py")) if old in path.read_text(encoding="utf-8")]
    if len(places) != 1 or places[0].read_text(encoding="utf-8").count(old) != 1:
        return ""
    text = places[0].read_text(encoding="utf-8")
    places[0].write_text(text.replace(old, new), encoding="utf-8")
    return f"{places[0].relative_to(package)}:{text[: text.index(old)].count(chr(10)) + 1}"


def fails(tests: str, source: Path) -> bool:
    """Return whether tests fail with a source, in a fork of this process, which has imported what is slow."""
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        os.environ["PYTHONPATH"] = str(source)
        sys.path.insert(0, str(source))
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        try:
            arguments = ["-x", "-q", "-p", "no:cacheprovider", *(str(ROOT / test) for test in tests.split())]
            os._exit(sys.modules["pytest"].main(arguments))
        finally:
            os._exit(3)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 1, -signal.SIGALRM), f"pytest ended with {code}"  # 2 to 5 say that nothing was tested
    return code != 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for every mutant and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORD", help="default: all mutants")
    words = parser.parse_args(arguments).words
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    chosen = [mutant for mutant in mutants() if not words or any(word in " ".join(mutant) for word in words)]
    if not chosen:
        print(f"no mutant has any of these words: {' '.join(words)}")
        return 2
    list(map(importlib.import_module, SLOW))
    for tests in dict.fromkeys(tests for tests, _, _ in chosen):
        if fails(tests, ROOT / "src"):  # then a kill would show nothing
            print(f"{tests} fails without a mutant")
            return 1
    left = 0
    for tests, old, new in chosen:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(shutil.copytree(ROOT / "src", Path(folder) / "src"))
            shutil.copytree(ROOT / "conf", source / "ensemble_transfer" / "conf")  # as in a wheel: presets are needed
            place, started = mutated(old, new, source / "ensemble_transfer"), time.monotonic()
            verdict = "GONE" if not place else "killed" if fails(tests, source) else "SURVIVED"
        left += verdict != "killed"
        seconds = time.monotonic() - started
        print(f"{verdict:8} {seconds:5.0f} s  {place:40} {tests}\n    {old!r} -> {new!r}", flush=True)
    print(f"{len(chosen) - left} of {len(chosen)} mutants killed")
    return int(left > 0)


if __name__ == "__main__":
    sys.exit(main())
