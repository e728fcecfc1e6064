"""Is this model file what it should be? Safe to run, and the same numbers as the reference.

In: the bytes of an ONNX or TFLite model, inputs and reference outputs. Out: a Parity, or counts of operators.
Rules kept: an ONNX model that names files outside itself is refused before a runtime sees it (the runtime would
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
from ofa_edge.graph import running
from ofa_edge.graph.running import HINT as _HINT
from ofa_edge.graph.running import first_line, refused
from ofa_edge.graph.running import is_tflite as is_tflite  # where others look for it

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
    """Run `model` on this machine (ONNX Runtime or LiteRT, CPU, one thread) and compare.

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
    """Refuse a model in single or half precision whose outputs are not the reference's.

    Raises:
        OfaEdgeError: further off than TOLERANCE, relative to the greatest reference value.
    """
    if not found.finite or found.rel > TOLERANCE:
        raise OfaEdgeError(
            f"{name}: outputs differ from the reference by {found.rel:.1e} (at most {TOLERANCE:.0e} is allowed)",
            hint="another version of the runtime may be at fault; `ofa-edge doctor` prints which one this is",
        )


def run(model: bytes, inputs: np.ndarray) -> np.ndarray:
    """Outputs (N, ...) of a model with batch 1 for inputs (N, C, H, W); free H and W take the inputs' sizes.

    Raises:
        BadFile: as `parity`.
    """
    if not is_tflite(model):
        load(model)
    height_width = inputs.shape[2:] if inputs.ndim == 4 else None
    ready = running.runner(model, height_width)
    if not len(inputs):
        raise BadFile("the runtime refuses the model or its input: there is none", hint=_HINT)
    return np.concatenate([ready(one[None]) for one in inputs])


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
        raise BadFile(f"the model is not valid ONNX: {first_line(error)}", hint=_HINT) from error
    return proto


def operators(model: bytes) -> dict[str, int]:
    """How often each operator occurs in the file, most frequent first.

    Raises:
        BadFile: as `load`, or LiteRT refuses the file.
    """
    if is_tflite(model):
        found = running.interpreter(model, delegated=False)._get_ops_details()
        return dict(Counter(entry["op_name"] for entry in found).most_common())
    return dict(Counter(node.op_type for node in load(model).graph.node).most_common())


def optimized_operators(model: bytes) -> dict[str, int]:
    """How often each operator is left after ONNX Runtime's optimisation for this machine's CPU.

    Names carry their domain where it is not ONNX's ("com.microsoft.nchwc.Conv"). Free sizes stay free.

    Raises:
        BadFile: as `parity`.
    """
    nodes = optimized(model).node
    return dict(Counter(f"{n.domain}.{n.op_type}" if n.domain else n.op_type for n in nodes).most_common())


def optimized(model: bytes) -> onnx.GraphProto:
    """An ONNX model's graph as ONNX Runtime makes it for this machine's CPU; raises as `parity`."""
    load(model)
    with tempfile.TemporaryDirectory(prefix="ofa-edge-") as folder:
        path = Path(folder, "optimized.onnx")
        options = running.session_options()
        options.optimized_model_filepath = str(path)
        try:
            onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's own classes share no base below Exception
            raise refused("ONNX Runtime", error, "the model") from error
        return onnx.load_model_from_string(path.read_bytes()).graph


def _tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """Every tensor anywhere in a message: initializers, attributes, sub-graphs, functions, sparse ones."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for child in [value] if isinstance(value, Message) else value:
                yield from _tensors(child)
