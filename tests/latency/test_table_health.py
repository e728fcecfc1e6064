"""What `table check` and `table show` find, each under its code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ofa_edge import journal
from ofa_edge.cli import app
from ofa_edge.errors import BadFile, NotTrustworthy
from ofa_edge.latency.conditions import PlanSettings
from ofa_edge.latency.judging import health
from ofa_edge.latency.judging.health import Level
from ofa_edge.latency.stats import Verdict
from ofa_edge.latency.table import FORMAT, LatencyTable
from ofa_edge.shipped import tables
from tests.latency.helpers import device_for, profile, task

FORMATS = Path(__file__).parents[1] / "formats"
Row = dict[str, Any]


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good table with hold-out networks, of a simulated board."""
    work = task(PlanSettings(seed=1, quick=False, networks=8, holdout=8), (96, 112))
    path = tmp_path_factory.mktemp("health") / "t.jsonl"
    profile(path, device_for(work, noise=0.003), work)
    return path


def changed(source: Path, target: Path, change: Any, **header: Any) -> LatencyTable:
    """The table with every row (or None: dropped) as `change` makes it."""
    contents = journal.read(source, FORMAT)
    rows = [row for old in contents.rows if (row := change(dict(old))) is not None]
    journal.write(target, FORMAT, contents.header | header, rows, version=contents.version)
    return LatencyTable.read(target)


def scaled(row: Row, factor: float) -> Row:
    names = ("min", "p10", "median", "p90", "low", "high", "mean", "std")
    return {name: value * factor if name in names else value for name, value in row.items()}


def codes(report: health.Report) -> dict[str, Level]:
    return {problem.code: problem.level for problem in report.problems}


def test_a_good_table_is_sound(campaign: Path) -> None:
    report = health.check(LatencyTable.read(campaign))
    assert report.of(Level.INVALID) == report.of(Level.DOUBTFUL) == []
    assert report.verdict is Verdict.GOOD
    assert report.held_out is not None
    assert report.held_out.networks == 8
    report.require_valid()
    report.require_trustworthy()


def test_an_unfinished_table_is_doubtful(campaign: Path, tmp_path: Path) -> None:
    lines = campaign.read_bytes().splitlines(keepends=True)
    (tmp_path / "t.jsonl").write_bytes(b"".join(lines[:20]))
    report = health.check(LatencyTable.read(tmp_path / "t.jsonl"))
    assert codes(report)["unfinished"] is codes(report)["missing"] is Level.DOUBTFUL
    with pytest.raises(NotTrustworthy, match="did not end"):
        report.require_trustworthy()


def test_wide_intervals_are_found_where_many_blocks_have_them(campaign: Path, tmp_path: Path) -> None:
    def widen(row: Row) -> Row:
        if row["record"] == "block" and hash_of(row["key"]) % 5 == 0:
            row |= {"low": 0.8 * row["median"], "high": 1.2 * row["median"]}
        return row

    report = health.check(changed(campaign, tmp_path / "t.jsonl", widen))
    (problem,) = [problem for problem in report.problems if problem.code == "wide"]
    assert problem.level is Level.DOUBTFUL
    assert isinstance(problem.notice.value, float)
    assert 0.1 < problem.notice.value < 0.4


def hash_of(text: str) -> int:
    """The same in every run, as `hash` is not."""
    return sum(map(ord, text))


def test_times_that_no_hardware_reaches_make_a_file_invalid(campaign: Path, tmp_path: Path) -> None:
    """Milliseconds that were microseconds."""
    table = changed(campaign, tmp_path / "t.jsonl", lambda row: scaled(row, 1e-6) if row["record"] == "block" else row)
    report = health.check(table)
    assert codes(report)["impossible"] is Level.INVALID
    with pytest.raises(BadFile, match="cannot take"):
        report.require_valid()


def test_a_larger_map_that_is_faster_is_told(campaign: Path, tmp_path: Path) -> None:
    def slow(row: Row) -> Row:
        return scaled(row, 3) if row["record"] == "block" and ":in3x96:" in row["key"] else row

    report = health.check(changed(campaign, tmp_path / "t.jsonl", slow))
    (problem,) = [problem for problem in report.problems if problem.code == "inverted"]
    assert problem.level is Level.NOTE
    assert "b1:Conv:in3x112" in problem.text


def test_networks_that_are_predicted_badly_are_told(campaign: Path, tmp_path: Path) -> None:
    def off(row: Row) -> Row:
        if row["record"] == "network" and row["role"] == "holdout":
            row |= {"figures": scaled(row["figures"], 1.5), "ratio": scaled(row["ratio"], 1.5)}
        return row

    report = health.check(changed(campaign, tmp_path / "t.jsonl", off))
    assert codes(report)["holdout-error"] is codes(report)["coverage"] is Level.DOUBTFUL
    assert report.held_out is not None
    assert report.held_out.mape == pytest.approx(1 / 3, abs=0.02)


