"""ONNX Runtime on the CPU.

In: the bytes of an ONNX file, sizes for its named dimensions, a number of threads. Out: a model that runs.
Settings are those a deployed program should use, so that what is measured is what is promised: all graph
optimisations, one inter-op thread, the arena on, inputs and outputs bound once (1.9 us a run against 3.5).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort

NAME = "onnxruntime"

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int64)": np.int64,
}
_ERRORS_ONLY = 3  # log severity


def version() -> str:
    """The library's version; importing this module has shown that it loads."""
    return str(ort.__version__)


class Model:
    """A loaded model with one bound input of fixed, seeded values."""

    def __init__(self, data: bytes, shape: Mapping[str, int], threads: int):
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.enable_cpu_mem_arena = True
        options.log_severity_level = _ERRORS_ONLY
        for name, size in shape.items():
            options.add_free_dimension_override_by_name(name, size)
        self._session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        self._bound: object = None

    def prepare(self) -> None:
        """Bind inputs and outputs for `run`.

        Raises:
            ValueError: a dimension of an input has no size, or a type is unknown.
        """
        rng = np.random.default_rng(0)
        binding = self._session.io_binding()
        self._keep: list[object] = []  # the binding holds addresses only
        for entry in self._session.get_inputs():
            sizes = _sizes(entry)
            array = _random(rng, sizes, np.dtype(_dtype(entry)))
            value = ort.OrtValue.ortvalue_from_numpy(array)
            self._keep.append((array, value))
            binding.bind_ortvalue_input(entry.name, value)
        for entry in self._session.get_outputs():
            if all(isinstance(size, int) for size in entry.shape) and entry.type in _TYPES:
                value = ort.OrtValue.ortvalue_from_shape_and_type(list(entry.shape), _dtype(entry))
                self._keep.append(value)
                binding.bind_ortvalue_output(entry.name, value)
            else:
                binding.bind_output(entry.name, "cpu")
        self._bound = binding

    def run(self) -> None:
        """One run on the bound values; `prepare` came before."""
        self._session.run_with_iobinding(self._bound)

    @property
    def batch(self) -> int:
        """Fixed size of the input's first dimension, 0 when it is free."""
        first = self._session.get_inputs()[0].shape[:1]
        return first[0] if first and isinstance(first[0], int) else 0

    def infer(self, array: np.ndarray) -> np.ndarray:
        """First output for one input array."""
        entry = self._session.get_inputs()[0]
        return np.asarray(self._session.run(None, {entry.name: array.astype(_dtype(entry))})[0])


def _sizes(entry: ort.NodeArg) -> list[int]:
    for size in entry.shape:
        if not isinstance(size, int):
            raise ValueError(f"dimension {size!r} of input {entry.name!r} has no size: name it in the job's shape")
    return list(entry.shape)


def _random(rng: np.random.Generator, sizes: list[int], dtype: np.dtype[Any]) -> np.ndarray:
    if dtype.kind == "f":
        return np.asarray(rng.standard_normal(sizes), dtype)
    limits = np.iinfo(dtype)
    return np.asarray(rng.integers(limits.min, limits.max, sizes, dtype, endpoint=True))


def _dtype(entry: ort.NodeArg) -> type:
    if entry.type not in _TYPES:
        raise ValueError(f"{entry.name!r} has the type {entry.type}, which is not one of {', '.join(_TYPES)}")
    return _TYPES[entry.type]
