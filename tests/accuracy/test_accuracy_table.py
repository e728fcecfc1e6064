"""The accuracy table: rows survive being killed, are never measured twice, and impossible ones are refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ofa_edge.accuracy.table import COLUMNS, AccuracyHeader, AccuracyTable, AccuracyWriter, wilson
from ofa_edge.errors import BadFile, LockHeld, UsageError
from ofa_edge.space.spaces import OFA_LITE0

CHECKPOINT = "c0ffee" + "0" * 58
ARCHS = list(dict.fromkeys(OFA_LITE0.sample(np.random.default_rng(i)) for i in range(12)))


def header(**changes):
    fields = {"checkpoint": CHECKPOINT, "data": "1,000 held-out training images", "bn": "bank", "seed": 5}
    return AccuracyHeader.of(OFA_LITE0, **fields | changes)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "accuracy" / "lite0.jsonl"


def fill(path, archs, *, resume=False, finish=False, **changes):
    with AccuracyWriter.open(path, OFA_LITE0, header(**changes), resume=resume) as writer:
        for arch in archs:
            if arch not in writer:
                writer.add(arch, 900 + ARCHS.index(arch), 1000)
        if finish:
            writer.finish()


def rewrite(path, number, **changes):
    """Change fields of one line; None removes a field. The end record, which would tell, is dropped."""
    lines = path.read_bytes().splitlines(keepends=True)
    lines = [line for line in lines if b'"record":"end"' not in line]
    value = json.loads(lines[number - 1]) | changes
    lines[number - 1] = json.dumps({k: v for k, v in value.items() if v is not None}).encode() + b"\n"
    path.write_bytes(b"".join(lines))


# -- the file -----------------------------------------------------------------------------------
def test_reads_back_what_was_measured(path):
    fill(path, ARCHS, finish=True)
    table = AccuracyTable.read(path)
    assert table.complete
    assert table.space is OFA_LITE0
    assert tuple(table.frame.columns) == COLUMNS
    assert list(table.frame["arch"]) == ARCHS
    assert list(table.frame["correct"]) == [900 + i for i in range(len(ARCHS))]
    assert (table.frame["top1"] == table.frame["correct"] / 1000).all()
    assert ((table.frame["low"] < table.frame["top1"]) & (table.frame["top1"] < table.frame["high"])).all()
    assert list(table.frame["resolution"]) == [arch.resolution for arch in ARCHS]
    assert (table.header.checkpoint, table.header.seed, table.header.preprocess.mean) == (CHECKPOINT, 5, 127.0)


def test_a_killed_run_resumes_where_it_was(path):
    fill(path, ARCHS[:5])
    torn = path.read_bytes() + b'{"record":"subnet","arch":{"r":12'
    path.write_bytes(torn)
    assert not AccuracyTable.read(path).complete
    fill(path, ARCHS, resume=True, finish=True)
    other = path.with_name("at-once.jsonl")
    fill(other, ARCHS, finish=True)
    assert path.read_bytes() == other.read_bytes()


def test_resume_starts_a_table_that_is_not_there_and_goes_on_after_the_end(path):
    fill(path, ARCHS[:2], resume=True, finish=True)
    fill(path, ARCHS[:4], resume=True, finish=True)
    assert len(AccuracyTable.read(path).frame) == 4


def test_without_resume_a_table_is_never_overwritten(path):
    fill(path, ARCHS[:2])
    with pytest.raises(UsageError, match="exists already"):
        fill(path, ARCHS)
    assert len(AccuracyTable.read(path).frame) == 2


def test_one_writer_at_a_time(path):
    with AccuracyWriter.open(path, OFA_LITE0, header()), pytest.raises(LockHeld):
        fill(path, ARCHS, resume=True)


@pytest.mark.parametrize(
    ("key", "value"), [("checkpoint", "d" * 64), ("data", "other images"), ("bn", "recalibrated"), ("seed", 6)]
)
def test_resume_under_other_conditions_is_refused_naming_both(path, key, value):
    fill(path, ARCHS[:2], finish=True)
    before = path.read_bytes()
    with pytest.raises(BadFile, match=f"was measured with {key} ") as caught:
        fill(path, ARCHS, resume=True, **{key: value})
    assert caught.value.details == {"key": key, "file": str(getattr(header(), key)), "asked": str(value)}
    assert path.read_bytes() == before
    fill(path, ARCHS, resume=True)


def test_further_fields_are_conditions_too_but_provenance_is_not(path):
    fill(path, ARCHS[:2], images_sha256="e" * 64, provenance={"host": "a"})
    with pytest.raises(BadFile, match="was measured with images_sha256 "):
        fill(path, ARCHS, resume=True, images_sha256="f" * 64)
    fill(path, ARCHS, resume=True, images_sha256="e" * 64, provenance={"host": "b"})
    assert len(AccuracyTable.read(path).frame) == len(ARCHS)


def test_a_failure_is_a_row_until_the_subnet_is_measured(path):
    with AccuracyWriter.open(path, OFA_LITE0, header()) as writer:
        writer.fail(ARCHS[0], "no batch-norm statistics")
        writer.fail(ARCHS[1], "out of memory")
        assert ARCHS[0] not in writer
    assert dict(AccuracyTable.read(path).failed) == {
        ARCHS[0]: "no batch-norm statistics",
        ARCHS[1]: "out of memory",
    }
    fill(path, ARCHS[1:2], resume=True, finish=True)
    table = AccuracyTable.read(path)
    assert list(table.failed) == [ARCHS[0]]
    assert list(table.frame["arch"]) == [ARCHS[1]]


def test_the_writer_refuses_what_the_reader_would(path):
    with AccuracyWriter.open(path, OFA_LITE0, header()) as writer:
        writer.add(ARCHS[0], 3, 4)
        assert len(writer) == 1
        for arch, correct, n in ((ARCHS[0], 3, 4), (ARCHS[1], 5, 4), (ARCHS[1], -1, 4), (ARCHS[1], 0, 0)):
            with pytest.raises(ValueError, match=r"already|not a share"):
                writer.add(arch, correct, n)
    assert len(AccuracyTable.read(path).frame) == 1


def test_further_fields_survive(path):
    with AccuracyWriter.open(path, OFA_LITE0, header(images_sha256="e" * 64)) as writer:
        writer.add(ARCHS[0], 3, 4)
    assert AccuracyTable.read(path).header.model_dump()["images_sha256"] == "e" * 64


# -- what is refused ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"correct": 1001}, "1001 right of 1000 is impossible"),
        ({"correct": -1}, "-1 right of 1000 is impossible"),
        ({"correct": 900.0}, "'correct' must be a whole number, not 900.0"),
        ({"correct": True}, "'correct' must be a whole number, not True"),
        ({"correct": None}, "'correct' must be a whole number, not None"),
        ({"n": 0}, "right of 0 is impossible"),
        ({"low": 0.99}, "top-1 0.9010 lies outside its interval 0.9900.."),
        ({"high": "1"}, "'high' must be a number with a point, not '1'"),
        ({"arch": [1]}, "'arch' must be an object"),
        ({"arch": {"r": 128}}, "the arch has no 'd'"),
    ],
)
def test_a_damaged_row_is_refused_by_line(path, changes, said):
    fill(path, ARCHS, finish=True)
    rewrite(path, 3, **changes)
    with pytest.raises(BadFile, match="line 3: ") as caught:
        AccuracyTable.read(path)
    assert said in caught.value.message


def test_a_subnet_twice_is_refused(path):
    fill(path, ARCHS[:2])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines, lines[1]]))
    with pytest.raises(BadFile, match="line 4: this subnet was measured before"):
        AccuracyTable.read(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"checkpoint": "short"}, "header field 'checkpoint'"),
        ({"bn": "guessed"}, "header field 'bn'"),
        ({"seed": -1}, "header field 'seed'"),
        ({"preprocess": {"mean": 1.0, "std": "1", "crop": 1.0}}, "header field 'preprocess.std'"),
        ({"data": None}, "header field 'data'"),
        ({"schema": "latency-table"}, "is no accuracy-table"),
        ({"version": "2.0"}, "version '2.0'"),
    ],
)
def test_a_wrong_header_is_refused_by_field(path, changes, said):
    fill(path, ARCHS[:1])
    rewrite(path, 1, **changes)
    with pytest.raises(BadFile) as caught:
        AccuracyTable.read(path)
    assert said in caught.value.message


def test_a_finished_table_in_which_a_digit_changed_is_refused(path):
    fill(path, ARCHS, finish=True)
    path.write_bytes(path.read_bytes().replace(b'"correct":905', b'"correct":906'))
    with pytest.raises(BadFile, match="changed after it was finished"):
        AccuracyTable.read(path)


def test_spaces_are_checked(path):
    fill(path, ARCHS[:1])
    rewrite(path, 1, space="ofa-mars")
    with pytest.raises(UsageError, match="there is no space 'ofa-mars'"):
        AccuracyTable.read(path)
    with pytest.raises(BadFile, match="of space ofa-mars, not of ofa-lite0"):
        AccuracyTable.read(path, OFA_LITE0)


# -- Wilson -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_intervals(correct, n, low, high):
    assert wilson(correct, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_stays_within_0_and_1_and_holds_the_share():
    for n in (1, 7, 1000):
        for correct in {0, 1, n // 2, n - 1, n}:
            low, high = wilson(correct, n)
            assert 0 <= low <= correct / n <= high <= 1
            assert low < high
            assert wilson(correct, n, 0.5)[0] >= low