def test_a_coverage_that_chance_explains_is_no_problem(campaign: Path, tmp_path: Path) -> None:
    """One of eight beyond a 95 % interval happens in a third of the tables."""
    moved: set[str] = set()

    def off(row: Row) -> Row:
        if row["record"] == "network" and row["role"] == "holdout" and moved <= {row["key"]}:
            row |= {"figures": scaled(row["figures"], 1.1), "ratio": scaled(row["ratio"], 1.1)}
            moved.add(row["key"])
        return row

    report = health.check(changed(campaign, tmp_path / "t.jsonl", off))
    assert report.held_out is not None
    assert report.held_out.covered == 7 / 8
    assert "coverage" not in codes(report)


def test_few_disturbed_measurements_are_a_note_and_many_are_doubtful(campaign: Path, tmp_path: Path) -> None:
    def disturb(every: int) -> Any:
        def change(row: Row) -> Row:
            if row["record"] == "block" and hash_of(row["key"]) % every == 0:
                row["flags"] = ["steal"]
            return row

        return change

    few = health.check(changed(campaign, tmp_path / "few.jsonl", disturb(40)))
    many = health.check(changed(campaign, tmp_path / "many.jsonl", disturb(2)))
    assert codes(few)["disturbed"] is Level.NOTE
    assert codes(many)["disturbed"] is Level.DOUBTFUL
    assert many.verdict is not Verdict.GOOD


def test_a_table_of_blocks_of_another_space_says_so(campaign: Path, tmp_path: Path) -> None:
    table = changed(campaign, tmp_path / "t.jsonl", lambda row: row if row["record"] == "block" else None,
                    space="ofa-mbv3-w1.0", resolutions=[128])  # fmt: skip
    found = codes(health.check(table))
    assert found["strange"] is Level.NOTE
    assert found["missing"] is Level.DOUBTFUL


