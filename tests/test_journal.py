"""A journal survives every kill, and no changed byte passes as a finished one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_edge import journal
from ofa_edge.errors import BadFile, LockHeld, UsageError

FORMAT = journal.Format("test-table", (1, 0), frozenset({"row", "note"}))
HEADER = {"seed": 7, "text": "häder"}
ROWS = [("row", {"key": "a", "ms": 1.25}), ("note", {"text": "line\nbreak"}), ("row", {"key": "b", "ms": 2.5})]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def finished(path: Path) -> bytes:
    with journal.Writer.create(path, FORMAT, HEADER) as writer:
        for record, row in ROWS:
            writer.append(record, row)
        writer.finish()
    return path.read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return finished(tmp_path_factory.mktemp("journal") / "t.jsonl")


def test_a_finished_journal_reads_back(tmp_path: Path) -> None:
    finished(tmp_path / "t.jsonl")
    contents = journal.read(tmp_path / "t.jsonl", FORMAT)
    assert contents.complete
    assert contents.header == HEADER
    assert contents.rows == [{"record": record, **row} for record, row in ROWS]
    assert [row["key"] for row in contents.of("row")] == ["a", "b"]


def test_writing_in_one_go_gives_the_same_bytes(tmp_path: Path, whole: bytes) -> None:
    rows = [{"record": record, **row} for record, row in ROWS]
    journal.write(tmp_path / "t.jsonl", FORMAT, HEADER, rows)
    assert (tmp_path / "t.jsonl").read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == ["t.jsonl"]


def test_cut_at_every_byte_a_resume_loses_at_most_the_torn_row(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "t.jsonl"
    lines = whole.splitlines(keepends=True)
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        kept = max(0, whole[:cut].count(b"\n") - 1)
        contents, writer = journal.Writer.resume(path, FORMAT, HEADER)
        assert len(contents.rows) == kept
        assert not contents.complete
        with writer:
            for record, row in ROWS[kept:]:
                writer.append(record, row)
            writer.finish()
        assert path.read_bytes() == b"".join(lines)


def test_resuming_a_finished_journal_drops_its_end_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    before = finished(path)
    contents, writer = journal.Writer.resume(path, FORMAT, {"ignored": True})
    with writer:
        writer.append("row", {"key": "c"})
        writer.finish()
    assert contents.complete
    after = journal.read(path, FORMAT)
    assert after.header == HEADER
    assert len(after.rows) == len(ROWS) + 1
    assert path.read_bytes().startswith(before[: contents.size])


def test_every_changed_byte_of_a_finished_journal_is_found(whole: bytes) -> None:
    for index in range(len(whole)):
        for flip in (0x01, 0x20, 0x80):
            damaged = bytearray(whole)
            damaged[index] ^= flip
            if index == len(whole) - 1:  # without its newline the end record is a torn line: not finished
                assert not journal.parse(bytes(damaged), FORMAT, "t").complete
            else:
                with pytest.raises(BadFile):
                    journal.parse(bytes(damaged), FORMAT, "t")


def test_every_removed_line_of_a_finished_journal_is_found(whole: bytes) -> None:
    lines = whole.splitlines(keepends=True)
    for index in range(len(lines) - 1):
        with pytest.raises(BadFile):
            journal.parse(b"".join(lines[:index] + lines[index + 1 :]), FORMAT, "t")


@given(st.binary(max_size=300))
def test_any_bytes_are_a_journal_or_a_bad_file(data: bytes) -> None:
    with pytest.raises(BadFile):
        journal.parse(data, FORMAT, "t")


@settings(max_examples=50)
@given(rows=st.lists(st.dictionaries(st.text(max_size=8).filter(lambda k: k != "record"), json_values, max_size=4)))
def test_every_json_row_survives_a_write_and_a_read(tmp_path_factory: pytest.TempPathFactory, rows: list) -> None:
    path = tmp_path_factory.mktemp("rows") / "t.jsonl"
    journal.write(path, FORMAT, {}, [{"record": "row", **row} for row in rows])
    assert [{k: v for k, v in row.items() if k != "record"} for row in journal.read(path, FORMAT).rows] == rows


@pytest.mark.parametrize(
    "line",
    ['{"record":"row","a":1,"a":2}', '{"record":"row","a":NaN}', '{"record":"row","a":-Infinity}',
     '{"record":"row","a":1e999}', "[1]", '{"a":1}', '{"record":1}', "", '{"record":"other"}',
     '{"record":"header"}', '{"record":"row","a":' + "[" * 100_000 + "]" * 100_000 + "}"],
)  # fmt: skip
def test_a_line_that_is_not_a_strict_row_is_refused_with_its_number(line: str) -> None:
    head = b'{"record":"header","schema":"test-table","version":"1.0"}\n{"record":"row"}\n'
    with pytest.raises(BadFile, match="t line 3 is damaged"):
        journal.parse(head + line.encode() + b'\n{"record":"row"}\n', FORMAT, "t")


@pytest.mark.parametrize("version", ["2.0", "0.9", "1", "1.0.0", "", "x"])
def test_an_unknown_major_version_is_refused(version: str) -> None:
    header = json.dumps({"record": "header", "schema": "test-table", "version": version}).encode() + b"\n"
    with pytest.raises(BadFile, match="reads 1.x"):
        journal.parse(header, FORMAT, "t")


def test_a_later_minor_version_keeps_fields_and_records_it_does_not_know() -> None:
    text = '{"record":"header","schema":"test-table","version":"1.7","new":1}\n{"record":"later","x":[1]}\n'
    contents = journal.parse(text.encode(), FORMAT, "t")
    assert contents.version == (1, 7)
    assert contents.header == {"new": 1}
    assert contents.rows == [{"record": "later", "x": [1]}]


def test_another_schema_is_refused_by_name() -> None:
    text = b'{"record":"header","schema":"accuracy-table","version":"1.0"}\n'
    with pytest.raises(BadFile, match="is no test-table: its first line says 'accuracy-table'"):
        journal.parse(text, FORMAT, "t")


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    before = finished(path)
    with pytest.raises(UsageError, match="exists already"):
        journal.Writer.create(path, FORMAT, HEADER)
    assert path.read_bytes() == before


def test_resuming_a_file_that_is_no_journal_leaves_it_alone(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("127.0.0.1 localhost")
    with pytest.raises(BadFile):
        journal.Writer.resume(path, FORMAT, HEADER)
    assert path.read_text() == "127.0.0.1 localhost"


def test_two_writers_cannot_share_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with journal.Writer.create(path, FORMAT, HEADER), pytest.raises(LockHeld):
        journal.Writer.resume(path, FORMAT, HEADER)
    journal.Writer.resume(path, FORMAT, HEADER)[1].close()


def test_rows_are_in_the_file_before_the_writer_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with journal.Writer.create(path, FORMAT, HEADER) as writer:
        writer.append("row", {"key": "a"})
        assert len(journal.read(path, FORMAT).rows) == 1


def test_a_value_that_is_not_json_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with journal.Writer.create(path, FORMAT, HEADER) as writer:
        with pytest.raises(ValueError, match="JSON"):
            writer.append("row", {"ms": float("nan")})
        writer.finish()
    assert journal.read(path, FORMAT).complete
