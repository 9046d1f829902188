"""The picture of the method is drawn by its script."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def box(svg: Path) -> list[float]:
    return [float(number) for number in re.search(r'viewBox="([^"]+)"', svg.read_text())[1].split()]


def test_the_script_draws_the_picture_of_the_pages(tmp_path, capsys):
    main = runpy.run_path(str(ROOT / "scripts" / "draw_method.py"))["main"]
    drawn, kept = tmp_path / "method.svg", ROOT / "docs" / "method.svg"
    assert main([str(drawn)]) == 0
    assert capsys.readouterr().out == f"{drawn}\n"
    assert box(drawn) == pytest.approx(box(kept))
    marks = [file.read_text().count("<use ") for file in (drawn, kept)]
    assert marks[0] == marks[1] > 50  # members, arrows' dots and letters
