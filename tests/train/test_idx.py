"""idx files: MNIST's form is read as it is, and whatever else is in them is told of instead of used."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from ofa_edge.errors import BadFile, UsageError
from ofa_edge.train import idx, images

FASHION = Path("/usr/share/datasets/fashion-mnist")


def write(folder: Path, prefix: str, pixels: np.ndarray, labels: np.ndarray, *, zipped: bool = False) -> None:
    """The two files of a split, as MNIST's authors define them."""
    folder.mkdir(exist_ok=True)
    for name, array in ((f"{prefix}-images-idx3-ubyte", pixels), (f"{prefix}-labels-idx1-ubyte", labels)):
        sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
        content = bytes((0, 0, 8, array.ndim)) + sizes + array.astype(np.uint8).tobytes()
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven training images of 5 x 4 pixels, plain, and three others, zipped."""
    pixels = np.arange(200, dtype=np.uint8).reshape(10, 5, 4)
    write(tmp_path / "data", "train", pixels[:7], np.arange(7) % 4)
    write(tmp_path / "data", "t10k", pixels[7:], np.array([3, 0, 1]), zipped=True)
    return tmp_path / "data"


def test_grey_images_become_rgb_under_names_of_their_own(folder: Path) -> None:
    loaded = images.load_images(folder, "train")
    assert (len(loaded), loaded.corrupt, loaded.labels.tolist()) == (7, (), [0, 1, 2, 3, 0, 1, 2])
    assert loaded.images[2].shape == (5, 4, 3)
    assert (loaded.images[2] == np.arange(40, 60, dtype=np.uint8).reshape(5, 4, 1)).all()
    assert len(set(loaded.names)) == 7
    assert images.class_names(folder, loaded) == ("0", "1", "2", "3")


def test_the_test_split_is_the_one_to_judge_on(folder: Path) -> None:
    judged = images.load_images(folder, "val")
    assert judged.labels.tolist() == [3, 0, 1]
    assert judged.images[0][0, 0, 0] == 140
    assert not set(judged.names) & set(images.load_images(folder, "train").names)


def test_views_of_grey_images_are_grey(folder: Path) -> None:
    from tests.train.tiny import TINY

    views = images.centre_crops(images.load_images(folder, "train"), 16, TINY.preprocess)
    assert views.shape == (7, 16, 16, 3)
    assert (views[..., 0] == views[..., 2]).all()


@pytest.mark.parametrize("kept", [0, 3, 10, 16, 100, 155])
def test_a_truncated_file_is_refused_by_name(folder: Path, kept: int) -> None:
    file = folder / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(BadFile, match=r"train-images-idx3-ubyte is (damaged|not an idx file)") as caught:
        images.load_images(folder, "train")
    assert caught.value.hint


def test_a_truncated_archive_is_refused_by_name(folder: Path) -> None:
    file = folder / "t10k-images-idx3-ubyte.gz"
    for content in (file.read_bytes()[:-9], file.read_bytes()[:20], b"no archive", b""):
        file.write_bytes(content)
        with pytest.raises(BadFile, match=r"t10k-images-idx3-ubyte\.gz"):
            images.load_images(folder, "val")


def test_a_header_that_promises_more_than_there_is_reserves_nothing(folder: Path) -> None:
    (folder / "train-images-idx3-ubyte").write_bytes(bytes((0, 0, 8, 3)) + b"\xff" * 12)
    with pytest.raises(BadFile, match="its header says 79228162458924105385300197375"):
        images.load_images(folder, "train")


def test_images_and_labels_come_in_pairs(folder: Path) -> None:
    write(folder, "train", np.zeros((7, 5, 4)), np.zeros(6))
    with pytest.raises(BadFile, match="7 train images and 6 labels"):
        images.load_images(folder, "train")
    (folder / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(UsageError, match="no train-labels-idx1-ubyte"):
        images.load_images(folder, "train")


def test_an_empty_split_is_refused(folder: Path) -> None:
    write(folder, "train", np.zeros((0, 5, 4)), np.zeros(0))
    with pytest.raises(BadFile, match="has no train images"):
        images.load_images(folder, "train")


def test_fashion_mnist_as_debian_packs_it() -> None:
    if idx.find(FASHION, "train") is None:
        pytest.skip("the Debian package dataset-fashion-mnist is not installed")
    judged = images.load_images(FASHION, "val")
    assert (len(judged), judged.images[0].shape) == (10_000, (28, 28, 3))
    assert np.bincount(judged.labels).tolist() == [1000] * 10
