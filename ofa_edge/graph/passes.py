"""Rewrites of a Graph that change how fast it runs, or how its numbers are kept, and nothing else.

In: a Graph. Out: a Graph with the same input, output and function. Rules kept: a pass says what it requires and what it
ensures; it is on for the runtimes that were measured to be faster with it, and for no other; it looks at one node at a
time, so that a block alone and the same block inside a network are rewritten alike; it works for all input sizes,
because the sizes of tensors are never part of what it adds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from ofa_edge.errors import BadFile
from ofa_edge.graph.ir import Activation, Graph, Node, Op, Tensor

# The largest depthwise kernel, in taps, that XNNPACK has a kernel of its own for (3, 4, 9 and 25 taps); beyond, it
# takes the general path, 6 to 7 times slower (7 x 7 against its three parts, 96 channels at 56 x 56 to 960 at 7 x 7).
XNNPACK_TAPS = 25


def for_runtime(graph: Graph, runtime: str) -> Graph:
    """The graph by all passes that are on for a runtime."""
    for one in PASSES:
        if runtime in one.faster_on:
            graph = one.rewrite(graph)
    return graph


def parts(kernel: int, runtime: str) -> int:
    """How many convolutions a depthwise one of this side is written as for a runtime."""
    rows = XNNPACK_TAPS // kernel
    split = runtime in _SPLIT_ON and kernel**2 > XNNPACK_TAPS and rows > 1
    return len(_row_sets(kernel // 2, three=rows > 2)) if split else 1


def halved(graph: Graph) -> Graph:
    """The graph with its weights rounded to half precision; biases stay.

    Requires: weights within half precision's range, 65,504.
    Ensures: every weight is a number that half precision holds, so that storing it so loses nothing more.

    Raises:
        BadFile: a weight is out of that range.
    """
    arrays = dict(graph.arrays)
    for name in {node.weight for node in graph.nodes if node.weight}:
        with np.errstate(over="ignore"):  # found below, by name
            arrays[name] = arrays[name].astype(np.float16).astype(np.float32)
        if not np.isfinite(arrays[name]).all():
            raise BadFile(
                f"the weights {name!r} are beyond half precision's range", hint="write the file with --precision fp32"
            )
    return replace(graph, arrays=arrays)


def split_depthwise(graph: Graph, most_taps: int = XNNPACK_TAPS) -> Graph:
    """Write a depthwise convolution of many taps as a sum of convolutions of few.

    The rows of a kernel of side 2 p + 1 are taken in sets that lie evenly about its middle: -p, 0 and p together where
    `most_taps` allows three rows, and the others in pairs -r and r. Such a set is a kernel with dilated rows, and its
    padding is the same on both sides: no part needs to shift or cut its input, at any size and stride.

    Requires: an odd kernel. Kernels of which not even two rows have `most_taps` taps stay as they are.
    Ensures: the same function but for the order of additions; no depthwise convolution of more than `most_taps` taps
    is left but those; the bias is in the first part, the activation in the last sum, which has the node's name and
    output.
    """
    nodes: list[Node] = []
    arrays = dict(graph.arrays)
    for node in graph.nodes:
        rows_at_once = most_taps // node.kernel
        depthwise = node.op is Op.CONV and node.groups > 1
        if depthwise and node.kernel**2 > most_taps and rows_at_once > 1 and node.row_dilation == 1:
            nodes += _split(node, rows_at_once, arrays)
        else:
            nodes.append(node)
    return replace(graph, nodes=tuple(nodes), arrays=arrays)


def _split(node: Node, rows_at_once: int, arrays: dict[str, np.ndarray]) -> Iterator[Node]:
    weight, bias = arrays.pop(node.weight), arrays.pop(node.bias)
    middle = node.kernel // 2
    total: Tensor | None = None
    sets = _row_sets(middle, three=rows_at_once > 2)
    for number, offsets in enumerate(sets):
        part = f"{node.name}/part{number}"
        names = f"{node.weight}/part{number}", f"{node.bias}/part{number}"
        arrays[names[0]] = np.ascontiguousarray(weight[:, :, [middle + offset for offset in offsets]])
        arrays[names[1]] = bias if number == 0 else np.zeros_like(bias)
        gaps = {later - earlier for earlier, later in pairwise(offsets)} or {1}
        output = Tensor(part, node.output.shape)
        yield replace(
            node, name=part, output=output, activation=Activation.NONE, weight=names[0], bias=names[1],
            row_dilation=gaps.pop(),
        )  # fmt: skip
        if total is None:
            total = output
            continue
        last = number == len(sets) - 1
        inputs = (total, output)
        if last:
            yield Node(node.name, Op.ADD, inputs, node.output, node.activation)
        else:
            total = Tensor(f"{node.name}/sum{number}", node.output.shape)
            yield Node(total.name, Op.ADD, inputs, total)


def _row_sets(middle: int, *, three: bool) -> list[tuple[int, ...]]:
    """Rows from -middle to middle in evenly spaced sets that are their own mirror image."""
    first = (-middle, 0, middle) if three else (0,)
    pairs = [(-row, row) for row in range(1, middle + (not three))]
    return [first, *reversed(pairs)]


@dataclass(frozen=True, slots=True)
class Pass:
    """A rewrite and where it is on.

    Attributes:
        faster_on: the runtimes that were measured to be faster with it (`benchmarks/compiled.py --passes` measures it
            again); what it requires and ensures stands with the rewrite.
    """

    name: str
    rewrite: Callable[[Graph], Graph]
    faster_on: frozenset[str]


# A block with 7 x 7, 32 channels at 56 px to 160 at 7 px, one thread of x86-64 (AVX-512): with LiteRT 2.3 it is 3 to 17
# times faster split in float, 7 to 27 times in int8; with ONNX Runtime 1.31, which has a kernel for any size, 5 to 9 %
# slower, and 13 to 21 %. XNNPACK's limit of 25 taps is that of its kernels for every CPU.
_SPLIT_ON = frozenset({"litert"})
PASSES = (Pass("split-depthwise", split_depthwise, _SPLIT_ON),)
