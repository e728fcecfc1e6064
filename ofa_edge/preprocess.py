"""From an image file to the network's input: the one implementation, of training, evaluation, int8 calibration and the
example for applications (docs/examples/classify.py), beside which `ofa-edge bundle example` puts this file as it is.

In: an encoded image, or its pixels, and the `input` of a mode in a manifest. Out: arrays. Rules kept: numpy and Pillow
alone, nothing of ofa_edge, Python 3.9 (it runs on devices); Pillow loads when an image is there, not before.

What is decided for images that are not plain RGB photographs, the same in training and in an application:
- greyscale becomes three equal channels; of 16 bits the upper 8 count; palettes become their colours;
- transparency is dropped: the colour stored in a pixel counts, however transparent it is;
- the EXIF orientation is applied, so a photograph stands as it is shown; one that cannot be read counts as none;
- of an animation the first picture counts;
- an image smaller than the network's input is enlarged, from one pixel on; of a long one the middle square counts;
- floating-point pixels have no known range, and damaged or cut-off files no known rest: both are refused.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Union

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

# An image whose short side is longer is first reduced to this: that saves memory in training, and nothing is lost at
# the input sizes trained here (160 / 0.875 = 183). A manifest says it as `reduce_to`.
REDUCE_TO = 224

# Pillow's resize first averages whole pixels where it reduces by more than this, which takes less time.
_REDUCING_GAP = 3.0
_BICUBIC = 3  # Image.Resampling.BICUBIC, which Pillow calls otherwise before 9.1
_ORIENTATION = 0x0112  # EXIF's tag

PerChannel = Union[float, Sequence[float]]


def network_input(data: bytes, settings: Mapping[str, Any]) -> np.ndarray:
    """An encoded image as the input of a network, float32 with a batch of 1.

    Args:
        settings: `input` of a mode in a bundle's manifest.

    Raises:
        ValueError: it is no image, or the settings ask for what this version does not do.
    """
    if settings["resize"] != "bicubic" or settings["layout"] not in ("NCHW", "NHWC"):
        raise ValueError(f"no such preprocessing: resize {settings['resize']}, layout {settings['layout']}")
    pixels = centre_crop(decode(data, settings["reduce_to"]), settings["resolution"], settings["crop"])
    scaled = scale(pixels, settings["mean"], settings["std"])[None]
    return scaled if settings["layout"] == "NHWC" else np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def decode(data: bytes, reduce_to: int = REDUCE_TO) -> np.ndarray:
    """Pixels of an encoded image: RGB, uint8 (H, W, 3), the short side at most `reduce_to`.

    Raises:
        ValueError: it is no whole image.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            turned = _orientation(image)
            image.draft("RGB", (reduce_to, reduce_to))
            rgb = _rgb(image)
    except Exception as error:  # Pillow's decoders end in many types on damaged bytes, SyntaxError and struct.error too
        raise ValueError(f"this is not an image that Pillow reads: {error}") from error
    if min(rgb.size) > reduce_to:
        factor = reduce_to / min(rgb.size)
        rgb = rgb.resize((round(rgb.width * factor), round(rgb.height * factor)), _BICUBIC)
    return np.ascontiguousarray(_turn(np.asarray(rgb), turned))


def centre_crop(pixels: np.ndarray, resolution: int, crop: float) -> np.ndarray:
    """The square in the middle, `crop` of the short side long, as uint8 (resolution, resolution, 3)."""
    from PIL import Image

    height, width = pixels.shape[:2]
    side = min(height, width) * crop
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    size = (resolution, resolution)
    return np.asarray(Image.fromarray(pixels).resize(size, _BICUBIC, box, reducing_gap=_REDUCING_GAP))


def scale(pixels: np.ndarray, mean: PerChannel, std: PerChannel) -> np.ndarray:
    """(x - mean) / std of pixels (..., H, W, 3) in 0..255, as float32; mean and deviation are one, or one a channel."""
    scaled: np.ndarray = (pixels.astype(np.float32) - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return scaled


def _rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers")
    if image.mode.startswith("I"):
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 0xFFFF:
            raise ValueError("its pixels have more than 16 bits")
        return Image.fromarray((grey >> 8).astype(np.uint8)).convert("RGB")
    if "transparency" in image.info:  # a colour that is transparent: without this step Pillow warns, or keeps it
        image = image.convert("RGBA")
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # as many types as its decoders
        return 1


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels as EXIF's orientation says they are seen."""
    if orientation in (5, 6, 7, 8):  # rows are columns
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels
