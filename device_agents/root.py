"""The agent's folder on the device and the blobs in it.

In: the root path the host chose (or its default). Out: absolute paths inside it, blobs verified by hash.
Rules: a name from the wire becomes a path only after it matched a strict pattern; files appear by rename; our folders
are folders and our files files, no link is followed and no pipe waited for.

    <root>/agent/<sha256>.pyz      shipped agents; agent.pyz, a link, is the one that deployed last
    <root>/blobs/<sha256>          models and golden tensors, content-addressed
    <root>/incoming/<sha256>.pack.gz  a transfer, whole or as far as it came; called by the hash of the whole
    <root>/work/                   empty working directory of workers
    <root>/sites/                  runtimes that came from the host (sites.py)
    <root>/<app>/                  releases (slots.py); an app may not be called like one of RESERVED
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import os
import re
import shutil
import stat
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from device_agents.errors import AgentError

RESERVED = ("agent", "blobs", "incoming", "work", "sites", "tables", "cache")
"""Names in the root that are not apps (`tables` and `cache` are the host's, where both sides share one root)."""

MAX_BLOB = 1 << 30
MAX_ENTRIES = 100_000
"""Blobs in one transfer; the host puts a few hundred into one."""
MAX_TRANSFER = MAX_BLOB + (64 << 20)
"""Bytes of one; the host ends a transfer at 64 MB, or after the one blob that is larger."""
_STALE_SECONDS = 24 * 3600.0
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Root:
    """`path` is absolute."""

    path: str

    def prepare(self) -> None:
        """Make our folders, private to the user, and drop transfers nobody finished within a day.

        Raises:
            OSError: they cannot be made, or one of them is a link.
        """
        for name in ("blobs", "incoming", "work"):
            path = os.path.join(self.path, name)
            os.makedirs(path, mode=0o700, exist_ok=True)
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                raise OSError(errno.ENOTDIR, "is a link where a folder of ours belongs", path)
        self.sweep(_STALE_SECONDS)

    def sweep(self, idle_seconds: float) -> None:
        """Remove transfers and half-written files that nobody has added to for so long."""
        for folder, ending in (("incoming", ""), ("blobs", ".part"), ("agent", ".part")):
            path = os.path.join(self.path, folder)
            if not os.path.isdir(path) or os.path.islink(path):
                continue
            for name in os.listdir(path):
                file = os.path.join(path, name)
                with contextlib.suppress(OSError):  # gone meanwhile, or something of somebody else's
                    if name.endswith(ending) and time.time() - os.lstat(file).st_mtime > idle_seconds:
                        os.unlink(file)

    @property
    def work(self) -> str:
        return os.path.join(self.path, "work")

    @property
    def free_bytes(self) -> int:
        return shutil.disk_usage(self.path).free

    def blob_path(self, sha256: str) -> str:
        return os.path.join(self.path, "blobs", _hash(sha256))

    def missing(self, hashes: Sequence[str]) -> list[str]:
        return [sha256 for sha256 in hashes if not _is_file(self.blob_path(sha256))]

    def discard(self, hashes: Sequence[str]) -> int:
        """Remove those blobs that are there; returns their number."""
        there = [path for path in map(self.blob_path, hashes) if _is_file(path)]
        for path in there:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        return len(there)

    def read_blob(self, sha256: str) -> bytes:
        """A blob's bytes, verified; a damaged one is removed, so that the next push replaces it.

        Raises:
            AgentError: 'bad-file' when it is absent or its bytes have another hash.
        """
        path = self.blob_path(sha256)
        try:
            with _open_file(path) as stream:
                data = stream.read(MAX_BLOB + 1)
        except FileNotFoundError:
            raise AgentError("bad-file", f"blob {sha256} is not on the device") from None
        if hashlib.sha256(data).hexdigest() != sha256:
            os.unlink(path)
            raise AgentError("bad-file", f"blob {sha256} was damaged on the device and has been removed")
        return data

    def arrived(self, sha256: str) -> tuple[int, str]:
        """Make ready for a transfer: how many bytes of it are there, and their own sha256.

        An empty file is made where there is none, so that a host writes only into files of ours. What a cut or a
        power failure left may be no beginning of the transfer at all: the hash tells the host, which then starts anew.

        Raises:
            AgentError: 'bad-file', a link or a device is in the way.
        """
        with _open_file(self._transfer(sha256), os.O_CREAT) as file:
            return _measured(file)

    def forget(self, sha256: str) -> None:
        """Remove what is there of a transfer."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._transfer(sha256))

    def unpack(self, sha256: str) -> int:
        """Unpack `incoming/<sha256>.pack.gz` into blobs and remove it; returns the number of blobs.

        A pack is a row of entries, gzipped: the blob's sha256, a space, its size in decimal, a newline, its bytes.

        Raises:
            AgentError: 'bad-file' when the whole has another hash, and nothing of it was unpacked; when an entry is
                malformed or its bytes have another hash, and blobs before it stay.
        """
        count = 0
        try:
            with _open_file(self._transfer(sha256)) as file:
                _require_hash(file, sha256)
                with gzip.open(file, "rb") as stream:
                    while self._unpack_one(stream):
                        count += 1
                        if count > MAX_ENTRIES:
                            raise AgentError("bad-file", f"the transfer {sha256} holds more than {MAX_ENTRIES} blobs")
        except FileNotFoundError:
            raise AgentError("bad-file", f"the transfer {sha256} did not arrive") from None
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise AgentError("bad-file", f"the transfer {sha256} is damaged") from None
        finally:
            with contextlib.suppress(OSError):
                self.forget(sha256)
            sync_folder(os.path.join(self.path, "blobs"))
        return count

    def _transfer(self, sha256: str) -> str:
        return os.path.join(self.path, "incoming", _hash(sha256) + ".pack.gz")

    def _unpack_one(self, stream: gzip.GzipFile) -> bool:
        header = stream.readline(100)
        if not header:
            return False
        match = re.fullmatch(rb"([0-9a-f]{64}) (0|[1-9][0-9]{0,9})\n", header)
        if match is None or int(match[2]) > MAX_BLOB:
            raise AgentError("bad-file", "the transfer holds an entry that is none")
        sha256, left = match[1].decode("ascii"), int(match[2])
        if left > self.free_bytes:  # a few bytes may unpack to more than any disk holds
            raise AgentError("failed", f"a blob of {left} bytes is more than is free in {self.path}")
        final = self.blob_path(sha256)
        part = f"{final}.{os.getpid()}.part"
        digest = hashlib.sha256()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        try:
            with open(part, "xb") as out:
                while left:
                    chunk = stream.read(min(left, _CHUNK))
                    if not chunk:
                        raise AgentError("bad-file", "the transfer is cut short")
                    digest.update(chunk)
                    out.write(chunk)
                    left -= len(chunk)
                out.flush()
                os.fsync(out.fileno())
            if digest.hexdigest() != sha256:
                raise AgentError("bad-file", f"blob {sha256} arrived with other bytes")
            os.replace(part, final)
        finally:
            if os.path.exists(part):
                os.unlink(part)
        return True


def _is_file(path: str) -> bool:
    """A regular file of its own, no link to one."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _open_file(path: str, flags: int = 0) -> BinaryIO:
    """A regular file for reading.

    Raises:
        AgentError: 'bad-file', it is a link, a pipe, a device or a folder; nothing was followed or waited for.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | flags, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise AgentError("bad-file", f"{path} is a link; it was not followed") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise AgentError("bad-file", f"{path} is not a regular file")
    return os.fdopen(descriptor, "rb")


def _require_hash(file: BinaryIO, sha256: str) -> None:
    """Hash the whole of a file and go back to its start. Raises AgentError ('bad-file') for another hash."""
    size, found = _measured(file)
    if found != sha256:
        raise AgentError("bad-file", f"the transfer {sha256} is damaged: its {size} bytes have another hash")
    file.seek(0)


def _measured(file: BinaryIO) -> tuple[int, str]:
    """Length and sha256 of a file; of one that is larger than any transfer of its beginning."""
    digest, size = hashlib.sha256(), 0
    while size <= MAX_TRANSFER and (chunk := file.read(_CHUNK)):
        digest.update(chunk)
        size += len(chunk)
    return size, digest.hexdigest()


def sync_folder(path: str | os.PathLike[str]) -> None:
    """Make the names in a folder durable. Some file systems cannot (EINVAL): there the rename itself is."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def _hash(sha256: str) -> str:
    if not isinstance(sha256, str) or not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise AgentError("usage", "not a sha256")
    return sha256
