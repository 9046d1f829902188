"""What all commands share: their errors in one line, signals, output that ends early, terminals without Unicode."""

import argparse
import io
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from tempfile import TemporaryFile
from types import FrameType
from typing import TYPE_CHECKING, ParamSpec

from ensemble_transfer.cli.arguments import require_text
from ensemble_transfer.errors import Interrupted, RunError, SettingError, note_signal, require
from ensemble_transfer.machine import keep_freed_memory
from ensemble_transfer.report.escape import one_line, printable

if TYPE_CHECKING:
    from rich.console import Console

P = ParamSpec("P")


def command(main: Callable[P, int], resumes: bool = False) -> Callable[P, int]:
    """Return the function of a command that ends as a shell expects.

    Its exit code is 2 after an error, which is one line, 130 after Ctrl-C, 143 after SIGTERM, and 141 if the reader of
    standard output stops reading, as in ``--help | head``. Letters that the terminal cannot show are escaped.

    Args:
        main: The function, which returns an exit code.
        resumes: Whether the command goes on where it was interrupted, which is said then.
    """

    @wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        _open_streams()
        _escape_unknown_letters()
        keep_freed_memory()
        try:
            with interruptible():
                try:
                    return main(*args, **kwargs)
                finally:
                    sys.stdout.flush()
        except BrokenPipeError:
            _drop_output()
            return 128 + signal.SIGPIPE
        except Interrupted as stop:
            sys.stderr.write(f"{stop}\n" if resumes else "interrupted\n")
            return stop.exit_code
        except (ValueError, RunError, OSError) as error:
            if wants_tracebacks():
                raise
            said: object = error
            if isinstance(error, OSError) and lost_output(error):
                _drop_output()
                said = f"standard output cannot be written: {error.strerror}"
            print_error(said)
            return 2

    return run


resumable = partial(command, resumes=True)
"""Likewise, for a command that goes on where it was interrupted."""


def wants_tracebacks() -> bool:
    """Return whether the user asked for the traceback of an error, by Hydra's variable for it."""
    return os.environ.get("HYDRA_FULL_ERROR") not in (None, "", "0")


def lost_output(error: OSError) -> bool:
    """Return whether standard output could not be written; what else fails names a file, or a folder that is gone."""
    return error.filename is None and not isinstance(error, FileNotFoundError)


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes again when it ends


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


def parser_of(name: str, description: str, epilog: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of a command; with an epilog, its texts keep their lines."""
    return argparse.ArgumentParser(
        prog=f"python -m ensemble_transfer {name}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter if epilog else argparse.HelpFormatter,
    )


def written(name: str, arguments: Sequence[str] | None) -> str:
    """Return a command as it is written in a shell; its arguments are the program's where they are None.

    Raises:
        SettingError: If an argument is no text: a record could not hold it.
    """
    own = arguments or sys.argv[1:]
    require_text(*own)
    return shlex.join(["python", "-m", "ensemble_transfer", name, *own])


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
    place = output.parent.is_dir() and not output.is_dir()
    require(place, "output", str(output), "must be a file in a folder that exists")
    if output.exists() and not output.is_file():  # such as /dev/null
        return
    try:
        TemporaryFile(dir=output.resolve().parent).close()
    except OSError as error:
        raise SettingError("output", str(output), f"cannot be written: {error.strerror}") from error


def print_error(error: object, whole: bool = False) -> None:
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


def _open_streams() -> None:
    """Open standard streams that the shell has closed, on nothing: files of ours would take their numbers."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest number that is free
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115  # for as long as the process lives
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def _escape_unknown_letters() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            as_it_is = stream is sys.stdout and "utf" in stream.encoding.lower()  # names of files may be any bytes
            stream.reconfigure(errors="surrogateescape" if as_it_is else "backslashreplace")
