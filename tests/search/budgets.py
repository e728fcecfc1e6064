"""Budgets for tests of search under several limits, and the answers by listing."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from hypothesis import strategies as st

from ofa_edge.search.budget import Budget
from tests.search.doubles import listed

FIELDS = ("latency_ms", "memory_bytes", "size_bytes", "macs", "energy_mj")
# Few, so that what listing a space gives is used again.
SEEDS = st.integers(0, 12)


def uses_of(subnet, latency, energy, margin=0.0, energy_margin=0.0):
    """What a listed subnet uses, by field of the Budget."""
    c = subnet.cost
    return {
        "latency_ms": latency.value(subnet.blocks) * (1 + margin),
        "memory_bytes": c.weight_bytes + c.peak_activation_bytes,
        "size_bytes": c.weight_bytes,
        "macs": c.macs,
        "energy_mj": energy.value(subnet.blocks) * (1 + energy_margin),
    }


@lru_cache(maxsize=128)
def listed_uses(space, latency, energy, margin=0.0, energy_margin=0.0):
    """(subnets, limits) of the whole space, in the order of `listed` and of FIELDS; infinite latency: cannot run."""
    uses = (uses_of(subnet, latency, energy, margin, energy_margin) for subnet in listed(space))
    return np.array([[use[field] for field in FIELDS] for use in uses])


@st.composite
def budgets(draw, space, latency, energy, margin=0.0, energy_margin=0.0):
    """One to five limits, each a little more or less than what some subnet uses, or just that or a unit below."""
    uses = listed_uses(space, latency, energy, margin, energy_margin)
    uses = uses[np.isfinite(uses[:, 0])]
    limits = {}
    for field in sorted(draw(st.sets(st.sampled_from(FIELDS), min_size=1))):
        use = uses[draw(st.integers(0, len(uses) - 1)), FIELDS.index(field)]
        use *= draw(st.sampled_from([0.6, 0.95, 1, 1, 1, 1.05]))
        if field in ("latency_ms", "energy_mj"):
            limits[field] = float(use * (1 + draw(st.sampled_from([-1e-5, 1e-5]))))
        else:
            limits[field] = max(1, int(use) - draw(st.sampled_from([0, 1])))
    return Budget(**limits)


def fits(uses, budget):
    return all(uses[field] <= limit for field, limit in budget.as_json().items())


def fitting(space, latency, energy, budget, margin=0.0, energy_margin=0.0):
    """The listed subnets that can run and keep all limits."""
    uses = listed_uses(space, latency, energy, margin, energy_margin)
    keep = np.isfinite(uses[:, 0])
    for field, limit in budget.as_json().items():
        keep &= uses[:, FIELDS.index(field)] <= limit
    return [listed(space)[i] for i in np.flatnonzero(keep)]


def nothing_runs(space, latency):
    return all(math.isinf(latency.value(subnet.blocks)) for subnet in listed(space))
