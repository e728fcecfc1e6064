"""Energies are predicted from a table's own rows: measured where measured, of their likes where not, and never where
nothing was measured."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ofa_edge.errors import BadFile
from ofa_edge.latency.campaign import energy
from ofa_edge.latency.models.energy_model import EnergyModel
from ofa_edge.latency.models.model import LatencyModel
from ofa_edge.latency.models.predictors import model_of
from ofa_edge.latency.table import LatencyTable
from tests.latency.helpers import SETTINGS, SPACE, device_for, plan_of, profile, task
from tests.simulated import FACTS

WORK = task(SETTINGS.model_copy(update={"networks": 8}))
METERED = replace(FACTS, sensors=("rapl", "nvml"))
WATTS = 3.0  # what the simulated device draws above idling


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> LatencyTable:
    path: Path = tmp_path_factory.mktemp("energy") / "t.jsonl"
    device = device_for(WORK, facts=METERED)
    outcome = profile(path, device, WORK)
    energy.measure(device, outcome.table, plan_of(WORK), WORK.runs_on)
    return LatencyTable.read(path)


@pytest.fixture(scope="module")
def latency(table: LatencyTable) -> LatencyModel:
    return model_of(table)


def archs(count: int = 20) -> list:
    return [SPACE.sample(np.random.default_rng(seed), 96) for seed in range(count)]


def with_rows(table: LatencyTable, rows: list[dict]) -> LatencyTable:
    """The table with other energy rows."""
    kept = [row for row in table.contents.rows if row["record"] != "energy"]
    contents = replace(table.contents, rows=tuple(kept + [{"record": "energy", **row} for row in rows]))
    return LatencyTable.from_contents(contents, table.path)


def row(key: str, role: str, mj: float, sensor: str = "rapl") -> dict:
    return {"key": key, "role": role, "mj": mj, "sensor": sensor}


def test_a_network_is_predicted_within_its_interval(table: LatencyTable, latency: LatencyModel) -> None:
    model = EnergyModel.from_table(table, latency)
    assert model.fit.residual is not None
    for arch in archs():
        blocks = SPACE.blocks(arch)
        found = model.estimate(blocks)
        true = WATTS * latency.estimate(blocks).value
        assert found.value == pytest.approx(true, rel=0.1)
        assert found.low is not None
        assert found.high is not None
        assert found.low < found.value < found.high
        assert found.value == pytest.approx(model.offset_mj + sum(map(model.block_mj, blocks)))
        assert found.high <= found.value * (1 + model.margin()) * (1 + 1e-12)
    assert model.margin(0.99) > model.margin(0.95) > 0


def test_measured_blocks_keep_their_proportions_and_others_take_the_power_of_their_likes(
    table: LatencyTable, latency: LatencyModel
) -> None:
    blocks = [block for block in plan_of(WORK).blocks if block.type == "expanded_conv"]
    first, second, other = blocks[0], blocks[5], blocks[9]
    pool = next(block for block in plan_of(WORK).blocks if block.type == "AvgPool2D")
    rows = [
        row(first.key, "block", 5 * latency.block_ms(first)),
        row(second.key, "block", 7 * latency.block_ms(second)),
    ]
    rows.append(row(pool.key, "block", latency.block_ms(pool)))
    model = EnergyModel.from_table(with_rows(table, rows), latency)
    assert model.block_mj(first) == pytest.approx(5 * latency.block_ms(first))
    assert model.block_mj(other) == pytest.approx(6 * latency.block_ms(other))
    assert model.block_mj(pool) == pytest.approx(latency.block_ms(pool))
    stem = next(block for block in plan_of(WORK).blocks if block.type == "Conv")
    assert model.block_mj(stem) == pytest.approx(5 * latency.block_ms(stem))  # the median of all three
    assert model.fit.residual is None
    found = model.estimate(SPACE.blocks(archs(1)[0]))
    assert (found.low, found.high, model.margin()) == (None, None, 0.0)


def test_networks_alone_are_enough(table: LatencyTable, latency: LatencyModel) -> None:
    rows = [r for r in table.contents.of("energy") if r["role"] != energy.BLOCK]
    model = EnergyModel.from_table(with_rows(table, rows), latency)
    assert (len(model.blocks), len(model.networks)) == (0, 8)
    blocks = SPACE.blocks(archs(1)[0])
    assert model.estimate(blocks).value == pytest.approx(WATTS * latency.estimate(blocks).value, rel=0.1)


def test_the_fit_corrects_blocks_that_draw_less_alone(table: LatencyTable, latency: LatencyModel) -> None:
    """Networks draw twice what their blocks do alone: the scale is two."""
    halved = [{**r, "mj": r["mj"] / 2} if r["role"] == energy.BLOCK else r for r in table.contents.of("energy")]
    whole, half = (EnergyModel.from_table(t, latency) for t in (table, with_rows(table, halved)))
    for arch in archs(5):
        blocks = SPACE.blocks(arch)
        assert half.estimate(blocks).value == pytest.approx(whole.estimate(blocks).value, rel=1e-9)


def test_a_table_without_energies_is_refused_with_what_to_type(table: LatencyTable, latency: LatencyModel) -> None:
    key = plan_of(WORK).blocks[0].key
    for rows in ([], [row(key, "block", -0.5)], [row("network:unknown", "holdout", 3.0)]):
        with pytest.raises(BadFile, match="no energy measurements") as caught:
            EnergyModel.from_table(with_rows(table, rows), latency)
        assert "ofa-edge profile --energy --resume --out" in caught.value.hint


@pytest.mark.parametrize(
    "field", [{"mj": "3"}, {"mj": True}, {"mj": None}, {"mj": math.inf}, {"sensor": 3}, {"key": 1}]
)
def test_a_damaged_row_is_refused(table: LatencyTable, latency: LatencyModel, field: dict) -> None:
    rows = [{**row(plan_of(WORK).blocks[0].key, "block", 1.0), **field}]
    with pytest.raises(BadFile, match="damaged energy row"):
        EnergyModel.from_table(with_rows(table, rows), latency)


def test_of_several_sensors_the_one_with_most_rows_counts(table: LatencyTable, latency: LatencyModel) -> None:
    blocks = plan_of(WORK).blocks
    rows = [
        row(blocks[0].key, "block", 1.0, "nvml"),
        row(blocks[0].key, "block", 2.0),
        row(blocks[1].key, "block", 2.0),
    ]
    model = EnergyModel.from_table(with_rows(table, rows), latency)
    assert model.blocks[blocks[0].key] == 2.0


def test_a_block_that_failed_takes_no_finite_energy(table: LatencyTable, latency: LatencyModel) -> None:
    model = EnergyModel.from_table(table, latency)
    block = plan_of(WORK).blocks[3]

    class Fails:
        space, resolutions, offset_ms = latency.space, latency.resolutions, latency.offset_ms

        def block_ms(self, asked):
            return math.inf if asked == block else latency.block_ms(asked)

    found = EnergyModel(Fails(), model.blocks, model.networks)  # type: ignore[arg-type]
    assert found.block_mj(block) == math.inf
    assert found.block_mj(plan_of(WORK).blocks[4]) < math.inf
