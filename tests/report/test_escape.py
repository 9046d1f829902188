"""What is shown of texts from elsewhere."""

import logging

import pytest

from ensemble_transfer.report.escape import (
    PrintableFormatter,
    all_printable,
    csv_cell,
    markdown_cell,
    one_line,
    printable,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("a\rb\tc\x00", r"a\rb\tc\x00"),
        ("\x9b31m", r"\x9b31m"),
        ("gnp.\u202etxt", r"gnp.\u202etxt"),
        ("ad\u200bmin\ufeff", r"ad\u200bmin\ufeff"),
        ("half \udcff", r"half \udcff"),
        ("two\nlines\u2028", "two\nlines\\u2028"),
        ("digits → mnist, Кот, 猫, é, 😀", "digits → mnist, Кот, 猫, é, 😀"),
    ],
)
def test_a_terminal_is_told_nothing_that_it_obeys_or_hides(text, shown):
    assert printable(text) == shown
    assert all_printable({text: [text, (text, 1)]}) == {shown: [shown, [shown, 1]]}


def test_one_line_is_one_line():
    assert one_line("a\n  b\x1b") == r"a b\x1b"


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-x.png", "@SUM(A1)", "\t=1", "-", "=-1"])
def test_no_cell_is_a_formula(text):
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["-0.5", "+1e-9", "", "shift", "a=b", "nan", "-inf"])
def test_other_cells_stay(text):
    assert csv_cell(text) == text


def test_a_cell_of_markdown_has_no_html():
    assert markdown_cell("<img src=x>|&lt;\n\x1b -> y") == r"&lt;img src=x>\|&amp;lt; \x1b -> y"


def test_a_line_of_a_log_is_printable_and_a_traceback_stays():
    record = logging.LogRecord("n", logging.INFO, "f", 1, "%s", ("\x1b[1m",), None)
    assert PrintableFormatter("%(message)s").format(record) == r"\x1b[1m"
