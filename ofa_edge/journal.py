"""JSON-Lines journals: the one file form of latency and accuracy tables.

A journal is appended to while a campaign runs, so the journal IS the table and a killed run resumes:

    {"record":"header","schema":"latency-table","version":"1.0",...}   first line
    {"record":"block",...}                                             rows, in the order they were made
    {"record":"end","counts":{"block":1},"sha256":"..."}               last line of a finished journal

Rules kept:
- A row is one line, written with one `write`; a last line without its newline is torn and is dropped, so
  a killed process costs at most the row it was writing. Anything else that is not a row is BadFile.
- `end` holds the number of rows of each record and the sha256 of all bytes before it; a finished journal
  in which any byte changed is BadFile. Resuming drops `end` and the torn line, and nothing else.
- An unknown major version is refused. A later minor version may add fields and records: they are kept as
  they are. In a journal of a version this module knows, an unknown record is BadFile.
- Rows reach the operating system at once and the disk (fsync) at most `SYNC_SECONDS` later, and at close.
- One writer at a time: the writer holds an exclusive lock on the file.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import hashlib
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from ofa_edge import strict_json
from ofa_edge.errors import BadFile, LockHeld, OfaEdgeError, UsageError
from ofa_edge.files import read_bytes, sync_folder, write_whole

# Caps against hostile or mistaken files: the largest table foreseen (100,000 rows) is about 30 MB.
MAX_FILE_BYTES = 1 << 30
MAX_LINE_BYTES = 1 << 20
SYNC_SECONDS = 1.0

_NO_RECORD = "not an object with a 'record'"
_HEADER_START = b'{"record":"header",'
_VERSION = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})")


@dataclass(frozen=True, slots=True)
class Format:
    """A journal's schema: its name, the version written and the records it may hold besides header and end."""

    schema: str
    version: tuple[int, int]
    records: frozenset[str]

    @property
    def version_text(self) -> str:
        return f"{self.version[0]}.{self.version[1]}"


@dataclass(frozen=True, slots=True)
class Contents:
    """A journal as read.

    Attributes:
        header: the first line, without `record`, `schema` and `version`.
        version: (major, minor) as the file says.
        rows: the lines between header and end, in file order, each with its `record`.
        complete: the file ends in an `end` record (which then was found to hold).
        sha256: hex digest of the file as it was read, torn bytes included.
        size: bytes up to the end of the last row; what a resume keeps.
    """

    header: dict[str, Any]
    version: tuple[int, int]
    rows: list[dict[str, Any]]
    complete: bool
    sha256: str
    size: int

    def of(self, record: str) -> list[dict[str, Any]]:
        """The rows of one record, in file order."""
        return [row for row in self.rows if row["record"] == record]


def read(path: Path | str, format: Format) -> Contents:
    """Read and check a journal.

    Raises:
        UsageError: the file cannot be opened.
        BadFile: it is not a journal of this schema, of another major version, or was changed.
    """
    return parse(read_bytes(path, MAX_FILE_BYTES + 1), format, str(path))


def read_header(path: Path | str, format: Format) -> dict[str, Any]:
    """The header alone, as `Contents.header`; raises as `read`. The rest of the file is not looked at."""
    header = _first_line(path)
    _check_header(header, format, str(path))
    return _bare(header)


def schema(path: Path | str) -> str:
    """Which schema the header of a journal names, whatever its version; raises as `read`."""
    header = _first_line(path)
    if header["record"] != "header" or not isinstance(found := header.get("schema"), str):
        raise BadFile(f"{path} is no table: its first line is no header", hint="name a table's file")
    return found


def parse(data: bytes, format: Format, name: str) -> Contents:
    """As `read`, for bytes already in memory; `name` is what errors call them."""
    if len(data) > MAX_FILE_BYTES:
        raise BadFile(f"{name} is larger than {MAX_FILE_BYTES} bytes")
    size = data.rfind(b"\n") + 1
    lines = data[:size].split(b"\n")[:-1]
    if not lines:
        raise BadFile(
            f"{name} has no complete header line", hint="an interrupted run wrote nothing yet: start it again"
        )
    header = _line(lines[0], name, 1)
    version = _check_header(header, format, name)
    newer = version > format.version
    with _no_collection():
        rows = _rows(lines[1:], name)
    complete = bool(rows) and rows[-1]["record"] == "end"
    if complete:
        size -= len(lines[-1]) + 1
    digest = hashlib.sha256(memoryview(data)[:size])
    if complete:
        _check_end(rows.pop(), rows, digest.hexdigest(), name)
        if len(data) > size + len(lines[-1]) + 1:
            raise BadFile(f"{name} goes on after its end record", hint="restore the file or measure again")
    _check_records(rows, None if newer else format.records, name)
    digest.update(memoryview(data)[size:])
    return Contents(_bare(header), version, rows, complete, digest.hexdigest(), size)


