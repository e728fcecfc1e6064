"""Where the files of a bundle lie: in a folder, or in one file (.ofab), a stored zip whose bytes follow from theirs.

In: a path, and names with caps. Out: bytes. Nothing here knows what the files mean. Rules kept: a folder is opened once
and its files through it, so that they are of one folder whatever its name comes to mean meanwhile; links are followed
nowhere, neither in reading nor in writing; every read has a cap; a file holds its members and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from ofa_edge import stored_zip
from ofa_edge.errors import BadFile, OfaEdgeError, UsageError
from ofa_edge.files import write_whole
from ofa_edge.limits import Limits

ENDING = ".ofab"
_BESIDE = 1 << 20  # more than the manifest, its signature and what a zip says of its members

HINT = "get the bundle again from whoever made it, or write it again with `ofa-edge bundle build`"
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Files(Protocol):
    """The files of a bundle by name."""

    def read(self, name: str, limit: int) -> bytes:
        """The content of a file.

        Raises:
            BadFile: it is missing, larger than `limit`, a link, or no file.
        """

    def require_only(self, names: Collection[str]) -> None:
        """Raises BadFile where there is a file besides these, and that matters."""

    def has(self, name: str) -> bool: ...


@contextlib.contextmanager
def opened(path: Path, limits: Limits) -> Iterator[Files]:
    """The files at a path.

    Raises:
        UsageError: there is nothing there.
        BadFile: it is a link, or neither a folder nor a bundle of one file.
    """
    if path.is_symlink():
        raise BadFile(f"{path} is a link", hint=f"name what it leads to: {os.path.realpath(path)}")
    try:
        descriptor = os.open(path, _READ)
    except FileNotFoundError as error:
        raise UsageError(
            f"there is no bundle at {path}", hint=f"a bundle is a folder with a manifest.json, or a file {ENDING}"
        ) from error
    except OSError as error:
        raise BadFile(f"cannot open {path}: {error.strerror}", hint=HINT) from error
    try:
        kind = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(kind):
            yield _Folder(path, descriptor)
        else:
            yield _Archive(path, _content(descriptor, str(path), limits.bundle_bytes + _BESIDE))
    finally:
        os.close(descriptor)


def write_folder(folder: Path, files: Mapping[str, bytes], order: Sequence[str], stale: Sequence[str] = ()) -> None:
    """Write files into a folder, which is made where it is missing, in this order; `stale` ones are removed.

    Raises:
        UsageError: the folder is a link.
        OfaEdgeError: it cannot be written.
    """
    if folder.is_symlink():
        raise UsageError(f"{folder} is a link", hint=f"name what it leads to: {os.path.realpath(folder)}")
    with _writing(folder):
        for name in stale:
            (folder / name).unlink(missing_ok=True)
        for name in order:
            write_whole(folder / name, files[name])


def write_file(path: Path, files: Mapping[str, bytes]) -> None:
    """Write files as one; what was at `path` is replaced.

    Raises:
        OfaEdgeError: it cannot be written.
    """
    with _writing(path):
        write_whole(path, stored_zip.pack(files))


class _Folder:
    def __init__(self, path: Path, descriptor: int):
        self._path, self._descriptor = path, descriptor

    def read(self, name: str, limit: int) -> bytes:
        path = self._path / name
        try:
            descriptor = os.open(name, _READ, dir_fd=self._descriptor)
        except OSError as error:
            why = "it is a link" if path.is_symlink() else error.strerror
            raise BadFile(f"cannot open {path} as a file of a bundle: {why}", hint=HINT) from error
        try:
            return _content(descriptor, str(path), limit)
        finally:
            os.close(descriptor)

    def require_only(self, names: Collection[str]) -> None:
        """Others may lie in a folder; nobody opens them."""

    def has(self, name: str) -> bool:
        return name in os.listdir(self._descriptor)


class _Archive:
    def __init__(self, path: Path, data: bytes):
        self._path = path
        try:
            self._members = stored_zip.unpack(data)
        except ValueError as error:
            raise BadFile(f"{path} is not a bundle: {error}", hint=HINT) from error

    def read(self, name: str, limit: int) -> bytes:
        if name not in self._members:
            raise BadFile(f"{self._path} has no {name}", hint=HINT)
        data = self._members[name]
        if len(data) > limit:
            raise _too_large(f"{self._path}: {name}", limit)
        return data

    def require_only(self, names: Collection[str]) -> None:
        if others := sorted(self._members.keys() - set(names)):
            raise BadFile(f"{self._path} holds {others[0][:80]!r}, which its manifest does not name", hint=HINT)

    def has(self, name: str) -> bool:
        return name in self._members


def _content(descriptor: int, name: str, limit: int) -> bytes:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise BadFile(f"{name} is not a regular file", hint=HINT)
    with os.fdopen(os.dup(descriptor), "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise _too_large(name, limit)
    return data


def _too_large(name: str, limit: int) -> BadFile:
    return BadFile(f"{name} is larger than {limit} bytes", hint="this is not a bundle for an edge device")


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OfaEdgeError(f"cannot write {path}: {error.strerror}", hint="check the path and the space") from error
