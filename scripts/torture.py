"""Torture the package: kill runs, damage files, mistype settings; print what was tried and what failed.

    python scripts/torture.py --kills 50 --flips 200 --inputs 300

Everything happens in a fresh folder with small settings, and a seed repeats it. A kill must not change the final
record. A damaged file must be refused or computed again, or change nothing. A bad input must be one line. The exit code
is 1 if anything failed.
"""

import argparse
import contextlib
import hashlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SMALL = [
    "ensemble.size=2",
    "backbone.options.channels=[4,8,8,8]",
    "backbone.options.stem_width=4",
    "dataset.image_size=8",
    "dataset.target.train=60",
    "dataset.target.validation=40",
    "dataset.target.test=50",
    "recipe.ancestor.steps=60",
    "recipe.source.steps=20",
    "recipe.full.steps=20",
    "recipe.tiny.steps=5",
    "recipe.probe.steps=5",
    "trainer.threads=1",
    "trainer.progress=false",
    "trainer.checkpoint_seconds=0.02",
]
COMMAND = [sys.executable, "-m", "ensemble_transfer", "+strategy=shift", *SMALL, "hydra.run.dir=run"]
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
VALUES = ["[1]", "{a:1}", "null", "-1", "nan", "inf", "-inf", "abc", "1e400", "1e14", "true", "", "0", "1.5", '""']
VALUES += ["${nope}", "${seed}", "${oc.env:NOPE}", "Кот", "it's", "[", "}", "a,b", "..", "/dev/null", "'\x00'"]
VALUES += ["9" * 40]


@dataclass
class Line:
    """A line of the table: what was tried, how often, and what failed.

    Attributes:
        name: What was done.
        tried: How often.
        failures: A text for each failure.
    """

    name: str
    tried: int = 0
    failures: list[str] = field(default_factory=list)

    def note(self, failure: str | None) -> None:
        """Count a trial, and keep what failed."""
        self.tried += 1
        if failure is not None:
            self.failures.append(failure)


def run_to_the_end(folder: Path) -> tuple[int, str]:
    """Run the small job in a folder and return its exit code and what it wrote to standard error."""
    done = subprocess.run(COMMAND, cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stderr


def result(folder: Path) -> Any:  # noqa: ANN401
    """Return what must be the same whatever happened to the run in a folder."""
    from ensemble_transfer.report.record import Record

    return Record.load(folder / "run" / "record.json").reproducible()


def kill(whole: Path, work: Path, seconds: float, rng: random.Random) -> str | None:
    """Start the job in an empty folder, stop it at random moments, let it end; return what differs from a whole one.

    Args:
        whole: Folder of the job that nobody stopped.
        work: An empty folder.
        seconds: How long a whole job takes.
        rng: Randomness.
    """
    for _ in range(rng.randint(1, 3)):
        number, moment = rng.choice(SIGNALS), rng.uniform(0, seconds)
        process = subprocess.Popen(COMMAND, cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment)
        process.send_signal(number)
        err = process.communicate()[1]
        allowed = {0, -number, 128 + number}
        if process.returncode not in allowed or "Traceback" in err:
            return f"{number.name} after {moment:.2f} s: exit code {process.returncode}: {err[-300:]}"
    code, err = run_to_the_end(work)
    if code != 0:
        return f"the job did not go on: {err[-300:]}"
    return None if result(work) == result(whole) else "the record differs from that of a job that nobody stopped"


def damage(path: Path, rng: random.Random) -> str:
    """Flip a bit of a file, or cut it off, and return what was done."""
    data = bytearray(path.read_bytes())
    place = rng.randrange(len(data))
    if rng.random() < 0.2:
        path.write_bytes(data[:place])
        return f"cut off at {place}"
    bit = rng.randrange(8)
    data[place] ^= 1 << bit
    path.write_bytes(data)
    return f"bit {bit} of byte {place} flipped"


def readers() -> dict[str, tuple[str, Callable[[Path], object]]]:
    """Return, for each kind of file, a pattern that finds it and a function that reads it and returns its content."""
    from ensemble_transfer.inference.saved import open_saved
    from ensemble_transfer.metrics.archive import read_predictions
    from ensemble_transfer.models.ensemble import Ensemble
    from ensemble_transfer.report.record import Record
    from ensemble_transfer.training.store import Store
    from ensemble_transfer.transfer.shift.vector import ShiftVector
    from ensemble_transfer.weights import fingerprint

    def fit(path: Path) -> object:
        fitted = Store(path.parents[2]).get(path.stem)
        return None if fitted is None else fingerprint(fitted.weights)

    def shift(path: Path) -> object:
        vector = ShiftVector.load(path)
        return fingerprint(vector.vector), dict(vector.scales), dict(vector.provenance)

    def calibration(path: Path) -> object:
        found = open_saved(path.parents[1]).calibration
        return found and (found.temperature, found.confidence.tolist(), found.correct.tolist())

    def predictions(path: Path) -> object:
        return hashed(read_predictions(str(path))[0])

    return {
        "fits of the store": ("store/fits/*/*.safetensors", fit),
        "source ensembles": ("store/ensembles/*/member_*.safetensors", lambda p: Ensemble.load(p.parent).fingerprint),
        "members": ("run/ensemble/member_*.safetensors", lambda p: Ensemble.load(p.parent).fingerprint),
        "descriptions": ("run/ensemble/ensemble.json", lambda p: Ensemble.load(p.parent).fingerprint),
        "calibrations": ("run/ensemble/calibration.safetensors", calibration),
        "shift vectors": ("run/shift.safetensors", shift),
        "predictions": ("run/predictions.npz", predictions),
        "records (no checksum)": ("run/record.json", lambda p: type(Record.load(p))),
    }


def hashed(data: Any) -> object:  # noqa: ANN401
    """Return nested data with a hash for each array."""
    if isinstance(data, Mapping):
        return {str(name): hashed(value) for name, value in data.items()}
    if isinstance(data, tuple):
        return [hashed(value) for value in data]
    return data if data is None else hashlib.sha256(data.tobytes()).hexdigest()


def flip(whole: Path, pattern: str, read: Callable[[Path], object], rng: random.Random) -> str | None:
    """Damage one file of a kind, read it, and put it back; return what went wrong."""
    path = rng.choice(sorted(whole.glob(pattern)))
    kept, before = path.read_bytes(), read(path)
    done = damage(path, rng)
    try:
        after = read(path)
    except ValueError:
        return None  # refused, as it should be
    except Exception as error:  # noqa: BLE001  # any other error is what we look for
        return f"{path.name}, {done}: {type(error).__name__}: {error}"
    finally:
        path.write_bytes(kept)
    return None if after in (before, None) else f"{path.name}, {done}: accepted with another content"


def mistype(setting: str, value: str, folder: Path) -> str | None:
    """Give a value to a setting, without training anything; return what is not as a user should see it."""
    from unittest import mock

    from ensemble_transfer.cli import job, main
    from ensemble_transfer.errors import SettingError

    accepted = SettingError("input", value, "accepted")
    err, argv = io.StringIO(), ["ensemble_transfer", "+strategy=shift", *SMALL, f"{setting}={value}"]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", argv),
        mock.patch.object(job, "run", side_effect=accepted),
    ):
        try:
            code = main.main()
        except BaseException as error:  # noqa: BLE001  # whatever escapes is a failure
            return f"{setting}={value}: {type(error).__name__}: {error}"
    lines = err.getvalue().splitlines()
    said = " ".join(lines)
    if code == 2 and len(lines) == 1 and said.startswith("error: ") and "the run failed with" not in said:
        return None
    return f"{setting}={value}: exit code {code}, {len(lines)} lines: {said[:200]}"


