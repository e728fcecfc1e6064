"""Budgets say what they mean: every unit, every mistake its own message, and text that reads back equal."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofa_edge.errors import UsageError
from ofa_edge.search.budget import Budget


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("20ms", Budget(latency_ms=20.0)),
        (" 20 ms ", Budget(latency_ms=20.0)),
        ("latency=0.3s", Budget(latency_ms=300.0)),
        ("1500us", Budget(latency_ms=1.5)),
        ("1500µs", Budget(latency_ms=1.5)),
        (".5ms", Budget(latency_ms=0.5)),
        ("20.ms", Budget(latency_ms=20.0)),
        ("size=100B", Budget(size_bytes=100)),
        ("size=5kB", Budget(size_bytes=5000)),
        ("size=5KB", Budget(size_bytes=5000)),
        ("size=5MB", Budget(size_bytes=5_000_000)),
        ("memory=1.5GB", Budget(memory_bytes=1_500_000_000)),
        ("memory=2KiB", Budget(memory_bytes=2048)),
        ("memory=8MiB", Budget(memory_bytes=8 * 2**20)),
        ("memory=1GiB", Budget(memory_bytes=2**30)),
        ("size=1.0005KB", Budget(size_bytes=1000)),
        ("macs=300M", Budget(macs=300_000_000)),
        ("macs=0.3G", Budget(macs=300_000_000)),
        ("macs=7K", Budget(macs=7000)),
        ("macs=12345", Budget(macs=12345)),
        (
            "latency=20ms,memory=8MB,size=5MB,macs=300M",
            Budget(latency_ms=20.0, memory_bytes=8_000_000, size_bytes=5_000_000, macs=300_000_000),
        ),
        ("energy=30mJ", Budget(energy_mj=30.0)),
        ("energy=0.5J", Budget(energy_mj=500.0)),
        ("energy=1500uJ", Budget(energy_mj=1.5)),
        ("energy=1500µJ", Budget(energy_mj=1.5)),
        ("20ms,energy=.25mJ", Budget(latency_ms=20.0, energy_mj=0.25)),
        ("20ms,p90=25ms", Budget(latency_ms=20.0, p90_ms=25.0)),
        ("p90=0.025s", Budget(latency_ms=25.0, p90_ms=25.0)),
        ("20ms, size = 5MB", Budget(latency_ms=20.0, size_bytes=5_000_000)),
    ],
)
def test_reads(text, budget):
    assert Budget.parse(text) == budget


MALFORMED = {
    "": "the budget is empty",
    "   ": "the budget is empty",
    "9" * 201: "the budget is 201 characters long",
    "20": "'20' has no unit",
    "size=20": "'20' has no unit",
    "20 sec": "'sec' is not a unit of latency",
    "20Ms": "'Ms' is not a unit of latency",
    "memory=3mb": "'mb' is not a unit of memory",
    "size=3Mb": "'Mb' is not a unit of size",
    "macs=3T": "'T' is not a unit of macs",
    "macs=3m": "'m' is not a unit of macs",
    "fast": "'fast' is not a number with a unit",
    "1e3ms": "'1e3ms' is not a number with a unit",
    "1.2.3ms": "'1.2.3ms' is not a number with a unit",
    "nanms": "'nanms' is not a number with a unit",
    "0x10ms": "'0x10ms' is not a number with a unit",
    "１０ms": "'１０ms' is not a number with a unit",
    "ms": "'ms' is not a number with a unit",
    "-3ms": "the budget's latency must be greater than 0, not -3ms",
    "0ms": "the budget's latency must be greater than 0, not 0ms",
    "size=0.0MB": "the budget's size must be greater than 0, not 0.0MB",
    "size=0.4B": "the budget's size of 0.4B is less than one",
    "9" * 30 + "ms": "the budget's latency of 1e+30ms limits nothing",
    "latency=": "the budget's latency has no value",
    "speed=3ms": "there is no limit 'speed'",
    "=3ms": "there is no limit ''",
    "energy=30": "'30' has no unit",
    "energy=30MJ": "'MJ' is not a unit of energy",
    "energy=3mj": "'mj' is not a unit of energy",
    "energy=0uJ": "the budget's energy must be greater than 0, not 0uJ",
    "energy=9mJ,energy=8mJ": "the budget 'energy=9mJ,energy=8mJ' limits energy twice",
    "20ms,latency=30ms": "the budget '20ms,latency=30ms' limits latency twice",
    "20ms,": "the budget '20ms,' has an empty part",
    ",": "the budget ',' has an empty part",
}


@pytest.mark.parametrize("text", MALFORMED)
def test_every_mistake_has_its_message_and_a_hint(text):
    with pytest.raises(UsageError) as caught:
        Budget.parse(text)
    assert caught.value.message == MALFORMED[text]
    assert caught.value.hint


def test_a_budget_without_a_limit_is_none():
    with pytest.raises(UsageError, match="no limit"):
        Budget()


@pytest.mark.parametrize("limit", [0, -1.0, float("nan"), float("inf")])
def test_limits_are_positive_and_finite(limit):
    with pytest.raises(UsageError, match="latency must be greater than 0"):
        Budget(latency_ms=limit)


BYTES = st.none() | st.integers(1, 10**12)


REALS = st.none() | st.floats(1e-6, 1e12)


def test_a_search_knows_the_90th_percentile_as_the_medians_limit_where_there_is_no_other():
    assert Budget(p90_ms=25.0).searched() == {"latency_ms": 25.0}
    assert Budget(latency_ms=20.0, p90_ms=25.0).searched() == {"latency_ms": 20.0}
    assert Budget(latency_ms=30.0, p90_ms=25.0).searched() == {"latency_ms": 30.0}
    assert Budget(p90_ms=25.0).as_json() == {"latency_ms": 25.0, "p90_ms": 25.0}


@given(latency=REALS, memory=BYTES, size=BYTES, macs=BYTES, energy=REALS, p90=REALS)
def test_the_text_of_a_budget_reads_back_equal(latency, memory, size, macs, energy, p90):
    if (latency, memory, size, macs, energy, p90) == (None,) * 6:
        latency = 1.0
    budget = Budget(latency, memory, size, macs, energy, p90)
    assert Budget.parse(str(budget)) == budget


def test_text_is_short():
    assert str(Budget.parse("20ms,macs=300M")) == "latency=20ms,macs=300000000"


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(UsageError):
        assert Budget.parse(str(Budget.parse(text))) == Budget.parse(text)
