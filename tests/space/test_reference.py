"""Spaces, dicts and counts against the reference implementation: every drawn subnet has its parameters and MACs."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from ofa_edge.space.codecs import decode, encode
from ofa_edge.space.cost import cost
from ofa_edge.space.spaces import get_space
from ofa_edge.weights.layout import arch_shapes
from tests import reference_ofa

SUBNETS = 12  # a space; benchmarks/parity.py compares 100


@pytest.mark.parametrize("name", reference_ofa.SUPERNETS)
def test_drawn_subnets_are_the_references(name: str) -> None:
    space = get_space(name)
    random.seed(1)
    with reference_ofa.shapes_only():
        supernet: Any = reference_ofa.SUPERNETS[name]()
    for _ in range(SUBNETS):
        drawn = supernet.sample_active_subnet() | {"r": random.choice(space.resolutions)}
        arch = decode(space, drawn)
        assert decode(space, encode(space, arch)) == arch
        with reference_ofa.shapes_only():
            subnet = supernet.get_active_subnet(preserve_weight=False)
        counts = cost(space.blocks(arch)).macs, sum(map(math.prod, arch_shapes(space, arch).values()))
        assert counts == reference_ofa.counts(subnet, arch.resolution)
