"""Zip files whose bytes depend on the files in them and on nothing else, and a reader that takes only those.

In: names and contents. Out: a zip of stored members, sorted by their ASCII names, of one fixed time and mode. The
reader takes what the writer writes, but for names that are paths: whatever a zip can do besides (folders, links,
compression, encryption, repeated names, comments, data before, between or behind the members) is refused, so no two
readers can see different files in it. Agents (agent.pyz) and bundles of one file (.ofab) are such zips, which every
unzip opens.
"""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Mapping
from typing import NamedTuple

# The writer's own layout, so that bytes do not change with the Python that writes them.
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s4B4H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_DATE, _VERSION, _UNIX = 0x21, 20, 3  # 1980-01-01, 2.0
_MODE = (stat.S_IFREG | 0o644) << 16
_MOST_BYTES = (1 << 32) - 2
_MOST_FILES = (1 << 16) - 2


def pack(files: Mapping[str, bytes]) -> bytes:
    """The zip of `files` (name -> content).

    Raises:
        ValueError: a name is not plain ASCII, or there is more than a zip without extensions holds.
    """
    if len(files) > _MOST_FILES or sum(map(len, files.values())) > _MOST_BYTES // 2:
        raise ValueError("that is more than this kind of zip holds")
    parts: list[bytes] = []
    directory: list[bytes] = []
    offset = 0
    for name, data in sorted(files.items()):
        try:
            raw = name.encode("ascii")
        except UnicodeEncodeError:
            raise ValueError(f"{name[:80]!r} is not ASCII") from None
        numbers = (zlib.crc32(data), len(data), len(data), len(raw), 0)
        local = _LOCAL.pack(b"PK\3\4", _VERSION, 0, 0, 0, _DATE, *numbers)
        parts += [local, raw, data]
        head = _CENTRAL.pack(b"PK\1\2", _VERSION, _UNIX, _VERSION, 0, 0, 0, 0, _DATE, *numbers, 0, 0, 0, _MODE, offset)
        directory += [head, raw]
        offset += len(local) + len(raw) + len(data)
    listed = b"".join(directory)
    end = _END.pack(b"PK\5\6", 0, 0, len(files), len(files), len(listed), offset, 0)
    return b"".join([*parts, listed, end])


class _Member(NamedTuple):
    """An entry of a zip's directory, as far as anything may be in it."""

    flags: int
    method: int
    crc: int
    packed: int
    size: int
    name_length: int
    extra: int
    comment: int
    mode: int
    offset: int


def unpack(data: bytes) -> dict[str, bytes]:
    """The files of a zip that `pack` could have written, in the order of their names.

    Raises:
        ValueError: it is any other; with a sentence of its own for each trick that is known.
    """
    if data[:4] not in (b"PK\3\4", b"PK\5\6"):
        raise ValueError("it does not begin as a zip does")
    if len(data) < _END.size or data[-_END.size :][:4] != b"PK\5\6":
        raise ValueError("it is cut off, or has something behind its end")
    _, _, _, _, count, length, start, _ = _END.unpack(data[-_END.size :])
    if start + length + _END.size != len(data):
        raise ValueError("its directory is not where it says")
    files: dict[str, bytes] = {}
    place, total = start, 0
    for _ in range(count):
        if data[place : place + 4] != b"PK\1\2" or place + _CENTRAL.size > len(data):
            raise ValueError("its directory is damaged")
        fields = _CENTRAL.unpack_from(data, place)
        member = _Member(*(fields[i] for i in (5, 6, 9, 10, 11, 12, 13, 14, 17, 18)))
        raw = data[place + _CENTRAL.size :][: member.name_length]
        name = raw.decode("ascii", "backslashreplace")
        if problem := _problem(name, member, name in files):
            raise ValueError(f"its member {name[:80]!r} {problem}")
        # Before anything is copied: members that share their bytes are a bomb, thousands of the whole file's size.
        if (total := total + member.size) > len(data):
            raise ValueError("its members share their bytes")
        begin = member.offset + _LOCAL.size + member.name_length
        content = data[begin : begin + member.size]
        if len(content) != member.size or zlib.crc32(content) != member.crc:
            raise ValueError(f"its member {name[:80]!r} is damaged")
        files[name] = content
        place += _CENTRAL.size + member.name_length + member.extra + member.comment
    # Whatever was not looked at has one value only that a writer may give it.
    if pack(files) != data:
        raise ValueError("it holds something beside its members, or was not written by ofa-edge")
    return files


def _problem(name: str, member: _Member, again: bool) -> str:
    """Why a member is refused, '' where it is not."""
    kind = member.mode >> 16
    if again:
        return "is there twice"
    if not name or name != name.strip(".") or any(sign in name for sign in "/\\:\0"):
        return "is called like a path"
    if stat.S_ISLNK(kind):
        return "is a link"
    if stat.S_IFMT(kind) not in (0, stat.S_IFREG):
        return "is no regular file"
    if member.flags & 1:
        return "is encrypted"
    if member.method != 0 or member.packed != member.size:
        return "is compressed"
    return ""
