"""How images become the input of an ensemble, in words and numbers for those who use it without this package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ensemble_transfer.models.backbone import Architecture


def preprocessing(architecture: Architecture) -> dict[str, Any]:
    """Return the steps from an image file to the input, in their order, as plain data.

    :func:`ensemble_transfer.tasks.images.fit` takes these steps. The members take the last one themselves.
    """
    gray = architecture.channels == 1
    return {
        "orientation": "turned upright by the EXIF tag",
        "depth": "8 bits: of 16 bits, the upper 8",
        "alpha": "composited onto white",
        "crop": "largest centred square",
        "resize": f"{architecture.image_size}x{architecture.image_size}, bilinear with antialiasing",
        "color": "gray, ITU-R 601-2 luma: (19595 R + 38470 G + 7471 B + 32768) >> 16" if gray else "RGB",
        "layout": f"uint8 (N, {architecture.channels}, {architecture.image_size}, {architecture.image_size})",
        "mean": list(architecture.mean),
        "std": list(architecture.std),
        "normalisation": "(x / 255 - mean) / std, done by the model itself",
    }
