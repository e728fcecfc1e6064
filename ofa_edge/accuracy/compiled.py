"""Top-1 of a model file, as it will run on a device: ONNX by ONNX Runtime, TFLite by LiteRT, in any precision.

In: bytes of a file, images. Out: predictions, or a Count. Rules kept: one image at a time, prepared as the space says;
the number of workers changes nothing; no torch.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ofa_edge.errors import OfaEdgeError
from ofa_edge.graph import check, running
from ofa_edge.space.arch import Preprocess
from ofa_edge.train import images as data


@dataclass(frozen=True, slots=True)
class Count:
    """`correct` of `n` images."""

    correct: int
    n: int

    @property
    def top1(self) -> float:
        """Percent."""
        return 100 * self.correct / self.n


def top1(model: bytes, images: data.ImageSet, resolution: int, preprocess: Preprocess) -> Count:
    """Count right answers of a file at its input size; raises as `predictions`."""
    found = predictions(model, data.centre_crops(images, resolution, preprocess), preprocess)
    return Count(int((found == images.labels).sum()), len(images))


def predictions(model: bytes, views: np.ndarray, preprocess: Preprocess, workers: int | None = None) -> np.ndarray:
    """The class a file gives each image, of shape (images,).

    Args:
        views: images.centre_crops's, uint8 (N, R, R, 3).
        workers: threads that share the images, each with a runtime of its own; all cores where left out.

    Raises:
        BadFile: the runtime refuses the file, or the images' size.
        OfaEdgeError: outputs are not finite.
    """
    if not running.is_tflite(model):
        check.load(model)
    parts = [part for part in np.array_split(views, workers or os.cpu_count() or 1) if len(part)]
    runners = [running.runner(model) for _ in parts]  # not in the threads: one at a time may be made

    def classify(run: running.Runner, part: np.ndarray) -> list[int]:
        found = []
        for image in part:
            logits = run(inputs(image[None], preprocess))
            if not np.isfinite(logits).all():
                raise OfaEdgeError("the subnet's outputs are not finite", hint="recalibrate with --bn recalibrated")
            found.append(int(logits.argmax()))
        return found

    with ThreadPoolExecutor(len(parts)) as pool:
        return np.array([label for part in pool.map(classify, runners, parts) for label in part], np.int64)


def inputs(views: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """Views as a network reads them: float32 (N, 3, R, R)."""
    return np.ascontiguousarray(preprocess.normalised(views).transpose(0, 3, 1, 2))
