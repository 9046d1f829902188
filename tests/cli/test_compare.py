import csv
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from urllib.parse import unquote

import pytest
import records
from records import failed, saved

from ensemble_transfer.cli import compare as cli
from ensemble_transfer.cli.compare import main


def a_record(strategy="shift", seed=0, accuracy=0.5, dataset="digits -> mnist"):
    metrics = {"target/test/ensemble/accuracy": accuracy, "target/test/ensemble/nll": 1.0}
    cost = {"total": {"steps": 440, "flops": 10**12, "seconds": 2.0}}
    return records.a_record(
        strategy, seed, dataset, metrics=metrics, cost=cost, config={"strategy": {"name": strategy}}
    )


CLEAR = [
    *(a_record("shift", seed, accuracy) for seed, accuracy in enumerate((0.8, 0.81, 0.83))),
    *(a_record("full", seed, accuracy) for seed, accuracy in enumerate((0.9, 0.92, 0.91))),
]


def test_the_command_joins_folders_and_writes_where_it_is_told(tmp_path):
    one, two = saved(tmp_path / "one", a_record(seed=0)), saved(tmp_path / "two", a_record(seed=5))
    assert main([str(one), str(two), "--output", str(tmp_path / "out")]) == 0
    assert "\nshift,2,0 5," in (tmp_path / "out" / "table.csv").read_text()
    assert not (one / "comparison").exists()


def test_every_pair_of_tasks_has_a_page_with_its_figures_and_the_page_of_all_links_it(tmp_path, undrawn):
    others = (a_record(strategy, dataset="mnist -> fashion") for strategy in ("full", "shift"))
    root = saved(tmp_path / "sweep", *CLEAR, *others, failed())
    assert main([str(root), "--baseline", "shift"]) == 1
    out = root / "comparison"
    links = re.findall(r'<a href="([\w/.]+/index.html)">([^<]+)</a>', (out / "index.html").read_text())
    assert links == [
        ("digits_to_mnist/index.html", "digits -&gt; mnist"),
        ("mnist_to_fashion/index.html", "mnist -&gt; fashion"),
    ]
    assert "full (digits -> mnist)" in (out / "table.md").read_text()
    own, other = ((out / name / "table.md").read_text() for name in ("digits_to_mnist", "mnist_to_fashion"))
    assert "| full | shift | +0.097" in own
    assert "failed: full" in own
    assert "failed" not in other
    written = {path.name for path in out.iterdir() if path.is_file()}
    assert written == {"index.html", *(f"table.{kind}" for kind in ("md", "csv", "tex"))}
    assert out / "mnist_to_fashion" / "figures" in undrawn
    assert undrawn[out / "figures"]  # accuracies of different tasks are not drawn into one figure


@pytest.mark.usefixtures("undrawn")
def test_the_page_links_the_errors_of_every_run_that_has_them(tmp_path):
    root = saved(tmp_path / "a #sweep", *CLEAR, a_record("few", dataset="mnist -> fashion"))
    for run in ("0", "4", "6"):
        (root / run / "errors.html").write_text("errors")
    assert main([str(root), "--output", str(tmp_path / "elsewhere")]) == 0
    linked = {}
    for page in (tmp_path / "elsewhere").rglob("index.html"):
        links = re.findall(r'<a href="([^"]+errors.html)">(seed&nbsp;\d)</a>', page.read_text())
        linked[page.parent.name] = {(page.parent / unquote(link)).resolve().parent.name: seed for link, seed in links}
    digits, fashion = {"0": "seed&nbsp;0", "4": "seed&nbsp;1"}, {"6": "seed&nbsp;0"}
    assert linked == {"elsewhere": digits | fashion, "digits_to_mnist": digits, "mnist_to_fashion": fashion}


def test_many_figures_are_drawn_side_by_side(tmp_path, monkeypatch, undrawn):
    class Pool(ThreadPoolExecutor):
        def __init__(self, workers, context):
            pools.append((workers, context.get_start_method()))
            super().__init__(workers)

    pools = []
    others = (a_record(strategy, dataset="mnist -> fashion") for strategy in ("full", "shift"))
    root = saved(tmp_path / "sweep", *CLEAR, *others)
    monkeypatch.setattr(cli, "MANY", 1)
    monkeypatch.setattr(cli, "ProcessPoolExecutor", Pool)
    for cores in (1, 2):
        monkeypatch.setattr(cli, "usable_cores", lambda cores=cores: cores)
        assert main([str(root), "--output", str(tmp_path / str(cores))]) == 0
    assert pools == [(2, "spawn")]
    one, two = (
        {str(f.relative_to(tmp_path / n)): a for f, a in undrawn.items() if f.is_relative_to(tmp_path / n)}
        for n in "12"
    )
    assert one == two == {"figures": True, "digits_to_mnist/figures": False, "mnist_to_fashion/figures": False}


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_the_command_says_in_one_line_that_there_is_nothing_to_compare(tmp_path, capsys, name):
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / name)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert str(tmp_path / name) in said
    assert said.count("\n") == 1


