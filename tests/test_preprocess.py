"""One preprocessing: the same pixels in training, evaluation and an application, for unusual images too."""

from __future__ import annotations

import ast
import io
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from ofa_edge import shipped
from ofa_edge.preprocess import REDUCE_TO, centre_crop, decode, network_input, scale
from ofa_edge.space.arch import Preprocess
from ofa_edge.space.spaces import SPACES
from ofa_edge.train import batches, images
from ofa_edge.train.images import ImageSet
from tests.test_imports import annotations_of, newer_than_39
from tests.train.tiny import picture

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (40, 56, 3), dtype=np.uint8)


def encoded(image: Image.Image, format: str = "PNG", **how: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **how)
    return out.getvalue()


def shipped_files() -> list[Path]:
    return [shipped.preprocess(), shipped.examples() / "classify.py"]


@pytest.mark.parametrize("file", shipped_files(), ids=lambda file: file.name)
def test_what_an_application_takes_along_needs_neither_ofa_edge_nor_a_new_python(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"), feature_version=(3, 9))
    assert newer_than_39(tree) == []
    assert list(annotations_of(tree))
    allowed = {"numpy", "PIL", "preprocess", "onnxruntime", *sys.stdlib_module_names} - {"tomllib"}
    named = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    named |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in named} <= allowed


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_a_photograph_stands_as_its_exif_orientation_says(orientation: int, format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(RGB), format, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(decode(data), expected)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_an_orientation_that_cannot_be_read_counts_as_none() -> None:
    plain = encoded(Image.fromarray(RGB), "JPEG")
    damaged = encoded(Image.fromarray(RGB), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(decode(damaged), decode(plain))


GREY = RGB[..., 0]
ALPHA = np.dstack([RGB, np.zeros_like(GREY)])  # fully transparent
UNUSUAL: Mapping[str, tuple[Callable[[], bytes], np.ndarray]] = {
    "grey": (lambda: encoded(Image.fromarray(GREY)), np.dstack([GREY] * 3)),
    "grey of 16 bits": (
        lambda: encoded(Image.fromarray(GREY.astype(np.uint16) * 256 + 7)),
        np.dstack([GREY] * 3),
    ),
    "transparent": (lambda: encoded(Image.fromarray(ALPHA, "RGBA")), RGB),
    "grey and transparent": (
        lambda: encoded(Image.fromarray(np.dstack([GREY, GREY * 0]), "LA")),
        np.dstack([GREY] * 3),
    ),
    "one colour transparent": (lambda: encoded(Image.fromarray(RGB), transparency=tuple(map(int, RGB[0, 0]))), RGB),
    "palette": (
        lambda: encoded(Image.fromarray(GREY).convert("P"), transparency=bytes(range(256))),
        np.dstack([GREY] * 3),
    ),
    "black and white": (
        lambda: encoded(Image.fromarray(GREY > 127)),
        np.dstack([np.where(GREY > 127, 255, 0).astype(np.uint8)] * 3),
    ),
    "animation": (
        lambda: encoded(
            Image.fromarray(GREY).convert("P"), "GIF", save_all=True, append_images=[Image.fromarray(GREY * 0)]
        ),
        np.dstack([GREY] * 3),
    ),
}


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_images_are_what_the_module_says(name: str) -> None:
    make, expected = UNUSUAL[name]
    assert np.array_equal(decode(make()), expected)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GIF89a",
        encoded(Image.fromarray(RGB))[:400],
        encoded(Image.fromarray(RGB.astype(np.float32)[..., 0]), "TIFF"),
        encoded(Image.fromarray(RGB.astype(np.int32)[..., 0] - 1), "TIFF"),
    ],
    ids=["nothing", "a beginning", "cut off", "floating point", "negative"],
)
def test_what_is_no_image_of_a_known_range_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not an image that Pillow reads"):
        decode(data)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (300, 2), (5, 5), (500, 400)])
def test_every_size_of_image_gives_the_networks_input(size: tuple[int, int]) -> None:
    pixels = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
    settings = {"resolution": 32, "mean": 127.0, "std": 128.0, "crop": 0.875, "resize": "bicubic"}
    data = encoded(Image.fromarray(pixels))
    nchw = network_input(data, {**settings, "reduce_to": REDUCE_TO, "layout": "NCHW"})
    nhwc = network_input(data, {**settings, "reduce_to": REDUCE_TO, "layout": "NHWC"})
    assert (nchw.shape, nchw.dtype, nchw.flags.c_contiguous) == ((1, 3, 32, 32), np.float32, True)
    assert np.array_equal(nchw.transpose(0, 2, 3, 1), nhwc)


def test_settings_of_another_version_are_refused() -> None:
    settings = {"resolution": 8, "mean": 0.0, "std": 1.0, "crop": 1.0, "reduce_to": 224, "layout": "NCHW"}
    with pytest.raises(ValueError, match="resize lanczos"):
        network_input(encoded(Image.fromarray(RGB)), {**settings, "resize": "lanczos"})
    with pytest.raises(ValueError, match="layout CHWN"):
        network_input(encoded(Image.fromarray(RGB)), {**settings, "resize": "bicubic", "layout": "CHWN"})


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_training_evaluation_and_an_application_see_the_same_numbers(space: Any, tmp_path: Path) -> None:
    """Files read as a data set, and the same files one by one as an application does."""
    files = {}
    for number, (height, width) in enumerate(((300, 260), (64, 200), (30, 30))):
        path = tmp_path / "x" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(Image.fromarray(picture(0, number, height, width))))
        files[f"x/{number}.png"] = path.read_bytes()
    loaded = images.load_images(tmp_path)
    resolution, how = 48, space.preprocess
    views = images.centre_crops(loaded, resolution, how)
    evaluated = how.normalised(views)
    trained = batches.normalise(views, how).permute(0, 2, 3, 1).numpy()
    settings = {
        **how.as_json(),
        "resolution": resolution,
        "resize": "bicubic",
        "reduce_to": REDUCE_TO,
        "layout": "NHWC",
    }
    applied = np.concatenate([network_input(files[name], settings) for name in loaded.names])
    assert np.array_equal(applied, evaluated)
    assert np.array_equal(applied, trained)


def test_scaling_is_by_channel_where_there_are_three_numbers() -> None:
    mean, std = (1.0, 2.0, 3.0), (0.5, 2.0, 4.0)
    expected = (RGB.astype(np.float64) - mean) / std
    assert np.allclose(scale(RGB, mean, std), expected, rtol=1e-6)
    assert np.array_equal(Preprocess(mean, std, 1.0).normalised(RGB), scale(RGB, mean, std))


def test_a_crop_is_the_middle_of_the_short_side() -> None:
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 200
    assert (centre_crop(pixels, 20, 1.0) == 200).all()
    some = ImageSet((pixels,), np.array([0]), ("x",))
    assert np.array_equal(images.centre_crops(some, 10, Preprocess(0.0, 1.0, 0.5))[0], centre_crop(pixels, 10, 0.5))
