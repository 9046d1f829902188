"""Handle what all commands share: signals, output that ends early, and terminals without Unicode."""

import argparse
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, ParamSpec

from ensemble_transfer.errors import Interrupted, SettingError, note_signal
from ensemble_transfer.layout import replacing
from ensemble_transfer.report.escape import one_line, printable

if TYPE_CHECKING:
    from rich.console import Console

P = ParamSpec("P")


def command(main: Callable[P, int]) -> Callable[P, int]:
    """Return the function of a command that ends as a shell expects.

    Its exit code is 130 after Ctrl-C, 143 after SIGTERM, and 141 if the reader of standard output stops reading, as
    in ``--help | head``. Letters that the terminal cannot show are escaped.
    """

    @wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        _escape_unknown_letters()
        try:
            with interruptible():
                try:
                    return main(*args, **kwargs)
                finally:
                    sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes again when it ends
            return 128 + signal.SIGPIPE
        except OSError as error:
            if error.filename is not None:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            complain(f"standard output cannot be written: {error.strerror}")
            return 2
        except Interrupted as stop:
            sys.stderr.write("interrupted\n")
            return stop.exit_code

    return run


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise :class:`Interrupted` in the block on Ctrl-C and SIGTERM, unless somebody else handles them.

    Lightning ends the process silently on both, with exit codes 1 and 0; it lets an exception of another kind pass.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
            if signal.getsignal(number) == default:
                before[number] = signal.signal(number, _stop)
    try:
        yield
    finally:
        if before:
            note_signal(None)
        for number, handler in before.items():
            signal.signal(number, handler)


def some_path(text: str) -> Path:
    """Return a path of the command line; an empty one would be the current folder.

    Raises:
        ArgumentTypeError: If it is empty.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return Path(text)


def require_writable(output: Path) -> None:
    """Raise a SettingError if a file cannot be written where it is to appear, before any work is done for it."""
    if output.exists() and not output.is_file():  # such as /dev/null
        return
    try:
        with replacing(output.resolve()) as beside:
            beside.touch()
            raise _UnwrittenError
    except _UnwrittenError:
        return
    except OSError as error:
        raise SettingError("output", str(output), f"cannot be written: {error.strerror}") from error


class _UnwrittenError(Exception):
    """A file could be written, and is not."""


def complain(error: object, whole: bool = False) -> None:
    """Write an error to standard error, as one line unless it is to stay whole, without what a terminal obeys.

    Raises:
        OSError: If standard output cannot be written, which is the error to tell then.
    """
    sys.stdout.flush()
    sys.stderr.write(f"error: {printable(str(error)) if whole else one_line(str(error))}\n")


def console(**options: bool) -> "Console":
    """Return rich's console on standard output, which leaves a reader that stops reading to :func:`command`.

    Rich would end the process with exit code 1.
    """
    from rich.console import Console  # slow to import

    class Piped(Console):
        def on_broken_pipe(self) -> None:
            raise  # the error that it is called for

    return Piped(**options)  # type: ignore[arg-type]  # of its many options, those that are true or false


def _stop(number: int, frame: FrameType | None) -> None:
    del frame
    note_signal(number)
    raise Interrupted(number)


def _escape_unknown_letters() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and "utf" not in stream.encoding.lower():
            stream.reconfigure(errors="backslashreplace")
