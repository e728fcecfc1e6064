"""A subnet of a checkpoint as a deployable model: cut, fold, build, write."""

from __future__ import annotations

from ofa_edge.graph import build, onnx
from ofa_edge.space.arch import Arch
from ofa_edge.weights.bank import Statistics
from ofa_edge.weights.checkpoint import Checkpoint


def to_onnx(checkpoint: Checkpoint, arch: Arch, statistics: Statistics | None = None) -> bytes:
    """ONNX bytes of the subnet at its resolution, by these batch-norm statistics or else the bank's.

    Raises:
        BadFile: there are no statistics, or the checkpoint misses an array.
        UsageError: the arch is not in the checkpoint's space.
    """
    layers = checkpoint.space.layers(arch)
    return onnx.to_bytes(build.network(layers, checkpoint.folded(arch, statistics)))
