"""A space small enough to train in seconds, and pictures that it can learn.

Two elastic stages, one with kernels 7, 5 and 3 and one whose last expansion is left out, at 16 to 32 px; three
classes told apart by colour.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ofa_edge.space.arch import Arch, Preprocess, Space, Stage
from ofa_edge.space.ends import Head, MobileStem
from ofa_edge.supernet.network import Supernet
from ofa_edge.train.images import ImageSet, Splits, split_training
from ofa_edge.weights.bank import Statistics
from ofa_edge.weights.layout import batch_norms

TINY = Space(
    name="tiny",
    resolutions=(16, 24, 32),
    stem=MobileStem(8, "relu6", 8, "relu6"),
    stages=(
        Stage(16, 2, (1, 2), (3, 5, 7), (1, 2, 3), "relu6"),
        Stage(24, 2, (1, 2), (3, 5), (2, 3), "relu6"),
    ),
    head=Head(32, "relu6"),
    classes=3,
    preprocess=Preprocess(mean=127.0, std=128.0, crop=0.875),
    bn_eps=1e-3,
)

_COLOURS = ((220, 40, 40), (40, 220, 40), (40, 40, 220))


def random_network(seed: int, space: Space = TINY) -> Supernet:
    """A supernet of which no part is at its neutral start: transforms, batch norms and biases are random too."""
    torch.manual_seed(seed)
    network = Supernet(space)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "_bn.weight" in name:
                parameter.uniform_(0.5, 1.5)
            elif ".transform_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            elif parameter.ndim == 1:
                parameter.normal_(0, 0.3)
    return network


def arrays_of(network: Supernet) -> dict[str, np.ndarray]:
    """The network's weights as a checkpoint names them; copies."""
    return {name: value.detach().numpy().copy() for name, value in network.state_dict().items()}


def random_statistics(arch: Arch, seed: int, space: Space = TINY) -> Statistics:
    """Means around 0 and variances from .25 to 4 for every batch norm the arch runs."""
    rng = np.random.default_rng(seed)
    return {
        name: (
            rng.normal(0, 0.3, channels).astype(np.float32),
            np.exp(rng.uniform(np.log(0.25), np.log(4), channels)).astype(np.float32),
        )
        for name, channels in batch_norms(space, arch)
    }


# -- pictures -----------------------------------------------------------------------------------
def picture(label: int, seed: int, height: int = 40, width: int = 48) -> np.ndarray:
    """A noisy field of the class's colour, uint8 (height, width, 3)."""
    noise = np.random.default_rng(seed).normal(0, 30, (height, width, 3))
    return np.clip(np.array(_COLOURS[label]) + noise, 0, 255).astype(np.uint8)


def image_set(count: int, seed: int = 0, prefix: str = "picture") -> ImageSet:
    """Pictures of the three classes in turn."""
    labels = [i % 3 for i in range(count)]
    return ImageSet(
        tuple(picture(label, 1000 * seed + i) for i, label in enumerate(labels)),
        np.array(labels),
        tuple(f"{prefix}_{i}.png" for i in range(count)),
    )


def splits(train: int, heldout: int = 12) -> Splits:
    return split_training(image_set(train + heldout), heldout)


def encoded(array: np.ndarray, format: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format)
    return stream.getvalue()


def write_folder(path: Path, count: int, classes: Sequence[str] = ("amber", "birch", "coral"), start: int = 0) -> None:
    """`count` pictures in one folder per class, named `p<number>.png`."""
    for i in range(start, start + count):
        folder = path / classes[i % len(classes)]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"p{i:04}.png").write_bytes(encoded(picture(i % len(classes), i)))


def write_parquet(path: Path, rows: Sequence[tuple[str | None, bytes | None, object]]) -> None:
    """Rows of (name, image bytes, label) in the columns that Hugging Face datasets use."""
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": data, "path": name} for name, data, _ in rows]
    table = pyarrow.table({"image": images, "label": [label for _, _, label in rows]})
    pyarrow.parquet.write_table(table, path)


def parquet_rows(count: int, prefix: str = "picture", start: int = 0) -> list[tuple[str | None, bytes | None, object]]:
    return [(f"{prefix}_{i}.png", encoded(picture(i % 3, i)), i % 3) for i in range(start, start + count)]
