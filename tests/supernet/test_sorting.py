"""Channel sorting: the largest net computes the same afterwards, and the order is the reference implementation's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from ofa_edge.space import spaces
from ofa_edge.space.arch import Space
from ofa_edge.supernet.network import Supernet
from ofa_edge.weights.from_ofa import from_ofa
from tests import reference_ofa
from tests.families import SMALL_RESNET, SMALL_SPACES
from tests.train.tiny import random_network

NARROW: dict[str, tuple[Space, Callable[[], nn.Module]]] = {
    "mbv3": (spaces.mobilenet_v3("mbv3", 0.5), lambda: reference_ofa.mobilenet_v3(0.5, 7)),
    "proxyless": (spaces.proxyless("proxyless", 0.5), lambda: reference_ofa.proxyless(0.5, 7)),
    "resnet": (spaces.resnet_d("resnet", (0.125, 0.25)), lambda: reference_ofa.resnet_d((0.125, 0.25), 7)),
}


def network_of(theirs: nn.Module, space: Space) -> Supernet:
    published = from_ofa({name: value.numpy() for name, value in theirs.state_dict().items()}, space)
    network = Supernet(published.space)
    network.load_state_dict({name: torch.from_numpy(value) for name, value in published.arrays.items()})
    return network


@pytest.mark.parametrize("stages", [(0,), (1,), (1, 2), (2, 0)], ids=str)
@pytest.mark.parametrize("family", NARROW)
def test_the_order_is_the_references(family: str, stages: tuple[int, ...]) -> None:
    """Whatever was sorted before: with the groups that later stages need, one after the other, and all together."""
    space, make = NARROW[family]
    theirs = make()
    reference_ofa.randomise(theirs, 2)
    ours = network_of(theirs, space)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    for stage in stages:
        theirs.re_organize_middle_weights(expand_ratio_stage=stage)
        ours.sort_channels(stage)
    expected = network_of(theirs, space).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in ours.state_dict().items())
    assert any(not torch.equal(value, before[name]) for name, value in expected.items() if ".se_" in name) == (
        family == "mbv3"
    )


@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("space", SMALL_SPACES, ids=lambda space: space.name)
def test_the_largest_net_computes_the_same_and_narrow_ones_something_else(space: Space, stage: int) -> None:
    network, size = random_network(0, space), max(space.resolutions)
    x = torch.randn(6, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, narrow = network(x, space.largest()), network(x, space.smallest())
        network.sort_channels(stage)
        assert (network(x, space.largest()) - before).abs().max() <= 1e-5 * before.abs().max()
        assert not torch.allclose(network(x, space.smallest()), narrow, rtol=0.01)


@pytest.mark.parametrize("space", SMALL_SPACES, ids=lambda space: space.name)
def test_sorting_by_stages_keeps_the_channels_of_each_ratio_together(space: Space) -> None:
    """What a narrower net of the first stage computes, one of the second stage still does."""
    network, size = random_network(0, space), max(space.resolutions)
    x = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    largest = space.largest()
    stages = tuple(
        tuple(choice._replace(expand=sorted(stage.expands)[-2]) for choice in choices)
        for stage, choices in zip(space.stages, largest.stages, strict=True)
    )
    narrower = replace(largest, stages=stages)
    with torch.no_grad():
        network.sort_channels(1)
        before = network(x, narrower)
        network.sort_channels(2)
        assert (network(x, narrower) - before).abs().max() <= 1e-4 * before.abs().max()


# -- widths ---------------------------------------------------------------------------------------
def test_sorting_widths_keeps_the_largest_nets_outputs_and_puts_important_channels_first() -> None:
    network, size = random_network(0, SMALL_RESNET), 33
    x = torch.randn(6, 3, size, size, generator=torch.Generator().manual_seed(0))
    largest, smallest = SMALL_RESNET.largest(size), SMALL_RESNET.smallest(size)
    last = network.get_parameter("logits.linear.weight")
    with torch.no_grad():
        before, narrow = network(x, largest), network(x, smallest)
        network.sort_widths()
        assert (network(x, largest) - before).abs().max() <= 1e-5 * before.abs().max()
        assert not torch.allclose(network(x, smallest), narrow, rtol=0.01)
        readers = [last, *(network.get_parameter(f"stages.1.{i}.reduce.weight").flatten(1) for i in (1, 2))]
        importance = torch.stack([reader.abs().sum(dim=0) for reader in readers]).sum(dim=0)
    assert (importance.diff() <= 1e-5).all()


def test_fixed_widths_stay_as_they_are() -> None:
    network = random_network(0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.sort_widths()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
