"""Task data from packages, on matplotlib's fonts, scikit-learn's photographs and packages that the tests write."""

import importlib.util
import io
import json
import sys
import tarfile
import zipfile
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from ensemble_transfer.tasks.folder import ImageFolder
from ensemble_transfer.tasks.npz import Npz

SCRIPT = Path(__file__).parents[2] / "scripts" / "data" / "fetch_data.py"
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@pytest.fixture
def fetch(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("fetch_data", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fetch_data", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fonts(fetch):
    return sys.modules["render_fonts"]


def drawing(fonts, name, character):
    font = fonts.ImageFont.truetype(FONTS / name, fonts.POINTS)
    return fonts.draw(font, character)


# Fonts


@pytest.fixture
def letters(fetch, fonts, monkeypatch):
    """The letters of matplotlib's fonts: DejaVu's, STIX's and Computer Modern's."""
    monkeypatch.setitem(fetch.FONT_SETS, "letters", fonts.FontSet("ABCOHX", (str(FONTS),), "fonts-any", 0.3, 0.2))
    return fetch


def test_letters_make_a_task_and_the_same_fonts_the_same_bytes(letters, fonts, tmp_path, capsys):
    for root in ("a", "b"):
        assert letters.main(["letters", "--root", str(tmp_path / root)]) == 0
    first, second = (tmp_path / root / "letters.npz" for root in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    task = Npz(path=str(first)).load(28, 1)
    assert task.classes == tuple("ABCOHX")
    splits = {"train": task.train, "validation": task.validation, "test": task.test}
    printed = capsys.readouterr().out
    for name, split in splits.items():
        counts = split.labels.bincount(minlength=6)
        assert (counts > 0).all()
        assert f"{name}: {len(split)} images of 6 classes: A {counts[0]}, B {counts[1]}, C {counts[2]}" in printed
    image = drawing(fonts, "DejaVuSans.ttf", "B")
    same = [(split.images[:, 0].numpy() == image).all((1, 2)) for split in splits.values()]
    (found,) = [split.labels[which] for split, which in zip(splits.values(), same, strict=True) if which.any()]
    assert found.tolist() == [1]


def test_siblings_stay_together_and_splits_have_the_shares_that_are_asked_for(fetch):
    siblings = {fetch.family(FONTS / f"{name}.ttf") for name in ("DejaVuSerif-Bold", "DejaVuSansMono", "DejaVuSans")}
    assert siblings == {"dejavu"}
    assert len({fetch.family(font) for font in FONTS.glob("*.ttf")}) > 3
    families = {Path(f"{family} {number}"): str(family) for family in range(100) for number in range(family % 3 + 1)}
    found = fetch.split_families(families, 0.3, 0.15)
    assert len({(family, found[font]) for font, family in families.items()}) == 100
    splits = list(found.values())
    shares = {split: splits.count(split) / len(splits) for split in ("test", "validation", "train")}
    assert shares == pytest.approx({"test": 0.3, "validation": 0.15, "train": 0.55}, abs=0.02)


def test_placeholders_absent_characters_copies_and_poor_fonts_are_left_out(fonts, monkeypatch):
    glyphs = fonts.font_glyphs(FONTS / "DejaVuSans.ttf", "Aא\u0410Zﷺ\uf8ff")
    assert list(glyphs) == ["א", "Z"]  # Cyrillic A looks like the Latin one; the last two are in no cmap
    a, b, c, d = (np.full((28, 28), value, np.uint8) for value in (1, 2, 3, 4))
    drawn = {"first": {"A": a, "B": b}, "copy": {"A": a, "B": c}, "poor": {"A": a}, "other": {"A": d, "B": b}}
    monkeypatch.setattr(fonts, "font_glyphs", lambda font, _: drawn[font.name])
    splits = {"first": "train", "copy": "test", "poor": "train", "other": "validation"}
    arrays = fonts.render({Path(font): split for font, split in splits.items()}, "AB")
    images = {split: arrays[f"{split}_images"][:, 0, 0].tolist() for split in ("train", "validation", "test")}
    assert images == {"train": [1, 2], "validation": [4], "test": [3]}
    assert arrays["test_labels"].tolist() == [1]
    drawn["poor"] = {"B": np.full((28, 28), 5, np.uint8)}
    assert len(fonts.render({Path(font): split for font, split in splits.items()}, "AB")["train_images"]) == 2


# Clipart


@pytest.fixture
def clipart(fetch, tmp_path, monkeypatch):
    """A package of photographs: one class has a broken file, one too large, an empty one, and a link."""
    package = tmp_path / "package"
    for kind, photograph in (("animals", "flower.jpg"), ("tools", "china.jpg")):
        (package / kind / "deep").mkdir(parents=True)
        picture = Image.fromarray(load_sample_image(photograph)).convert("RGBA")
        for number in range(4):
            page = Image.new("RGBA", (700, 700))
            page.paste(picture.crop((100 * number, 0, 100 * number + 200, 100)), (300, 400))
            page.save(package / kind / "deep" / f"{number}.png")
    (package / "tools" / "cut.png").write_bytes((package / "tools" / "deep" / "0.png").read_bytes()[:2000])
    Image.new("RGBA", (4, 4)).save(package / "tools" / "empty.png")
    Image.new("L", (1200, 1200), 9).save(package / "tools" / "large.png")
    (package / "tools" / "link.png").symlink_to(package / "animals" / "deep" / "0.png")
    monkeypatch.setattr(fetch.Image, "MAX_IMAGE_PIXELS", 1_000_000)
    monkeypatch.setitem(fetch.DRAWINGS, "clipart", (str(package), "openclipart-png", 96, "animals tools"))
    return fetch


@pytest.mark.filterwarnings("default")  # as a user runs it
def test_clipart_is_shrunk_to_what_it_shows_and_broken_files_are_named(clipart, tmp_path, capsys):
    assert clipart.main(["clipart", "--root", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for name in ("cut", "empty", "large"):
        assert printed.count(f"left out {tmp_path}/package/tools/{name}.png: ") == 1
    assert printed.endswith(f"{tmp_path}/clipart, all: 8 images of 2 classes: animals 4, tools 4\n")
    for path in (tmp_path / "clipart").rglob("*.png"):
        with Image.open(path) as image:
            assert image.size == (96, 96)
            assert image.getchannel("A").getbbox() == (0, 24, 96, 72)
    task = ImageFolder(path=str(tmp_path / "clipart"), validation=2, test=2).load(64, 3)
    assert task.classes == ("animals", "tools")
    assert len(task.train) == 4


# Emoji


def npm(folder, known, images, vendor="google"):
    """Write what ``npm pack`` downloads."""
    path = folder / "emoji.tgz"
    files = {"emoji.json": json.dumps(known).encode()} | {
        f"img/{vendor}/64/{name}": data for name, data in images.items()
    }
    with tarfile.open(path, "w:gz") as package:
        for name, data in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            package.addfile(member, io.BytesIO(data))
    return path


def test_emoji_are_sorted_by_category(fetch, tmp_path, monkeypatch, capsys):
    known = [
        {"category": category, "image": f"{place}.png", "has_img_google": place != 4, "unified": f"{place}"}
        for place, category in enumerate(["Food & Drink", "Flags", "Component", "Food & Drink", "Flags"])
    ]
    monkeypatch.setattr(
        fetch, "npm_package", lambda folder, _: npm(folder, known, {f"{n}.png": b"%d" % n for n in range(4)})
    )
    assert fetch.main(["emoji", "--root", str(tmp_path)]) == 0
    found = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*.png")}
    assert found == {"emoji/food_drink/0.png": b"0", "emoji/food_drink/3.png": b"3", "emoji/flags/1.png": b"1"}
    assert capsys.readouterr().out.endswith("3 images of 2 classes: flags 1, food_drink 2\n")


# Icons


@pytest.fixture
def icons(fetch, tmp_path, monkeypatch):
    """Three themes of photographs: links, copies, small drawings, other folders, and two sizes of an icon."""
    themes = tmp_path / "themes"
    picture = Image.fromarray(load_sample_image("flower.jpg"))

    def draw(place, at, side=64, alpha=255):
        (themes / place).parent.mkdir(parents=True, exist_ok=True)
        image = picture.crop((at, 0, at + side, side)).convert("RGBA")
        image.putalpha(alpha)
        image.save(themes / place)

    for place, theme in enumerate(fetch.THEMES):
        for name in range(20):
            draw(f"{theme}/64x64/actions/{name}.png", 30 * name + place)
            draw(f"{theme}/48x48/places/place-{name}.png", 30 * name + place, 48)
        draw(f"{theme}/32x32/places/place-1.png", 9 + place, 32)
        draw(f"{theme}/32x32/places/small.png", 9 + place, 32)
        draw(f"{theme}/64x64/emblems/other.png", 9)
    draw("oxygen/128x128/actions/3.png", 300, 128, alpha=0)
    draw("oxygen/64x64/actions/copy.png", 120)  # looks like 4
    draw("mate/64x64/places/of-oxygen.png", 120)
    for kind in ("actions", "places"):
        draw(f"gnome/64x64/{kind}/both.png", 7 if kind == "places" else 8)
    (themes / "gnome/64x64/actions/link.png").symlink_to("5.png")
    monkeypatch.setattr(fetch, "ICONS", themes)
    return fetch


def test_icons_are_each_ones_largest_drawing_once_and_on_white(icons, tmp_path, capsys):
    assert icons.main(["icons", "--root", str(tmp_path)]) == 0
    files = sorted((tmp_path / "icons").rglob("*.png"))
    found = {f"{path.parts[-4]}/{path.parts[-2]}/{path.stem}" for path in files}
    both = {f"actions/{n}" for n in range(20)} | {f"places/place-{n}" for n in range(20)}
    assert found == {f"{theme}/{icon}" for theme in icons.THEMES for icon in both}
    [large] = [path for path in files if path.parts[-4] == "oxygen" and path.stem == "3"]
    with Image.open(large) as image:
        assert (image.mode, image.size) == ("RGB", (96, 96))
        assert image.getextrema() == ((255, 255),) * 3
    assert len({path.read_bytes() for path in files}) == len(files)
    splits = {}
    for path in files:
        splits.setdefault(path.stem, set()).add(path.parts[-3])
    assert {len(found) for found in splits.values()} == {1}  # no icon of a test was seen in another theme
    assert set.union(*splits.values()) == {"train", "validation", "test"}
    printed = capsys.readouterr().out
    assert all(f"{theme}, train: " in printed for theme in icons.THEMES)


# Photos


def encoded(image, kind):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("above", ["signs", "Sign-Language-Digits-Dataset-master/Dataset"])
@pytest.mark.parametrize("given", [True, False])
def test_signs_are_those_in_folders_of_digits(fetch, tmp_path, monkeypatch, capsys, above, given):
    photo = encoded(Image.fromarray(load_sample_image("flower.jpg")), "JPEG")
    file = tmp_path / "signs.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("0/IMG_1.JPG", "0/IMG_2.JPG", "9/IMG_3.JPG", "Examples/example_0.JPG", "0/about.txt"):
            archive.writestr(f"{above}/{name}", photo + name.encode())
    monkeypatch.setattr(sys.modules["photos"], "SIGNS", file.as_uri())
    assert fetch.main(["signs", "--root", str(tmp_path / "data"), *(["--signs", str(file)] if given else [])]) == 0
    found = {str(path.relative_to(tmp_path / "data")): path.read_bytes() for path in tmp_path.rglob("data/*/*/*")}
    names = {f"signs/{name[:-3]}jpg": name for name in ("0/IMG_1.JPG", "0/IMG_2.JPG", "9/IMG_3.JPG")}
    assert found == {path: photo + name.encode() for path, name in names.items()}
    assert "holds other photos than benchmarks/photos is about" in capsys.readouterr().err


def test_solar_cells_are_sorted_by_grade_from_a_package_that_stays_out(fetch, tmp_path, monkeypatch, capsys):
    gray = encoded(Image.fromarray(load_sample_image("flower.jpg")[:300, :300, 0]), "PNG")
    wheel = tmp_path / "elpv_dataset-1.0.0.post1-py3-none-any.whl"
    grades = list(sys.modules["photos"].GRADES)
    with zipfile.ZipFile(wheel, "w") as package:
        lines = [f"images/cell{place}.png  {grade:20}  mono\n" for place, grade in enumerate(3 * grades)]
        package.writestr("elpv_dataset/data/labels.csv", "".join(lines))
        for place in range(12):
            package.writestr(f"elpv_dataset/data/images/cell{place}.png", gray + b"%d" % place)
        about = "elpv_dataset-1.0.0.post1.dist-info"
        package.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: elpv-dataset\nVersion: 1.0.0.post1\n")
        package.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        package.writestr(f"{about}/RECORD", "")
    monkeypatch.setattr(sys.modules["photos"], "SOLAR", str(wheel))
    assert fetch.main(["solar", "--root", str(tmp_path / "data")]) == 0
    assert capsys.readouterr().out.endswith(
        "12 images of 4 classes: 0_intact 3, 1_perhaps 3, 2_likely 3, 3_defective 3\n"
    )
    assert (tmp_path / "data/solar/3_defective/cell3.png").read_bytes() == gray + b"3"
    assert importlib.util.find_spec("elpv_dataset") is None
    task = ImageFolder(path=str(tmp_path / "data/solar"), validation=4, test=4).load(128, 3)
    assert task.classes == ("0_intact", "1_perhaps", "2_likely", "3_defective")


# What is missing


def test_a_missing_package_is_one_line_that_says_what_to_install(fetch, fonts, tmp_path, monkeypatch, capsys):
    nowhere = tmp_path / "nowhere"
    for name, wanted in fetch.FONT_SETS.items():
        empty = fonts.FontSet(wanted.characters, (str(nowhere),), wanted.packages, 0, 0)
        monkeypatch.setitem(fetch.FONT_SETS, name, empty)
    for name, (_, *others) in fetch.DRAWINGS.items():
        monkeypatch.setitem(fetch.DRAWINGS, name, (str(nowhere), *others))
    monkeypatch.setattr(fetch, "ICONS", nowhere)
    photos = sys.modules["photos"]
    monkeypatch.setattr(photos, "SIGNS", nowhere.as_uri())
    monkeypatch.setattr(photos, "SOLAR", str(nowhere / "solar.whl"))
    monkeypatch.setattr(fetch.shutil, "which", lambda _: None)
    assert fetch.main(["all", "--root", str(tmp_path / "data")]) == 2
    *lines, signs, solar = capsys.readouterr().err.splitlines()
    assert signs.startswith("error: signs: ")
    assert solar.startswith("error: solar: ")
    assert str(nowhere) in signs
    assert str(nowhere) in solar
    assert lines == [
        f"error: letters: no fonts in {nowhere}; apt-get install fonts-aenigma",
        f"error: font_digits: no fonts in {nowhere}; apt-get install fonts-aenigma",
        f"error: hebrew: no fonts in {nowhere}; apt-get install fonts-culmus fonts-culmus-fancy",
        f"error: clipart: no folder {nowhere}; apt-get install openclipart-png",
        f"error: stamps: no folder {nowhere}; apt-get install tuxpaint-stamps-default",
        "error: emoji: npm is missing; apt-get install npm",
        "error: google_emoji: npm is missing; apt-get install npm",
        "error: twitter_emoji: npm is missing; apt-get install npm",
        f"error: icons: no folder {nowhere}/oxygen; apt-get install oxygen-icon-theme",
    ]
    assert list((tmp_path / "data").iterdir()) == []


def test_the_presets_read_what_the_script_writes(fetch):
    conf = Path(__file__).parents[2] / "conf" / "task"
    folders = (
        "clipart",
        "emoji",
        "stamps",
        "signs",
        "solar",
        "google_emoji",
        "twitter_emoji",
        "icons/mate",
        "icons/oxygen",
    )
    written = {*(f"data/{name}.npz" for name in fetch.FONT_SETS), *(f"data/{name}" for name in folders)}
    lines = [line.split() for file in conf.glob("*.yaml") for line in file.read_text().splitlines()]
    assert written == {
        path for key, path, *_ in (line for line in lines if len(line) > 1) if key == "path:" and "data/" in path
    }
    assert {name.split("/")[0] for name in folders} | set(fetch.FONT_SETS) == set(fetch.MAKERS)
