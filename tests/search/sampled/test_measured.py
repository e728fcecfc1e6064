"""Strategy table takes the best subnet that was measured, at the sizes it was measured at and between them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_edge.accuracy.interpolation import between as neighbours
from ofa_edge.accuracy.predictor import Top1
from ofa_edge.accuracy.table import AccuracyHeader, AccuracyTable, AccuracyWriter
from ofa_edge.errors import BadFile, InfeasibleBudget, UsageError
from ofa_edge.search.budget import Budget
from ofa_edge.search.models import CostModels
from ofa_edge.search.sampled.measured import Row, choose_measured, interpolated_rows, measured_rows
from ofa_edge.space.arch import Arch
from ofa_edge.space.cost import cost
from ofa_edge.space.spaces import OFA_LITE0
from tests.search.doubles import SMALL, DrawnLatency, listed
from tests.search.test_choose import INPUTS, counts, upper


def table_of(path, space, rows, n=200):
    """A table of (arch, correct)."""
    header = AccuracyHeader.of(space, checkpoint="3" * 64, data="200 drawn images", bn="bank", seed=4)
    with AccuracyWriter.open(path, space, header) as writer:
        for arch, correct in rows:
            writer.add(arch, int(correct), n)
        writer.finish()
    return AccuracyTable.read(path, space)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    archs = sorted({SMALL.sample(np.random.default_rng(i)) for i in range(150)}, key=lambda a: (a.resolution, a.stages))
    rows = zip(archs, counts(2, archs, n=200), strict=True)
    return table_of(tmp_path_factory.mktemp("accuracy") / "small.jsonl", SMALL, rows)


@pytest.fixture(scope="module")
def lite0(tmp_path_factory):
    """12 subnets of ofa-lite0 at 96 and 160 px, four of them at 128 px too."""
    rng, rows = np.random.default_rng(0), []
    for i in range(12):
        arch = OFA_LITE0.sample(rng)
        for share, r in enumerate((96, 160, 128) if i < 4 else (96, 160)):
            rows.append((arch.at(r), 120 + 3 * i + 20 * (share > 0)))
    return table_of(tmp_path_factory.mktemp("accuracy") / "lite0.jsonl", OFA_LITE0, rows)


# -- what was measured --------------------------------------------------------------------------
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("resolutions", [(), (17, 32)])
def test_the_best_measured_row_that_fits(table, share, resolutions):
    latency = DrawnLatency(6, width=0.05, failed=0.05)
    bounds = {s.arch: upper(latency, s) for s in listed(SMALL) if math.isfinite(latency.value(s.blocks))}
    rows = [
        (row.top1, -latency.value(SMALL.blocks(row.arch)), row.arch)
        for row in table.frame.itertuples()
        if row.arch in bounds
    ]
    assert len(rows) < len(table.frame)
    limit = sorted(bounds[row[2]] for row in rows)[int(share * len(rows))]
    order = sorted((row for row in rows if bounds[row[2]] <= limit), key=lambda row: row[:2], reverse=True)
    budget = Budget(latency_ms=limit + 1e-6)
    found = choose_measured(CostModels(SMALL, latency, resolutions), table, budget, inputs=INPUTS, top=2)
    selection = found.selection
    assert [c.arch for c in (selection, *found.alternatives)] == [row[2] for row in order[:3]]
    measured = table.frame[table.frame["arch"] == selection.arch].iloc[0]
    assert selection.top1.value == pytest.approx(measured["top1"], abs=1e-6)
    assert selection.top1.low < selection.top1.value < selection.top1.high
    assert (selection.strategy, selection.proven_optimal, selection.seed) == ("table", True, 4)
    assert selection.bound == selection.top1.value
    assert "200 drawn images" in selection.model
    assert "interpolated" not in selection.model


def test_a_refusal_names_a_budget_that_works(table):
    latency = DrawnLatency(6, width=0.05)
    with pytest.raises(InfeasibleBudget, match="no measured subnet fits") as caught:
        choose_measured(CostModels(SMALL, latency, ()), table, Budget(latency_ms=0.1, macs=1000), inputs=INPUTS)
    needed = Budget(**caught.value.details["needed"])
    assert (
        choose_measured(CostModels(SMALL, latency, ()), table, needed, inputs=INPUTS).selection.cost.macs <= needed.macs
    )


def test_a_row_that_can_run_is_needed(table):
    with pytest.raises(BadFile, match="no subnet that can run"):
        choose_measured(
            CostModels(SMALL, DrawnLatency(6, failed=1.1), ()), table, Budget(latency_ms=9.0), inputs=INPUTS
        )


def test_a_limit_on_energy_needs_energies(table):
    with pytest.raises(UsageError, match="energy"):
        choose_measured(CostModels(SMALL, DrawnLatency(6), ()), table, Budget(energy_mj=9.0), inputs=INPUTS)


# -- what lies between --------------------------------------------------------------------------
def test_between_two_measured_sizes_top1_is_interpolated_in_flops(lite0):
    rows = measured_rows(lite0)
    between = interpolated_rows(OFA_LITE0, rows, OFA_LITE0.resolutions)
    known: dict[Arch, dict[int, Top1]] = {}
    for row in rows:
        known.setdefault(row.arch.at(0), {})[row.arch.resolution] = row.top1
    expected = {a.at(r) for a in known for r in (112, 128, 144) if r not in known[a]}
    assert {row.arch for row in between} == expected
    assert len(between) == len(expected) == 4 * 2 + 8 * 3
    for row in between:
        measured = known[row.arch.at(0)]
        before, after, share = neighbours(OFA_LITE0, row.arch, tuple(sorted(measured)))
        for name in ("value", "low", "high"):
            low, high = (getattr(measured[r], name) for r in (before, after))
            assert getattr(row.top1, name) == pytest.approx(low + (high - low) * share, abs=1e-12)
        assert row.between == (max(r for r in measured if r < row.arch.resolution), min(
            r for r in measured if r > row.arch.resolution
        ))  # fmt: skip


@given(sizes=st.sets(st.sampled_from(OFA_LITE0.resolutions)), wanted=st.sets(st.integers(90, 170)))
@settings(max_examples=40, deadline=None)
def test_nothing_outside_what_was_measured_is_guessed(sizes, wanted):
    arch = OFA_LITE0.smallest()
    rows = [Row(arch.at(r), Top1(r / 200, r / 210, r / 190)) for r in sizes]
    found = interpolated_rows(OFA_LITE0, rows, sorted(wanted))
    inside = {r for r in wanted & set(OFA_LITE0.resolutions) - sizes if sizes and min(sizes) < r < max(sizes)}
    assert {row.arch.resolution for row in found} == inside
    assert all(min(sizes) / 200 < row.top1.value < max(sizes) / 200 for row in found)


class OneSize(DrawnLatency):
    """Subnets are quick at one input size only."""

    def block_ms(self, block):
        return 0.1 if block.type != "Conv" or block.in_size == 112 else 1000.0

    def value(self, blocks):
        return sum(map(self.block_ms, blocks))


def test_a_size_between_is_chosen_where_it_fits_best_and_said_to_be_interpolated(lite0):
    latency, budget = OneSize(1), Budget(latency_ms=10.0)
    with pytest.raises(InfeasibleBudget):
        choose_measured(CostModels(OFA_LITE0, latency, ()), lite0, budget, inputs=INPUTS)
    found = choose_measured(CostModels(OFA_LITE0, latency, (96, 112, 160)), lite0, budget, inputs=INPUTS)
    candidates = interpolated_rows(OFA_LITE0, measured_rows(lite0), (112,))
    best = max(candidates, key=lambda row: row.top1.value)
    assert found.selection.arch == best.arch
    assert found.selection.arch.resolution == 112
    assert found.selection.top1.value == pytest.approx(best.top1.value, abs=1e-8)
    sizes = f"{best.between[0]} and {best.between[1]} px"
    for said in ("28 subnets and 12 at sizes between", "interpolated in FLOPs", sizes):
        assert said in found.selection.model
    assert all(other.arch.resolution == 112 for other in found.alternatives)


def test_a_chosen_row_that_was_measured_is_said_to_be(lite0):
    models = CostModels(OFA_LITE0, DrawnLatency(2), OFA_LITE0.resolutions)
    found = choose_measured(models, lite0, Budget(macs=10**9), inputs=INPUTS)
    assert "the chosen subnet's top-1 was measured" in found.selection.model
    best = lite0.frame.sort_values("top1").iloc[-1]
    assert found.selection.top1.value == pytest.approx(best["top1"], abs=1e-6)
    assert cost(OFA_LITE0.blocks(found.selection.arch)).macs <= 10**9
