"""Images for training, recalibration and evaluation.

In: a Parquet file with the columns image{bytes,path} and label, a folder of one folder per class, or a folder of idx
files (idx.py). Out: decoded images, splits of them, and evaluation views. Rules kept: a corrupt image is left out and
named; held-out images are chosen by a hash of their name, so every command that reads the same data holds out the
same ones. No torch here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ofa_edge import preprocess
from ofa_edge.errors import BadFile, UsageError
from ofa_edge.space.arch import Preprocess
from ofa_edge.train import idx

# ImageNet's validation images, the only ones that published ImageNet weights have not been trained on.
UNSEEN_MARK = "ILSVRC2012_val"

_FORMATS = (
    "a .parquet file with columns image{bytes,path} and label, a folder of them, a folder of class folders, or a "
    "folder of idx files named as MNIST's"
)

# Batch norm is recalibrated on so many images (Once-for-All, ICLR 2020, and its code's `set_running_statistics`).
RECALIBRATION_IMAGES = 2000

# The split whose class folders number the classes, for the other splits too.
_TRAIN = "train"


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Decoded RGB images (uint8 arrays of shape (H, W, 3)), their labels and names, and the corrupt ones' names."""

    images: tuple[np.ndarray, ...]
    labels: np.ndarray
    names: tuple[str, ...]
    corrupt: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, keep: Sequence[int] | np.ndarray) -> ImageSet:
        return ImageSet(tuple(self.images[i] for i in keep), self.labels[keep], tuple(self.names[i] for i in keep))

    def sha256(self) -> str:
        """Digest of names and labels in order: identifies the set without holding the pixels."""
        digest = hashlib.sha256()
        for name, label in zip(self.names, self.labels, strict=True):
            digest.update(f"{name}\0{label}\n".encode())
        return digest.hexdigest()


def load_images(path: Path, split: str | None = None) -> ImageSet:
    """Read every image of a file or folder; `split` picks `<split>.parquet` or `<split>/` where `path` holds it.

    Corrupt images are left out and named in `corrupt`. The class folders of `train/` number the classes of every
    split beside it. Of idx files, `train` is MNIST's `train-`, and every other split its `t10k-`.

    Raises:
        UsageError: there is no such path, nothing in it that can be read, or a class that `train/` has not.
        BadFile: an idx file is damaged.
    """
    if prefix := idx.find(path, _TRAIN if split == _TRAIN else split and "t10k"):
        return _from_idx(path, prefix)
    numbering = path / _TRAIN if split and (path / _TRAIN).is_dir() else None
    if split and path.is_dir():
        for candidate in (path / f"{split}.parquet", path / split):
            if candidate.exists():
                path = candidate
                break
        else:
            raise UsageError(f"{path} holds no {split}.parquet and no folder {split}", hint=f"--data takes {_FORMATS}")
    if path.suffix == ".parquet" and path.is_file():
        encoded = _read_parquet(path)
    elif path.is_dir():
        encoded = _read_folder(path, numbering or path)
    else:
        raise UsageError(f"there are no images at {path}", hint=f"--data takes {_FORMATS}")
    with ThreadPoolExecutor() as pool:
        decoded = list(pool.map(lambda item: _decode(item[1]), encoded))
    good = [i for i, image in enumerate(decoded) if image is not None]
    if not good:
        raise UsageError(f"none of the {len(encoded)} files at {path} is an image", hint=f"--data takes {_FORMATS}")
    return ImageSet(
        tuple(image for image in decoded if image is not None),
        np.array([encoded[i][2] for i in good]),
        tuple(encoded[i][0] for i in good),
        tuple(encoded[i][0] for i, image in enumerate(decoded) if image is None),
    )


def _from_idx(folder: Path, prefix: str) -> ImageSet:
    pixels, labels = idx.read(folder, prefix)
    # Grey becomes RGB as a view: three channels that are one in memory.
    rgb = np.broadcast_to(pixels[..., None], (*pixels.shape, 3))
    return ImageSet(tuple(rgb), labels, tuple(f"{prefix}/{i:06}" for i in range(len(rgb))))


