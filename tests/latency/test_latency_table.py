"""A table reads back what was measured, refuses what was not, and matches only equal conditions."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_edge import journal
from ofa_edge.errors import BadFile, OfaEdgeError, UsageError
from ofa_edge.latency.conditions import RunsOn, conditions, mismatches, require_match
from ofa_edge.latency.models.model import LatencyModel
from ofa_edge.latency.table import FORMAT, LatencyTable, newest_match
from tests.latency.helpers import device_for, profile, row_problems, task
from tests.simulated import FACTS, figures

FROZEN = Path(__file__).parents[1] / "formats" / "latency-table-1.0.jsonl"
CONDITIONS = conditions(FACTS, RunsOn())
HEADER = {
    "conditions": CONDITIONS.model_dump(mode="json"),
    "provenance": {"created": "2026-11-21T00:00:00+00:00", "tool": "ofa-edge 0.1.0"},
    "space": "ofa-lite0",
    "resolutions": [96],
    "plan": {"seed": 0, "quick": True, "networks": 0},
}
KEY = "b1:AvgPool2D:in1280x3:mid0:out1280:k1:s1:skip0:se0:none:32bit"


def block(median: float = 1.0, key: str = KEY, record: str = "block", **fields: Any) -> dict[str, Any]:
    f = figures(median)
    numbers = {n: getattr(f, n) for n in ("n", "min", "p10", "median", "p90", "low", "high", "mean", "std")}
    return {"record": record, "key": key, "session": 0, "at": 1.0, **numbers, "flags": [], **fields}


def network(median: float = 2.0, **fields: Any) -> dict[str, Any]:
    f = {n: getattr(figures(median), n) for n in ("n", "min", "p10", "median", "p90", "low", "high", "mean", "std")}
    return {
        "record": "network", "key": "network:1", "role": "calibration", "session": 0, "at": 2.0, "arch": {"r": 96},
        "figures": f, "anchor": f, "ratio": f, "flags": [], **fields,
    }  # fmt: skip


def table(tmp_path: Path, *rows: dict[str, Any], header: dict[str, Any] | None = None) -> LatencyTable:
    path = tmp_path / "t.jsonl"
    journal.write(path, FORMAT, header or HEADER, rows)
    return LatencyTable.read(path)


# -- the frozen file ------------------------------------------------------------------------------
def test_version_1_0_still_reads() -> None:
    crashed = "b1:expanded_conv:in80x6:mid480:out80:k3:s1:skip1:se0:relu6:32bit"
    read = LatencyTable.read(FROZEN)
    assert read.complete
    assert read.conditions == CONDITIONS
    assert (len(read.blocks), len(read.sentinels)) == (55, 4)
    assert read.blocks["median"].sum() == pytest.approx(7.927725)
    assert list(read.networks["role"]).count("holdout") == 1
    assert len(read.networks) == 5
    assert list(read.predicted["median"]) == [0.15]
    assert list(read.failed.index) == [crashed]
    assert [problem.code for problem in row_problems(read)] == ["failed"]


def test_version_1_1_still_reads() -> None:
    """With noise, peak memory, rounds, a space of one's own, the predictor and how hot the device was."""
    read = LatencyTable.read(FROZEN.with_name("latency-table-1.1.jsonl"))
    assert read.complete
    assert (read.header.space, read.space.classes, read.space.resolutions) == ("mine", 7, (96, 112, 128, 144, 160))
    assert (read.header.plan.predictor, read.conditions.thermal) == ("blocks", "burst")
    assert (len(read.blocks), len(read.sentinels), len(read.networks)) == (56, 7, 5)
    assert read.blocks["median"].sum() == pytest.approx(8.0517893)
    assert {"temperature_c", "throttled", "governor"} <= set(read.sentinels["noise"].iloc[0])
    assert (read.networks["peak_bytes"] > 0).all()
    assert row_problems(read) == []
    largest = LatencyModel.from_table(read).estimate(read.space.blocks(read.space.largest(96)))
    assert largest.value == pytest.approx(4.6, abs=0.1)


def test_unknown_fields_survive_a_read_and_a_write(tmp_path: Path) -> None:
    lines = FROZEN.read_text().splitlines()
    header = json.loads(lines[0]) | {"version": "1.9", "colour": "blue"}
    header["conditions"]["moon"] = "full"
    body = [json.dumps(header), '{"record":"weather","degrees":21.5}', *lines[1:-1]]
    newer = tmp_path / "newer.jsonl"
    newer.write_text("\n".join(body) + "\n")
    read = LatencyTable.read(newer)
    read.write(tmp_path / "again.jsonl")
    again = LatencyTable.read(tmp_path / "again.jsonl")
    assert again.contents.header["colour"] == "blue"
    assert again.contents.header["conditions"]["moon"] == "full"
    assert again.contents.rows == read.contents.rows
    assert again.contents.rows[0] == {"record": "weather", "degrees": 21.5}


