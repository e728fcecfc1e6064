"""Archs as columns: what Once-for-All's own encoders tell apart is told apart here, and nothing else is."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from ofa_edge.accuracy.encoding import DEPTH_PLACES, ONE_HOT, PLACES, encode, encode_arrays
from ofa_edge.accuracy.mlp import HIDDEN, MlpAccuracy, forward
from ofa_edge.accuracy.pair_tables import PairTables
from ofa_edge.accuracy.pairwise import PairwiseAccuracy
from ofa_edge.accuracy.validation import Rows, Validation
from ofa_edge.errors import UsageError
from ofa_edge.space import codecs
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.population import ArchArrays
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


# -- whole populations --------------------------------------------------------------------------
def columns_by_choice(space: Space, arch: Arch, terms: str) -> list[float]:
    """What the encoder's rules say, written down choice by choice."""
    found = [float(np.interp(arch.resolution, SIZES, row)) for row in np.eye(len(SIZES))]
    for stage, choice in zip(space.stages, arch.stages, strict=True):
        elastic = len(stage.depths) > 1
        expands = stage.expands if len(stage.expands) > 1 else ()
        kernels = stage.kernels if len(stage.kernels) > 1 or (terms == ONE_HOT and not expands) else ()
        places = []
        for i in range(stage.max_depth):
            kernel, expand = choice[i] if i < len(choice) else (0, 0)
            places.append([*(kernel == k for k in kernels), *(expand == e for e in expands)])
        if elastic and terms != ONE_HOT:
            found += [len(choice) == depth for depth in stage.depths]
        found += [taken for place in places for taken in place]
        if elastic and terms == DEPTH_PLACES:
            for depth in stage.depths:
                found += [taken and len(choice) == depth for place in places[:depth] for taken in place]
    for width, choices in zip(arch.widths, space.width_choices, strict=True):
        found += [width == one for one in sorted(set(choices))] if len(set(choices)) > 1 else []
    if len(space.stem.depths) > 1:
        found += [arch.stem_depth == depth for depth in space.stem.depths]
    return [float(value) for value in found]


@pytest.mark.parametrize("terms", [ONE_HOT, PLACES, DEPTH_PLACES])
@pytest.mark.parametrize("name", SPACES)
def test_archs_and_arrays_of_them_are_the_same_columns(name: str, terms: str) -> None:
    space = SPACES[name]
    sizes = tuple(r for r in SIZES if r in space.resolutions) or space.resolutions[::2]
    drawn_at = [r for r in space.resolutions if sizes[0] <= r <= sizes[-1]]
    arrays = ArchArrays.sample(space, np.random.default_rng(0), 40, drawn_at)
    archs = arrays.archs()
    rows = encode_arrays(space, arrays, sizes, terms)
    assert np.array_equal(rows, encode(space, archs, sizes, terms))
    if sizes == SIZES:
        assert rows.tolist() == [columns_by_choice(space, arch, terms) for arch in archs]


@pytest.mark.parametrize("terms", [ONE_HOT, PLACES])
@pytest.mark.parametrize("name", SPACES)
def test_a_polynomial_of_the_columns_is_a_sum_of_pairs(name: str, terms: str) -> None:
    space, rng = SPACES[name], np.random.default_rng(1)
    sizes = space.resolutions[:: max(1, len(space.resolutions) // 4)]
    arrays = ArchArrays.sample(space, rng, 60, sizes)
    x = encode_arrays(space, arrays, sizes, terms)
    slope, bend = rng.normal(size=x.shape[1]), rng.normal(size=(x.shape[1], x.shape[1]))
    tables = PairTables.of(space, sizes, terms, 0.7, slope, bend)
    assert tables.scores(arrays) == pytest.approx(0.7 + x @ slope + np.sum(x @ bend * x, axis=1), abs=1e-9)


def test_pairwise_predictions_are_those_of_the_kernel() -> None:
    """The dual form that is fitted, row by row, against the tables that predict."""
    space, rng = SPACES["ofa-resnet50d"], np.random.default_rng(2)
    archs = drawn(space, 90)
    rows = Rows.of(space, archs, rng.integers(600, 900, len(archs)), [1000] * len(archs))
    model = PairwiseAccuracy.fit_measured(rows)
    new = drawn(space, 200)[90:]
    mean = model.rows.mean(axis=0)
    linear = (encode(space, new, SIZES, PLACES) - mean) @ (model.rows - mean).T
    kernel = linear + model.balance * linear**2
    found = model.scores(ArchArrays.of(space, new))
    assert found == pytest.approx(model.level + kernel @ model.dual, abs=1e-9)
    assert model.predict(new) == pytest.approx(model.intervals(new)[:, 0], abs=1e-9)
    between = [arch.at(200) for arch in new[:5]]
    assert model.predict(between) == pytest.approx(model.intervals(between)[:, 0], abs=1e-9)
    with pytest.raises(UsageError, match="lies outside"):
        model.predict([new[0].at(224), new[1].at(space.resolutions[0]).at(112)])


def test_a_network_predicts_a_population_as_it_does_each_arch() -> None:
    space, rng = SPACES["ofa-mbv3-w1.0"], np.random.default_rng(3)
    archs = drawn(space, 2100)  # more than are predicted at once
    x = encode(space, archs[:1], SIZES, ONE_HOT)
    widths = [x.shape[1], *HIDDEN, 1]
    layers = tuple(
        (rng.normal(0, 0.05, (a, b)).astype(np.float32), rng.normal(0, 0.05, b).astype(np.float32))
        for a, b in pairwise(widths)
    )
    none = np.zeros(1)
    model = MlpAccuracy(space, SIZES, 100, 100, Validation(5, 0.0, 0.0), 0.5, layers, (none, none))
    found = model.predict_arrays(ArchArrays.of(space, archs))
    assert found == pytest.approx(model.predict(archs), abs=1e-6)
    alone = [0.5 + forward(layers, encode(space, [arch], SIZES, ONE_HOT))[0] for arch in archs[::300]]
    assert found[::300] == pytest.approx(np.clip(alone, 0, 1), abs=1e-5)
    assert np.ptp(found) > 0.01
