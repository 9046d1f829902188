"""Stop commands at random moments: the same command must go on to the same result, and nothing may be left behind."""

import contextlib
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from world import SMALL, Command, run

DOOR = ["ensemble_transfer"]
RUN = [*DOOR, "strategy=shift", *SMALL, "hydra.run.dir=run"]
SWEEP = [*DOOR, "-m", "strategy=head,shift", *SMALL, "hydra.sweep.dir=sweep"]
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)


@dataclass(frozen=True)
class Victim:
    """A command that is stopped: the words after ``python -m``, and what must be the same in its folder afterwards."""

    name: str
    words: list[str]
    result: Callable[[Path], Any]
    needs_run: bool = False


def _records(folder: Path) -> Any:
    from ensemble_transfer.report.record import read_records

    return {str(place.relative_to(folder)): record.reproducible() for place, record in read_records([folder]).items()}


def _onnx(folder: Path) -> object:
    import onnx

    return [prop.value for prop in onnx.load(folder / "out.onnx").metadata_props]


def _text(name: str) -> Callable[[Path], str]:
    return lambda folder: (folder / name).read_text(encoding="utf-8")


VICTIMS = (
    Victim("a run", RUN, _records),
    Victim("a run with two workers", [*RUN, "trainer.workers=2"], _records),
    Victim("a sweep", SWEEP, _records),
    Victim("a sweep of jobs side by side", [*SWEEP, "hydra/launcher=jobs"], _records),
    Victim("extend", [*DOOR, "extend", "run", "ensemble.add=1"], _records, needs_run=True),
    Victim("predict", [*DOOR, "predict", "run", "images", "--output", "o.csv"], _text("o.csv"), needs_run=True),
    Victim("export", [*DOOR, "export", "run", "out.onnx"], _onnx, needs_run=True),
    Victim("compare", [*DOOR, "compare", "run", "--output", "out"], _text("out/table.csv"), needs_run=True),
)


class Kills:
    """Stops commands, one after another.

    Args:
        folder: An empty folder.
        run: A folder in which the run has finished that nobody stopped, in so many ``seconds``.
        seconds: How long it took.
        rng: Randomness.
    """

    def __init__(self, folder: Path, run: Path, seconds: float, rng: random.Random) -> None:
        self._folder, self._run, self._rng = folder, run, rng
        self._whole = {VICTIMS[0].name: (VICTIMS[0].result(run), seconds)}
        self._count = 0

    def kill(self) -> str | None:
        """Stop the next command, once or more, let it end; return what is wrong.

        The first signal comes as soon as the command has shown itself, when it is most likely to be at work.
        """
        victim, number = VICTIMS[self._count % len(VICTIMS)], SIGNALS[self._count % len(SIGNALS)]
        work = self._empty(victim, f"kill_{self._count}")
        self._count += 1
        try:
            expected, seconds = self._undisturbed(victim)
            wrong = self._stopped(victim, work, number, None)
            for _ in range(self._rng.randint(0, 2)):
                moment = self._rng.uniform(0, seconds)
                wrong = wrong or self._stopped(victim, work, self._rng.choice(SIGNALS), moment)
            wrong = wrong or run(victim.words, work)
            if wrong is None and victim.result(work) != expected:
                wrong = "the result differs from that of a command that nobody stopped"
        except (OSError, ValueError, RuntimeError) as error:
            wrong = f"{type(error).__name__}: {error}"
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return None if wrong is None else f"{victim.name}: {wrong}"

    def _empty(self, victim: Victim, name: str) -> Path:
        """Return a folder in which a command can start."""
        work = self._folder / name
        shutil.rmtree(work, ignore_errors=True)
        if victim.needs_run:
            shutil.copytree(self._run, work)
            _draw(work / "images")
        else:
            work.mkdir()
        return work

    def _undisturbed(self, victim: Victim) -> tuple[Any, float]:
        """Return the result of a command that nobody stops, and its seconds."""
        if victim.name not in self._whole:
            work = self._empty(victim, f"whole {victim.name}")
            started = time.monotonic()
            wrong = run(victim.words, work)
            if wrong is not None:
                raise RuntimeError(f"it fails by itself: {wrong}")
            self._whole[victim.name] = victim.result(work), time.monotonic() - started
        return self._whole[victim.name]

    def _stopped(self, victim: Victim, work: Path, number: signal.Signals, moment: float | None) -> str | None:
        """Start a command and stop it; return what is wrong with how it ended.

        Args:
            victim: The command.
            work: Where it runs.
            number: The signal.
            moment: When, in seconds from its start; None for as soon as it has written something.
        """
        command = Command(victim.words, work)
        if moment is None:
            _wait_for_life(command, self._undisturbed(victim)[1])
        else:
            with contextlib.suppress(subprocess.TimeoutExpired):
                command.process.wait(moment)
        command.process.send_signal(number)
        code, said = command.end()
        when = f"{number.name} {'at once' if moment is None else f'after {moment:.2f} s'}: "
        if code == 0:
            try:
                whole = victim.result(work) == self._undisturbed(victim)[0]
            except (OSError, ValueError):
                whole = False
            return command.left() if whole else f"{when}exit code 0 without a result"
        early = code == -number  # before Python, or what it imports, could answer
        if code != 128 + number and not early:
            return f"{when}exit code {code}: {said[-300:]}"
        if "Traceback" in said and not early:
            return f"{when}a traceback: {said[-300:]}"
        return f"{when}{left}" if (left := command.left()) else None


def _wait_for_life(command: Command, seconds: float) -> None:
    """Wait until a command says something on standard error, or half its time has passed."""
    deadline = time.monotonic() + seconds / 2
    while command.process.poll() is None and time.monotonic() < deadline and not command.said():
        time.sleep(0.02)


def _draw(folder: Path) -> None:
    """Write some images."""
    from PIL import Image

    folder.mkdir()
    for place in range(20):
        Image.new("L", (8, 8), place * 12).save(folder / f"{place:02}.png")