def _read_parquet(path: Path) -> list[tuple[str, bytes, int]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path, columns=["image", "label"])
    except (pyarrow.ArrowException, OSError) as error:
        raise UsageError(f"cannot read {path}: {error}", hint=f"--data takes {_FORMATS}") from error
    encoded = []
    for row, (item, label) in enumerate(zip(table["image"].to_pylist(), table["label"].to_pylist(), strict=True)):
        if not isinstance(item, dict) or not isinstance(label, int) or isinstance(label, bool) or label < 0:
            raise UsageError(
                f"{path} row {row}: not an image{{bytes,path}} with a label of 0 or more",
                hint=f"--data takes {_FORMATS}",
            )
        # Either may be null; an image without bytes counts as corrupt.
        encoded.append((str(item.get("path") or f"row {row}"), item.get("bytes") or b"", label))
    return encoded


def _read_folder(path: Path, numbering: Path) -> list[tuple[str, bytes, int]]:
    labels = {name: label for label, name in enumerate(_class_folders(numbering))}
    names = _class_folders(path)
    if unknown := [name for name in names if name not in labels]:
        raise UsageError(f"{path} has a class {unknown[0]} that {numbering} has not", hint=f"--data takes {_FORMATS}")
    return [
        (f"{name}/{file.name}", _bytes(file), labels[name])
        for name in names
        for file in sorted((path / name).iterdir())
        if file.is_file()
    ]


def _bytes(file: Path) -> bytes:
    """A file that cannot be read counts as a corrupt image."""
    try:
        return file.read_bytes()
    except OSError:
        return b""


def class_names(path: Path, images: ImageSet) -> tuple[str, ...]:
    """Names of the classes of a data set: its labels.txt (`id name` a line), else its class folders, else numbers.

    Args:
        path: what `load_images` read.
        images: its training split; a list of names that is too short for their labels is passed over.

    Raises:
        BadFile: labels.txt is not UTF-8.
    """
    folder = path if path.is_dir() else path.parent
    listed: list[str] = []
    if (folder / "labels.txt").is_file():
        try:
            lines = (folder / "labels.txt").read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise BadFile(f"{folder / 'labels.txt'} is not UTF-8", hint="save it as UTF-8, or remove it") from error
        listed = [line.split(maxsplit=1)[-1] for line in lines if line.strip()]
    folders: list[str] = []
    # Beside a Parquet or idx file lie folders of anything.
    if path.is_dir() and not (idx.find(path, _TRAIN) or (path / f"{_TRAIN}.parquet").exists()):
        folders = _class_folders(path / _TRAIN if (path / _TRAIN).is_dir() else path)
    count = int(images.labels.max()) + 1
    numbers = [str(index) for index in range(count)]
    return tuple(next(names for names in (listed, folders, numbers) if len(names) >= count))


def _class_folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _decode(data: bytes) -> np.ndarray | None:
    try:
        return preprocess.decode(data)
    except ValueError:
        return None


# -- splits -----------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Splits:
    """The training split in parts that share no image: `train`, `heldout` (accuracy tables), `unseen` (test)."""

    train: ImageSet
    heldout: ImageSet
    unseen: ImageSet


def split_training(images: ImageSet, heldout: int, seed: int = 0) -> Splits:
    """Set apart the images unseen by published weights, then `heldout` others, chosen by a hash of their names."""
    unseen = [i for i, name in enumerate(images.names) if UNSEEN_MARK in name]
    rest = [i for i, name in enumerate(images.names) if UNSEEN_MARK not in name]
    if heldout >= len(rest):
        raise UsageError(f"cannot hold out {heldout} of {len(rest)} images", hint="give a smaller --heldout")
    rest.sort(key=lambda i: hashlib.sha256(f"{seed}:{images.names[i]}".encode()).digest())
    return Splits(
        train=images.subset(sorted(rest[heldout:])),
        heldout=images.subset(sorted(rest[:heldout])),
        unseen=images.subset(unseen),
    )


def unseen_part(images: ImageSet) -> ImageSet:
    """The images that published ImageNet weights were not trained on."""
    return images.subset([i for i, name in enumerate(images.names) if UNSEEN_MARK in name])


def joined(*parts: ImageSet) -> ImageSet:
    """Several sets as one, in order."""
    return ImageSet(
        tuple(image for part in parts for image in part.images),
        np.concatenate([part.labels for part in parts]),
        tuple(name for part in parts for name in part.names),
        tuple(name for part in parts for name in part.corrupt),
    )


# -- views ------------------------------------------------------------------------------------------
def centre_crops(images: ImageSet, resolution: int, how: Preprocess) -> np.ndarray:
    """Evaluation view of every image: short side to resolution / crop, centre crop; uint8 (N, R, R, 3)."""
    with ThreadPoolExecutor() as pool:
        return np.stack(
            list(pool.map(lambda image: preprocess.centre_crop(image, resolution, how.crop), images.images))
        )
