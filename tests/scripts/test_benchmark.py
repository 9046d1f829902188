"""The benchmarks run, at sizes that measure nothing, and their arithmetic is right."""

import json
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def benchmark(forks, tmp_path):
    return partial(forks.run, ROOT / "scripts" / "benchmark.py", cwd=tmp_path)


def test_the_benchmarks_run_and_give_a_flat_dict_and_files(benchmark, tmp_path):
    names = ["overhead", "executor", "channels_last", "cache"]
    done = benchmark(*names, "--quick", "--json", "--save", tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert all(isinstance(value, int | float | str) for value in results.values())
    assert results["threads"] == 1
    assert results["overhead/M=1/same weights"] == results["overhead/M=2/same weights"] == 1
    assert results["cache/M=1/largest difference of a weight"] < 1e-5
    assert results["channels_last/fit, default net, 8 pixels/ratio last to first, CPU"] > 0
    overheads = [f"overhead/M=2/ratio {which}" for which in ("fit to plain", "module to fit")]
    for name in (*overheads, "cache/M=1/ratio frozen to cached"):
        assert all(results[f"{name}, {clock}"] > 0 for clock in ("CPU", "wall"))
    for name in ("overhead", "executor", "cache"):
        kept = json.loads((tmp_path / f"{name}.json").read_text())
        assert kept["torch version"] == results["torch version"]
        assert "processor: " in (tmp_path / f"{name}.txt").read_text()
    page = (tmp_path / "README.md").read_text()
    assert page.count("| [overhead](overhead.txt) |") == 1  # of 1 member: the quick sizes have no 8
    assert "| [cache](cache.txt) | frozen forward against cached features, 1 member | at least 10 |" in page
    assert "peers" not in page


@pytest.mark.parametrize(
    ("arguments", "said"), [(["peers"], "peers needs --peers-env FOLDER"), (["nothing"], "invalid choice: 'nothing'")]
)
def test_what_cannot_be_run_is_refused_in_a_line(benchmark, arguments, said):
    done = benchmark(*arguments)
    assert done.returncode == 2
    assert said in done.stderr


@pytest.fixture
def measure(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from benchmarking import measure

    return measure


def test_a_ratio_is_the_median_of_ratios_of_neighbours(measure):
    seconds = {
        "a": [measure.Seconds(2.0, 1.0), measure.Seconds(30.0, 20.0), measure.Seconds(3.0, 9.0)],
        "b": [measure.Seconds(1.0, 1.0), measure.Seconds(10.0, 10.0), measure.Seconds(3.0, 3.0)],
    }
    assert measure.ratios(seconds, "a", "b") == {"ratio a to b, CPU": 2.0, "ratio a to b, wall": 2.0}
    assert measure.medians(seconds)["a, CPU s"] == 9.0


def test_calls_take_turns(measure):
    turns = []
    times = measure.interleaved({name: lambda name=name: turns.append(name) for name in "ab"}, 3)
    assert turns == ["a", "b"] * 3
    assert [len(seconds) for seconds in times.values()] == [3, 3]


@pytest.fixture
def aims(measure):
    from benchmarking import aims

    return aims


def test_an_aim_is_held_against_the_worst_case(aims):
    below, above = (
        aims.Aim("b", "what", "*/ratio, CPU", 1.05),
        aims.Aim("b", "what", "*/ratio, CPU", 1.0, at_least=True),
    )
    results = {"M=1/ratio, CPU": 0.9, "M=2/ratio, CPU": 1.05, "M=2/ratio, wall": 7.0, "device": "cpu"}
    assert below.row(results)[2:] == ["at most 1.05", "1.05", "yes"]
    assert above.row(results)[2:] == ["at least 1", "0.9", "**no**"]
    assert below.row(results | {"M=3/ratio, CPU": 1.0501})[-1] == "**no**"
    assert below.row({"M=1/ratio, wall": 0.1}) is None


def test_the_page_has_the_aims_and_the_findings(tmp_path, aims):
    (tmp_path / "memory.json").write_text(json.dumps({"M=32, loop/peak MB": 80.0, "M=32, vectorised/peak MB": 2100.4}))
    (tmp_path / "FINDINGS.md").write_text("Found.\n")
    aims.write(tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert "| [memory](memory.txt) | MB of 32 members beyond the imports | at most 2000 | 2,100 | **no** |" in page
    assert page.endswith("\n\nFound.\n")
