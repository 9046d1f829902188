"""What images may be, as settings are checked by it before anything heavy is imported."""

from ensemble_transfer.errors import require

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
