import shutil

import pytest
import torch
from pictures import write_pictures
from refusals import refusal

from ensemble_transfer import Digits, ImageCsv, SettingError


@pytest.fixture(scope="module")
def scans():
    return Digits(train=60, validation=10, test=10, classes=["0", "1", "2"]).load(8, 1).train


@pytest.fixture
def table(tmp_path, scans):
    """A table of 60 scans; the first 40 to train on, then 8, then 12."""
    write_pictures(tmp_path / "scans", scans.images)
    splits, names = ["train"] * 40 + ["val"] * 8 + ["test"] * 12, ("zero", "één", "二")
    rows = enumerate(zip(scans.labels, splits, strict=True))
    lines = [f"scans/{place:02}.png,{names[label]},{split}" for place, (label, split) in rows]
    return write(tmp_path / "table.csv", ["path,label,split", *lines])


def write(path, lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def changed(table, number, line):
    """Change a line; numbers count from 1."""
    lines = table.read_text(encoding="utf-8").splitlines()
    lines[number - 1] = line
    return write(table, lines)


def complaint(path, **settings):
    error = refusal(ImageCsv(str(path), **settings).load, 8, 1)
    assert (error.setting, error.value) == ("path", str(path))
    return error.rule


def test_a_table_with_splits(table, scans):
    task = ImageCsv(str(table)).load(8, 1)
    assert task.name == "table"
    assert task.classes == ("zero", "één", "二")
    assert (len(task.train), len(task.validation), len(task.test)) == (40, 8, 12)
    assert torch.equal(task.test.images, scans.images[48:])
    assert torch.equal(task.test.labels, scans.labels[48:])


def test_a_table_without_splits_is_divided(table):
    lines = [line.rpartition(",")[0] for line in table.read_text(encoding="utf-8").splitlines()]
    task = ImageCsv(str(write(table, lines)), test=15, validation=6).load(8, 1)
    assert (len(task.train), len(task.validation), len(task.test)) == (39, 6, 15)
    text = table.read_text(encoding="utf-8").replace("zero", "10").replace("één", "9").replace("二", "1")
    table.write_text(text, encoding="utf-8")
    assert ImageCsv(str(table)).load(8, 1).classes == ("1", "9", "10")  # numbers are in their order


def test_other_columns_absolute_paths_and_spreadsheets(table, tmp_path):
    plain = ImageCsv(str(table)).load(8, 1)
    rows = [line.split(",") for line in table.read_text(encoding="utf-8").splitlines()[1:]]
    lines = ["part,remark,file,kind"]
    lines += [f'{split.title()},"say ""a, b""",{tmp_path / path}, {label} ' for path, label, split in rows]
    (tmp_path / "elsewhere").mkdir()
    other = tmp_path / "elsewhere" / "other.csv"
    other.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*lines, "", ""]).encode())
    task = ImageCsv(str(other), path_column="file", label_column="kind", split_column="part").load(8, 1)
    assert task.fingerprint == plain.fingerprint
    with pytest.raises(SettingError, match=r"^split_column='parts': must be a column that line 1 of .* names once"):
        ImageCsv(str(other), path_column="file", label_column="kind", split_column="parts").load(8, 1)


@pytest.mark.parametrize(
    ("number", "line", "text"),
    [
        (1, "file,label,split", "line 1 must name the column 'path' once; it has ['file', 'label', 'split']"),
        (3, "scans/01.png,zero", "line 3: has 2 fields where the header has 3"),
        (
            3,
            "scans/01.png,zero,dev",
            "line 3: its split 'dev' must be one of train, training, val, valid, validation, test, testing",
        ),
        (9, "./scans/../scans/01.png,zero,test", "line 9: lists an image again, after line 3"),
        (61, "scans/59.png,new,test", "line 61: scans/59.png has the class 'new', which no line of train has"),
        (5, 'scans/03.png,"zero,train', "line 61: is not CSV (unexpected end of data)"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(table, number, line, text):
    assert complaint(changed(table, number, line)) == text


def test_tables_that_are_no_task(table, tmp_path):
    assert complaint(tmp_path / "none.csv") == complaint(tmp_path) == "must be a CSV file that exists"
    assert complaint(write(tmp_path / "empty.csv", [])) == "line 1 must name the column 'path' once; it has []"
    header = write(tmp_path / "header.csv", ["path,label"])
    rule = "must have two or more classes in lines of the split train; it has "
    assert complaint(header) == f"{rule}none"
    assert complaint(write(header, ["path,label", "a.png,cat"])) == f"{rule}cat"
    table.write_bytes(table.read_bytes().replace(b"scans/20.png,", b"scans/20.png,\xe9\xe9n", 1))
    assert complaint(table).startswith("is not UTF-8 text (")


def test_broken_images_are_named_with_their_lines(table, caplog):
    scans = table.parent / "scans"
    (scans / "03.png").unlink()
    (scans / "04.png").write_bytes(b"")
    (scans / "05.png").write_bytes((scans / "06.png").read_bytes()[:60])
    text = complaint(table)
    assert text.startswith(
        "images that cannot be read: line 5: scans/03.png (does not exist), line 6: scans/04.png (not an image), "
        "line 7: scans/05.png ("
    )
    assert text.endswith(
        "; repair or remove them, or leave them out by broken=skip of this task, as in dataset.target.broken=skip"
    )
    task = ImageCsv(str(table), broken="skip").load(8, 1)
    assert (len(task.train), len(task.validation), len(task.test)) == (37, 8, 12)
    assert "left out 3 images" in caplog.text
    shutil.rmtree(scans)
    with pytest.raises(SettingError, match=r"holds no image that can be read \(train\)"):
        ImageCsv(str(table), broken="skip").load(8, 1)


def test_a_path_with_nul_in_it_is_an_image_that_cannot_be_read(table):
    changed(table, 3, "scans/0\0.png,zero,train")
    assert "line 3: " in complaint(table)
    assert len(ImageCsv(str(table), broken="skip").load(8, 1).train) == 39
