import json
import math
import re
from pathlib import Path

import pytest
import records

from ensemble_transfer.layout import checksum
from ensemble_transfer.report.record import SCHEMA_VERSION, Record, as_frame, read_records

COST = {"steps": 20, "examples": 640, "flops": 10**12, "seconds": 1.5, "cpu_seconds": 1.25, "peak_memory_bytes": 2**30}


def a_record(**changes):
    fields = {
        "seed": 3,
        "dataset": "digits → mnist",
        "metrics": {"target/test/ensemble/accuracy": 0.875, "target/test/ensemble/nll": 1 / 3},
        "cost": {"phases": {"tiny": COST}, "total": COST, "marginal": None},
        "reused_fits": [{"phase": "tiny", "member": 1, "key": "ab"}],
        "curves": {"member_accuracy": [0.5, 0.75]},
        "config": {"seed": 3, "strategy": {"donors": 1, "scale": 1.0}},
        "environment": {"torch": "2.13.0", "commit": "abc"},
        "command": "python -m ensemble_transfer +strategy=shift",
    }
    return records.a_record(**fields | changes)


def test_a_record_survives_saving_and_loading(tmp_path):
    path = a_record().save(tmp_path)
    assert path == tmp_path / "record.json"
    assert Record.load(path) == a_record()


def test_the_file_opens_as_the_contract_says(tmp_path):
    written = json.loads(a_record().save(tmp_path).read_text(encoding="utf-8"))
    opening = ["schema_version", "status", "strategy", "seed", "dataset", "backbone", "ensemble"]
    assert list(written)[: len(opening)] == opening
    assert written["schema_version"] == SCHEMA_VERSION
    assert {"metrics", "cost", "reused_fits", "config", "environment", "command"} <= set(written)
    assert written["dataset"] == "digits → mnist"


@pytest.mark.parametrize("number", [math.nan, -math.inf])
def test_what_json_has_no_number_for_becomes_null(tmp_path, number):
    record = a_record(metrics={"a": number, "b": 1.5}, curves={"points": [[0, number], (1.0, number)]})
    path = record.save(tmp_path)
    assert json.loads(path.read_text(), parse_constant=pytest.fail)["metrics"] == {"a": None, "b": 1.5}
    loaded = Record.load(path)
    assert loaded.metrics == {"a": None, "b": 1.5}
    assert loaded.curves == {"points": [[0, None], [1.0, None]]}
    assert record.metrics["a"] is number


def test_a_failed_write_leaves_the_earlier_record(tmp_path, monkeypatch):
    a_record().save(tmp_path)
    with pytest.raises(TypeError):
        a_record(seed=4, config={"x": object()}).save(tmp_path)

    def cut_short(path, text, **_):
        path.write_bytes(text.encode()[:20])
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_text", cut_short)
    with pytest.raises(OSError, match="No space left"):
        a_record(seed=5).save(tmp_path)
    assert Record.load(tmp_path / "record.json").seed == 3


# Reading


def written(folder, **changes):
    path = a_record().save(folder)
    data = json.loads(path.read_text())
    data = {k: v for k, v in (data | changes).items() if v is not None}
    path.write_text(json.dumps(data | {"checksum": checksum(data)}))
    return path


def test_an_edited_record_is_refused(tmp_path):
    path = a_record().save(tmp_path)
    whole = path.read_text()
    path.write_text(whole.replace('"scale": 1.0', '"scale": 1.5'))
    with pytest.raises(ValueError, match=r"record.json is not a readable record: its checksum does not match"):
        Record.load(path)
    path.write_text(json.dumps(json.loads(whole), indent=None, sort_keys=True))
    assert Record.load(path) == a_record(), "another layout of the same fields is no edit"


def nested(levels):
    node = 1
    for _ in range(levels):
        node = [node]
    return node


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema_version": True}, "schema_version=True must be a whole number"),
        (
            {"schema_version": SCHEMA_VERSION + 1},
            f"schema_version={SCHEMA_VERSION + 1}: {SCHEMA_VERSION} is known here",
        ),
        (
            {"schema_version": SCHEMA_VERSION - 1},
            f"schema_version={SCHEMA_VERSION - 1}: {SCHEMA_VERSION} is known here",
        ),
        ({"status": "done"}, "status must be finished, failed or interrupted"),
        ({"status": ["failed"]}, "status must be finished, failed or interrupted"),
        ({"config": {"budget": [1]}}, "config.budget must be a number"),
        ({"config": {"trainer": 1}}, "config.trainer must be an object"),
        ({"config": {"strategy": {"scale": nested(900)}}}, "the record must not be nested more than 50 deep"),
        ({"metrics": {"target/test/ensemble/accuracy": -1}}, "metrics.target/test/ensemble/accuracy must be 0 to 1"),
        ({"metrics": {"source/test/member/nll": -0.5}}, "metrics.source/test/member/nll must be 0 or more"),
        ({"cost": {"total": COST | {"flops": -5}}}, "cost.total.flops must be 0 or more"),
        ({"cost": {"phases": {"tiny": COST | {"steps": -1}}}}, "cost.phases.tiny.steps must be 0 or more"),
        ({"cost": {"total": COST | {"flops": "many"}}}, "cost.total.flops must be a number"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"seed": [1]}, "seed must be a whole number"),
        ({"ensemble": {"size": 0}}, "ensemble.size must be above 0"),
        ({"ensemble": {"size": 8, "classes": 10}}, "ensemble.classes must be a list"),
        ({"dataset": "\ud800"}, "surrogates not allowed"),
        ({"metrics": {"target/test/ensemble/nll": "low"}}, "metrics.target/test/ensemble/nll must be a number"),
        ({"curves": {"ensemble_size": {"size": [1], "accuracy": [], "calibrated_nll": [1]}}}, "of one length"),
        ({"curves": {"confusion": [[1, 2], [3]]}}, "curves.confusion must be a square"),
    ],
)
def test_what_no_run_can_have_found_is_refused(tmp_path, change, said):
    with pytest.raises(ValueError, match=rf"record.json is not a readable record: .*{re.escape(said)}"):
        Record.load(written(tmp_path, **change))


