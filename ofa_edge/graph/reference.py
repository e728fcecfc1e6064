"""A Graph computed in plain numpy, in double precision: the reference a written file is judged by.

In: a Graph and inputs. Out: outputs. It shares nothing with the writers or a runtime but the Graph itself, so a
wrong node and a runtime's faulty optimisation both show. Slow, a few tenths of a second a network; run on
export and when golden outputs are made.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ofa_edge.graph.ir import Activation, Graph, Node, Op

Doubles = NDArray[np.float64]


def golden_inputs(graph: Graph, count: int, seed: int) -> NDArray[np.float32]:
    """Inputs (count, C, H, W) within [-1, 1], where preprocessed images lie: smooth patterns and noise.

    Drawn from `seed` alone, so that a golden input is the same wherever it is made.
    """
    rng = np.random.default_rng(seed)
    _, channels, height, width = graph.input.shape
    rows, columns = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)[None, :]
    frequency, phase = rng.uniform(1, 12, (2, count, channels, 1, 1)), rng.uniform(0, 6.28, (count, channels, 1, 1))
    waves = np.sin(6.28 * (frequency[0] * rows + frequency[1] * columns) + phase)
    noise = rng.uniform(-1, 1, (count, channels, height, width))
    return np.asarray(0.7 * waves + 0.3 * noise, np.float32)


def run(graph: Graph, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Outputs for inputs (N, C, H, W), one entry each, rounded to single precision at the end only."""
    outputs = np.concatenate([_run_one(graph, one[None].astype(np.float64)) for one in inputs])
    return np.asarray(outputs, np.float32)


def _run_one(graph: Graph, x: Doubles) -> Doubles:
    values: dict[str, Doubles] = {graph.input.name: x}
    for node in graph.nodes:
        values[node.output.name] = _activate(_compute(node, graph, values), node.activation)
    return values[graph.output.name]


def _compute(node: Node, graph: Graph, values: dict[str, Doubles]) -> Doubles:
    first = values[node.inputs[0].name]
    if node.op is Op.CONV:
        return _conv(first, graph.arrays[node.weight].astype(np.float64), node) + _column(graph.arrays[node.bias])
    if node.op is Op.LINEAR:
        weight = graph.arrays[node.weight].astype(np.float64)
        return np.asarray(first.reshape(1, -1) @ weight.T + graph.arrays[node.bias])
    if node.op is Op.MEAN:
        return np.asarray(first.mean(axis=(2, 3), keepdims=True))
    second = values[node.inputs[1].name]
    return first * second if node.op is Op.SCALE else first + second


def _conv(x: Doubles, weight: Doubles, node: Node) -> Doubles:
    """Cross-correlation, one kernel tap at a time: every tap is a shifted view times its weights."""
    pad, stride = node.kernel // 2, node.stride
    height, width = (-(-side // stride) for side in x.shape[2:])
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    result: Doubles = np.zeros((1, len(weight), height, width))
    for i in range(node.kernel):
        for j in range(node.kernel):
            view = padded[:, :, i : i + stride * height : stride, j : j + stride * width : stride]
            if node.groups == 1:
                result += np.einsum("oc,nchw->nohw", weight[:, :, i, j], view, optimize=True)
            else:  # depthwise: one input channel a group
                result += weight[:, 0, i, j][None, :, None, None] * view
    return result


def _column(bias: NDArray[np.float32]) -> Doubles:
    return bias.astype(np.float64)[None, :, None, None]


def _activate(x: Doubles, activation: Activation) -> Doubles:
    if activation is Activation.RELU:
        return np.maximum(x, 0)
    if activation is Activation.RELU6:
        return np.clip(x, 0, 6)
    if activation is Activation.H_SWISH:
        return x * np.clip(x + 3, 0, 6) / 6
    if activation is Activation.H_SIGMOID:
        return np.clip(x + 3, 0, 6) / 6
    return x
