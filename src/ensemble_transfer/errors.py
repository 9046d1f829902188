"""Errors that a user reads: each is one clear line."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self


def _in_a_notebook(error: Exception) -> list[str]:
    """Return what IPython shows of an error: its one line, without the hundred lines of how our code came there."""
    return [f"{type(error).__name__}: {error}"]


class SettingError(ValueError):
    """A setting has a value that cannot be used.

    Args:
        setting: Name of the setting, such as ``scale``. Callers that know its group add it with :meth:`under`.
        value: The value received.
        rule: What is allowed, as the rest of a sentence that starts with the setting: ``"must be above 0"``.
    """

    def __init__(self, setting: str, value: object, rule: str) -> None:
        super().__init__(f"{setting}={value!r}: {rule}")
        self.setting = setting
        self.value = value
        self.rule = rule

    def __reduce__(self) -> tuple[type[Self], tuple[str, object, str]]:
        """Let launchers send the error from a worker to the command line."""
        return type(self), (self.setting, self.value, self.rule)

    _render_traceback_ = _in_a_notebook

    def under(self, group: str) -> Self:
        """Return the same error with the setting's full name, ``group.setting``."""
        return type(self)(f"{group}.{self.setting}" if group else self.setting, self.value, self.rule)


class DivergedError(SettingError):
    """A fit has diverged: the setting is the learning rate, which is too high."""


@contextmanager
def settings_under(group: str) -> Iterator[None]:
    """Give settings that are refused in the block their full name, ``group.setting``."""
    try:
        yield
    except SettingError as error:
        raise error.under(group) from error


class RunError(RuntimeError):
    """A run failed for an unexpected reason; the message says where its traceback is."""

    _render_traceback_ = _in_a_notebook


class Interrupted(BaseException):
    """A signal asked the program to stop.

    No subclass of Exception, so that nothing takes it for the failure of one job, nor of KeyboardInterrupt, on which
    Lightning ends the process.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__("interrupted; the same command goes on where this one stopped")
        self.number = int(number)

    def __reduce__(self) -> tuple[type[Self], tuple[int]]:
        """Let launchers send it from a worker to the command line."""
        return type(self), (self.number,)

    @property
    def exit_code(self) -> int:
        """The exit code of a process that this signal stopped: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number


_signals: list[int] = []
"""Signals that have come since the block began that listens to them."""


def note_signal(number: int | None) -> None:
    """Remember a signal that asks the program to stop; None forgets all."""
    if number is None:
        _signals.clear()
    else:
        _signals.append(number)


def require_uninterrupted() -> None:
    """Raise :class:`Interrupted` if a signal has come.

    Its handler raises too, but Python swallows an exception that is raised while an object is being deleted. So long
    work asks before every job, fit and step.
    """
    if (stop := interruption()) is not None:
        raise stop


def interruption() -> Interrupted | None:
    """Return what a signal that has come asks for; None where none has. What fails after it fails because of it."""
    return Interrupted(_signals[0]) if _signals else None


def one_line(error: BaseException) -> str:
    """Return what an error says in one line of at most 200 characters; its name where it says nothing."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def require(condition: bool, setting: str, value: object, rule: str) -> None:
    """Raise a :class:`SettingError` unless the condition holds."""
    if not condition:
        raise SettingError(setting, value, rule)
