"""Archs as columns: what Once-for-All's own encoders tell apart is told apart here, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest

from ofa_edge.accuracy.encoding import DEPTH_PLACES, ONE_HOT, PLACES, encode
from ofa_edge.errors import UsageError
from ofa_edge.space import codecs
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.spaces import SPACES
from tests import reference_ofa

SIZES = (128, 176, 224)


def drawn(space: Space, count: int) -> list[Arch]:
    rng = np.random.default_rng(0)
    return [space.sample(rng, int(rng.choice(SIZES))) for _ in range(count)]


@pytest.mark.parametrize("name", ["ofa-mbv3-w1.0", "ofa-proxyless-w1.3"])
def test_one_hot_is_what_the_reference_encodes(name: str) -> None:
    """Up to the order of columns, so: all inner products are equal."""
    encoders = reference_ofa.module("nas.accuracy_predictor.arch_encoder")
    space = SPACES[name]
    encoder = encoders.MobileNetArchEncoder
    if "proxyless" in name:
        encoder = type("ProxylessArchEncoder", (encoder,), {"SPACE_TYPE": "mbv2"})
    theirs = encoder(image_size_list=list(SIZES))
    archs = drawn(space, 40)
    features = np.stack(
        [theirs.arch2feature({**codecs.encode(space, arch), "image_size": arch.resolution}) for arch in archs]
    )
    ours = encode(space, archs, SIZES, ONE_HOT)
    assert ours.shape == features.shape
    assert (ours @ ours.T == features @ features.T).all()


def test_a_resnets_widths_stem_and_fractions_are_choices_too() -> None:
    space = SPACES["ofa-resnet50d"]
    archs = list(dict.fromkeys(drawn(space, 200)))
    for terms in (ONE_HOT, PLACES, DEPTH_PLACES):
        rows = encode(space, archs, SIZES, terms)
        assert set(np.unique(rows)) == {0, 1}
        assert len(np.unique(rows, axis=0)) == len(archs), "different subnets are different rows"
    one_hot = encode(space, archs, SIZES, ONE_HOT)
    widths = sum(len(set(choices)) for choices in space.width_choices)
    places = sum(stage.max_depth for stage in space.stages)
    assert one_hot.shape[1] == len(SIZES) + 3 * places + widths + 2
    active = [sum(arch.depths) for arch in archs]
    assert (one_hot.sum(axis=1) == np.array(active) + 1 + len(space.width_choices) + 1).all()


@pytest.mark.parametrize("name", SPACES)
def test_a_skipped_block_leaves_no_trace(name: str) -> None:
    space = SPACES[name]
    deep, shallow = space.largest(), space.smallest()
    columns = [encode(space, [arch], (deep.resolution,), ONE_HOT)[0] for arch in (deep, shallow.at(deep.resolution))]
    assert columns[0].sum() > columns[1].sum()
    assert (columns[0] >= 0).all()


def test_sizes_outside_those_measured_are_refused() -> None:
    space = SPACES["ofa-mbv3-w1.0"]
    with pytest.raises(UsageError, match=r"resolution 128 lies outside the accuracy table's 176\.\.224"):
        encode(space, [space.smallest(128)], (176, 224), PLACES)
