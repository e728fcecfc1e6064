"""A model file run on this machine: ONNX by ONNX Runtime, TFLite by LiteRT.

In: bytes of a file, and inputs NCHW in float. Out: outputs NCHW in float, whatever the file has inside and at its
borders. Rules kept: one thread, on the CPU; an ONNX file is checked before a runtime sees it; a runtime's own errors
come out as BadFile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnxruntime

from ofa_edge.errors import BadFile

Runner = Callable[[np.ndarray], np.ndarray]
"""Outputs (1, ...) for one input (1, C, H, W)."""

HINT = "write it again with `ofa-edge export`"

_ERRORS_ONLY = 3
_TFLITE_MARK = b"TFL3"


def is_tflite(model: bytes | None) -> bool:
    """Whether these bytes say that they are a TFLite file, by the mark that the runtime itself goes by."""
    return model is not None and model[4:8] == _TFLITE_MARK


def runner(model: bytes, side: tuple[int, int] | None = None) -> Runner:
    """A file made ready to run.

    Args:
        model: ONNX that was checked (`check.load`), or TFLite.
        side: height and width for those of an input that are free.

    Raises:
        BadFile: the runtime refuses it.
        ModuleNotFoundError: ai-edge-litert is not installed (the extra [litert]).
    """
    return _litert(model, side) if is_tflite(model) else _onnxruntime(model, side)


def session_options() -> onnxruntime.SessionOptions:
    """One thread, errors only."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    return options


def _onnxruntime(model: bytes, side: tuple[int, int] | None) -> Runner:
    options = session_options()
    for name, size in zip("hw", side or (), strict=False):
        options.add_free_dimension_override_by_name(name, size)
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
    except Exception as error:  # the runtime's own classes share no base below Exception
        raise refused("ONNX Runtime", error) from error

    def run(one: np.ndarray) -> np.ndarray:
        try:
            return np.asarray(session.run(None, {name: one})[0])
        except Exception as error:  # as above
            raise refused("ONNX Runtime", error) from error

    return run


# -- LiteRT ---------------------------------------------------------------------------------------
def interpreter(model: bytes, side: tuple[int, int] | None = None, *, delegated: bool = True) -> Any:
    """LiteRT's interpreter with its tensors laid out; raises as `runner`.

    Args:
        delegated: hand XNNPACK the operators that it takes.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    from ofa_edge.graph.quiet import quiet

    resolver = OpResolverType.AUTO if delegated else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    try:
        with quiet():
            found = Interpreter(model_content=model, num_threads=1, experimental_op_resolver_type=resolver)
            entry = found.get_input_details()[0]
            if side is not None and -1 in entry["shape_signature"]:
                batch, _, _, channels = entry["shape"]
                found.resize_tensor_input(entry["index"], (batch, *side, channels), strict=True)
            found.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise refused("LiteRT", error) from error
    return found


def _litert(model: bytes, side: tuple[int, int] | None) -> Runner:
    found = interpreter(model, side)
    entry, result = found.get_input_details()[0], found.get_output_details()[0]

    def run(one: np.ndarray) -> np.ndarray:
        given = one.transpose(0, 2, 3, 1) if one.ndim == 4 else one
        try:
            found.set_tensor(entry["index"], np.ascontiguousarray(_quantized(given, entry)))
            found.invoke()
        except (ValueError, RuntimeError) as error:
            raise refused("LiteRT", error) from error
        values = _dequantized(found.get_tensor(result["index"]), result)
        return np.asarray(values.transpose(0, 3, 1, 2) if values.ndim == 4 else values)

    return run


def _quantized(array: np.ndarray, entry: Mapping[str, Any]) -> np.ndarray:
    dtype, (scale, zero) = np.dtype(entry["dtype"]), entry["quantization"]
    if dtype.kind == "f" or not scale:
        return array
    limits = np.iinfo(dtype)
    return np.asarray(np.clip(np.rint(array / scale) + zero, limits.min, limits.max), dtype)


def _dequantized(array: np.ndarray, entry: Mapping[str, Any]) -> np.ndarray:
    scale, zero = entry["quantization"]
    return np.asarray(np.float32(scale) * (array.astype(np.int32) - zero)) if scale else array


# -- errors ---------------------------------------------------------------------------------------
def refused(runtime: str, error: Exception, what: str = "the model or its input") -> BadFile:
    """A runtime's error as ours."""
    return BadFile(f"{runtime} refuses {what}: {first_line(error)}", hint=HINT)


def first_line(error: Exception) -> str:
    """What an error says, in short."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
