"""Golden outputs: does a model say on this device what it said where it was exported?

In: a runtime's Model, tensors as raw little-endian float32 with their shapes. Out: wire.Checked. Inputs run in pieces
of the model's own batch size, so that one file of several images checks a model of batch one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from device_agents import wire

_TINY = 1e-30  # golden outputs that are all zero still give a finite relative difference


def compare(
    model: Any, inputs: bytes, input_shape: tuple[int, ...], outputs: bytes, output_shape: tuple[int, ...]
) -> wire.Checked:
    """Run and compare.

    Raises:
        AgentError: 'bad-file' when a tensor's bytes or the model's outputs do not have the shape given.
    """
    given, golden = _tensor(inputs, input_shape), _tensor(outputs, output_shape)
    step = model.batch or len(given)
    found = np.concatenate([model.infer(given[i : i + step]) for i in range(0, len(given), step)])
    if found.shape != golden.shape:
        raise wire.AgentError("bad-file", f"outputs have the shape {list(found.shape)}, not {list(golden.shape)}")
    if not np.isfinite(found).all():
        return wire.Checked(None, None, False, False)
    max_abs = float(np.max(np.abs(found.astype(np.float64) - golden)))
    rel = max_abs / max(float(np.max(np.abs(golden))), _TINY)
    return wire.Checked(max_abs, rel, True, bool(np.array_equal(found.argmax(axis=-1), golden.argmax(axis=-1))))


def _tensor(data: bytes, shape: tuple[int, ...]) -> Any:
    if not shape or len(data) != 4 * math.prod(shape):
        raise wire.AgentError("bad-file", f"a tensor of {len(data)} bytes does not have the shape {list(shape)}")
    array = np.frombuffer(data, "<f4").reshape(shape)
    if not np.isfinite(array).all():
        raise wire.AgentError("bad-file", "a golden tensor is not finite")
    return array