def settings() -> list[str]:
    """Return the names of all settings."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from ensemble_transfer.cli.main import conf_folder
    from ensemble_transfer.report.settings import flat

    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = OmegaConf.to_container(compose("config", overrides=["strategy=shift"]))
    return [name for name, _ in flat(config)]


def tortured(folder: Path, kills: int, flips: int, inputs: int, rng: random.Random) -> Iterator[Line]:
    """Try everything in a fresh folder, and yield the lines of the table as they are done."""
    whole = folder / "whole"
    whole.mkdir()
    started = time.monotonic()
    code, err = run_to_the_end(whole)
    if code != 0:
        raise RuntimeError(f"the job fails by itself: {err}")
    seconds = time.monotonic() - started
    line = Line("kills")
    for index in range(kills):
        work = folder / f"kill_{index}"
        work.mkdir()
        line.note(kill(whole, work, seconds, rng))
        shutil.rmtree(work)
    yield line
    for name, (pattern, read) in readers().items():
        line = Line(f"damaged {name}")
        for _ in range(flips):
            line.note(flip(whole, pattern, read, rng))
        yield line
    names, line = settings(), Line("bad inputs")
    for _ in range(inputs):
        line.note(mistype(rng.choice(names), rng.choice(VALUES), folder / "inputs"))
    yield line


def main() -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=3, metavar="N", help="runs that are killed (3)")
    parser.add_argument("--flips", type=int, default=20, metavar="M", help="damages of each kind of file (20)")
    parser.add_argument("--inputs", type=int, default=30, metavar="K", help="bad inputs (30)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random (0)")
    options = parser.parse_args()
    rng, failures = random.Random(options.seed), []
    print(f"{'tried':<32} {'times':>6} {'failed':>6}")
    with tempfile.TemporaryDirectory() as folder:
        for line in tortured(Path(folder), options.kills, options.flips, options.inputs, rng):
            print(f"{line.name:<32} {line.tried:>6} {len(line.failures):>6}", flush=True)
            failures += [f"{line.name}: {failure}" for failure in line.failures]
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
