"""LiteRT (TensorFlow Lite) on the CPU, its operators run by XNNPACK.

In: the bytes of a TFLite file, NHWC, sizes for its free H and W, a number of threads. Out: a model that runs. Rules
kept: ai-edge-litert first, then tflite-runtime, its predecessor, which 32-bit Arm still needs; a library counts as
there when it has constructed an interpreter (tflite-runtime imports beside numpy 2, and fails then); `infer` takes and
gives NCHW, as every runtime here, and turns the axes itself.
"""

from __future__ import annotations

import base64
import importlib
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import numpy as np

NAME = "litert"

# Package on the index -> module with `Interpreter`, in the order they are tried.
_LIBRARIES = {"ai-edge-litert": "ai_edge_litert.interpreter", "tflite-runtime": "tflite_runtime.interpreter"}

# One RELU on four floats, "x" -> "y" (tests/device_agents/test_litert.py writes it again and compares).
_TINY = base64.b64decode(
    "HAAAAFRGTDMUABwAGAAUABAADAAIAAAAAAAEABQAAAAYAAAAkAAAAJwAAACoAAAAeAEAAAMAAAABAAAAEAAAAAAACgAQAAwACAAEAAoAAAAMAAAA"
    "HAAAADwAAAAPAAAAc2VydmluZ19kZWZhdWx0AAEAAAAMAAAACAAMAAgABAAIAAAAAQAAAAQAAAABAAAAeQAAAAEAAAAMAAAAAAAGAAgABAAGAAAA"
    "BAAAAAEAAAB4AAAAAQAAAAgAAAAEAAQABAAAAAgAAABvZmEtZWRnZQAAAAABAAAAFAAAAAAADgAYABQAEAAMAAgABAAOAAAAFAAAABwAAABIAAAA"
    "TAAAAFAAAAAEAAAAbWFpbgAAAAABAAAAEAAAAAAACgAMAAAACAAEAAoAAAAIAAAADAAAAAEAAAABAAAAAQAAAAAAAAABAAAAAQAAAAEAAAAAAAAA"
    "AgAAADQAAAAEAAAA4P///wgAAAAMAAAAAQAAAHkAAAACAAAAAQAAAAQAAAAMAAwACAAAAAAABAAMAAAACAAAAAwAAAABAAAAeAAAAAIAAAABAAAA"
    "BAAAAAEAAAAQAAAADAAMAAsAAAAAAAQADAAAABMAAAAAAAAT"
)


def _choose() -> tuple[str, Any]:
    """The first library that works, by its package's name, and its Interpreter.

    Raises:
        ImportError: none does; the text says why each did not.
    """
    reasons = []
    for package, module in _LIBRARIES.items():
        try:
            interpreter = importlib.import_module(module).Interpreter
            interpreter(model_content=_TINY).allocate_tensors()
        except Exception as error:  # a library that is there may fail in any way
            reasons.append(f"{package}: {error}")
        else:
            return package, interpreter
    raise ImportError("; ".join(reasons))


_package, _Interpreter = _choose()


def version() -> str:
    """Which library runs, and its version, such as 'ai-edge-litert 2.3.0'."""
    try:
        return f"{_package} {metadata.version(_package)}"
    except metadata.PackageNotFoundError:  # unpacked without its metadata
        return _package


class Model:
    """A loaded model with one input of fixed, seeded values."""

    def __init__(self, data: bytes, shape: Mapping[str, int], threads: int):
        self._data = data  # the interpreter reads weights from there
        self._interpreter = _Interpreter(model_content=data, num_threads=threads)
        if shape:
            self._resize(shape)
        self._interpreter.allocate_tensors()

    def _resize(self, shape: Mapping[str, int]) -> None:
        """Give the free H and W of a lone NHWC input their sizes.

        Raises:
            ValueError: other dimensions are named, or the input has no such dimensions.
        """
        entries = self._interpreter.get_input_details()
        if set(shape) != {"h", "w"} or len(entries) != 1 or len(entries[0]["shape"]) != 4:
            raise ValueError(f"a TFLite file has no dimensions {', '.join(shape)}")
        batch, _, _, channels = entries[0]["shape"]
        sizes = [batch, shape["h"], shape["w"], channels]
        self._interpreter.resize_tensor_input(entries[0]["index"], sizes, strict=True)

    def prepare(self) -> None:
        """Fill the inputs for `run`."""
        rng = np.random.default_rng(0)
        for entry in self._interpreter.get_input_details():
            self._interpreter.set_tensor(entry["index"], _random(rng, entry))

    def run(self) -> None:
        """One run on the inputs' values; `prepare` came before."""
        self._interpreter.invoke()

    @property
    def batch(self) -> int:
        """The input's first dimension."""
        return int(self._interpreter.get_input_details()[0]["shape"][0])

    def infer(self, array: np.ndarray) -> np.ndarray:
        """First output for one input array, both NCHW where they are maps, and float where the file has integers."""
        entry, output = self._interpreter.get_input_details()[0], self._interpreter.get_output_details()[0]
        given = array.transpose(0, 2, 3, 1) if array.ndim == 4 else array
        self._interpreter.set_tensor(entry["index"], np.ascontiguousarray(_quantized(given, entry)))
        self._interpreter.invoke()
        found = _dequantized(self._interpreter.get_tensor(output["index"]), output)
        return np.asarray(found.transpose(0, 3, 1, 2) if found.ndim == 4 else found)


def _quantized(array: np.ndarray, entry: Mapping[str, Any]) -> np.ndarray:
    dtype = np.dtype(entry["dtype"])
    scale, zero = entry["quantization"]
    if dtype.kind == "f" or not scale:
        return np.asarray(array, dtype)
    limits = np.iinfo(dtype)
    return np.asarray(np.clip(np.rint(array / scale) + zero, limits.min, limits.max), dtype)


def _dequantized(array: np.ndarray, entry: Mapping[str, Any]) -> np.ndarray:
    scale, zero = entry["quantization"]
    return np.asarray(np.float32(scale) * (array.astype(np.int32) - zero)) if scale else array


def _random(rng: np.random.Generator, entry: Mapping[str, Any]) -> np.ndarray:
    dtype = np.dtype(entry["dtype"])
    if dtype.kind == "f":
        return np.asarray(rng.standard_normal(entry["shape"]), dtype)
    limits = np.iinfo(dtype)
    return np.asarray(rng.integers(limits.min, limits.max, entry["shape"], dtype, endpoint=True))
