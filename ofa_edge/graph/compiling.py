"""Graph -> model file: the one way there, for exports, bundles and what is measured.

In: a Graph, a runtime, a precision, for int8 images to calibrate on. Out: `write` gives the bytes, `compile_graph` a
Compiled: bytes that were run here and held against the reference, golden tensors, and what the runtime makes of them.
Rules kept: a file that does not compute what the graph says is not given out; golden outputs are what a right device
says, within a tolerance that was measured; equal inputs give equal bytes. docs/compiling.md has the figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ofa_edge.errors import OfaEdgeError, UsageError
from ofa_edge.graph import acceleration, check, onnx, passes, quantize, reference, tflite
from ofa_edge.graph.check import Parity
from ofa_edge.graph.ir import Graph
from ofa_edge.graph.quantize import Activations

FORMATS = {"onnxruntime": "onnx", "litert": "tflite"}
"""Runtime -> the format of its files, which is their suffix, too."""

PRECISIONS = ("fp32", "fp16", "int8")
"""fp16: weights in half precision, which the runtime widens when it loads the file; it computes in single."""

CALIBRATION_IMAGES = 128
"""Of ofa-lite0 on Imagenette the worst of 800 outputs was off by .29 of the greatest with 16 images, .24 with 64, .15
with 256; top-1 was not told apart."""

# 7 bits for an ONNX file's weights: with 8, x86-64 CPUs without VNNI saturate (outputs off by up to .5 on an emulated
# Haswell, to other classes); with 7 they give what CPUs with VNNI and ARM's do. No top-1 was lost by it.
_WEIGHT_BITS = 7

# What a right device's golden outputs may be off, relative to the greatest. Weights in half precision are known
# exactly, so fp16 is as sharp as fp32. In int8 kernels may round a tie to either side: at most .04 between x86-64,
# Cortex-A72 and -A76 (the latter emulated; mostly 0), where kernels that saturate are off by .16 and more.
TOLERANCES: Mapping[str, float] = {"fp32": check.TOLERANCE, "fp16": check.TOLERANCE, "int8": 0.08}

# From here on a person should look at the accuracy: what was measured is up to .003 in half precision, .25 in int8.
_NOTABLE: Mapping[str, float] = {"fp16": 0.01, "int8": 0.4}

_GOLDEN_SEED = 0
_PROVED = 2  # inputs that a file is proved on


@dataclass(frozen=True, slots=True, eq=False)
class Golden:
    """One input NCHW, what a device must say to it, and how far off it may be (greatest absolute difference over the
    greatest absolute output)."""

    inputs: np.ndarray
    outputs: np.ndarray
    tolerance: float


@dataclass(frozen=True, slots=True, eq=False)
class Compiled:
    """A model file and what is known of it.

    Attributes:
        format: 'onnx' or 'tflite'.
        activations: what they are in an int8 file, '' in others.
        parity: with the network in single precision; of an int8 file on images it was calibrated on.
        ops: operators in the file, by how often.
        partitions, outside: acceleration.Acceleration's.
        notices: what a person should know, in sentences.
    """

    content: bytes
    runtime: str
    format: str
    precision: str
    activations: str
    parity: Parity
    golden: Golden
    ops: Mapping[str, int]
    partitions: int
    outside: Mapping[str, int]
    notices: tuple[str, ...]


def usual_activations(machine: str) -> Activations:
    """What int8 activations are in a file for ONNX Runtime where the device was not asked (latency asks it).

    Args:
        machine: as platform.machine() says.
    """
    return "int8" if machine.lower().startswith(("aarch64", "arm")) else "uint8"


def write(
    graph: Graph,
    runtime: str,
    precision: str = "fp32",
    *,
    calibration: np.ndarray | None = None,
    activations: Activations | None = None,
    weight_bits: int = _WEIGHT_BITS,
    symbolic: bool = False,
    rectified: bool = False,
    integer_input: bool = False,
    integer_output: bool = False,
) -> bytes:
    """The file's bytes, not run.

    Args:
        calibration: float32 (N, C, H, W), preprocessed as the network's input; int8 needs it.
        activations: of an int8 ONNX file, uint8 where left out; those of TFLite are int8.
        weight_bits: 7 or 8, of an int8 ONNX file.
        symbolic, rectified, integer_input, integer_output: as the writers and quantize.onnx_int8 say.

    Raises:
        UsageError: no such runtime, precision or activations; no images to calibrate on; a layer that the format
            cannot hold.
        BadFile: weights beyond half precision's range.
        ModuleNotFoundError: a package of an extra is not installed.
    """
    for what, value, known in (("runtime", runtime, tuple(FORMATS)), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise UsageError(f"no model file can be written for {what} {value!r}", hint=f"use {' or '.join(known)}")
    half, into = precision == "fp16", precision == "int8"
    if half:
        graph = passes.halved(graph)
    if into and (calibration is None or not len(calibration)):
        raise UsageError("int8 needs images to calibrate on", hint="give --data PATH, or another --precision")
    if runtime == "litert":
        if activations == "uint8":
            raise UsageError("a TFLite file's activations are int8", hint="leave the activations out, or write ONNX")
        model = tflite.to_bytes(graph, symbolic=symbolic, rectified=rectified, half=half)
        return quantize.tflite_int8(model, calibration) if into and calibration is not None else model
    model = onnx.to_bytes(graph, symbolic=symbolic, half=half)
    if not into or calibration is None:
        return model
    return quantize.onnx_int8(
        model,
        calibration,
        activations=activations or "uint8",
        weight_bits=weight_bits,
        integer_input=integer_input,
        integer_output=integer_output,
    )


def compile_graph(
    graph: Graph,
    *,
    runtime: str,
    precision: str = "fp32",
    calibration: np.ndarray | None = None,
    activations: Activations | None = None,
    name: str = "the compiled model",
) -> Compiled:
    """A whole network as a file, proved on this machine.

    Args:
        calibration, activations: as `write`.
        name: what errors call it.

    Raises:
        OfaEdgeError: the file does not compute what the graph does.
        UsageError, BadFile, ModuleNotFoundError: as `write`.
    """
    content = write(graph, runtime, precision, calibration=calibration, activations=activations)
    inputs = reference.golden_inputs(graph, _PROVED, _GOLDEN_SEED)
    found = check.run(content, inputs)
    wanted = reference.run(graph, inputs)
    if precision == "int8" and calibration is not None:
        golden = found
        shown = calibration[:_PROVED]
        parity = check.compare(check.run(content, shown), reference.run(graph, shown))
        if not parity.finite or not np.isfinite(found).all():
            raise OfaEdgeError(f"{name}: outputs are not finite", hint="write it with --precision fp32")
    else:
        golden = wanted if precision == "fp32" else reference.run(passes.halved(graph), inputs)
        check.require_equal(check.compare(found, golden), name)
        parity = check.compare(found, wanted)
    fast = acceleration.of(content)
    kind = FORMATS[runtime]
    return Compiled(
        content=content,
        runtime=runtime,
        format=kind,
        precision=precision,
        activations=("int8" if runtime == "litert" else activations or "uint8") if precision == "int8" else "",
        parity=parity,
        golden=Golden(inputs[:1], golden[:1], TOLERANCES[precision]),
        ops=check.operators(content),
        partitions=fast.partitions,
        outside=fast.outside,
        notices=(*_of_accuracy(parity, precision), *_of_speed(fast, kind, precision)),
    )


def _of_accuracy(parity: Parity, precision: str) -> tuple[str, ...]:
    if parity.rel <= _NOTABLE.get(precision, np.inf):
        return ()
    return (
        f"outputs in {precision} are {100 * parity.rel:.0f} % off those in fp32: look at the accuracy, and take fp32 "
        "or other images to calibrate on if it fell",
    )


def _of_speed(fast: acceleration.Acceleration, kind: str, precision: str) -> tuple[str, ...]:
    named = ", ".join(f"{count} {operator}" for operator, count in fast.outside.items())
    if kind == "tflite" and (fast.partitions != 1 or fast.outside):
        return (
            f"XNNPACK takes the network in {fast.partitions} pieces, slower kernels the rest: {named or 'nothing'}",
        )
    if kind == "onnx" and precision == "int8" and fast.partitions > 1:
        return (f"on this machine {fast.partitions - 1} parts compute in float between conversions: {named}",)
    return ()
