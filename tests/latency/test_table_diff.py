"""Tables are compared block by block, and put together row by row, each row once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ofa_edge import journal
from ofa_edge.cli import app
from ofa_edge.errors import BadFile, UsageError
from ofa_edge.latency.conditions import PlanSettings
from ofa_edge.latency.exchange import foreign_keys, formats, yaml_tables
from ofa_edge.latency.exchange.diff import diff
from ofa_edge.latency.exchange.foreign_keys import OFA
from ofa_edge.latency.exchange.merge import merge
from ofa_edge.latency.exchange.yaml_tables import Entry
from ofa_edge.latency.judging import health
from ofa_edge.latency.models.predictors import model_of
from ofa_edge.latency.table import FORMAT, LatencyTable
from ofa_edge.space.spaces import OFA_LITE0
from tests.latency.helpers import device_for, profile, task

Row = dict[str, Any]
TIMES = ("min", "p10", "median", "p90", "low", "high", "mean", "std")


def made(path: Path, seed: int, resolutions: tuple[int, ...], networks: int = 6, holdout: int = 0) -> LatencyTable:
    work = task(PlanSettings(seed=seed, quick=False, networks=networks, holdout=holdout), resolutions)
    return profile(path, device_for(work, noise=0.005), work).table


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LatencyTable]:
    """One board: a at 96 px, b at 96 and 112 (another anchor and sentinel), c at 128 px (nearly no block shared)."""
    folder = tmp_path_factory.mktemp("three")
    return {
        "a": made(folder / "a.jsonl", 1, (96,)),
        "b": made(folder / "b.jsonl", 2, (96, 112), holdout=3),
        "c": made(folder / "c.jsonl", 3, (128,)),
    }


def changed(table: LatencyTable, target: Path, change: Any, **conditions: Any) -> LatencyTable:
    contents = table.contents
    header = contents.header | {"conditions": contents.header["conditions"] | conditions}
    journal.write(target, FORMAT, header, [change(dict(row)) for row in contents.rows], version=contents.version)
    return LatencyTable.read(target)


def slower(factor: float, keys: set[str] | None = None) -> Any:
    def change(row: Row) -> Row:
        if row["record"] in ("block", "sentinel") and (keys is None or row["key"] in keys):
            return row | {name: row[name] * factor for name in TIMES}
        return row

    return change


# -- diff -----------------------------------------------------------------------------------------
def test_a_table_does_not_differ_from_itself(three: dict[str, LatencyTable]) -> None:
    found = diff(three["b"], three["b"])
    assert (found.conditions, found.only_a, found.only_b) == ((), (), ())
    assert (found.scale, found.raw.median, found.raw.p90, found.raw.beyond) == (1.0, 0.0, 0.0, 0)
    assert found.as_json()["differences"] == []


def test_a_common_factor_is_told_apart_from_single_blocks(three: dict[str, LatencyTable], tmp_path: Path) -> None:
    a = three["b"]
    odd = set(a.blocks.index[:3])
    b = changed(a, tmp_path / "b.jsonl", lambda row: slower(1.5, odd)(slower(1.1)(row)), threads=2)
    found = diff(a, b)
    assert [str(m) for m in found.conditions] == ["threads: 1 and 2"]
    assert found.scale == pytest.approx(1.1, rel=0.001)
    assert found.scale_interval is not None
    assert found.scale_interval[0] <= found.scale <= found.scale_interval[1]
    assert found.raw.beyond == len(found.blocks) == found.comparable
    assert found.raw.median == pytest.approx(0.1, rel=0.01)
    assert set(found.blocks.index[found.blocks["beyond_scaled"]]) == odd
    assert found.scaled.median < 1e-6
    worst = found.as_json()["differences"][:3]
    assert {row["key"] for row in worst} == odd
    assert all(row["beyond_scaled"] for row in worst)


def test_two_campaigns_on_one_board_hardly_differ(three: dict[str, LatencyTable]) -> None:
    found = diff(three["a"], three["b"])
    assert len(found.blocks) == 56
    assert found.only_a == ()
    assert len(found.only_b) == len(three["b"].blocks) - 56
    assert found.raw.median < 0.02
    assert found.raw.beyond <= 4


def test_where_intervals_are_unknown_nothing_is_claimed(tmp_path: Path) -> None:
    tables = []
    for name, factor in (("a", 1.0), ("b", 2.0)):
        path = tmp_path / f"{name}.yaml"
        rows = {key: Entry(factor * (1 + i)) for i, key in enumerate(foreign_keys.keys(OFA_LITE0, 96, OFA))}
        path.write_text(yaml_tables.text(rows))
        tables.append(formats.import_yaml([path], tmp_path / f"{name}.jsonl", space=OFA_LITE0).table)
    found = diff(*tables)
    assert (found.comparable, found.raw.beyond, found.scale) == (0, 0, 2.0)
    assert found.conditions == ()
    assert found.networks is None


# -- merge ----------------------------------------------------------------------------------------
def test_a_file_merged_with_itself_has_its_rows_once(three: dict[str, LatencyTable], tmp_path: Path) -> None:
    found = merge([three["b"], three["b"]], tmp_path / "m.jsonl")
    assert found.contents.rows == [row for row in three["b"].contents.rows if row["record"] != "fit"]
    assert len(found.header.provenance.model_extra["merged"]) == 1  # type: ignore[index]


def test_an_earlier_copy_adds_nothing(three: dict[str, LatencyTable], tmp_path: Path) -> None:
    b = three["b"]
    early = tmp_path / "early.jsonl"
    early.write_bytes(b"".join(Path(b.path).read_bytes().splitlines(keepends=True)[:50]))
    for tables in ([b, LatencyTable.read(early)], [LatencyTable.read(early), b]):
        found = merge(tables, tmp_path / f"{Path(tables[0].path).stem}.jsonl")
        assert sorted(map(str, found.contents.rows)) == sorted(
            str(row) for row in b.contents.rows if row["record"] != "fit"
        )


def test_tables_of_several_resolutions_make_one_that_predicts_all_of_them(
    three: dict[str, LatencyTable], tmp_path: Path
) -> None:
    found = merge(list(three.values()), tmp_path / "m.jsonl")
    assert found.header.resolutions == [96, 112, 128]
    assert len(found.contents.of("session")) == 3
    report = health.check(found)
    assert [problem.code for problem in report.of(health.Level.INVALID)] == []
    assert "missing" not in {problem.code for problem in report.problems}
    merged, rng = model_of(found), np.random.default_rng(0)
    for table in three.values():
        own = model_of(table)
        for _ in range(10):
            arch = own.space.sample(rng, int(rng.choice(own.resolutions)))
            blocks = own.space.blocks(arch)
            assert merged.estimate(blocks).value == pytest.approx(own.estimate(blocks).value, rel=0.04)
    sources = found.header.provenance.model_extra["merged"]  # type: ignore[index]
    assert [source["sha256"] for source in sources] == [table.sha256 for table in three.values()]


def test_blocks_keep_their_level_where_sentinels_are_different_blocks(
    three: dict[str, LatencyTable], tmp_path: Path
) -> None:
    a, c = three["a"], three["c"]
    assert a.sentinels["key"].iloc[0] != c.sentinels["key"].iloc[0]
    found = merge([a, c], tmp_path / "m.jsonl")
    assert set(found.sentinels["key"]) == {a.sentinels["key"].iloc[0]}
    for table in (a, c):
        own = table.blocks.index.difference(found.blocks.index[found.blocks["rounds"] > table.blocks["rounds"].max()])
        ratio = found.blocks.loc[own, "median"] / table.blocks.loc[own, "median"]
        assert ratio.median() == pytest.approx(1, abs=0.03)


def test_merging_what_was_merged_adds_nothing(three: dict[str, LatencyTable], tmp_path: Path) -> None:
    found = merge(list(three.values()), tmp_path / "m.jsonl")
    again = merge([found, three["c"], three["a"]], tmp_path / "again.jsonl")
    assert len(again.contents.of("session")) == 3
    assert len(again.contents.of("block")) == len(found.contents.of("block"))
    assert len(again.networks) == len(found.networks)
    assert len(again.header.provenance.model_extra["merged"]) == 3  # type: ignore[index]


def test_a_network_that_calibrates_one_table_is_no_holdout_of_another(
    three: dict[str, LatencyTable], tmp_path: Path
) -> None:
    a = three["a"]
    key = a.networks["key"].iloc[0]

    def held(row: Row) -> Row:
        return row | {"role": "holdout"} if row["record"] == "network" and row["key"] == key else row

    found = merge([changed(a, tmp_path / "b.jsonl", held), a], tmp_path / "m.jsonl")
    assert list(found.networks.loc[found.networks["key"] == key, "role"]) == ["calibration"]
    assert (found.header.plan.networks, found.header.plan.holdout) == (6, 0)


def test_unequal_conditions_are_refused_with_key_and_both_values(
    three: dict[str, LatencyTable], tmp_path: Path
) -> None:
    a = three["a"]
    other = changed(a, tmp_path / "b.jsonl", dict, threads=4, governor="powersave")
    with pytest.raises(BadFile, match="threads: 1 and 4; governor: 'performance' and 'powersave'"):
        merge([a, other], tmp_path / "m.jsonl")
    assert not (tmp_path / "m.jsonl").exists()


def test_unknown_conditions_are_taken_when_asked_and_stay_unknown(
    three: dict[str, LatencyTable], tmp_path: Path
) -> None:
    a = three["a"]
    other = changed(a, tmp_path / "b.jsonl", dict, soc="unknown")
    with pytest.raises(BadFile, match="soc: 'SIM1' and 'unknown'") as caught:
        merge([a, other], tmp_path / "m.jsonl")
    assert "--accept-unknown" in caught.value.hint
    found = merge([a, other], tmp_path / "m.jsonl", accept_unknown=True)
    assert found.conditions.soc == "unknown"
    third = changed(a, tmp_path / "c.jsonl", dict, soc="SIM2")
    with pytest.raises(BadFile, match="soc: 'SIM1' and 'SIM2'"):
        merge([other, a, third], tmp_path / "n.jsonl", accept_unknown=True)


def test_imported_tables_merge_by_resolution_and_not_into_each_other(tmp_path: Path) -> None:
    def imported(name: str, sizes: list[int], seed: int) -> LatencyTable:
        paths = []
        for size in sizes:
            rng = np.random.default_rng([seed, size])
            rows = {key: Entry(float(rng.uniform(1, 2)), 100, 0.1) for key in foreign_keys.keys(OFA_LITE0, size, OFA)}
            paths.append(tmp_path / f"{name}-{size}.yaml")
            paths[-1].write_text(yaml_tables.text(rows))
        return formats.import_yaml(paths, tmp_path / f"{name}.jsonl", space=OFA_LITE0).table

    whole = imported("whole", [96, 112, 128], 0)
    parts = [imported("first", [96], 0), imported("second", [112, 128], 0)]
    found = merge([*parts, parts[0]], tmp_path / "m.jsonl", accept_unknown=True)
    numbers = ["n", "median", "low", "high", "mean", "std"]
    assert (found.blocks[numbers].sort_index() == whole.blocks[numbers].sort_index()).all(axis=None)
    with pytest.raises(BadFile, match="both hold .* at resolution 96, with"):
        merge([parts[0], imported("other", [96], 1)], tmp_path / "n.jsonl", accept_unknown=True)


def test_what_does_not_belong_together_is_refused(three: dict[str, LatencyTable], tmp_path: Path) -> None:
    a = three["a"]
    with pytest.raises(UsageError, match="nothing to merge"):
        merge([a], tmp_path / "m.jsonl")
    contents = a.contents
    for header, problem in (
        ({"space": "ofa-mbv3-w1.0"}, "is of space ofa-lite0, .* of ofa-mbv3-w1.0"),
        ({"plan": contents.header["plan"] | {"predictor": "network"}}, "has predictor blocks, .* has network"),
    ):
        journal.write(tmp_path / "b.jsonl", FORMAT, contents.header | header, contents.rows)
        with pytest.raises(BadFile, match=problem):
            merge([a, LatencyTable.read(tmp_path / "b.jsonl")], tmp_path / "m.jsonl")
    rows = {key: Entry(1.0) for key in foreign_keys.keys(OFA_LITE0, 96, OFA)}
    (tmp_path / "96.yaml").write_text(yaml_tables.text(rows))
    imported = formats.import_yaml([tmp_path / "96.yaml"], tmp_path / "i.jsonl", space=OFA_LITE0).table
    with pytest.raises(BadFile, match="were not measured under the same conditions"):
        merge([a, imported], tmp_path / "m.jsonl")
    with pytest.raises(BadFile, match="is imported, of means"):
        merge([a, imported], tmp_path / "m.jsonl", accept_unknown=True)


# -- the commands ---------------------------------------------------------------------------------
def run(capsys: Any, *arguments: object) -> tuple[int, Any]:
    code = app.main([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_the_commands(three: dict[str, LatencyTable], tmp_path: Path, capsys: Any) -> None:
    a, b, c = (table.path for table in three.values())
    code, value = run(capsys, "table", "diff", a, b, "--csv", tmp_path / "d.csv")
    assert (code, value["blocks"]["both"]) == (0, 56)
    assert {"conditions", "differences", "scale", "raw", "scaled"} <= set(value)
    assert len((tmp_path / "d.csv").read_text().splitlines()) == 57
    assert app.main(["table", "diff", a, b]) == 0
    assert capsys.readouterr().out.startswith("conditions are equal")
    out = tmp_path / "m.jsonl"
    code, value = run(capsys, "table", "merge", a, b, c, "--out", out)
    assert (code, value["resolutions"]) == (0, [96, 112, 128])
    assert run(capsys, "table", "merge", a, b, "--out", out)[0] == 2
    rows = {key: Entry(1.0) for key in foreign_keys.keys(OFA_LITE0, 144, OFA)}
    (tmp_path / "144.yaml").write_text(yaml_tables.text(rows))
    formats.import_yaml([tmp_path / "144.yaml"], tmp_path / "i.jsonl", space=OFA_LITE0)
    code, value = run(capsys, "table", "merge", a, tmp_path / "i.jsonl", "--out", tmp_path / "n.jsonl")
    assert (code, "threads: 1 and 'unknown'" in value["error"]["message"]) == (9, True)


def test_the_common_factor_of_thousands_of_blocks_has_an_interval() -> None:
    """The binomial of so many is no double; below, exact and approximate ranks agree."""
    from ofa_edge.latency.stats import median_interval

    for n in (999, 1001, 50_000):
        low, high = median_interval(list(range(n))) or (0, 0)
        assert low + high == n - 1
        assert (high - low) / 2 == pytest.approx(0.98 * n**0.5, rel=0.05)