@pytest.mark.parametrize(
    "metrics", [{"a/accuracy_gain": -0.5}, {"x/nll": 0}, {"x/accuracy": 1 + 1e-9}, {"x/ece": None}]
)
def test_what_is_possible_is_read(tmp_path, metrics):
    assert Record.load(written(tmp_path, metrics=metrics)).metrics == metrics


def test_fields_that_are_unknown_or_have_a_default_may_be_there_or_not(tmp_path):
    path = written(tmp_path, more=1, curves=None, error=None)
    assert Record.load(path) == a_record(curves={})


def test_a_file_that_is_no_record_is_refused_by_name(tmp_path):
    path = tmp_path / "record.json"
    for data in (b"", b"[1]", b'{"strategy": 1}', b"\xff", b"[" * 100_000, b"{" + b" " * 70_000_000 + b"}"):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=rf"^{re.escape(str(path))} is not a readable record: [^\n]*$"):
            Record.load(path)


def runs(root, *names):
    for seed, name in enumerate(names):
        (root / name).mkdir(parents=True)
        a_record(seed=seed).save(root / name)


def test_folders_come_in_the_order_given_job_10_after_job_9_and_a_run_once(tmp_path):
    runs(tmp_path, "x/10", "y/0", "x/9")
    found = read_records([tmp_path / "y", tmp_path / "x", tmp_path / "x" / "9"])
    assert [record.seed for record in found.values()] == [1, 2, 0]
    assert list(read_records([tmp_path / "x" / "9"])) == [tmp_path / "x" / "9"]
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'none'} is not a folder of runs")):
        read_records([tmp_path / "none"])


def test_one_broken_record_is_named_among_many(tmp_path):
    runs(tmp_path, "0", "1")
    (tmp_path / "1" / "record.json").write_text("{")
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "1" / "record.json"))):
        read_records([tmp_path])
    refused = []
    assert list(read_records([tmp_path], refused)) == [tmp_path / "0"]
    assert [str(tmp_path / "1" / "record.json") in str(error) for error in refused] == [True]


# As a table


def test_records_as_a_frame_have_a_row_for_each_run_and_a_column_for_each_number(tmp_path):
    runs(tmp_path, "0", "1")
    (tmp_path / "2").mkdir()
    records.failed("oh").save(tmp_path / "2")
    frame = as_frame(read_records([tmp_path]))
    assert frame.index.name == "folder"
    assert list(frame.index) == [str(tmp_path / name) for name in "012"]
    assert frame["seed"].tolist() == [0, 1, 7]
    assert frame["status"].tolist() == ["finished", "finished", "failed"]
    assert frame["ensemble/size"].tolist() == [8, 8, 8]
    assert frame.groupby("strategy")["target/test/ensemble/accuracy"].mean()["shift"] == 0.875
    first, last = frame.iloc[0], frame.iloc[2]
    assert first["cost/total/flops"] == first["cost/phases/tiny/flops"] == 10**12
    assert first["config/strategy/donors"] == 1
    assert first["environment/torch"] == "2.13.0"
    assert last["error"] == "oh"
    assert math.isnan(last["cost/total/flops"])
    assert not {"curves", "reused_fits", "metrics", "cost", "config"} & set(frame.columns)


def test_another_machine_and_the_store_change_nothing_reproducible_and_all_else_shows():
    def reproducible(total=COST, **changes):
        return a_record(cost={"phases": {"tiny": COST}, "total": total, "marginal": None}, **changes).reproducible()

    timings = COST | {"seconds": 99.0, "cpu_seconds": 98.0, "peak_memory_bytes": 1}
    assert reproducible(timings, environment={"torch": "9"}, reused_fits=[], command="again") == reproducible()
    for change in ({"status": "failed"}, {"seed": 4}, {"curves": {}}, {"metrics": {"a": math.nan}}, {"config": {}}):
        assert reproducible(**change) != reproducible()
        assert reproducible(**change) == reproducible(**change)
    assert reproducible(COST | {"flops": 21}) != reproducible()
