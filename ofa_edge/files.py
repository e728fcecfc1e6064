"""Files that are whole or not there: written under another name, flushed to the disk, renamed.

In: a path and bytes. Out: the file; or what stands in one that a person named. Rule kept: whoever looks at the path,
also after a kill or a power cut, finds the old content or the new, never a part.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ofa_edge.errors import LockHeld, OfaEdgeError, UsageError


def read_bytes(path: Path | str, most: int = -1, *, hint: str = "check the path") -> bytes:
    """A file that a person named, or its first `most` bytes.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint=hint) from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a file in one step; its folder is made.

    Raises:
        OSError: it cannot be written; what was there before still is.
    """
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Not through a link that somebody put there: the name is known before.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(part, flags, 0o666), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    sync_folder(path.parent)


def write_result(path: Path, content: bytes) -> None:
    """`write_whole`, for a file whose name a person chose.

    Raises:
        OfaEdgeError: it cannot be written; what was there before still is.
    """
    try:
        write_whole(path, content)
    except OSError as error:
        raise OfaEdgeError(f"cannot write {path}: {error.strerror}", hint="name another file with --out") from error


def require_replaceable(path: Path, is_one: Callable[[bytes], bool], what: str) -> None:
    """For a result that takes seconds or hours, before it is begun: a file of another kind is not replaced, such as a
    table in whose place a mistyped name stands.

    Args:
        is_one: told the first bytes of a file that is there, whether it may be replaced.
        what: it would be, in words.

    Raises:
        UsageError: it may not.
    """
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError:
        return  # there is none, or writing will say what is wrong
    if start and not is_one(start):
        raise UsageError(f"{path} is no {what}, so it is not replaced", hint="name another file with --out")


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other processes that ask for the same out of a folder; they get it when this one ends, however it does.

    Raises:
        LockHeld: another process has it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # not every file system has locks
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LockHeld(
                    f"another process is writing to {folder}", hint="wait for it, or give another --out"
                ) from None
        yield
    finally:
        os.close(descriptor)


def require_writable(folder: Path) -> None:
    """Make the folder and find out now, not after hours of work, whether a file can be written there.

    Raises:
        OfaEdgeError: none can.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OfaEdgeError(f"cannot write to {folder}: {error.strerror}", hint="give another --out") from error


def sync_folder(folder: Path) -> None:
    """Make a rename or a new name durable; not every file system lets a folder be synced."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
