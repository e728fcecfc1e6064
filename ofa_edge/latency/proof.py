"""A small model whose outputs are known, to prove that a runtime works on a device before it is used there.

In: a runtime's name. Out: the file of one real block (expansion, depthwise and projecting convolution, with the input
added), an input, and what a plain computation in double precision makes of it: neither runtime judges itself.
"""

from __future__ import annotations

import numpy as np

from ofa_edge.device.runtime_setup import Proof
from ofa_edge.graph import build, reference
from ofa_edge.latency import workload
from ofa_edge.latency.conditions import RunsOn
from ofa_edge.space.block import Layer
from ofa_edge.space.spaces import OFA_LITE0
from ofa_edge.weights.random import random_arrays

_SEED = 0


def proof(runtime: str) -> Proof:
    """The embedded space's first block with a shortcut, as `runtime` reads it.

    Raises:
        UsageError: no file can be written for that runtime.
    """
    block = next(block for block in OFA_LITE0.blocks(OFA_LITE0.largest()) if block.skip)
    layers = [Layer("", block)]
    graph = build.network(layers, random_arrays(layers, _SEED))
    inputs = reference.golden_inputs(graph, 1, _SEED)
    outputs = reference.run(graph, inputs)
    return Proof(
        model=workload.model_file(graph, RunsOn(runtime)),
        inputs=np.ascontiguousarray(inputs, "<f4").tobytes(),
        input_shape=inputs.shape,
        outputs=np.ascontiguousarray(outputs, "<f4").tobytes(),
        output_shape=outputs.shape,
    )
