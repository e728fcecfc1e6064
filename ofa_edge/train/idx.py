"""Images and labels in idx files, the format of MNIST and Fashion-MNIST.

In: a folder with `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the same of `t10k-`, plain or gzipped. Out:
numpy arrays. Rules kept: sizes are checked against the header before anything is used; no torch here.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from ofa_edge.errors import BadFile, UsageError

_HINT = "fetch the file again"


def find(folder: Path, prefix: str | None) -> str | None:
    """The prefix of the idx images in a folder: the one asked for, `train` where none was; None where it has none."""
    prefix = prefix or "train"
    return prefix if _file(folder, f"{prefix}-images-idx3-ubyte") else None


def read(folder: Path, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 (N, H, W), and labels, int64 (N,).

    Raises:
        UsageError: there is no file of labels.
        BadFile: a file is truncated, too long, no idx file, or not of as many images as labels.
    """
    images = _array(folder, f"{prefix}-images-idx3-ubyte", 3)
    labels = _array(folder, f"{prefix}-labels-idx1-ubyte", 1)
    if len(images) != len(labels):
        raise BadFile(f"{folder} has {len(images)} {prefix} images and {len(labels)} labels", hint=_HINT)
    if not images.size:
        raise BadFile(f"{folder} has no {prefix} images", hint=_HINT)
    return images, labels.astype(np.int64)


def _file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _array(folder: Path, name: str, dimensions: int) -> np.ndarray:
    path = _file(folder, name)
    if path is None:
        raise UsageError(f"there is no {name} in {folder}", hint="idx files come in pairs: images and labels")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise BadFile(f"cannot read {path}: {error}", hint=_HINT) from error
    start = 4 + 4 * dimensions
    if content[:4] != bytes((0, 0, 8, dimensions)) or len(content) < start:
        raise BadFile(f"{path} is not an idx file of bytes in {dimensions} dimensions", hint=_HINT)
    shape = np.frombuffer(content, ">u4", dimensions, 4).tolist()
    size = int(np.prod(shape, dtype=object))
    if len(content) - start != size:
        raise BadFile(f"{path} is damaged: {len(content) - start} values, its header says {size}", hint=_HINT)
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