def test_a_table_cut_anywhere_after_its_header_reads_as_unfinished() -> None:
    data = FROZEN.read_bytes()
    header = data.index(b"\n") + 1
    for cut in range(header, len(data), 997):
        contents = journal.parse(data[:cut], FORMAT, "t")
        read = LatencyTable.from_contents(contents, "t")
        assert not read.complete
        assert "unfinished" in [problem.code for problem in row_problems(read)]


# -- which measurement counts ---------------------------------------------------------------------
def test_the_last_undisturbed_measurement_of_a_block_counts(tmp_path: Path) -> None:
    read = table(tmp_path, block(1.0), block(2.0), block(3.0, flags=["preempted"]))
    assert read.blocks.loc[KEY, "median"] == 2.0
    assert not read.blocks.loc[KEY, "disturbed"]


def test_of_disturbed_measurements_the_narrowest_counts(tmp_path: Path) -> None:
    wide = block(1.0, flags=["steal"], low=0.5, high=1.5)
    read = table(tmp_path, block(2.0, flags=["steal"]), wide)
    assert read.blocks.loc[KEY, "median"] == 2.0
    assert read.blocks.loc[KEY, "disturbed"]


def test_a_wide_interval_alone_is_no_disturbance(tmp_path: Path) -> None:
    assert not table(tmp_path, block(flags=["interval-wide", "few-batches"])).blocks["disturbed"].any()


def test_a_failure_that_was_made_good_is_none(tmp_path: Path) -> None:
    failed = {"record": "failed", "key": KEY, "session": 0, "at": 0.5, "reason": "killed by signal 11"}
    assert list(table(tmp_path, failed).failed.index) == [KEY]
    assert table(tmp_path, failed, block()).failed.empty
    assert table(tmp_path, failed).blocks.empty


def test_a_network_without_an_anchor_has_no_ratio(tmp_path: Path) -> None:
    read = table(tmp_path, network(anchor=None, ratio=None))
    assert read.networks["ratio_median"].isna().all()
    assert list(read.networks["median"]) == [2.0]


# -- damaged rows ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (block() | {"median": "fast"}, "'median' is not a number"),
        (block() | {"median": True}, "'median' is not a number"),
        (block(low=None), "'low' is missing or negative"),
        (block(session=-1), "'session' is missing or negative"),
        (block(high=0.5), "figures contradict"),
        (block(min=0), "figures contradict"),
        (block(key=7), "'key' is not text"),
        ({"record": "block", "key": KEY}, "'session' is missing or negative"),
        (block(n=10**30), "'n' is not a number"),
        ({"record": "failed", "key": KEY, "session": 0, "at": 0}, "'reason' is not text"),
        ({"record": "predicted", "key": KEY, "median": "x", "error": 0.1}, "'median' is not a number"),
        (network(role="test"), "role, calibration or holdout"),
        (network(arch=[1]), "needs an arch"),
        (network(figures=None), "'figures' has no positive median"),
        (network(ratio={"median": -1}), "'ratio' has no positive median"),
        (block(record="sentinel", p10=9), "figures contradict"),
    ],
)  # fmt: skip
def test_a_damaged_row_is_refused_with_its_line(tmp_path: Path, row: dict[str, Any], problem: str) -> None:
    sound = [r for r in (block(), block(record="sentinel"), network()) if r["record"] == row["record"]]
    with pytest.raises(BadFile, match=rf"line {2 + len(sound)} is damaged: .*{problem}"):
        table(tmp_path, *sound, row)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("conditions", "threads"), 0),
        (("conditions", "threads"), "1"),
        (("conditions", "device_model"), None),
        (("conditions", "emulated"), 1),
        (("resolutions",), []),
        (("plan", "seed"), -1),
        (("space",), ""),
    ],
)
def test_a_damaged_header_is_refused_by_field(tmp_path: Path, path: tuple[str, ...], value: Any) -> None:
    header = json.loads(json.dumps(HEADER))
    place = header
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(BadFile, match=rf"line 1 is damaged: {'.'.join(path)}"):
        table(tmp_path, header=header)


# -- problems -------------------------------------------------------------------------------------
def test_check_names_what_is_missing_failed_strange_or_disturbed(tmp_path: Path) -> None:
    failed = {"record": "failed", "key": KEY.replace("1280x3", "1280x4"), "session": 0, "at": 0, "reason": "boom"}
    read = table(tmp_path, block(flags=["steal"]), block(key="nonsense"), failed)
    problems = {problem.code: problem.text for problem in row_problems(read)}
    assert set(problems) == {"missing", "failed", "key", "disturbed"}
    assert "boom" in problems["failed"]
    assert "'nonsense' is not a block key" in problems["key"]
    assert problems["missing"].startswith("55 of 56 blocks")


def test_a_table_of_an_unknown_space_says_so(tmp_path: Path) -> None:
    read = table(tmp_path, block(), header=HEADER | {"space": "other"})
    assert [problem.code for problem in row_problems(read)] == ["space"]


