"""LaTeX tables with the package booktabs."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pandas import DataFrame

_ESCAPES = str.maketrans(
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


def escaped(text: str) -> str:
    """Escape a text for LaTeX."""
    return text.translate(_ESCAPES)


def table(frame: "DataFrame") -> str:
    """Return a tabular of a frame of cells; the first column is left-aligned, the others right-aligned.

    Cells that are marked as best are bold.
    """
    first, *_ = frame.columns
    styled = frame.style.hide(axis="index").format(lambda cell: escaped(str(cell)))
    styled = styled.format_index(lambda name: escaped(name) if name == first else _stacked(name), axis=1)
    bold = styled.map(lambda cell: "textbf: --rwrap;" if cell.best else "")
    text: str = bold.to_latex(hrules=True, column_format="l" + "r" * (len(frame.columns) - 1))
    return text.rstrip()


def _stacked(name: str) -> str:
    lines = escaped(name).replace(" ", r" \\ ")
    return rf"\shortstack[r]{{{lines}}}"


def document(tables: Iterable[str], notes: Iterable[str]) -> str:
    """Return tables and the notes below them, to be input by a document."""
    parts = ["% needs \\usepackage{booktabs}", *tables, *map(escaped, notes)]
    return "\n\n".join(parts) + "\n"
