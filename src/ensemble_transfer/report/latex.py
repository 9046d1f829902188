"""LaTeX tables with the package booktabs."""

from collections.abc import Iterable, Sequence

_ESCAPES = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "±": r"$\pm$",
        "→": r"$\to$",
        "\n": " ",
        "\r": " ",
        **{character: f"\\{character}" for character in "{}$&#_%"},
    }
)


def escaped(text: str) -> str:
    """Escape a text for LaTeX."""
    return text.translate(_ESCAPES)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a tabular of escaped cells; the first column is left-aligned, the others right-aligned."""
    stacked = [escaped(name).replace(" ", r" \\ ") for name in header[1:]]
    head = [rf"\shortstack[r]{{{name}}}" for name in stacked]
    lines = [[escaped(header[0]), *head], *rows]
    first, *rest = [" & ".join(line) + r" \\" for line in lines]
    columns = "l" + "r" * (len(header) - 1)
    body = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", first, r"\midrule", *rest, r"\bottomrule"]
    return "\n".join([*body, r"\end{tabular}"])


def document(tables: Iterable[str], notes: Iterable[str]) -> str:
    """Return tables and the notes below them, to be input by a document."""
    parts = ["% needs \\usepackage{booktabs}", *tables, *map(escaped, notes)]
    return "\n\n".join(parts) + "\n"
