"""Which devices can open a bundle at all: the oldest runtime its models need, and the processor it was made for.

In: a model's bytes; or a manifest and a device's facts. Out: a version, or the reason why a device is outside. Pure.
Rules kept: only what is known is demanded. Files of ours were opened with old runtimes to know it; where nobody knows
(another opset, an operator that the table lacks, LiteRT's own numbering) nothing is said here, and the golden outputs
on the device decide.
"""

from __future__ import annotations

import re

from device_agents.wire import Facts
from ofa_edge.deploy.manifest import Manifest, Runs
from ofa_edge.graph import check, onnx
from ofa_edge.graph.check_tflite import load_tflite

# Opset 17 and IR 8, measured: ONNX Runtime 1.12.0 runs the files of every space, fp32 and int8; 1.11.1 opens none.
_ONNXRUNTIME = "1.12"

# The numbers of TFLite's operators that our writer and the quantiser use -> since which version of TFLite each version
# of them runs: (1st version, 2nd, ...), as TensorFlow's own table says (lite/tools/versioning/runtime_version.cc).
_TFLITE = {
    0: ("1.5", "1.14", "2.4", "2.6", "2.13"),  # ADD
    1: ("1.5", "1.14", "2.3"),  # AVERAGE_POOL_2D
    2: ("1.5", "1.14", "2.3", "2.14"),  # CONCATENATION
    3: ("1.5", "1.14", "1.14", "2.3", "2.4", "2.9", "2.11", "2.15"),  # CONV_2D
    4: ("1.5", "1.12", "1.14", "2.2", "2.3", "2.3", "2.11"),  # DEPTHWISE_CONV_2D
    6: ("1.13.1", "1.14", "1.15", "2.2", "2.7", "2.18"),  # DEQUANTIZE
    9: ("1.5", "1.10", "1.14", "1.14", "2.0", "2.1", "2.3", "2.3", "2.3", "2.11", "2.15", "2.17"),  # FULLY_CONNECTED
    14: ("1.14", "1.14", "2.3"),  # LOGISTIC
    17: ("1.5", "1.14", "2.3"),  # MAX_POOL_2D
    18: ("1.5", "1.14", "1.15", "2.3", "2.6", "2.11", "2.13"),  # MUL
    19: ("1.5", "2.1", "2.5"),  # RELU
    21: ("1.5", "1.14", "2.5"),  # RELU6
    22: ("1.5",),  # RESHAPE
    25: ("1.5", "1.14", "2.3"),  # SOFTMAX
    34: ("1.5", "1.14", "2.4", "2.6"),  # PAD
    40: ("1.6", "1.14", "2.4"),  # MEAN
    45: ("1.6", "1.14", "2.1", "2.2", "2.5", "2.6", "2.14", "2.14"),  # STRIDED_SLICE
    65: ("1.14", "1.14", "1.14", "2.4", "2.5", "2.14"),  # SLICE
    114: ("1.14", "1.15", "2.7"),  # QUANTIZE
    117: ("1.15",),  # HARD_SWISH
}
# Constants behind the flatbuffer, measured: tflite-runtime 2.14.0 reads them, 2.13.0 finds none.
_TFLITE_APPENDED = "2.14"
# ai-edge-litert counts from 1.0 again, and began with the operators of this TFLite.
_LITERT_BEGAN_AT = "2.17"

# Names that one kind of processor goes by.
_MACHINES = {"arm64": "aarch64", "amd64": "x86_64", "x64": "x86_64", "armv8l": "armv7l"}


def at_least(runtime: str, model: bytes) -> str | None:
    """The oldest version of a runtime that opens a model, None where it is not known; TFLite's count for litert.

    Raises:
        BadFile: the model is not one we run.
    """
    if runtime == "onnxruntime":
        proto = check.load(model)
        ours = {"": onnx.OPSET}
        known = proto.ir_version <= onnx.IR_VERSION and all(
            one.version <= ours.get(one.domain, 0) for one in proto.opset_import
        )
        return _ONNXRUNTIME if known else None
    found = load_tflite(model)
    needed = _TFLITE_APPENDED if found.appended else "0"
    for operator in found.operators:
        versions = _TFLITE.get(operator.number, ())
        if not 1 <= operator.version <= len(versions):
            return None
        needed = max(needed, versions[operator.version - 1], key=_numbers)
    return needed


def fits(manifest: Manifest, facts: Facts) -> str:
    """Why a device cannot run a bundle, '' where nothing speaks against it."""
    if manifest.machine is not None and _machine(manifest.machine) != _machine(facts.machine):
        return f"release {manifest.release} is made for {manifest.machine}, {facts.device_model} is {facts.machine}"
    for mode in manifest.modes:
        if reason := _too_old(mode.runs, facts):
            return f"mode {mode.name}: {reason}" if len(manifest.modes) > 1 else reason
    return ""


def _too_old(runs: Runs, facts: Facts) -> str:
    installed = facts.runtimes.get(runs.runtime)
    if installed is None:
        there = ", ".join(sorted(facts.runtimes)) or "none"
        return f"{facts.device_model} has no runtime {runs.runtime!r} (it has: {there})"
    if runs.at_least is None or not _numbers(installed):
        return ""
    if "litert" in installed.split()[0] and _numbers(runs.at_least) <= _numbers(_LITERT_BEGAN_AT):
        return ""
    if "litert" not in installed.split()[0] and _numbers(installed) < _numbers(runs.at_least):
        name = "tflite-runtime" if runs.runtime == "litert" else runs.runtime
        return f"{facts.device_model} has {installed}, the model needs {name} {runs.at_least} or later"
    return ""


def _machine(name: str) -> str:
    return _MACHINES.get(name.lower(), name.lower())


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers of the last word, () where it has none: '1.31.1', 'tflite-runtime 2.14.0'; 1.14.0 is 1.14."""
    found = re.match(r"\d+(?:\.\d+)*", version.split()[-1] if version.split() else "")
    numbers = [int(part[:9]) for part in found[0].split(".")[:8]] if found else []
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
