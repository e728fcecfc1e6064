"""Cutting: the subnet cut and folded in numpy, run as ONNX, is the elastic torch net under the same statistics."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ofa_edge.errors import BadFile, UsageError
from ofa_edge.graph import build, onnx
from ofa_edge.space.arch import Arch, BlockChoice
from ofa_edge.space.spaces import OFA_LITE0
from ofa_edge.supernet.batchnorm import given_statistics, recalibrate
from ofa_edge.supernet.network import Supernet
from ofa_edge.weights.cut import fold, subnet_arrays
from ofa_edge.weights.layout import array_name, weight_shapes
from tests.train.tiny import TINY, arrays_of, random_network, random_statistics

NETWORK = random_network(0)


def tiny_archs() -> st.SearchStrategy[Arch]:
    stages = [
        st.sampled_from(stage.depths).flatmap(
            lambda depth, stage=stage: st.tuples(
                *[st.builds(BlockChoice, st.sampled_from(stage.kernels), st.sampled_from(stage.expands))] * depth
            )
        )
        for stage in TINY.stages
    ]
    return st.builds(Arch, st.sampled_from(TINY.resolutions), st.tuples(*stages))


def compare(network: Supernet, arch: Arch, seed: int) -> None:
    """Logits by torch's elastic net, and by ONNX Runtime's cut and folded one, of two images.

    Under the subnet's own statistics, which differ from those the images have: under others most units would be
    stuck at 0 or 6, and no early layer could be wrong. The two images must be told apart, for the same reason.
    """
    space, generator = network.space, torch.Generator().manual_seed(seed)
    images = torch.randn(8, 3, arch.resolution, arch.resolution, generator=generator)
    images *= torch.linspace(0.2, 3, 8).reshape(8, 1, 1, 1)
    statistics = recalibrate(network, arch, [images[2:]])
    with torch.no_grad(), given_statistics(network, statistics):
        elastic = network(images[:2], arch).numpy()
    folded = fold(space, arrays_of(network), arch, statistics)
    session = onnxruntime.InferenceSession(
        onnx.to_bytes(build.network(space.layers(arch), folded)), providers=["CPUExecutionProvider"]
    )
    cut = np.concatenate([session.run(None, {"input": image[None].numpy()})[0] for image in images[:2]])
    scale = np.abs(elastic).max()
    assert np.abs(elastic[0] - elastic[1]).max() > 0.01 * scale
    assert np.abs(cut - elastic).max() <= 1e-4 * scale


@given(arch=tiny_archs(), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_cut_net_is_the_elastic_net(arch: Arch, seed: int) -> None:
    compare(NETWORK, arch, seed)


@pytest.mark.parametrize("which", ["largest", "smallest", "random"])
def test_the_cut_net_is_the_elastic_net_in_the_shipped_space(which: str) -> None:
    space, rng = OFA_LITE0, np.random.default_rng(3)
    arch = {"largest": space.largest(96), "smallest": space.smallest(96), "random": space.sample(rng, 96)}[which]
    compare(random_network(1, space), arch, 7)


def test_transforms_count_in_a_cut_net() -> None:
    """The equalities above would hold of two nets that both forgot the transforms."""
    arrays = arrays_of(NETWORK)
    small = fold(TINY, arrays, TINY.smallest(), random_statistics(TINY.smallest(), 0))
    for name in arrays:
        if ".transform_" in name:
            arrays[name] = np.eye(len(arrays[name]), dtype=np.float32)
    plain = fold(TINY, arrays, TINY.smallest(), random_statistics(TINY.smallest(), 0))
    weight = "stages.0.0.depthwise.weight"
    assert np.abs(small[weight] - plain[weight]).max() > 0.1 * np.abs(plain[weight]).max()


@given(arch=tiny_archs())
@settings(max_examples=20, deadline=None)
def test_folded_arrays_are_those_the_layout_names(arch: Arch) -> None:
    expected = {}
    for layer in TINY.layers(arch):
        for conv, shape in weight_shapes(layer.block).items():
            expected[array_name(layer.path, conv, "weight")] = shape
            expected[array_name(layer.path, conv, "bias")] = shape[:1]
    folded = fold(TINY, arrays_of(NETWORK), arch, random_statistics(arch, 0))
    assert {name: value.shape for name, value in folded.items()} == expected
    assert all(value.dtype == np.float32 and value.flags.c_contiguous for value in folded.values())


def test_folding_leaves_the_checkpoints_arrays_as_they_are() -> None:
    arrays = arrays_of(NETWORK)
    before = {name: value.copy() for name, value in arrays.items()}
    fold(TINY, arrays, TINY.smallest(), random_statistics(TINY.smallest(), 0))
    assert all(np.array_equal(arrays[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    "name",
    ["stem.conv.weight", "stages.0.0.depthwise.transform_7to5", "stages.1.0.project_bn.bias", "logits.linear.bias"],
)
def test_an_array_that_is_missing_is_named(name: str) -> None:
    arrays = arrays_of(NETWORK)
    del arrays[name]
    with pytest.raises(BadFile, match=name):
        subnet_arrays(TINY, arrays, TINY.smallest())


def test_arrays_that_the_subnet_does_not_use_may_be_missing() -> None:
    used = {name: value for name, value in arrays_of(NETWORK).items() if not name.startswith("stages.1.1.")}
    subnet_arrays(TINY, used, TINY.smallest())
    with pytest.raises(BadFile, match=r"stages\.1\.1\."):
        subnet_arrays(TINY, used, TINY.largest())


def test_a_missing_statistic_is_named() -> None:
    statistics = random_statistics(TINY.smallest(), 0)
    del statistics["stages.1.0.expand_bn"]
    with pytest.raises(BadFile, match=r"stages\.1\.0\.expand_bn"):
        fold(TINY, arrays_of(NETWORK), TINY.smallest(), statistics)


def test_an_arch_of_another_space_is_refused() -> None:
    with pytest.raises(UsageError, match="resolution 160 is not in space tiny"):
        fold(TINY, arrays_of(NETWORK), OFA_LITE0.largest(), {})
