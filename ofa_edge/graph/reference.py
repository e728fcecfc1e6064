"""A Graph computed in plain numpy, in double precision: the reference a written file is judged by.

In: a Graph and inputs. Out: outputs. It shares nothing with the writers or a runtime but the Graph itself, so a
wrong node and a runtime's faulty optimisation both show. Slow, a few tenths of a second a network; run on
export and when golden outputs are made.
"""

from __future__ import annotations

from collections.abc import Iterator

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
    with np.errstate(over="ignore"):  # `check.compare` refuses what is then infinite
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
    if node.op is Op.MAX_POOL:
        return _max_pool(first, node)
    if node.op is Op.AVERAGE_POOL:
        return _average_pool(first, node.stride)
    second = values[node.inputs[1].name]
    return first * second if node.op is Op.SCALE else first + second


def _conv(x: Doubles, weight: Doubles, node: Node) -> Doubles:
    """Cross-correlation, one kernel tap at a time: every tap is a shifted view times its weights."""
    result: Doubles = np.zeros((1, len(weight), *(-(-side // node.stride) for side in x.shape[2:])))
    for (i, j), view in _views(x, node, 0.0, rows=weight.shape[2]):
        if node.groups == 1:
            result += np.einsum("oc,nchw->nohw", weight[:, :, i, j], view, optimize=True)
        else:  # depthwise: one input channel a group
            result += weight[:, 0, i, j][None, :, None, None] * view
    return result


def _views(x: Doubles, node: Node, padding: float, rows: int) -> Iterator[tuple[tuple[int, int], Doubles]]:
    """For every tap of a window, the values (1, C, H, W) that it meets, one for each place of the output."""
    above, left, stride = (rows - 1) * node.row_dilation // 2, node.kernel // 2, node.stride
    height, width = (-(-side // stride) for side in x.shape[2:])
    padded = np.pad(x, ((0, 0), (0, 0), (above, above), (left, left)), constant_values=padding)
    for i in range(rows):
        top = i * node.row_dilation
        for j in range(node.kernel):
            yield (i, j), padded[:, :, top : top + stride * height : stride, j : j + stride * width : stride]


def _max_pool(x: Doubles, node: Node) -> Doubles:
    return np.asarray(np.max([view for _, view in _views(x, node, -np.inf, node.kernel)], axis=0))


def _average_pool(x: Doubles, stride: int) -> Doubles:
    """Means of windows side by side; the last ones take what is left of the map."""
    starts = [np.arange(0, side, stride) for side in x.shape[2:]]
    sums = np.add.reduceat(np.add.reduceat(x, starts[0], axis=2), starts[1], axis=3)
    counts = [np.minimum(start + stride, side) - start for start, side in zip(starts, x.shape[2:], strict=True)]
    return np.asarray(sums / np.outer(*counts))


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
