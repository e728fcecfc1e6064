"""The agent's folder on the device and the blobs in it.

In: the root path the host chose (or its default). Out: absolute paths inside it, blobs verified by hash.
Rules: a name from the wire becomes a path only after it matched a strict pattern; files appear by rename.

    <root>/agent/<sha256>.pyz      shipped agents
    <root>/blobs/<sha256>          models and golden tensors, content-addressed
    <root>/incoming/<sha256>.pack.gz  a transfer that has not been unpacked yet
    <root>/work/                   empty working directory of workers
    <root>/sites/                  runtimes that came from the host (sites.py)
    <root>/<app>/                  releases (slots.py); an app may not be called like one of RESERVED
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from device_agents.wire import AgentError

RESERVED = ("agent", "blobs", "incoming", "work", "sites", "tables", "cache")
"""Names in the root that are not apps (`tables` and `cache` are the host's, where both sides share one root)."""

MAX_BLOB = 1 << 30
_STALE_SECONDS = 24 * 3600.0
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Root:
    """`path` is absolute."""

    path: str

    def prepare(self) -> None:
        """Make our folders, private to the user, and drop transfers nobody finished within a day."""
        for name in ("blobs", "incoming", "work"):
            os.makedirs(os.path.join(self.path, name), mode=0o700, exist_ok=True)
        incoming = os.path.join(self.path, "incoming")
        for name in os.listdir(incoming):
            path = os.path.join(incoming, name)
            if time.time() - os.lstat(path).st_mtime > _STALE_SECONDS:
                os.unlink(path)

    @property
    def work(self) -> str:
        return os.path.join(self.path, "work")

    @property
    def free_bytes(self) -> int:
        return shutil.disk_usage(self.path).free

    def blob_path(self, sha256: str) -> str:
        return os.path.join(self.path, "blobs", _hash(sha256))

    def missing(self, hashes: Sequence[str]) -> list[str]:
        return [sha256 for sha256 in hashes if not os.path.isfile(self.blob_path(sha256))]

    def read_blob(self, sha256: str) -> bytes:
        """A blob's bytes, verified; a damaged one is removed, so that the next push replaces it.

        Raises:
            AgentError: 'bad-file' when it is absent or its bytes have another hash.
        """
        path = self.blob_path(sha256)
        try:
            with open(path, "rb") as stream:
                data = stream.read(MAX_BLOB + 1)
        except FileNotFoundError:
            raise AgentError("bad-file", f"blob {sha256} is not on the device") from None
        if hashlib.sha256(data).hexdigest() != sha256:
            os.unlink(path)
            raise AgentError("bad-file", f"blob {sha256} was damaged on the device and has been removed")
        return data

    def unpack(self, sha256: str) -> int:
        """Unpack `incoming/<sha256>.pack.gz` into blobs and remove it; returns the number of blobs.

        A pack is a row of entries, gzipped: the blob's sha256, a space, its size in decimal, a newline, its bytes.

        Raises:
            AgentError: 'bad-file' when an entry is malformed or its bytes have another hash. Blobs before it stay.
        """
        path = os.path.join(self.path, "incoming", _hash(sha256) + ".pack.gz")
        count = 0
        try:
            with gzip.open(path, "rb") as stream:
                while self._unpack_one(stream):
                    count += 1
        except FileNotFoundError:
            raise AgentError("bad-file", f"the transfer {sha256} did not arrive") from None
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise AgentError("bad-file", f"the transfer {sha256} is damaged") from None
        finally:
            if os.path.exists(path):
                os.unlink(path)
        return count

    def _unpack_one(self, stream: gzip.GzipFile) -> bool:
        header = stream.readline(100)
        if not header:
            return False
        match = re.fullmatch(rb"([0-9a-f]{64}) (0|[1-9][0-9]{0,9})\n", header)
        if match is None or int(match[2]) > MAX_BLOB:
            raise AgentError("bad-file", "the transfer holds an entry that is none")
        sha256, left = match[1].decode("ascii"), int(match[2])
        final = self.blob_path(sha256)
        part = f"{final}.{os.getpid()}.part"
        digest = hashlib.sha256()
        try:
            with open(part, "wb") as out:
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


def _hash(sha256: str) -> str:
    if not isinstance(sha256, str) or not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise AgentError("usage", "not a sha256")
    return sha256