def test_a_damaged_record_is_one_line_that_names_it_and_is_left_out(tmp_path, capsys, undrawn):
    root = saved(tmp_path / "sweep", *CLEAR)
    path = root / "1" / "record.json"
    path.write_text(path.read_text().replace('"flops": 1000000000000', '"flops": -5'))
    assert main([str(root)]) == 1
    out, said = capsys.readouterr()
    assert said.startswith(f"error: {path} is not a readable record: ")
    assert said.endswith("; left out\n")
    assert said.count("\n") == 1
    assert "| shift | 0.815" in (root / "comparison" / "table.md").read_text()
    assert out.splitlines()[-1] == str(root / "comparison" / "index.html")
    assert main([str(path.parent)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {path} is not a readable record: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("name", ["..", "/", "../../escaped", "", "figures", "x" * 300])
def test_everything_is_written_below_the_output(tmp_path, undrawn, name):
    root = saved(tmp_path / "a" / "b" / "sweep", a_record(), a_record(dataset=name), a_record(dataset=f"{name}?"))
    before = {path for path in tmp_path.rglob("*") if not path.is_relative_to(root)}
    assert main([str(root)]) == 0
    assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(root)} == before
    pages = sorted(path.parent for path in (root / "comparison").glob("*/index.html"))
    assert len(pages) == 3, "two pairs of tasks share a folder"
    assert not (root / "comparison" / "figures" / "index.html").exists()


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_a_run_that_did_not_finish_takes_no_figure_from_the_others(tmp_path, capsys, undrawn, status):
    root = saved(tmp_path / "sweep", *CLEAR, replace(failed("lost"), status=status, dataset="digits_to_mnist"))
    assert main([str(root)]) == 1
    assert undrawn == {root / "comparison" / "figures": False}
    assert f"{status}: full, digits_to_mnist, seed 7: lost" in capsys.readouterr().out


def test_the_command_refuses_an_unknown_baseline_in_one_line(tmp_path, capsys):
    root = saved(tmp_path / "sweep", *CLEAR)
    assert main([str(root), "--baseline", "fulll"]) == 2
    said = capsys.readouterr().err
    assert said == "error: baseline=fulll: must be a strategy or a row's label, here shift, full\n"
    assert not (root / "comparison").exists()


EVIL = "\x1b]0;owned\x07=HYPERLINK(1)\u202e<img src=x>"


def test_what_a_terminal_a_spreadsheet_or_a_browser_obeys_is_escaped(tmp_path, capsys):
    markup = a_record("[red]x[/blue]"), failed(error="lr=[/b]: [bold]no")
    root = saved(tmp_path / "sweep", a_record(EVIL), a_record("=1+1"), failed(error=f"{EVIL} lost"), *markup)
    assert main([str(root)]) == 1
    said = capsys.readouterr().out
    assert "lr=[/b]: [bold]no" in said
    assert "[red]x" in said
    assert "\x1b" not in said
    assert "\u202e" not in said
    assert r"\x1b]0;owned\x07" in said
    table = (root / "comparison" / "table.md").read_text()
    assert "<img" not in table
    assert table.count("&lt;img src=x>") >= 2
    with (root / "comparison" / "table.csv").open(newline="") as file:
        labels = [row["strategy"] for row in csv.DictReader(file)]
    assert {r"\x1b]0;owned\x07=HYPERLINK(1)\u202e<img src=x>", "'=1+1"} <= set(labels)


def test_an_output_that_cannot_be_written_is_one_line(tmp_path, capsys):
    folder = saved(tmp_path / "sweep", a_record())
    (tmp_path / "file").touch()
    assert main([str(folder), "--output", str(tmp_path / "file")]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {tmp_path / 'file'}: the comparison cannot be written there (")
    assert err.count("\n") == 1
