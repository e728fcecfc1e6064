"""What is said of a budget that nothing keeps is what listing says: the least of each limit, the smallest conflicts,
the nearest subnet for each limit."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_edge.errors import BadFile, UsageError
from ofa_edge.search import certificate
from ofa_edge.search.budget import Budget
from ofa_edge.search.costs import BYTES, ENERGY, LATENCY, MACS, PEAK, CostTables
from ofa_edge.search.exact.frontier import cheapest
from ofa_edge.search.models import CostModels
from tests.search.budgets import FIELDS, SEEDS, budgets, listed_uses
from tests.search.doubles import COUPLED, SMALL, DrawnEnergy, DrawnLatency, listed


@pytest.mark.parametrize("space", [SMALL, COUPLED], ids=lambda space: space.name)
@given(seed=SEEDS, margin=st.sampled_from([0.0, 0.07]), data=st.data())
@settings(max_examples=12, deadline=None)
def test_equals_listing(space, seed, margin, data):
    latency, energy = DrawnLatency(seed, width=margin), DrawnEnergy(seed, width=0.1)
    budget = data.draw(budgets(space, latency, energy, margin, 0.1))
    found, front = certificate.of(CostModels(space, latency, space.resolutions, energy=energy), budget)
    uses = [dict(zip(FIELDS, use, strict=True)) for use in listed_uses(space, latency, energy, margin, 0.1).tolist()]
    given = budget.as_json()
    assert [limit.field for limit in found.limits] == list(given)
    for limit in found.limits:
        assert limit.given == given[limit.field]
        assert limit.least == pytest.approx(min(use[limit.field] for use in uses), rel=1e-7)
        assert limit.alone == (limit.least > limit.given)
        others = [u for u in uses if all(u[f] <= most for f, most in given.items() if f != limit.field)]
        if not others:
            assert (limit.needed, limit.nearest) == (None, None)
            continue
        assert limit.needed == pytest.approx(min(use[limit.field] for use in others), rel=1e-7)
        arch = front.arch(limit.nearest)
        use = uses[[subnet.arch for subnet in listed(space)].index(arch)]
        assert use[limit.field] == pytest.approx(limit.needed, rel=1e-7)
        assert all(use[field] <= most for field, most in given.items() if field != limit.field)
    assert set(found.conflicts) == conflicts_by_listing(uses, given)


def conflicts_by_listing(uses, given):
    """Sets of limits that no subnet keeps, all of whose parts some subnet keeps."""

    def kept(fields):
        return any(all(use[field] <= given[field] for field in fields) for use in uses)

    found = set()
    for size in range(1, len(given) + 1):
        for fields in itertools.combinations(given, size):
            if not kept(fields) and all(kept(part) for part in itertools.combinations(fields, size - 1) if part):
                found.add(fields)
    return found


@given(data=st.data(), n=st.integers(1, 8), k=st.integers(1, 5))
@settings(max_examples=150, deadline=None)
def test_conflicts_of_any_uses_are_the_smallest(data, n, k):
    fields = FIELDS[:k]
    used = [[data.draw(st.integers(1, 4)) for _ in fields] for _ in range(n)]
    budget = Budget(**{field: data.draw(st.integers(1, 4)) for field in fields})
    found = certificate.of_uses(np.array(used, dtype=float), budget)
    uses = [dict(zip(fields, row, strict=True)) for row in used]
    assert set(found.conflicts) == conflicts_by_listing(uses, budget.as_json())
    feasible = any(all(use[f] <= limit for f, limit in budget.as_json().items()) for use in uses)
    assert (found.conflicts == ()) == feasible
    assert (found.sentence() == "") == feasible


@pytest.mark.parametrize("space", [SMALL, COUPLED], ids=lambda space: space.name)
@given(seed=SEEDS, columns=st.sets(st.sampled_from([LATENCY, MACS, BYTES, PEAK, ENERGY]), min_size=1))
@settings(max_examples=20, deadline=None)
def test_nothing_is_cheaper_than_the_cheapest(space, seed, columns):
    columns = sorted(columns)
    latency, energy = DrawnLatency(seed, failed=0.02), DrawnEnergy(seed)
    running = [subnet for subnet in listed(space) if math.isfinite(latency.value(subnet.blocks))]
    if not running:
        with pytest.raises(BadFile, match="failed on the device"):
            cheapest(space, CostTables(space, latency, energy), space.resolutions, columns)
        return
    front = cheapest(space, CostTables(space, latency, energy), space.resolutions, columns)
    rows = {subnet.arch: row_of(subnet, latency, energy) for subnet in running}
    for i in range(len(front)):
        assert front.costs[i, columns].tolist() == pytest.approx(rows[front.arch(i)][columns].tolist(), abs=100)
    every = np.array(list(rows.values()))[:, columns]
    # 100 ps or nJ are what rounding each block may make of a sum.
    assert (front.costs[:, None, columns] <= every + 100).all(axis=2).any(axis=0).all()


def row_of(subnet, latency, energy):
    c = subnet.cost
    ps, nj = latency.value(subnet.blocks) * 1e9, energy.value(subnet.blocks) * 1e6
    return np.array([ps, 0, c.macs, c.weight_bytes, c.peak_activation_bytes, nj, c.weight_bytes])


def test_the_sentence_tells_a_person_what_is_in_the_way():
    used = np.array([[5.0, 3e6, 1e6], [9.0, 1e6, 1e6]])
    both = certificate.of_uses(used, Budget(latency_ms=6.0, memory_bytes=2_000_000, macs=10**6))
    assert both.conflicts == (("latency_ms", "memory_bytes"),)
    assert both.sentence() == "latency 6 ms and memory 2 MB cannot be kept together"
    one = certificate.of_uses(used[:, [0, 2]], Budget(latency_ms=4.9999, macs=10**6))
    assert one.sentence() == "latency 4.9999 ms cannot be kept, the least of any subnet is 5 ms"
    two = certificate.of_uses(used[:, [0, 2]], Budget(latency_ms=4.0, macs=10**3))
    assert two.sentence() == (
        "latency 4 ms cannot be kept, the least of any subnet is 5 ms; "
        "macs 1 K cannot be kept, the least of any subnet is 1 M"
    )
    assert both.as_json()[0] == {
        "limit": "latency_ms", "given": 6.0, "least": 5.0, "feasible_alone": True, "needed": 9.0,
        "conflicts": [["latency_ms", "memory_bytes"]],
    }  # fmt: skip
    assert both.as_json()[2]["conflicts"] == []


def test_an_energy_limit_without_energies_is_refused():
    with pytest.raises(UsageError, match="energy limit needs"):
        certificate.of(CostModels(SMALL, DrawnLatency(1), SMALL.resolutions), Budget(energy_mj=1.0))
