"""Batches of tensors for training and recalibration.

In: an ImageSet. Out: float32 tensors of shape (N, 3, H, W), preprocessed as the space says, channels last in
memory. Rules kept: a batch is a function of its generator alone, so a resumed run sees the same data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

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
    images: ImageSet, indices: np.ndarray, resolution: int, preprocess: Preprocess, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Augmented images (N, 3, R, R) and labels (N,)."""
    pixels = np.stack([_augmented(images.images[i], resolution, rng) for i in indices])
    return normalise(pixels, preprocess), torch.from_numpy(images.labels[indices])


def plain_batches(pixels: np.ndarray, preprocess: Preprocess, batch_size: int = 100) -> Iterator[Tensor]:
    """Views of shape (N, R, R, 3) as tensors, in order."""
    for start in range(0, len(pixels), batch_size):
        yield normalise(pixels[start : start + batch_size], preprocess)


def calibration_batches(
    images: ImageSet, count: int, resolution: int, preprocess: Preprocess, seed: int
) -> Iterator[Tensor]:
    """Shuffled, unaugmented batches for batch-norm statistics, `count` images in all."""
    order = np.random.default_rng(seed).permutation(len(images))[:count]
    return plain_batches(centre_crops(images.subset(order), resolution, preprocess), preprocess)


def prefetched(make: Callable[[int], _T], steps: range) -> Iterator[_T]:
    """`make(step)` for each step, computed one ahead in a thread."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        ahead = None
        for step in steps:
            current = ahead or pool.submit(make, step)
            ahead = pool.submit(make, step + 1) if step + 1 < steps.stop else None
            yield current.result()
