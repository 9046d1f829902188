"""Characters as fonts draw them, for the tasks that fetch_data.py makes of fonts."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fontTools.ttLib import TTFont
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Array = NDArray[np.uint8]

SIDE, INK, POINTS = 28, 24, 64
POOR = 0.6  # a font that draws less than this share of the characters is left out


@dataclass(frozen=True)
class FontSet:
    """Characters, the folders whose fonts draw them, and the shares of fonts to hold out for test and validation."""

    characters: str
    folders: tuple[str, ...]
    packages: str
    test: float
    validation: float


AENIGMA = ("/usr/share/fonts/truetype/aenigma",), "fonts-aenigma", 0.3, 0.15
CULMUS = tuple(
    f"/usr/share/fonts/{kind}/{name}" for name in ("culmus", "culmus-fancy") for kind in ("truetype", "opentype")
)
FONT_SETS = {
    "letters": FontSet("ABCDEFGHIJKLMNOPQRSTUVWXYZ", *AENIGMA),
    "font_digits": FontSet("0123456789", *AENIGMA),
    "hebrew": FontSet("".join(map(chr, range(0x5D0, 0x5EB))), CULMUS, "fonts-culmus fonts-culmus-fancy", 0.5, 0.2),
}


def family(path: Path) -> str:
    """Return what a font and its siblings share: the first word of the family that the font states."""
    with TTFont(path, lazy=True) as font:
        words = str(font["name"].getDebugName(1)).lower().split()
    return next(word for word in words if word not in ("mini", "taamey"))


def split_families(families: dict[Path, str], test: float, validation: float) -> dict[Path, str]:
    """Assign fonts to splits, whole families at a time, in the order of their names' hashes."""
    counts = Counter(families.values())
    places, seen = {}, 0
    for name in sorted(counts, key=digest):
        share = seen / len(families)
        places[name] = "test" if share < test else "validation" if share < test + validation else "train"
        seen += counts[name]
    return {font: places[name] for font, name in families.items()}


def render(splits: dict[Path, str], characters: str) -> dict[str, NDArray[np.generic]]:
    """Return ``train_images`` (N, 28, 28), ``train_labels`` (N,) and so on, without exact duplicates."""
    images: dict[str, list[Array]] = {"train": [], "validation": [], "test": []}
    labels: dict[str, list[int]] = {split: [] for split in images}
    seen: set[bytes] = set()
    for font, split in splits.items():
        glyphs = font_glyphs(font, characters)
        if len(glyphs) < POOR * len(characters):
            continue
        for character, glyph in glyphs.items():
            if glyph.tobytes() not in seen:
                seen.add(glyph.tobytes())
                images[split].append(glyph)
                labels[split].append(characters.index(character))
    stacked: dict[str, NDArray[np.generic]] = {f"{split}_images": np.stack(drawn) for split, drawn in images.items()}
    return stacked | {f"{split}_labels": np.array(drawn, np.int64) for split, drawn in labels.items()}


def font_glyphs(path: Path, characters: str) -> dict[str, Array]:
    """Draw the characters that a font has; those that look the same are placeholders, and left out."""
    with TTFont(path, lazy=True) as file:
        known = file.getBestCmap() or {}
    font = ImageFont.truetype(path, POINTS, layout_engine=ImageFont.Layout.BASIC)
    drawn = {character: draw(font, character) for character in characters if ord(character) in known}
    inked = {character: glyph for character, glyph in drawn.items() if glyph is not None}
    copies = Counter(glyph.tobytes() for glyph in inked.values())
    return {character: glyph for character, glyph in inked.items() if copies[glyph.tobytes()] == 1}


def draw(font: ImageFont.FreeTypeFont, character: str) -> Array | None:
    """Return a character, white on black (28, 28), its ink fitted into the middle 24x24; None without ink."""
    left, top, right, bottom = (int(edge) for edge in font.getbbox(character))
    canvas = Image.new("L", (max(1, right - left), max(1, bottom - top)))
    ImageDraw.Draw(canvas).text((-left, -top), character, fill=255, font=font)
    box = canvas.getbbox()
    if box is None:
        return None
    ink = canvas.crop(box)
    scale = INK / max(ink.size)
    ink = ink.resize((max(1, round(ink.width * scale)), max(1, round(ink.height * scale))), Image.Resampling.BILINEAR)
    image = Image.new("L", (SIDE, SIDE))
    image.paste(ink, ((SIDE - ink.width) // 2, (SIDE - ink.height) // 2))
    return np.asarray(image)


def digest(text: str) -> str:
    """Return a hash, which orders names the same on every machine and unlike the alphabet."""
    return hashlib.sha256(text.encode()).hexdigest()