# -- conditions -----------------------------------------------------------------------------------
def test_equal_conditions_match_and_a_difference_is_named_with_both_values() -> None:
    other = CONDITIONS.model_copy(update={"threads": 4, "governor": "powersave"})
    assert mismatches(CONDITIONS, CONDITIONS) == []
    assert [str(m) for m in mismatches(CONDITIONS, other)] == [
        "threads: 1 and 4", "governor: 'performance' and 'powersave'",
    ]  # fmt: skip
    with pytest.raises(BadFile, match="a.jsonl and this device .*: threads: 1 and 4; governor"):
        require_match(CONDITIONS, other, names=("a.jsonl", "this device"))


def test_unknown_matches_only_when_asked() -> None:
    imported = CONDITIONS.model_copy(update={"soc": "unknown", "cores": "unknown"})
    with pytest.raises(BadFile) as caught:
        require_match(imported, CONDITIONS, names=("a", "b"))
    assert "--accept-unknown" in caught.value.hint
    assert len(mismatches(imported, imported)) == 2
    require_match(imported, CONDITIONS, names=("a", "b"), accept_unknown=True)


def test_what_a_device_does_not_tell_matches_the_same_device() -> None:
    quiet = conditions(replace(FACTS, governor="unknown", soc=""), RunsOn())
    assert mismatches(quiet, quiet) == []
    assert [m.key for m in mismatches(quiet, CONDITIONS)] == ["soc", "governor"]


def test_provenance_is_not_compared() -> None:
    later = conditions(replace(FACTS, serial="2", boot_id="x", kernel="y", agent="9"), RunsOn())
    assert mismatches(later, CONDITIONS) == []


def test_conditions_need_a_runtime_and_cores_that_the_device_has() -> None:
    with pytest.raises(UsageError, match="no runtime 'litert'"):
        conditions(FACTS, RunsOn("litert"))
    with pytest.raises(UsageError, match="core 9"):
        conditions(FACTS, RunsOn(cores=(0, 9)))
    assert conditions(FACTS, RunsOn(cores=(2, 1))).cores == [1, 2]


def test_the_newest_matching_table_is_found_a_finished_one_first(tmp_path: Path) -> None:
    changes: dict[str, dict[str, Any]] = {"busy": {"threads": 2}, "begun": {}, "mid": {}, "old": {}}
    for age, (name, change) in enumerate(changes.items()):
        path = tmp_path / f"{name}.jsonl"
        header = HEADER | {"conditions": HEADER["conditions"] | change}  # type: ignore[operator]
        journal.write(path, FORMAT, header, [block()])
        if name == "begun":
            path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
        os.utime(path, (1e9 - age, 1e9 - age))
    (tmp_path / "junk.jsonl").write_text("not a table\n")

    def found(*match: Any) -> str | None:
        table = newest_match(tmp_path.glob("*.jsonl"), *match)
        return None if table is None else Path(table.path).stem

    assert found() == "busy"
    assert found("ofa-lite0", CONDITIONS) == "mid"
    assert found("other", CONDITIONS) is None
    assert newest_match([]) is None
    (tmp_path / "mid.jsonl").unlink()
    (tmp_path / "old.jsonl").unlink()
    assert found("ofa-lite0", CONDITIONS) == "begun"


def test_a_campaigns_table_holds_its_conditions_and_provenance(tmp_path: Path) -> None:
    work = task()
    header = profile(tmp_path / "t.jsonl", device_for(work), work).table.header
    assert header.conditions == CONDITIONS
    assert header.provenance.boot_id == FACTS.boot_id
    assert (header.space, header.resolutions, header.plan) == ("ofa-lite0", [96], work.settings)


# -- hostile tables -------------------------------------------------------------------------------
JUNK = (None, True, -1, 0, 1e308, 5e-324, 10**25, "x", "", [], {}, [1], {"a": 1}, KEY.replace(":s1", ":s0"))
LINES = [json.loads(line) for line in FROZEN.read_text().splitlines()[:-1]]


def paths(value: dict[str, Any], before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for key, item in value.items():
        found.append((*before, key))
        if isinstance(item, dict):
            found += paths(item, (*before, key))
    return found


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_table_with_any_field_replaced_is_used_or_refused_and_nothing_else(data: st.DataObject) -> None:
    line = data.draw(st.integers(0, len(LINES) - 1))
    row = json.loads(json.dumps(LINES[line]))
    path = data.draw(st.sampled_from(paths(row)))
    place = row
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = data.draw(st.sampled_from(JUNK))
    text = "".join(json.dumps(r) + "\n" for r in [*LINES[:line], row, *LINES[line + 1 :]])
    try:
        read = LatencyTable.from_contents(journal.parse(text.encode(), FORMAT, "t"), "t")
        row_problems(read)
        model = LatencyModel.from_table(read)
        model.margin()
        predictions = model.predict([model.space.smallest(96), model.space.largest(96)])
    except OfaEdgeError:
        return
    for prediction in predictions:
        assert prediction.latency is None or math.isfinite(prediction.latency.value)
