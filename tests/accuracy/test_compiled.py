"""Top-1 of a file: the same in either format, the pictures prepared once and right, whatever the precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ofa_edge.accuracy import compiled
from ofa_edge.errors import BadFile, OfaEdgeError
from ofa_edge.graph import compiling
from ofa_edge.graph.build import network
from ofa_edge.graph.ir import Graph
from ofa_edge.supernet.batchnorm import given_statistics, recalibrate
from ofa_edge.train import batches, images
from ofa_edge.weights.cut import fold
from tests.train.tiny import TINY, arrays_of, image_set, random_network

IMAGES = image_set(31, seed=2)
ARCH = TINY.largest()
VIEWS = images.centre_crops(IMAGES, ARCH.resolution, TINY.preprocess)


def made() -> tuple[Graph, np.ndarray]:
    """A network that tells the pictures apart, and what torch makes of them."""
    net = random_network(5)
    x = batches.normalise(VIEWS, TINY.preprocess)
    statistics = recalibrate(net, ARCH, [x])
    with torch.no_grad(), given_statistics(net, statistics):
        expected = net(x, ARCH).argmax(dim=1).numpy()
    return network(TINY.layers(ARCH), fold(TINY, arrays_of(net), ARCH, statistics)), expected


GRAPH, EXPECTED = made()


@pytest.mark.parametrize("runtime", compiling.FORMATS)
@pytest.mark.parametrize("precision", compiling.PRECISIONS)
def test_a_file_sees_what_torch_sees(runtime: str, precision: str) -> None:
    calibration = compiled.inputs(VIEWS, TINY.preprocess)
    model = compiling.write(GRAPH, runtime, precision, calibration=calibration)
    found = compiled.predictions(model, VIEWS, TINY.preprocess)
    assert found.dtype == np.int64
    assert (found == EXPECTED).mean() >= (0.9 if precision == "int8" else 1)
    count = compiled.top1(model, IMAGES, ARCH.resolution, TINY.preprocess)
    assert (count.correct, count.n) == (int((found == IMAGES.labels).sum()), 31)
    assert count.top1 == pytest.approx(100 * count.correct / 31)


@pytest.mark.parametrize("runtime", compiling.FORMATS)
@pytest.mark.parametrize("workers", [1, 2, 40])
def test_the_number_of_workers_changes_nothing(runtime: str, workers: int) -> None:
    model = compiling.write(GRAPH, runtime)
    assert np.array_equal(compiled.predictions(model, VIEWS, TINY.preprocess, workers), EXPECTED)


def test_what_cannot_be_counted_is_refused() -> None:
    for junk, message in ((b"junk", "not an ONNX model"), (b"....TFL3" + bytes(20), "LiteRT refuses")):
        with pytest.raises(BadFile, match=message):
            compiled.predictions(junk, VIEWS, TINY.preprocess)
    other = images.centre_crops(IMAGES, 16, TINY.preprocess)
    for runtime in compiling.FORMATS:
        with pytest.raises(BadFile, match="refuses the model or its input"):
            compiled.predictions(compiling.write(GRAPH, runtime), other, TINY.preprocess)
    arrays = {name: np.full_like(array, 3e38) for name, array in GRAPH.arrays.items()}
    blown_up = Graph(GRAPH.input, GRAPH.output, GRAPH.nodes, arrays)
    with pytest.raises(OfaEdgeError, match="not finite"):
        compiled.predictions(compiling.write(blown_up, "onnxruntime"), VIEWS, TINY.preprocess)
