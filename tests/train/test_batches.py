"""Batches: preprocessed as the space says, a function of their generator alone, in order even when made ahead."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from ofa_edge.train import batches, images
from tests.train.tiny import TINY, image_set

PREPROCESS = TINY.preprocess


def test_pixels_are_normalised_as_the_space_says_and_left_as_they_were() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 5, 3), dtype=np.uint8)
    before = pixels.copy()
    x = batches.normalise(pixels, PREPROCESS)
    assert (x.shape, x.dtype) == ((2, 3, 6, 5), torch.float32)
    assert x.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(x.numpy(), (pixels.transpose(0, 3, 1, 2).astype(float) - 127) / 128, atol=1e-6)
    assert np.array_equal(pixels, before)


def test_a_training_batch_is_a_function_of_its_seed() -> None:
    some, indices = image_set(9), np.array([4, 1, 7])
    one, two, three = (batches.training_batch(some, indices, 24, PREPROCESS, (seed, 5)) for seed in (3, 3, 4))
    assert one[0].shape == (3, 3, 24, 24)
    assert one[1].tolist() == [1, 1, 1]
    assert torch.equal(one[0], two[0])
    assert not torch.equal(one[0], three[0])


def test_parts_of_a_batch_are_what_the_whole_batch_holds() -> None:
    """As ranks make them, each its own part."""
    some, indices = image_set(9), np.array([4, 4, 7, 2])
    whole = batches.training_batch(some, indices, 24, PREPROCESS, (3,))
    parts = [batches.training_batch(some, indices[k : k + 2], 24, PREPROCESS, (3,), k) for k in (0, 2)]
    assert torch.equal(torch.cat([part[0] for part in parts]), whole[0])
    assert torch.equal(torch.cat([part[1] for part in parts]), whole[1])
    assert not torch.equal(whole[0][0], whole[0][1]), "one image twice is seen in two ways"


def test_augmented_pixels_stay_in_range_and_keep_what_is_learned() -> None:
    some = image_set(30)
    x, labels = batches.training_batch(some, np.arange(30), 16, PREPROCESS, (0,))
    assert x.min() >= -127 / 128 - 1e-6
    assert x.max() <= 128 / 128 + 1e-6
    assert (x.mean(dim=(2, 3)).argmax(dim=1) == labels).all()


def test_calibration_takes_as_many_shuffled_images_as_asked_for() -> None:
    some = image_set(60)
    found = torch.cat(list(batches.calibration_batches(some, 45, 16, PREPROCESS, seed=0)))
    again = torch.cat(list(batches.calibration_batches(some, 45, 16, PREPROCESS, seed=0)))
    plain = batches.normalise(images.centre_crops(some, 16, PREPROCESS), PREPROCESS)
    places = [int((plain == image).flatten(1).all(dim=1).nonzero()) for image in found]
    assert torch.equal(found, again)
    assert len(set(places)) == 45
    assert places != sorted(places)
    more = torch.cat(list(batches.calibration_batches(some, 1000, 16, PREPROCESS, seed=0)))
    assert len(more) == 60


def test_plain_batches_keep_order_and_leave_none_out_nor_one_alone() -> None:
    """One image has no variance to normalise by where its map has one pixel left."""
    pixels = np.random.default_rng(0).integers(0, 256, (7, 4, 4, 3), dtype=np.uint8)
    found = list(batches.plain_batches(pixels, PREPROCESS, batch_size=3))
    assert [len(part) for part in found] == [3, 2, 2]
    assert torch.equal(torch.cat(found), batches.normalise(pixels, PREPROCESS))


# -- made ahead ---------------------------------------------------------------------------------
@pytest.mark.parametrize("steps", [range(0), range(3, 4), range(2, 9)])
@pytest.mark.parametrize("workers", [1, 3, 20])
def test_batches_made_ahead_come_in_order_and_once(steps: range, workers: int) -> None:
    made: list[int] = []

    def make(step: int) -> int:
        made.append(step)
        return step * step

    assert list(batches.prefetched(make, steps, workers)) == [step * step for step in steps]
    assert sorted(made) == list(steps)


def test_so_many_batches_are_made_at_once_as_there_are_workers() -> None:
    together = threading.Barrier(3)

    def make(step: int) -> int:
        together.wait(30)
        return step

    assert list(batches.prefetched(make, range(6), workers=3)) == list(range(6))


def test_the_next_batch_is_made_while_the_last_one_is_used() -> None:
    second = threading.Event()

    def make(step: int) -> int:
        if step == 1:
            second.set()
        return step

    made = batches.prefetched(make, range(3))
    assert next(made) == 0
    assert second.wait(30)
    made.close()


def test_an_error_in_a_batch_made_ahead_reaches_the_one_who_uses_it() -> None:
    def make(step: int) -> int:
        if step == 1:
            raise OSError("gone")
        return step

    made = batches.prefetched(make, range(3))
    assert next(made) == 0
    with pytest.raises(OSError, match="gone"):
        next(made)
