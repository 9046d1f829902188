"""Texts of records, file names and errors, made harmless for the place where they are shown.

They come from elsewhere: a name may hold escape sequences of a terminal, marks that turn or hide letters, a formula of
a spreadsheet, or HTML.
"""

import logging
import re
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First letters that make a spreadsheet compute a cell (OWASP, CSV injection)."""

_UNSEEN = ("Cc", "Cf", "Zl", "Zp")
"""Unicode's categories of control characters, of marks such as right-to-left and zero width, and of line breaks."""


def printable(text: str) -> str:
    r"""Return a text with escapes for letters that a terminal obeys or hides, such as ``\x1b``; ends of lines stay."""
    if text.isprintable():
        return text
    return re.sub(r"[^\n]", lambda letter: _escaped(letter[0]), text)


def _escaped(letter: str) -> str:
    unseen = unicodedata.category(letter) in _UNSEEN or "\ud800" <= letter <= "\udfff"
    return letter.encode("unicode_escape").decode("ascii") if unseen else letter


def one_line(text: str) -> str:
    """Return a text on one line, for a terminal."""
    return printable(" ".join(text.split()))


def all_printable(data: Any) -> Any:  # noqa: ANN401
    """Return nested plain data whose texts, and names, are printable."""
    if isinstance(data, str):
        return printable(data)
    if isinstance(data, Mapping):
        return {all_printable(key): all_printable(value) for key, value in data.items()}
    return [all_printable(value) for value in data] if isinstance(data, list | tuple) else data


def csv_cell(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula: an apostrophe comes before it, unless it is a number."""
    try:
        float(text)
    except ValueError:
        return f"'{text}" if text.startswith(_FORMULA) else text
    return text


def markdown_cell(text: str) -> str:
    """Return a text for a cell of a Markdown table, without HTML."""
    return one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "±": r"$\pm$",
        "≥": r"$\geq$",
        "→": r"$\to$",
        "…": r"\dots{}",
        "\n": " ",
        "\r": " ",
        **{character: f"\\{character}" for character in "{}$&#_%"},
    }
)


def latex_cell(text: str) -> str:
    """Return a text that LaTeX prints as it is."""
    return text.translate(_LATEX)


class PrintableFormatter(logging.Formatter):
    """Formats lines of a log; a message is printable and labelled, and a traceback stays as it is."""

    label: ClassVar[str] = ""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's own name
        """Return the line of a record."""
        record.message = f"{self.label}{record.message}"
        return printable(super().formatMessage(record))


@contextmanager
def labelled(text: str) -> Iterator[None]:
    """Let the message of every line that is logged in the block begin with a text, such as the name of a job."""
    PrintableFormatter.label, before = text, PrintableFormatter.label
    try:
        yield
    finally:
        PrintableFormatter.label = before
