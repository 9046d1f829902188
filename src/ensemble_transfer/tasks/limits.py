"""What images may be and where they are, as settings are checked by it before anything heavy is imported."""

from pathlib import Path

from ensemble_transfer.errors import SettingError, require

MIN_SIZE = 8
"""Smallest supported height and width, in pixels: strided convolutions need some room."""
MAX_SIZE = 4096
"""Largest supported height and width, in pixels."""

SEVERITIES = (1, 2, 3, 4, 5)
"""Severities of corruptions."""


def require_shape(image_size: int, channels: int) -> None:
    """Raise a SettingError unless images of this size and number of channels are supported."""
    require(MIN_SIZE <= image_size <= MAX_SIZE, "image_size", image_size, f"must be {MIN_SIZE} to {MAX_SIZE} pixels")
    require(channels in (1, 3), "channels", channels, "must be 1 (gray) or 3 (RGB)")


def require_there(path: str) -> None:
    """Raise a SettingError if there is no file or folder of images."""
    try:
        there = path != "" and Path(path).expanduser().exists()
    except (OSError, RuntimeError) as error:  # a name that no file system has, or a home that nobody has
        raise SettingError("path", path, f"cannot be looked for: {error}") from error
    require(there, "path", path, f"must be a file or a folder that exists{whence(path)}")


def whence(path: str) -> str:
    """Return the command that makes a missing path, if it is where a preset of the configuration has its images."""
    made = "; scripts/data/fetch_data.py of the repository makes those of the presets"
    return made if Path(path).parts[:1] == ("data",) else ""
