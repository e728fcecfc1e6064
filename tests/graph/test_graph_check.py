"""Parity, and models that must never reach a runtime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ofa_edge.errors import BadFile
from ofa_edge.graph import check
from ofa_edge.graph.build import network
from ofa_edge.graph.onnx import to_bytes
from ofa_edge.space.block import Block, Layer
from ofa_edge.weights.random import random_arrays

LAYERS = [
    Layer("a", Block("Conv_1", 4, 3, 5)),
    Layer("b", Block("AvgPool2D", 5, 3, 5)),
    Layer("c", Block("Logits", 5, 1, 2)),
]
X = np.random.default_rng(0).standard_normal((2, 4, 3, 3), dtype=np.float32)


@pytest.fixture(scope="module")
def model() -> bytes:
    return to_bytes(network(LAYERS, random_arrays(LAYERS, 0)))


def test_outputs_equal_themselves(model):
    outputs = check.run(model, X)
    assert outputs.shape == (2, 2)
    assert check.parity(model, X, outputs) == check.Parity(0.0, 0.0, True, True)


def test_figures_of_a_difference():
    reference = np.array([[4.0, 1.0], [0.5, -1.0]], np.float32)
    actual = reference + np.array([[0.0, 0.5], [0.0, 0.0]], np.float32)
    assert check.compare(actual, reference) == check.Parity(0.5, 0.125, True, True)
    swapped = check.compare(reference[:, ::-1], reference)
    assert (swapped.max_abs, swapped.argmax_equal) == (3.0, False)


def test_a_reference_of_zeros_has_no_scale():
    zeros = np.zeros((1, 3), np.float32)
    assert check.compare(zeros, zeros).rel == 0.0
    assert check.compare(zeros + 1, zeros).rel == float("inf")


def test_outputs_that_overflow_are_not_finite(model):
    arrays = {name: np.full_like(array, 3e38) for name, array in random_arrays(LAYERS, 0).items()}
    result = check.parity(to_bytes(network(LAYERS, arrays)), np.abs(X), check.run(model, X))
    assert result == check.Parity(float("inf"), float("inf"), False, False)


@pytest.mark.parametrize("reference", [np.full((2, 2), np.nan, np.float32), np.zeros((0, 2), np.float32)])
def test_a_reference_must_be_numbers(reference):
    with pytest.raises(BadFile, match="reference outputs are empty or not finite"):
        check.compare(reference, reference)


def test_another_shape_than_the_reference_is_refused(model):
    with pytest.raises(BadFile, match=r"the outputs are \(2, 2\), the reference is \(2, 3\)"):
        check.parity(model, X, np.zeros((2, 3), np.float32))


@pytest.mark.parametrize("inputs", [X.astype(np.float64), X[:, :2], X[:, :, :2], X[0], X[:0]])
def test_inputs_that_do_not_fit_are_refused(model, inputs):
    with pytest.raises(BadFile, match="refuses the model or its input"):
        check.run(model, inputs)


def test_operators_are_counted(model):
    assert check.operators(model) == {"Conv": 1, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1}
    assert sum(check.optimized_operators(model).values()) >= 4


@pytest.mark.parametrize("data", [b"not a model", b"\xff" * 40, b"PK\x03\x04"])
def test_bytes_that_are_no_model_are_refused(data):
    for action in (check.load, check.operators, check.optimized_operators, lambda d: check.run(d, X)):
        with pytest.raises(BadFile, match="not an ONNX model"):
            action(data)


def test_a_cut_model_is_refused(model):
    with pytest.raises(BadFile):
        check.load(model[: len(model) // 2])


def test_a_model_with_a_hole_is_refused(model):
    proto = onnx.load_model_from_string(model)
    del proto.graph.initializer[0]
    with pytest.raises(BadFile, match="not valid ONNX"):
        check.load(proto.SerializeToString())
    with pytest.raises(BadFile, match="not valid ONNX"):
        check.load(b"")


def test_a_model_that_declares_another_shape_than_it_computes_is_refused(model):
    proto = onnx.load_model_from_string(model)
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 7
    with pytest.raises(BadFile, match="not valid ONNX"):
        check.load(proto.SerializeToString())


def test_a_valid_model_that_the_runtime_cannot_run_is_refused():
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 1, 1]) for name in ("input", "output")]
    node = helper.make_node("Unheard", ["input"], ["output"], domain="com.example")
    graph = helper.make_graph([node], "g", value[:1], value[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    for action in (check.optimized_operators, lambda data: check.run(data, X)):
        with pytest.raises(BadFile, match="ONNX Runtime refuses the model"):
            action(model)


def _external(name: str = "secret") -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="weights.bin")
    return tensor


def _in_initializer(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(_external())


def _in_sparse_initializer(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add().values.CopyFrom(_external())


def _in_attribute(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["extra"], value=_external()))


def _in_subgraph(model: onnx.ModelProto) -> None:
    branch = helper.make_graph([], "branch", [], [], [_external()])
    model.graph.node.append(helper.make_node("If", ["input"], ["extra"], then_branch=branch, else_branch=branch))


def _in_function(model: onnx.ModelProto) -> None:
    node = helper.make_node("Constant", [], ["y"], value=_external())
    model.functions.append(helper.make_function("d", "f", [], ["y"], [node], [helper.make_opsetid("", 17)]))


def _location_without_flag(model: onnx.ModelProto) -> None:
    tensor = _external()
    tensor.data_location = TensorProto.DEFAULT
    model.graph.initializer.append(tensor)


@pytest.mark.parametrize(
    "hide",
    [_in_initializer, _in_sparse_initializer, _in_attribute, _in_subgraph, _in_function, _location_without_flag],
)
def test_external_data_is_refused_wherever_it_hides(model, hide, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.bin").write_bytes(np.ones(1, np.float32).tobytes())
    proto = onnx.load_model_from_string(model)
    hide(proto)
    with pytest.raises(BadFile, match="'secret' in another file"):
        check.run(proto.SerializeToString(), X)
