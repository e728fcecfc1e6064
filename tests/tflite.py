"""Runs TFLite files with LiteRT, as tests read them."""

from __future__ import annotations

import numpy as np
from ai_edge_litert.interpreter import Interpreter

DELEGATE = "DELEGATE"


def load(model: bytes, side: int | None = None) -> Interpreter:
    """An interpreter ready to run; `side` resizes the input's H and W, as strictly as the file's signature says."""
    interpreter = Interpreter(model_content=model, num_threads=1)
    if side is not None:
        entry = interpreter.get_input_details()[0]
        batch, _, _, channels = entry["shape"]
        interpreter.resize_tensor_input(entry["index"], (batch, side, side, channels), strict=True)
    interpreter.allocate_tensors()
    return interpreter


def run(model: bytes, x: np.ndarray, *, resize: bool = False) -> np.ndarray:
    """The output, NCHW, for an input (1, C, H, W)."""
    interpreter = load(model, x.shape[2] if resize else None)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.ascontiguousarray(x.transpose(0, 2, 3, 1)))
    interpreter.invoke()
    y = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return y.transpose(0, 3, 1, 2) if y.ndim == 4 else y


def operators(model: bytes) -> list[str]:
    """What the interpreter runs, the delegate's partitions among them as DELEGATE."""
    return [entry["op_name"] for entry in load(model)._get_ops_details()]
