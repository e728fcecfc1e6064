"""Is this model file what it should be? Safe to run, and the same numbers as the reference.

In: the bytes of an ONNX model, inputs and reference outputs. Out: a Parity, or counts of operators.
Rules kept: a model that names files outside itself is refused before a runtime sees it (the runtime would
open them); outputs are compared against the largest reference value, since logits near 0 have no scale.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError, Message

from ofa_edge.errors import BadFile, OfaEdgeError

_HINT = "write it again with `ofa-edge export`"
_ERRORS_ONLY = 3

# Runtimes add up in single precision and in their own order: 1e-6 is usual, 1e-4 is an error somewhere.
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Parity:
    """How far outputs are from the reference.

    `max_abs` is the greatest absolute difference, `rel` that over the greatest absolute reference value;
    both are infinite where an output is not finite. `argmax_equal`: every row has its maximum in the same place.
    """

    max_abs: float
    rel: float
    finite: bool
    argmax_equal: bool


def parity(model: bytes, inputs: np.ndarray, outputs: np.ndarray) -> Parity:
    """Run `model` with ONNX Runtime on this machine (CPU, one thread) and compare.

    Args:
        inputs: float32 (N, C, H, W); each of the N is run alone.
        outputs: the reference, one entry of any shape for each input.

    Raises:
        BadFile: the model is not one we run (`load`), the runtime refuses it or these inputs, or the
            outputs have another shape than the reference.
    """
    return compare(run(model, inputs), outputs)


def compare(actual: np.ndarray, reference: np.ndarray) -> Parity:
    """Compare outputs (N, ...) with a reference of the same shape, which must be finite.

    Raises:
        BadFile: the shapes differ, or the reference is empty or not finite.
    """
    if actual.shape != reference.shape:
        raise BadFile(f"the outputs are {actual.shape}, the reference is {reference.shape}", hint=_HINT)
    if not reference.size or not np.isfinite(reference).all():
        raise BadFile(
            "the reference outputs are empty or not finite",
            hint="the weights or batch-norm statistics are out of range: recalibrate with --data, or take another file",
        )
    if not np.isfinite(actual).all():
        return Parity(float("inf"), float("inf"), False, False)
    max_abs = float(np.abs(actual.astype(np.float64) - reference).max())
    scale = float(np.abs(reference).max())
    rows, wanted = actual.reshape(len(actual), -1), reference.reshape(len(reference), -1)
    same = bool((rows.argmax(axis=1) == wanted.argmax(axis=1)).all())
    return Parity(max_abs, max_abs / scale if scale else (0.0 if max_abs == 0 else float("inf")), True, same)


def require_equal(found: Parity, name: str) -> None:
    """Refuse a model whose outputs are not the reference's.

    Raises:
        OfaEdgeError: further off than TOLERANCE, relative to the greatest reference value.
    """
    if not found.finite or found.rel > TOLERANCE:
        raise OfaEdgeError(
            f"{name}: outputs differ from the reference by {found.rel:.1e} (at most {TOLERANCE:.0e} is allowed)",
            hint="another onnxruntime version may be at fault; `ofa-edge doctor` prints which one this is",
        )


def run(model: bytes, inputs: np.ndarray) -> np.ndarray:
    """Outputs (N, ...) of a model with batch 1 for inputs (N, C, H, W); free H and W take the inputs' sizes.

    Raises:
        BadFile: as `parity`.
    """
    load(model)
    options = _options()
    if inputs.ndim == 4:
        options.add_free_dimension_override_by_name("h", inputs.shape[2])
        options.add_free_dimension_override_by_name("w", inputs.shape[3])
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return np.concatenate([session.run(None, {name: one[None]})[0] for one in inputs])
    except Exception as error:  # the runtime's own classes share no base below Exception
        raise BadFile(f"ONNX Runtime refuses the model or its input: {_first_line(error)}", hint=_HINT) from error


def load(model: bytes) -> onnx.ModelProto:
    """Parse a model and refuse what would reach outside it.

    Raises:
        BadFile: not an ONNX model, or one with external data, or not valid ONNX.
    """
    try:
        proto = onnx.load_model_from_string(model)
    except DecodeError as error:
        raise BadFile("this is not an ONNX model", hint=_HINT) from error
    for tensor in _tensors(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise BadFile(
                f"the model keeps {tensor.name[:80]!r} in another file; a model must hold all its data",
                hint="save it again as one file: `onnx.save(model, path)`",
            )
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BadFile(f"the model is not valid ONNX: {_first_line(error)}", hint=_HINT) from error
    return proto


def is_tflite(model: bytes | None) -> bool:
    """Whether these bytes say that they are a TFLite file, by the mark that the runtime itself goes by."""
    return model is not None and model[4:8] == b"TFL3"


def operators(model: bytes) -> dict[str, int]:
    """How often each operator occurs in the file, most frequent first.

    Raises:
        BadFile: as `load`.
    """
    return dict(Counter(node.op_type for node in load(model).graph.node).most_common())


def optimized_operators(model: bytes) -> dict[str, int]:
    """How often each operator is left after ONNX Runtime's optimisation for this machine's CPU.

    Names carry their domain where it is not ONNX's ("com.microsoft.nchwc.Conv"). Free sizes stay free.

    Raises:
        BadFile: as `parity`.
    """
    load(model)
    with tempfile.TemporaryDirectory(prefix="ofa-edge-") as folder:
        path = Path(folder, "optimized.onnx")
        options = _options()
        options.optimized_model_filepath = str(path)
        try:
            onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # as in `run`
            raise BadFile(f"ONNX Runtime refuses the model: {_first_line(error)}", hint=_HINT) from error
        nodes = onnx.load_model_from_string(path.read_bytes()).graph.node
    return dict(Counter(f"{n.domain}.{n.op_type}" if n.domain else n.op_type for n in nodes).most_common())


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    return options


def _tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """Every tensor anywhere in a message: initializers, attributes, sub-graphs, functions, sparse ones."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for child in [value] if isinstance(value, Message) else value:
                yield from _tensors(child)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