# -- the commands ---------------------------------------------------------------------------------
def run(capsys: Any, *arguments: object) -> tuple[int, Any]:
    code = app.main([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_show_has_the_promised_keys(campaign: Path, capsys: Any) -> None:
    code, value = run(capsys, "table", "show", campaign)
    assert code == 0
    assert {"rows", "conditions", "problems", "fit", "verdict", "slowest", "networks", "blocks"} <= set(value)
    assert value["networks"] == {"calibration": 8, "holdout": 8}
    slowest = [row["ms"] for row in value["slowest"]]
    assert slowest == sorted(slowest, reverse=True)
    assert app.main(["table", "show", str(campaign)]) == 0
    text = capsys.readouterr().out
    assert "Simulated Board" in text
    assert "ofa-lite0 at 96 112 px" in text


def test_several_files_give_a_list_and_accuracy_tables_say_what_they_are(campaign: Path, capsys: Any) -> None:
    accuracies = next((tables() / "accuracy").glob("*.jsonl"))
    code, values = run(capsys, "table", "show", campaign, accuracies)
    assert (code, [value["kind"] for value in values]) == (0, ["latency-table", "accuracy-table"])
    assert app.main(["table", "show", str(accuracies)]) == 0
    assert "accuracy table, finished" in capsys.readouterr().out
    assert run(capsys, "table", "check", accuracies, "--strict")[0] == 0


def test_check_ends_in_9_for_an_invalid_file_and_in_6_for_a_doubtful_one_when_asked(
    campaign: Path, tmp_path: Path, capsys: Any
) -> None:
    assert run(capsys, "table", "check", campaign, "--strict")[0] == 0
    lines = campaign.read_bytes().splitlines(keepends=True)
    begun = tmp_path / "begun.jsonl"
    begun.write_bytes(b"".join(lines[:-1]))
    code, value = run(capsys, "table", "check", begun)
    assert (code, value["problems"][0]["code"]) == (0, "unfinished")
    assert run(capsys, "table", "check", begun, "--strict")[0] == 6
    junk = tmp_path / "junk.jsonl"
    junk.write_text("{}\n")
    code, values = run(capsys, "table", "check", begun, junk, "--strict")
    assert code == 9
    assert [problem["code"] for problem in values[1]["problems"]] == ["unreadable"]
    assert app.main(["table", "check", str(begun)]) == 0
    assert "doubtful  unfinished: the campaign did not end" in capsys.readouterr().out


def table_bytes() -> bytes:
    return (FORMATS / "latency-table-1.0.jsonl").read_bytes()


def with_row(row: str) -> bytes:
    """An unfinished table that ends in this line."""
    return b"".join(table_bytes().splitlines(keepends=True)[:-1]) + row.encode() + b"\n"


BLOCK = (
    '{"record":"block","key":"b1:Logits:in1280x1:mid0:out10:k1:s1:skip0:se0:none:32bit","session":0,"at":1,"n":9,'
    '"min":1,"p10":1,"median":1,"p90":1,"low":1,"high":1,"mean":1,"std":0'
)

MALFORMED = [
    (lambda: b"", "has no complete header line"),
    (lambda: b"\n", "line 1 is damaged"),
    (lambda: table_bytes()[:100], "has no complete header line"),
    (lambda: b"\x7fELF\x02\x01\x01\x00\n\x00\x00", "line 1 is damaged"),
    (lambda: b"\xff\xfe{\x00\n", "line 1 is damaged"),
    (lambda: table_bytes().replace(b'"0.3', b'"0.4').replace(b'"min":0.1', b'"min":0.2', 1), "was changed after"),
    (lambda: table_bytes()[:-5] + b'abc"}\n', "was changed after|line 70 is damaged"),
    (lambda: table_bytes() + table_bytes().splitlines(keepends=True)[-2], "unexpected record 'end'|goes on after"),
    (lambda: b"".join(table_bytes().splitlines(keepends=True)[1:]), "no header"),
    (lambda: table_bytes().replace(b'"version":"1.0"', b'"version":"2.0"'), "of version '2.0'"),
    (lambda: table_bytes().replace(b'"version":"1.0"', b'"version":1.0'), "was changed after|of version"),
    (lambda: table_bytes().replace(b'"schema":"latency-table"', b'"schema":"moon-table"'), "'moon-table'"),
    (lambda: table_bytes().replace(b'"threads":1', b'"threads":-1'), "was changed after|conditions.threads"),
    (lambda: with_row(BLOCK + ',"median":2}'), "line 70 is damaged: duplicate key 'median'"),
    (lambda: with_row(BLOCK.replace('"median":1', '"median":NaN') + "}"), "line 70 is damaged: NaN is not allowed"),
    (lambda: with_row(BLOCK.replace('"high":1', '"high":1e999') + "}"), "line 70 is damaged: .*out of range"),
    (lambda: with_row(BLOCK.replace('"high":1', '"high":Infinity') + "}"), "line 70 is damaged: Infinity"),
    (lambda: with_row(BLOCK.replace('"median":1', '"median":-1') + "}"), "line 70 is damaged: 'median' is missing"),
    (lambda: with_row(BLOCK.replace('"median":1', '"median":true') + "}"), "line 70 is damaged: 'median' is not a num"),
    (lambda: with_row(BLOCK.replace('"median":1', '"median":"1"') + "}"), "line 70 is damaged: 'median' is not a num"),
    (lambda: with_row(BLOCK.replace('"n":9', '"n":[9]') + "}"), "line 70 is damaged: 'n' is not a number"),
    (lambda: with_row(BLOCK.replace('"p90":1', '"p90":0.5') + "}"), "line 70 is damaged: its figures contradict"),
    (lambda: with_row(BLOCK), "line 70 is damaged"),
    (lambda: with_row("[1]"), "line 70 is damaged: not an object with a 'record'"),
    (lambda: with_row('{"record":"moon"}'), "line 70 is damaged: unexpected record 'moon'"),
    (lambda: with_row('{"record":"block"}'), "line 70 is damaged"),
    (lambda: with_row(""), "line 70 is damaged"),
    (lambda: with_row('{"record":"fit","x":"' + "y" * (1 << 20) + '"}'), "line 70 is damaged: longer than"),
    (lambda: with_row('{"record":"fit","x":' + "[" * 100_000 + "]" * 100_000 + "}"), "line 70 is damaged: nested too"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "problem"), MALFORMED)
def test_every_malformed_file_has_its_own_message_and_exit_9(
    tmp_path: Path, capsys: Any, content: Any, problem: str
) -> None:
    import re

    path = tmp_path / "t.jsonl"
    path.write_bytes(content())
    code, value = run(capsys, "table", "check", path)
    assert code == 9
    (found,) = value["problems"]
    assert re.search(problem, found["text"]), found["text"]
    assert str(path) in found["text"]
    assert found["hint"]
    assert run(capsys, "table", "show", path)[0] == 9


def test_what_is_no_file_is_a_mistake_of_the_command(tmp_path: Path, capsys: Any) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        code, value = run(capsys, "table", "check", path)
        assert (code, value["error"]["kind"]) == (2, "usage")
