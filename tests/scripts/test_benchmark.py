"""The benchmarks run, at sizes that measure nothing, and their arithmetic is right."""

import importlib
import json
from functools import partial
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts" / "benchmarks"


@pytest.fixture
def benchmark(forks, tmp_path):
    return partial(forks.run, SCRIPTS / "benchmark.py", cwd=tmp_path)


def test_the_benchmarks_run_and_give_a_flat_dict_and_files(benchmark, tmp_path):
    done = benchmark("overhead", "executor", "predict", "prices", "--quick", "--json", "--save", tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert all(isinstance(value, int | float | str) for value in results.values())
    assert results["threads"] == 1
    assert results["overhead/M=1/same weights"] == results["overhead/M=2/same weights"] == 1
    overheads = [f"overhead/M=2/ratio {which}" for which in ("fit to plain", "module to fit")]
    executors = "executor/2 members, 1 x as wide, 8 pixels, 32-true/ratio"
    for name in (*overheads, f"{executors} vectorised to loop", f"{executors} loop, other layout to loop"):
        assert all(results[f"{name}, {clock}"] > 0 for clock in ("CPU", "wall"))
    assert results["predict/ratio predict to the slower of decoding and network, wall"] > 0
    assert 1 <= results["predict/cascade, networks of 4 an image"] <= 4
    prices = [results[f"prices/small_resnet, 500 images: {head} head"] for head in ("probed", "donor's")]
    assert 1 > prices[0] > prices[1] > 0
    for name in ("overhead", "executor"):
        assert json.loads((tmp_path / f"{name}.json").read_text())["torch version"] == results["torch version"]
    page = (tmp_path / "README.md").read_text()
    assert page.count("| [overhead](overhead.json) |") == 1  # of 1 member: the quick sizes have no 8


def test_a_process_tells_the_memory_of_its_own_fit(forks, tmp_path):
    done = forks.run(SCRIPTS / "memory.py", "loop", "2", "1", cwd=tmp_path)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["peak"] > 1
    assert found["estimate"] > 1


@pytest.fixture
def measure(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("measure")


@pytest.fixture
def aims(measure):
    return importlib.import_module("aims")


def test_calls_take_turns_and_a_ratio_is_the_median_of_ratios_of_neighbours(measure):
    turns = []
    times = measure.interleaved({name: lambda name=name: turns.append(name) for name in "ab"}, 3)
    assert turns == ["a", "b"] * 3
    assert [len(seconds) for seconds in times.values()] == [3, 3]
    seconds = {
        "a": [measure.Seconds(2.0, 1.0), measure.Seconds(30.0, 20.0), measure.Seconds(3.0, 9.0)],
        "b": [measure.Seconds(1.0, 1.0), measure.Seconds(10.0, 10.0), measure.Seconds(3.0, 3.0)],
    }
    assert measure.ratios(seconds, "a", "b") == {"ratio a to b, CPU": 2.0, "ratio a to b, wall": 2.0}
    assert measure.medians(seconds)["a, CPU s"] == 9.0


def test_an_aim_is_held_against_the_worst_case(aims, monkeypatch):
    rows = [("b", "below", "*/ratio, CPU", "at most", 1.05), ("b", "above", "*/ratio, CPU", "at least", 1.0)]
    monkeypatch.setattr(aims, "AIMS", rows)
    results = {"M=1/ratio, CPU": 0.9, "M=2/ratio, CPU": 1.05, "M=2/ratio, wall": 7.0, "device": "cpu"}
    _, _, below, above = aims.table({"b": results}).splitlines()
    assert below == "| [b](b.json) | below | at most 1.05 | 1.05 | yes |"
    assert above == "| [b](b.json) | above | at least 1 | 0.9 | **no** |"
    assert "**no**" in aims.table({"b": results | {"M=3/ratio, CPU": 1.0501}}).splitlines()[2]
    assert len(aims.table({"b": {"M=1/ratio, wall": 0.1}}).splitlines()) == 2


def test_the_page_gets_a_new_table_and_keeps_what_was_found(tmp_path, aims):
    (tmp_path / "memory.json").write_text(json.dumps({"M=32, loop/peak MB": 80.0, "M=32, vectorised/peak MB": 2100.4}))
    (tmp_path / "README.md").write_text("# A\n\n<!-- aims -->\n| old |\n| --- |\n\nFound.\n\n| other |\n")
    for _ in range(2):
        aims.write(tmp_path)
    before, page = (tmp_path / "README.md").read_text().split("<!-- aims -->\n| benchmark |")
    assert before == "# A\n\n"
    assert (
        "| [memory](memory.json) | MB of 32 members beyond the imports | at most 2000 | 2,100 | **no** |\n\nFound."
        in page
    )
    assert page.endswith("\n\n| other |\n")
