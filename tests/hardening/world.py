"""The small job, and the processes and files that commands leave behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

SMALL = [
    "ensemble.size=2", "backbone.options.channels=[4,8,8,8]", "backbone.options.stem_width=4", "dataset.image_size=8",
    "dataset.target.train=60", "dataset.target.validation=40", "dataset.target.test=50", "recipe.ancestor.steps=60",
    "recipe.source.steps=20", "recipe.full.steps=20", "recipe.tiny.steps=5", "recipe.probe.steps=5",
    "trainer.threads=1", "trainer.progress=false", "trainer.checkpoint_seconds=0.02",
]  # fmt: skip
"""Settings of a job of seconds."""

GRACE = 5.0
"""Seconds in which the workers of a killed command must have ended: they look for it every second."""

_CACHE = "torchinductor_"
"""Torch's cache of compiled code: one folder of a user, whatever is run."""

_MARK = "ENSEMBLE_TRANSFER_TORTURE"


class Command:
    """A command that runs in a folder, with a temporary folder of its own.

    Args:
        words: The words after ``python -m``.
        folder: Where it runs.
    """

    def __init__(self, words: Sequence[str], folder: Path) -> None:
        self._temporary = folder / f"tmp-{uuid4().hex[:8]}"
        self._temporary.mkdir()
        self._mark = uuid4().hex
        self._said = self._temporary.with_suffix(".stderr")  # a pipe would end only with the last orphan
        with self._said.open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *words],
                cwd=folder,
                env=os.environ | {_MARK: self._mark, "TMPDIR": str(self._temporary)},
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # it may be inherited as ignored
            )

    def end(self) -> tuple[int, str]:
        """Wait for the end, and return the exit code and what was written to standard error."""
        return self.process.wait(), self.said()

    def said(self) -> str:
        """Return what was written to standard error so far."""
        return self._said.read_text(encoding="utf-8", errors="replace")

    def left(self) -> str | None:
        """Return what the ended command has left behind: processes, files in the temporary folder; None for nothing."""
        deadline = time.monotonic() + GRACE
        while (alive := self.marked()) and time.monotonic() < deadline:
            time.sleep(0.1)
        if alive:
            return f"processes go on after the command has ended: {', '.join(alive.values())}"
        own = [path.name for path in self._temporary.iterdir() if not path.name.startswith(_CACHE)]
        if self.process.returncode == -signal.SIGKILL:  # other libraries cannot tidy up then
            own = [name for name in own if name.startswith("ensemble_transfer")]
        return f"files stay in the temporary folder: {', '.join(own)}" if own else None

    def marked(self) -> dict[int, str]:
        """Return the living processes that have the command's mark in their environment: number and command."""
        found = {}
        for place in Path("/proc").glob("[0-9]*"):
            try:
                marked = f"{_MARK}={self._mark}".encode() in (place / "environ").read_bytes()
                if marked and "(zombie)" not in (place / "status").read_text():
                    words = (place / "cmdline").read_bytes().replace(b"\0", b" ")
                    found[int(place.name)] = words.decode(errors="replace")[:80]
            except OSError:  # it has ended meanwhile
                continue
        return found


def run(words: Sequence[str], folder: Path) -> str | None:
    """Run a command to its end; return what was wrong with it."""
    command = Command(words, folder)
    code, said = command.end()
    return f"exit code {code}: {said[-300:]}" if code else command.left()
