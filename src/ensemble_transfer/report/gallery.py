"""The errors of a run as pictures, in one self-contained page."""

from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

from ensemble_transfer.layout import ERRORS, replacing
from ensemble_transfer.report.html import rendered


@dataclass(frozen=True)
class Shown:
    """A test image with what was predicted for it.

    Attributes:
        png: The image.
        place: Its place among the test images, from 0.
        truth: Its class.
        predicted: The most probable class.
        probability: The calibrated probability of that class.
    """

    png: bytes = field(repr=False)
    place: int
    truth: str
    predicted: str
    probability: float

    @property
    def data(self) -> str:
        """The image as a data URL holds it."""
        return b64encode(self.png).decode()

    @property
    def percent(self) -> str:
        """The probability in percent; what rounds to certainty is not called so."""
        return "above 99.9%" if self.probability >= 0.9995 else f"{self.probability:.1%}"


def write_errors(folder: Path, title: str, surest: Sequence[Shown], unsure: Sequence[Shown], errors: int) -> Path:
    """Write ``errors.html`` into a run's folder, and return its path.

    Args:
        folder: The folder of the run.
        title: Strategy and task.
        surest: Wrong predictions, the surest first.
        unsure: Right predictions, the least sure first.
        errors: How many test images are predicted wrongly in all.
    """
    page = rendered("errors.html", title=title, surest=surest, unsure=unsure, errors=errors)
    with replacing(folder / ERRORS) as beside:
        beside.write_text(page, encoding="utf-8")
    return folder / ERRORS


def read_errors(path: Path) -> list[Shown]:
    """Return the images that :func:`write_errors` wrote, in their order; none where there is no such file."""
    reader = _Reader()
    if path.is_file():
        reader.feed(path.read_text(encoding="utf-8"))
    return reader.found


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[Shown] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep an image with what its attributes say."""
        own = {name: value or "" for name, value in attrs}
        if tag == "img" and "data-truth" in own:
            png = b64decode(own["src"].partition(",")[2])
            about = int(own["data-place"]), own["data-truth"], own["data-predicted"], float(own["data-probability"])
            self.found.append(Shown(png, *about))
