"""Spaces, dicts and counts against the reference implementation: every drawn subnet has its parameters and MACs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from ofa_edge.space.codecs import decode, encode
from ofa_edge.space.cost import cost, trainable_params
from ofa_edge.space.spaces import get_space
from tests import reference_ofa

SUBNETS = 12  # a space; 100 of each agree too, in a minute


@contextmanager
def without_values() -> Iterator[None]:
    """Modules are made of shapes alone, so that hundreds of networks take seconds."""
    with torch.device("meta"):
        yield


def without_what_counts_nothing(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> None:
    for name, child in module.named_children():
        if isinstance(child, kinds):
            setattr(module, name, nn.Identity())
        else:
            without_what_counts_nothing(child, kinds)


def macs_by_the_reference(subnet: nn.Module, resolution: int) -> float:
    """Its counter adds up in floating point, which is exact for these numbers in 64 bits."""
    counter = reference_ofa.module("utils.flops_counter")
    parts = reference_ofa.module("utils.pytorch_modules")
    kinds = (nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.Dropout, parts.Hswish, parts.Hsigmoid)
    without_what_counts_nothing(subnet, kinds)
    torch.set_default_dtype(torch.float64)
    try:
        macs, _ = counter.profile(subnet.double(), (1, 3, resolution, resolution))
    finally:
        torch.set_default_dtype(torch.float32)
    return float(macs)


@pytest.mark.parametrize("name", reference_ofa.SUPERNETS)
def test_drawn_subnets_are_the_references(name: str) -> None:
    space = get_space(name)
    random.seed(1)
    with without_values():
        supernet: Any = reference_ofa.SUPERNETS[name]()
    for _ in range(SUBNETS):
        drawn = supernet.sample_active_subnet() | {"r": random.choice(space.resolutions)}
        arch = decode(space, drawn)
        assert decode(space, encode(space, arch)) == arch
        with without_values():
            subnet = supernet.get_active_subnet(preserve_weight=False)
        blocks = space.blocks(arch)
        assert trainable_params(blocks) == sum(value.numel() for value in subnet.parameters())
        assert cost(blocks).macs == macs_by_the_reference(subnet, arch.resolution)