def write(
    path: Path | str,
    format: Format,
    header: Mapping[str, Any],
    rows: Iterable[Mapping[str, Any]],
    *,
    version: tuple[int, int] | None = None,
) -> str:
    """Write a finished journal in one go (temporary file, fsync, rename); returns its hex sha256.

    `rows` hold their `record`. An existing file is replaced. A journal that was read is written with the `version`
    it had, so that records of a later minor version stay readable.
    """
    path = Path(path)
    data = finished(format if version is None else replace(format, version=version), header, rows)
    try:
        write_whole(path, data)
    except OSError as error:
        raise _cannot_write(path, error) from error
    return hashlib.sha256(data).hexdigest()


def finished(format: Format, header: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> bytes:
    """The bytes of a finished journal, for a caller who checks them before they become a file."""
    counts: Counter[str] = Counter()
    parts = [_header_line(format, header)]
    for row in rows:
        counts[str(row["record"])] += 1
        parts.append(_row_line(str(row["record"]), row))
    body = b"".join(parts)
    return body + _end_line(counts, hashlib.sha256(body).hexdigest())


class Writer:
    """Appends rows to a journal; made by `create` or `resume`, used as a context manager.

    Leaving the context closes the file without an `end`: only `finish` says that the journal is complete.
    """

    def __init__(self, path: Path, format: Format, descriptor: int, counts: Counter[str], digest: Any):
        self.path = path
        self.format = format
        self._descriptor = descriptor
        self._counts = counts
        self._digest = digest
        self._synced = time.monotonic()

    @classmethod
    def create(cls, path: Path | str, format: Format, header: Mapping[str, Any]) -> Writer:
        """Start a new journal; its folder is made where it is missing.

        Raises:
            UsageError: the file exists already.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            raise UsageError(
                f"{path} exists already", hint="continue it with --resume, or choose another file with --out"
            ) from None
        except OSError as error:
            raise _cannot_write(path, error) from error
        return cls._begin(path, format, descriptor, header)

    @classmethod
    def resume(
        cls,
        path: Path | str,
        format: Format,
        header: Mapping[str, Any],
        accept: Callable[[Contents], object] = lambda contents: None,
    ) -> tuple[Contents, Writer]:
        """Continue a journal, or start it where it does not exist or was killed before its header was complete.

        `header` is used only for a journal that is started. Whether an existing one fits is the caller's rule: `accept`
        raises where it does not, before anything in the file is changed.

        Raises:
            BadFile: the file is no journal of this schema, or was changed.
            LockHeld: another process is writing it.
        """
        path = Path(path)
        if not path.exists():
            cls.create(path, format, header).close()
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise _cannot_write(path, error) from error
        try:
            _lock(descriptor, path)
            data = _read_all(descriptor)
            if b"\n" not in data and (data.startswith(_HEADER_START) or _HEADER_START.startswith(data)):
                writer = cls._begin(path, format, descriptor, header)
                data = _read_all(descriptor)
                return parse(data, format, str(path)), writer
            contents = parse(data, format, str(path))
            accept(contents)
            os.ftruncate(descriptor, contents.size)
            os.fsync(descriptor)
            os.lseek(descriptor, 0, os.SEEK_END)
        except BaseException:
            os.close(descriptor)
            raise
        counts = Counter(str(row["record"]) for row in contents.rows)
        return contents, cls(path, format, descriptor, counts, hashlib.sha256(data[: contents.size]))

    @classmethod
    def _begin(cls, path: Path, format: Format, descriptor: int, header: Mapping[str, Any]) -> Writer:
        _lock(descriptor, path)
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        writer = cls(path, format, descriptor, Counter(), hashlib.sha256())
        writer._write(_header_line(format, header))
        writer.sync()
        sync_folder(path.parent)
        return writer

    def append(self, record: str, row: Mapping[str, Any]) -> None:
        """Write one row.

        Raises:
            ValueError: `record` is not one of the format's, or the row is not JSON (a mistake in the caller).
            OfaEdgeError: the disk is full or gone; the rows before this one stay valid.
        """
        if record not in self.format.records:
            raise ValueError(f"{record!r} is not a record of {self.format.schema}")
        self._write(_row_line(record, row))
        self._counts[record] += 1
        if time.monotonic() - self._synced >= SYNC_SECONDS:
            self.sync()

    def finish(self) -> None:
        """Write `end` and close: the journal is complete."""
        self._write(_end_line(self._counts, self._digest.hexdigest()))
        self.close()

    def sync(self) -> None:
        """Bring everything written so far to the disk."""
        os.fsync(self._descriptor)
        self._synced = time.monotonic()

    def close(self) -> None:
        """Sync and close without an `end`; a second call does nothing."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _write(self, line: bytes) -> None:
        start = os.lseek(self._descriptor, 0, os.SEEK_CUR)
        try:
            written = os.write(self._descriptor, line)
            while written < len(line):
                written += os.write(self._descriptor, line[written:])
        except OSError as error:
            with contextlib.suppress(OSError):  # leave no half line behind a full disk
                os.ftruncate(self._descriptor, start)
                os.lseek(self._descriptor, start, os.SEEK_SET)
            raise _cannot_write(self.path, error, "make room; what was written before is kept to go on from") from error
        self._digest.update(line)


def _line(line: bytes, name: str, number: int) -> dict[str, Any]:
    try:
        if len(line) > MAX_LINE_BYTES:
            raise ValueError(f"longer than {MAX_LINE_BYTES} bytes")
        value = strict_json.loads(line)
    except ValueError as error:
        raise _damaged(name, number, str(error)) from error
    if not isinstance(value, dict) or not isinstance(value.get("record"), str):
        raise _damaged(name, number, _NO_RECORD)
    return value


def _rows(lines: list[bytes], name: str) -> list[dict[str, Any]]:
    """All lines behind the header."""
    for number, line in enumerate(lines, 2):
        if len(line) > MAX_LINE_BYTES:
            raise _damaged(name, number, f"longer than {MAX_LINE_BYTES} bytes")
    try:
        rows = strict_json.rows(lines)
    except strict_json.BadLine as error:
        raise _damaged(name, error.number + 2, str(error)) from error
    for number, row in enumerate(rows, 2):
        if type(row) is not dict or type(row.get("record")) is not str:
            raise _damaged(name, number, _NO_RECORD)
    return rows


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Hundreds of thousands of new dicts, none of them garbage: looking for cycles in them doubles the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _first_line(path: Path | str) -> dict[str, Any]:
    line, newline, _ = read_bytes(path, MAX_LINE_BYTES + 1).partition(b"\n")
    if not newline:
        raise BadFile(f"{path} has no complete header line", hint="start the interrupted run again")
    return _line(line, str(path), 1)


def _damaged(name: str, number: int, reason: str) -> BadFile:
    return BadFile(f"{name} line {number} is damaged: {reason}", hint="restore the file or measure again")


def _check_header(header: dict[str, Any], format: Format, name: str) -> tuple[int, int]:
    if header["record"] != "header" or header.get("schema") != format.schema:
        said = str(header.get("schema", header["record"]))[:60]
        raise BadFile(
            f"{name} is no {format.schema}: its first line says {said!r}",
            hint=f"name the {format.schema}'s file",
        )
    match = _VERSION.fullmatch(str(header.get("version")))
    version = (int(match[1]), int(match[2])) if match else (-1, 0)
    if version[0] != format.version[0]:
        raise BadFile(
            f"{name} is a {format.schema} of version {str(header.get('version'))[:20]!r}; "
            f"this ofa-edge reads {format.version[0]}.x",
            hint="use the ofa-edge that wrote it, or measure again",
        )
    return version


def _bare(header: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in header.items() if key not in ("record", "schema", "version")}


def _check_records(rows: list[dict[str, Any]], known: frozenset[str] | None, name: str) -> None:
    """`known` is None for a later minor version, which may hold records that this one does not know."""
    for number, row in enumerate(rows, 2):
        record = row["record"]
        if record in ("header", "end") or (known is not None and record not in known):
            raise _damaged(name, number, f"unexpected record {record[:40]!r}")


def _check_end(end: dict[str, Any], rows: list[dict[str, Any]], digest: str, name: str) -> None:
    """`digest` is of everything before the end record."""
    counts = dict(Counter(row["record"] for row in rows))
    if end != {"record": "end", "counts": counts, "sha256": digest}:
        raise BadFile(
            f"{name} was changed after it was finished: its end record does not hold",
            hint="restore the file or measure again",
            details={"sha256": digest, "counts": counts},
        )


def _header_line(format: Format, header: Mapping[str, Any]) -> bytes:
    return _row_line("header", {"schema": format.schema, "version": format.version_text, **header})


def _end_line(counts: Mapping[str, int], digest: str) -> bytes:
    return _row_line("end", {"counts": {name: n for name, n in counts.items() if n}, "sha256": digest})


def _row_line(record: str, row: Mapping[str, Any]) -> bytes:
    fields = {key: value for key, value in row.items() if key != "record"}
    return strict_json.dumps({"record": record, **fields}).encode() + b"\n"


def _read_all(descriptor: int) -> bytes:
    os.lseek(descriptor, 0, os.SEEK_SET)
    parts = []
    total = 0
    while total <= MAX_FILE_BYTES and (part := os.read(descriptor, 1 << 20)):
        parts.append(part)
        total += len(part)
    return b"".join(parts)


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise LockHeld(
            f"another process is writing {path}", hint="wait for it, or choose another file with --out"
        ) from None


def _cannot_write(path: Path, error: OSError, hint: str = "check its folder and the free space") -> OfaEdgeError:
    return OfaEdgeError(f"cannot write {path}: {error.strerror}", hint=hint)
