"""Numbers of pages are found in what they came from, and those without a source are listed."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def numbers(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "evidence"))
    import check_numbers

    return check_numbers


def test_every_result_of_the_docs_has_a_source(numbers, capsys):
    pages = sorted((ROOT / "docs").glob("*.md"))
    assert len(pages) > 10
    assert numbers.main([str(page) for page in pages]) == 0, capsys.readouterr().out


PAGE = """# A page of 2026, with Python 3.11, arXiv 1704.00109 and `budget=1.65`

A fit took 0.955 of the time and {memory} MB ([here](benchmarks/fast/README.md)), in intervals of 95%.

<!-- numbers: benchmarks/fast/workers.json -->

- Two workers: 0.50, and 49.8%.
- Another thing, 97 times: .75

    a code block with 9.99

<!-- numbers: set -->

At least 0.25 points.

<!-- numbers: python -c 'print("| 0.12349 |")' -->

| a | b |
| --- | --- |
| printed | {printed} |
"""


@pytest.fixture
def said(numbers, tmp_path, capsys, monkeypatch):
    fast = tmp_path / "benchmarks" / "fast"
    fast.mkdir(parents=True)
    (fast / "README.md").write_text("| a fit | 0.9549 |\n| memory | 313 |")
    (fast / "workers.json").write_text('{"ratio": 0.498}')
    monkeypatch.setattr(numbers, "ROOT", tmp_path)

    def check(text, *options):
        (tmp_path / "page.md").write_text(text)
        code = numbers.main([str(tmp_path / "page.md"), *options])
        lines = [line.partition("page.md:")[2] for line in capsys.readouterr().out.splitlines()]
        assert code == bool(lines)
        return lines

    return check


def test_what_is_not_in_its_source_is_listed(said):
    wrong = "8: 97, .75: not in benchmarks/fast/workers.json"
    assert said(PAGE.format(memory=313, printed="0.123")) == [wrong]
    assert said(PAGE.format(memory=314, printed="0.124")) == ["3: 314: not in benchmarks/fast/README.md", wrong]
    assert said(PAGE.format(memory=313, printed="0.123"), "--run") == [wrong]
    printed = "20: 0.124: not in python -c 'print(\"| 0.12349 |\")'"
    assert said(PAGE.format(memory=313, printed="0.124"), "--run") == [wrong, printed]


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("It gains 0.02 nats.", ["1: 0.02: no source"]),
        ("| a | 0.7 |\n| b | 0.8 (`benchmarks/nothing/README.md`) |", ["1: 0.7: no source", "2: 0.8: not in "]),
        ("<!-- numbers: set -->\nHalf is 0.5.\n\nBut it is 0.6.", ["4: 0.6: no source"]),
        ("In 2026, with 8 members and `lr=0.1`, see [0.3](0.4).", ["1: 0.3: no source"]),
    ],
)
def test_a_source_serves_its_own_entry_alone(said, text, missing):
    found = said(text)
    assert len(found) == len(missing)
    assert all(line.startswith(start) for line, start in zip(found, missing, strict=True))


def test_a_number_is_held_by_one_that_rounds_to_it_and_not_by_a_version(numbers):
    text = "a -0.1237 and 1,200 in v1.2.3 or 1.2.3"
    assert all(numbers.holds(text, number) for number in ("0.12", "0.124", "-.12", "12.4%", "12 points", ".1", "1200"))
    others = ("0.123", "+0.12", "12.4", "1.2", "0.2", "1201", "2")
    assert not any(numbers.holds(text, number) for number in others)


SOURCE = "| -0.0292 [-0.0411, -0.0176] | +0.5 [+0.1, +0.9] | 0.041 |"


@pytest.mark.parametrize("text", ["by 0.029 [0.018, 0.041]", "-0.029 [-0.041, -0.018]", "| 0.5 [0.1, 0.9] |"])
def test_an_interval_is_found_as_a_whole(said, tmp_path, text):
    (tmp_path / "benchmarks" / "fast" / "README.md").write_text(SOURCE)
    assert said(f"<!-- numbers: benchmarks/fast -->\n{text}") == []


@pytest.mark.parametrize(
    "told",
    [
        "+0.029 [+0.018, +0.041]",  # the other side, and says so
        "0.029 [0.018, 0.9]",  # numbers that are there, of another estimate
        "0.029 [0.017, 0.041]",
        "0.041 [0.018, 0.029]",
    ],
)
def test_an_interval_of_other_numbers_or_of_the_other_side_is_listed(said, tmp_path, told):
    (tmp_path / "benchmarks" / "fast" / "README.md").write_text(SOURCE)
    found = [*said(f"It is {told} (`benchmarks/fast/README.md`)."), *said(f"| {told} (`benchmarks/fast/README.md`) |")]
    assert found == [f"1: {told}: not in benchmarks/fast/README.md"] * 2


def test_in_a_table_an_interval_has_its_sources_side(said, tmp_path):
    (tmp_path / "benchmarks" / "fast" / "README.md").write_text(SOURCE)
    assert len(said("<!-- numbers: benchmarks/fast -->\n| turned | 0.029 [0.018, 0.041] |")) == 1


@pytest.mark.parametrize("verdict", ["refuted", "**refuted**", "undecided"])
@pytest.mark.parametrize("told", ["| {} | {} |", "| {} {} | more |", "| more | {}, {} |", "- It is behind: {}, {}."])
def test_a_verdict_is_that_of_the_source(said, tmp_path, told, verdict):
    lead = "-0.017 [-0.026, -0.008]"
    page = f"| {lead} | **refuted** |\n| 0.1 [0.0, 0.2] | undecided |"
    (tmp_path / "benchmarks" / "fast" / "README.md").write_text(page)
    wrong = [] if "refuted" in verdict else [f"2: {lead} undecided: not in benchmarks/fast"]
    assert said(f"<!-- numbers: benchmarks/fast -->\n{told.format(lead, verdict)}") == wrong
