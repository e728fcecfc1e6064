"""Images: layouts, splits that share nothing and stay the same, corrupt files named, errors that say what would do."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ofa_edge.errors import BadFile, UsageError
from ofa_edge.preprocess import REDUCE_TO
from ofa_edge.space.arch import Preprocess
from ofa_edge.train.images import ImageSet, centre_crops, class_names, joined, load_images, split_training, unseen_part
from tests.train.tiny import encoded, image_set, parquet_rows, picture, write_folder, write_parquet

PLAIN = Preprocess(mean=0.0, std=1.0, crop=1.0)


# -- layouts ------------------------------------------------------------------------------------
def test_a_folder_of_class_folders_is_read_in_order_of_names(tmp_path: Path) -> None:
    write_folder(tmp_path / "data", 7)
    found = load_images(tmp_path / "data")
    assert found.names == tuple(
        f"{name}/p{i:04}.png"
        for name, numbers in (("amber", (0, 3, 6)), ("birch", (1, 4)), ("coral", (2, 5)))
        for i in numbers
    )
    assert list(found.labels) == [0, 0, 0, 1, 1, 2, 2]
    assert np.array_equal(found.images[1], picture(0, 3))
    assert found.corrupt == ()


def test_a_parquet_file_is_read_in_order_of_rows(tmp_path: Path) -> None:
    write_parquet(tmp_path / "some.parquet", parquet_rows(5))
    found = load_images(tmp_path / "some.parquet")
    assert found.names == tuple(f"picture_{i}.png" for i in range(5))
    assert list(found.labels) == [0, 1, 2, 0, 1]
    assert np.array_equal(found.images[4], picture(1, 4))


@pytest.mark.parametrize("layout", ["parquet", "folders"])
def test_a_split_is_picked_by_its_name(tmp_path: Path, layout: str) -> None:
    for split, count in (("train", 6), ("val", 3)):
        if layout == "parquet":
            write_parquet(tmp_path / f"{split}.parquet", parquet_rows(count))
        else:
            write_folder(tmp_path / split, count)
    assert (len(load_images(tmp_path, "train")), len(load_images(tmp_path, "val"))) == (6, 3)


def test_one_file_serves_whatever_split_is_asked_for(tmp_path: Path) -> None:
    write_parquet(tmp_path / "some.parquet", parquet_rows(3))
    assert len(load_images(tmp_path / "some.parquet", "val")) == 3


def test_the_training_folders_number_the_classes_of_every_split(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", 6)
    write_folder(tmp_path / "val", 4, classes=("amber", "coral"))
    assert list(load_images(tmp_path, "val").labels) == [0, 0, 2, 2]


def test_a_class_without_training_images_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", 6)
    write_folder(tmp_path / "val", 3, classes=("amber", "dahlia"))
    with pytest.raises(UsageError, match="a class dahlia that"):
        load_images(tmp_path, "val")


def test_hidden_folders_are_no_classes(tmp_path: Path) -> None:
    write_folder(tmp_path, 3)
    write_folder(tmp_path, 3, classes=(".thumbnails",))
    assert list(load_images(tmp_path).labels) == [0, 1, 2]


def test_rows_without_a_name_are_named_by_their_number(tmp_path: Path) -> None:
    rows = [(None, data, label) for _, data, label in parquet_rows(3)]
    write_parquet(tmp_path / "x.parquet", rows)
    assert load_images(tmp_path / "x.parquet").names == ("row 0", "row 1", "row 2")


# -- decoding -----------------------------------------------------------------------------------
def test_corrupt_images_are_left_out_and_named(tmp_path: Path) -> None:
    write_folder(tmp_path, 9)
    whole = (tmp_path / "birch" / "p0004.png").read_bytes()
    (tmp_path / "birch" / "p0004.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "coral" / "notes.txt").write_text("not an image")
    (tmp_path / "amber" / "empty.jpg").write_bytes(b"")
    found = load_images(tmp_path)
    assert found.corrupt == ("amber/empty.jpg", "birch/p0004.png", "coral/notes.txt")
    assert len(found) == len(found.labels) == len(found.names) == 8
    assert not set(found.names) & set(found.corrupt)


def test_a_row_without_bytes_is_corrupt(tmp_path: Path) -> None:
    write_parquet(tmp_path / "x.parquet", [*parquet_rows(2), ("gone.png", None, 1)])
    assert load_images(tmp_path / "x.parquet").corrupt == ("gone.png",)


def test_a_file_that_cannot_be_read_counts_as_corrupt(tmp_path: Path) -> None:
    unreadable = Path("/proc/self/mem")  # whoever asks, root among them
    if not unreadable.exists():
        pytest.skip("there is no /proc here")
    write_folder(tmp_path / "data", 5)
    (tmp_path / "data" / "birch" / "p0001.png").unlink()
    (tmp_path / "data" / "birch" / "p0001.png").symlink_to(unreadable)
    found = load_images(tmp_path / "data")
    assert (len(found), found.corrupt) == (4, ("birch/p0001.png",))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "TIFF"])
def test_damaged_bytes_never_end_the_run(tmp_path: Path, format: str) -> None:
    rng, content = np.random.default_rng(3), encoded(picture(0, 0), format)
    rows = [("whole", content, 0)]
    for i in range(60):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 4):
            damaged[place] = rng.integers(0, 256)
        rows.append((f"damaged {i}", bytes(damaged), 0))
    write_parquet(tmp_path / "x.parquet", rows)
    found = load_images(tmp_path / "x.parquet")
    assert found.names[0] == "whole"
    assert len(found) + len(found.corrupt) == len(rows)


def test_a_png_that_breaks_off_into_nonsense_is_corrupt(tmp_path: Path) -> None:
    """Pillow opens it, and raises SyntaxError when it reads the second part of the pixels."""
    whole = encoded(picture(0, 0))
    start, length = 33, int.from_bytes(whole[33:37], "big")
    data = whole[start + 8 : start + 8 + length]
    half = len(data) // 2
    first = half.to_bytes(4, "big") + b"IDAT" + data[:half]
    broken = whole[:start] + first + zlib.crc32(first[4:]).to_bytes(4, "big")
    broken += (length - half).to_bytes(4, "big") + b"\x97,\x07Q" + data[half:]
    with pytest.raises(SyntaxError), Image.open(io.BytesIO(broken)) as image:
        image.load()
    write_parquet(tmp_path / "x.parquet", [*parquet_rows(1), ("broken.png", broken, 0)])
    assert load_images(tmp_path / "x.parquet").corrupt == ("broken.png",)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    folder = tmp_path / "amber"
    folder.mkdir()
    Image.fromarray(picture(0, 0)).convert(mode).save(folder / "x.tiff")
    (image,) = load_images(tmp_path).images
    assert (image.shape, image.dtype) == ((40, 48, 3), np.uint8)


def test_large_images_are_kept_at_the_stored_side(tmp_path: Path) -> None:
    folder = tmp_path / "amber"
    folder.mkdir()
    Image.fromarray(np.zeros((300, 600, 3), np.uint8)).save(folder / "x.png")
    (image,) = load_images(tmp_path).images
    assert image.shape == (REDUCE_TO, 2 * REDUCE_TO, 3)


# -- wrong paths --------------------------------------------------------------------------------
def test_wrong_paths_say_what_data_takes(tmp_path: Path) -> None:
    write_folder(tmp_path / "folders" / "train", 3)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "junk" / "amber").mkdir(parents=True)
    (tmp_path / "junk" / "amber" / "x.png").write_bytes(b"no image")
    cases = [
        ("nowhere", None, "there are no images at"),
        ("nowhere", "train", "there are no images at"),
        ("notes.txt", None, "there are no images at"),
        ("empty", None, "none of the 0 files"),
        ("empty", "train", r"holds no train\.parquet and no folder train"),
        ("folders", "val", r"holds no val\.parquet and no folder val"),
        ("bad.parquet", None, "cannot read .*bad.parquet"),
        ("junk", None, "none of the 1 files"),
    ]
    for name, split, said in cases:
        with pytest.raises(UsageError, match=said) as caught:
            load_images(tmp_path / name, split)
        assert ".parquet file with columns" in caught.value.hint


def test_a_parquet_file_of_other_columns_is_refused(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"image": [b"x"], "target": [1]}), tmp_path / "x.parquet")
    with pytest.raises(UsageError, match="cannot read .*label"):
        load_images(tmp_path / "x.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"image": [b"x"], "label": [1]}), tmp_path / "x.parquet")
    with pytest.raises(UsageError, match="row 0: not an image"):
        load_images(tmp_path / "x.parquet")


@pytest.mark.parametrize("labels", [["cat", "dog"], [0.0, 1.0], [0, None], [0, -1], [False, True]])
def test_labels_that_are_no_class_numbers_are_refused_by_row(tmp_path: Path, labels: list[object]) -> None:
    rows = [(name, data, label) for (name, data, _), label in zip(parquet_rows(2), labels, strict=True)]
    write_parquet(tmp_path / "x.parquet", rows)
    with pytest.raises(UsageError, match=r"row [01]: not an image\{bytes,path\} with a label"):
        load_images(tmp_path / "x.parquet")


# -- classes --------------------------------------------------------------------------------------
def test_classes_are_named_by_a_list_else_by_folders_else_by_numbers(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_folder(data / "train", 5)
    found = load_images(data, "train")
    assert class_names(data, found) == ("amber", "birch", "coral")
    (data / "labels.txt").write_text("n1 red oak\n\nn2 birch\nn3 coral\nn4 unseen\n")
    assert class_names(data, found) == ("red oak", "birch", "coral", "unseen")
    (data / "labels.txt").write_text("too\nfew\n")
    assert class_names(data, found) == ("amber", "birch", "coral")
    write_parquet(tmp_path / "some.parquet", parquet_rows(5))
    assert class_names(tmp_path / "some.parquet", load_images(tmp_path / "some.parquet")) == ("0", "1", "2")


def test_class_names_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", parquet_rows(3))
    (tmp_path / "labels.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(BadFile, match=r"labels\.txt is not UTF-8"):
        class_names(tmp_path, load_images(tmp_path, "train"))


def test_folders_beside_a_parquet_file_are_no_classes(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", parquet_rows(3))
    for name in ("cache", "old", "raw", "val"):
        (tmp_path / name).mkdir()
    for path, split in ((tmp_path, "train"), (tmp_path / "train.parquet", None)):
        assert class_names(path, load_images(path, split)) == ("0", "1", "2")


# -- splits -------------------------------------------------------------------------------------
def with_unseen(train: int, unseen: int) -> ImageSet:
    return joined(image_set(train), image_set(unseen, seed=1, prefix="train/n01/ILSVRC2012_val_000"))


@pytest.mark.parametrize("seed", [0, 1])
def test_splits_share_no_image_and_lose_none(seed: int) -> None:
    every = with_unseen(50, 7)
    found = split_training(every, 12, seed)
    parts = (found.train, found.heldout, found.unseen)
    names = [name for part in parts for name in part.names]
    assert [len(part) for part in parts] == [38, 12, 7]
    assert sorted(names) == sorted(every.names)
    for part in parts:
        for name, label, image in zip(part.names, part.labels, part.images, strict=True):
            index = every.names.index(name)
            assert label == every.labels[index]
            assert image is every.images[index]


def test_images_unseen_by_published_weights_are_in_no_other_part() -> None:
    found = split_training(with_unseen(20, 30), 5)
    assert all("ILSVRC2012_val" in name for name in found.unseen.names)
    assert not any("ILSVRC2012_val" in name for part in (found.train, found.heldout) for name in part.names)
    assert unseen_part(with_unseen(20, 30)).names == found.unseen.names


def test_splits_depend_on_names_alone() -> None:
    """Not on the order of the files, nor on which others there are beyond what moves the border."""
    every = with_unseen(40, 3)
    mixed = every.subset(np.random.default_rng(0).permutation(len(every)))
    one, two = split_training(every, 10), split_training(mixed, 10)
    assert set(one.heldout.names) == set(two.heldout.names)
    assert set(split_training(every, 6).heldout.names) < set(one.heldout.names)
    assert one.heldout.names == split_training(every, 10).heldout.names
    assert set(split_training(every, 10, seed=1).heldout.names) != set(one.heldout.names)


@pytest.mark.parametrize("heldout", [20, 21])
def test_holding_out_everything_is_refused(heldout: int) -> None:
    with pytest.raises(UsageError, match=rf"cannot hold out {heldout} of 20 images"):
        split_training(with_unseen(20, 9), heldout)


def test_the_digest_of_a_set_tells_names_labels_and_order_apart() -> None:
    one = image_set(6)
    others = [
        one.subset([1, 0, 2, 3, 4, 5]),
        one.subset(range(5)),
        ImageSet(one.images, one.labels[::-1], one.names),
        ImageSet(one.images, one.labels, ("other.png", *one.names[1:])),
    ]
    assert len({one.sha256(), *(other.sha256() for other in others)}) == 5
    assert image_set(6).sha256() == one.sha256()


# -- views --------------------------------------------------------------------------------------
def test_a_view_is_the_centre_of_the_image() -> None:
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, 10:30] = 200
    (view,) = centre_crops(ImageSet((image,), np.array([0]), ("x",)), 20, PLAIN)
    assert view.shape == (20, 20, 3)
    assert (view == 200).all()


def test_a_crop_below_one_leaves_the_border_out() -> None:
    image = np.full((40, 40, 3), 255, np.uint8)
    image[5:35, 5:35] = 100
    one = ImageSet((image,), np.array([0]), ("x",))
    assert centre_crops(one, 30, PLAIN).max() > 100
    (view,) = centre_crops(one, 30, Preprocess(0.0, 1.0, crop=0.75))
    assert (view == 100).all()


def test_views_of_any_shapes_have_one_size() -> None:
    shapes = ((40, 48), (48, 40), (17, 90), (9, 9))
    some = ImageSet(
        tuple(picture(0, i, *shape) for i, shape in enumerate(shapes)), np.zeros(4, int), ("a", "b", "c", "d")
    )
    assert centre_crops(some, 24, Preprocess(0.0, 1.0, 0.875)).shape == (4, 24, 24, 3)
