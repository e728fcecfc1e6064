"""Batches of tensors for training and recalibration.

In: an ImageSet. Out: float32 tensors of shape (N, 3, H, W), preprocessed as the space says, channels last in
memory. Rules kept: a batch is a function of its generator alone, so a resumed run sees the same data.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ofa_edge.errors import UsageError
from ofa_edge.space.arch import Preprocess
from ofa_edge.train.images import ImageSet, centre_crops

_T = TypeVar("_T")


def normalise(pixels: np.ndarray, preprocess: Preprocess) -> Tensor:
    """uint8 images of shape (N, H, W, 3) to a float32 tensor (N, 3, H, W), channels last in memory."""
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.channels_last)
    shape = (-1, 1, 1)  # one number or three
    return x.sub_(torch.tensor(preprocess.mean).view(shape)).div_(torch.tensor(preprocess.std).view(shape))


def _augmented(image: np.ndarray, resolution: int, rng: np.random.Generator) -> np.ndarray:
    """Random resized crop (area .35-1, aspect 3/4-4/3), flip, and brightness, contrast, saturation within 25 %."""
    height, width = image.shape[:2]
    area = height * width * rng.uniform(0.35, 1.0)
    aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    crop_w, crop_h = min(width, (area * aspect) ** 0.5), min(height, (area / aspect) ** 0.5)
    left, top = rng.uniform(0, width - crop_w), rng.uniform(0, height - crop_h)
    box = (left, top, left + crop_w, top + crop_h)
    view = Image.fromarray(image).resize((resolution, resolution), Image.Resampling.BILINEAR, box, reducing_gap=2.0)
    pixels = np.asarray(view, dtype=np.float32)
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    brightness, contrast, saturation = rng.uniform(0.75, 1.25, 3).astype(np.float32)
    grey = pixels.mean(axis=2, keepdims=True)
    pixels = grey + (pixels - grey) * saturation
    pixels = pixels.mean() + (pixels - pixels.mean()) * contrast
    return np.clip(pixels * brightness, 0, 255)


def training_batch(
    images: ImageSet, indices: np.ndarray, resolution: int, preprocess: Preprocess, seed: Sequence[int], first: int = 0
) -> tuple[Tensor, Tensor]:
    """Augmented images (N, 3, R, R) and labels (N,).

    Args:
        seed: of the whole batch; each image has a generator of its own from it and from its place in the batch, so
            that ranks with a part of the batch each see what one with all of it sees.
        first: the place of the first image in the whole batch.
    """
    pixels = np.stack(
        [
            _augmented(images.images[i], resolution, np.random.default_rng([*seed, place]))
            for place, i in enumerate(indices, first)
        ]
    )
    return normalise(pixels, preprocess), torch.from_numpy(images.labels[indices])


def steps_of(images: ImageSet, batch_size: int) -> int:
    """Whole batches in an epoch.

    Raises:
        UsageError: not even one.
    """
    if len(images) < batch_size:
        raise UsageError(
            f"{len(images)} training images are fewer than one batch of {batch_size}",
            hint="give more images, a smaller --heldout or a smaller --batch-size",
        )
    return len(images) // batch_size


def plain_batches(pixels: np.ndarray, preprocess: Preprocess, batch_size: int = 100) -> Iterator[Tensor]:
    """Views of shape (N, R, R, 3) as tensors, in order, in even parts of at most `batch_size`.

    A last part of one image would have no variance where its map has one pixel left.
    """
    for part in np.array_split(pixels, -(-len(pixels) // batch_size)):
        yield normalise(part, preprocess)


def calibration_batches(
    images: ImageSet, count: int, resolution: int, preprocess: Preprocess, seed: int
) -> Iterator[Tensor]:
    """Shuffled, unaugmented batches for batch-norm statistics, `count` images in all."""
    order = np.random.default_rng(seed).permutation(len(images))[:count]
    return plain_batches(centre_crops(images.subset(order), resolution, preprocess), preprocess)


def prefetched(make: Callable[[int], _T], steps: range, workers: int = 1) -> Iterator[_T]:
    """`make(step)` for each step in order, computed ahead in so many threads, one step ahead each."""
    with ThreadPoolExecutor(max_workers=workers) as pool:
        ahead: deque[Future[_T]] = deque()
        left = iter(steps)
        try:
            for _ in steps:
                ahead.extend(pool.submit(make, step) for step in itertools.islice(left, workers + 1 - len(ahead)))
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
