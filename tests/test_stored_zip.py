"""A stored zip is exactly its files: equal files are equal bytes, and nothing else that a zip can be is read."""

from __future__ import annotations

import contextlib
import io
import struct
import zipfile
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_edge.stored_zip import pack, unpack

FILES = {"a.json": b"{}", "b.bin": bytes(range(256))}
SOUND = pack(FILES)


@given(st.dictionaries(st.from_regex(r"[a-z][a-z0-9.-]{0,20}[a-z0-9]", fullmatch=True), st.binary(max_size=50)))
def test_what_is_packed_comes_back_and_every_unzip_reads_it(files: dict[str, bytes]) -> None:
    data = pack(files)
    assert unpack(data) == files
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == files


def test_equal_files_are_equal_bytes_in_any_order() -> None:
    assert pack(dict(reversed(FILES.items()))) == SOUND
    info = zipfile.ZipFile(io.BytesIO(SOUND)).infolist()
    assert {(one.date_time, one.external_attr, one.compress_type) for one in info} == {
        ((1980, 1, 1, 0, 0, 0), 0o100644 << 16, zipfile.ZIP_STORED)
    }


def test_a_name_beyond_ascii_is_not_packed() -> None:
    with pytest.raises(ValueError, match="not ASCII"):
        pack({"ä": b""})


def zipped(change: Callable[[zipfile.ZipFile], None], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        change(archive)
    return out.getvalue()


def _named(name: str, **attributes: int) -> bytes:
    info = zipfile.ZipInfo(name)
    for key, value in attributes.items():
        setattr(info, key, value)
    return zipped(lambda archive: archive.writestr(info, b"x"))


def _twice() -> bytes:
    """Two members of one name; zipfile's reader takes the last, unzip asks."""
    data = pack({"a": b"1", "b": b"2"})
    return data.replace(b"b", b"a")


def _encrypted() -> bytes:
    data = bytearray(SOUND)
    place = data.index(b"PK\1\2")
    data[place + 8] |= 1
    return bytes(data)


def _bomb() -> bytes:
    return zipped(lambda archive: archive.writestr("a", bytes(10_000_000)), zipfile.ZIP_DEFLATED)


def _overlapping() -> bytes:
    """Two members that share their bytes."""
    data = bytearray(pack({"a": b"x" * 100, "b": b"x" * 100}))
    second = data.rindex(b"PK\1\2")
    struct.pack_into("<L", data, second + 42, 0)
    return bytes(data)


def _shared() -> bytes:
    """A hundred members, all of them the same bytes: each would be copied before anything is compared."""
    one = pack({"000": b"x" * 1000})
    place = one.index(b"PK\1\2")
    entry, end = one[place:-22], one[-22:]
    listed = b"".join(entry.replace(b"000", b"%03d" % number) for number in range(100))
    return one[:place] + listed + struct.pack("<4s4H2LH", end[:4], 0, 0, 100, 100, len(listed), place, 0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "begin as a zip"),
        (b"#!/bin/sh\n" + SOUND, "begin as a zip"),
        (SOUND[:-1], "cut off, or has something behind"),
        (SOUND + b"x", "cut off, or has something behind"),
        (SOUND[: SOUND.index(b"PK\1\2")] + b"gap" + SOUND[SOUND.index(b"PK\1\2") :], "directory is not where"),
        (_named("../../etc/passwd"), "called like a path"),
        (_named("/etc/passwd"), "called like a path"),
        (_named("a\\b"), "called like a path"),
        (_named("c:x"), "called like a path"),
        (_named(".."), "called like a path"),
        (_named("folder/"), "called like a path"),
        (_named("link", create_system=3, external_attr=0o120777 << 16), "'link' is a link"),
        (_named("pipe", create_system=3, external_attr=0o010644 << 16), "no regular file"),
        (_twice(), "'a' is there twice"),
        (_encrypted(), "is encrypted"),
        (_bomb(), "is compressed"),
        (_overlapping(), "beside its members"),
        (_shared(), "share their bytes"),
        (_named("a", create_system=3, external_attr=0o100755 << 16), "was not written by ofa-edge"),
        (zipped(lambda archive: setattr(archive, "comment", b"hello")), "cut off, or has something behind"),
        (SOUND.replace(b"{}", b"[]"), "'a.json' is damaged"),
    ],
)
def test_every_other_zip_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unpack(data)


@given(st.data())
@settings(max_examples=300)
def test_a_changed_byte_is_refused_or_changes_nothing_unseen(data: st.DataObject) -> None:
    damaged = bytearray(SOUND)
    for place in data.draw(st.lists(st.integers(0, len(SOUND) - 1), max_size=4)):
        damaged[place] = data.draw(st.integers(0, 255))
    content = bytes(damaged[: data.draw(st.integers(len(damaged) - 30, len(damaged)))])
    with contextlib.suppress(ValueError):
        assert pack(unpack(content)) == content
