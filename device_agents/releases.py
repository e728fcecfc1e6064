"""What lies in an app's folder: its releases, the link to the current one, its journal.

In: a Disk and an app's name. Out: names, manifests and records, each checked before it is believed. Layout:

    <root>/<app>/releases/<release>/   manifest.json and the files it lists; never changed, only repaired; and
                                       manifest.sig where the release was signed: bytes the agent keeps for the host
    <root>/<app>/current               link to releases/<release>: what the application opens
    <root>/<app>/mode                  the mode of it that the application is to use (modes.py)
    <root>/<app>/policy.json           when the device itself changes the mode (policy.py)
    <root>/<app>/journal.jsonl         what happened (history.py says what the records mean)
    <root>/<app>/lock                  who is deploying (lock.py)

Rules kept: a release proves itself (its id is a hash of its manifest, the manifest holds the sha256 of its
files), so a folder that does not is not a release, whoever made it; every read has a cap and follows no link.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_agents import history, lock
from device_agents.disk import Disk, chunks_of, folder_exists, hashed
from device_agents.errors import AgentError
from device_agents.history import NAME
from device_agents.root import MAX_BLOB, RESERVED
from device_agents.strict_json import Fields, WireError, canonical, clean, dumps, loads

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
ID_LENGTH = 16  # hex digits of the sha256 that a release is called by
MAX_MANIFEST = 256 << 10  # one reply carries it
MAX_SIGNATURE = 4 << 10
MAX_FILES = 32
MAX_JOURNAL = 8 << 20
COMPACT_ABOVE, COMPACT_TO = 1 << 20, 500  # bytes of a journal that is shortened; records that stay


@dataclass(frozen=True)
class FileEntry:
    """A file of a release, as its manifest lists it."""

    name: str
    sha256: str
    size: int

    @classmethod
    def parse(cls, value: Any) -> FileEntry:
        f = Fields("file", value)
        out = cls(f.text("name", NAME), f.sha256("sha256"), f.whole("size", 0, MAX_BLOB))
        f.done()
        return out


@dataclass(frozen=True)
class App:
    """One application's folder and what can be read from it."""

    disk: Disk
    name: str

    @classmethod
    def parse(cls, disk: Disk, f: Fields) -> App:
        name = f.text("app", NAME)
        if name in RESERVED:
            raise AgentError("usage", f"an app cannot be called {name!r}: the agent keeps a folder of that name")
        app = cls(disk, name)
        if folder_exists(app.folder):
            folder_exists(app.releases)
        return app

    @property
    def folder(self) -> Path:
        return Path(self.disk.path) / self.name

    @property
    def releases(self) -> Path:
        return self.folder / "releases"

    @property
    def link(self) -> Path:
        return self.folder / "current"

    @property
    def journal(self) -> Path:
        return self.folder / "journal.jsonl"

    @property
    def lock(self) -> Path:
        return self.folder / "lock"

    @property
    def mode_file(self) -> Path:
        return self.folder / "mode"

    def release(self, name: str) -> Path:
        return self.releases / name

    def current(self) -> str | None:
        """The release `current` names, there or not; None for no link.

        Raises:
            AgentError: `needs-hands`, someone made `current` something else.
        """
        if not os.path.lexists(self.link):
            return None
        target = os.readlink(self.link) if os.path.islink(self.link) else ""
        match = re.fullmatch(f"releases/({NAME})", target)
        if match is None:
            raise AgentError("needs-hands", f"{self.link} is not a link to one of the releases: move it away by hand")
        return match[1]

    def names(self) -> list[str]:
        """The releases that are there, whole or not."""
        if not folder_exists(self.releases):
            return []
        names = [entry.name for entry in os.scandir(self.releases) if entry.is_dir(follow_symlinks=False)]
        return sorted(name for name in names if re.fullmatch(NAME, name))

    def records(self) -> list[history.Record]:
        """The journal's records, without a torn last one.

        Raises:
            AgentError: `needs-hands`, a record was damaged.
        """
        if not os.path.lexists(self.journal):
            return []
        lines = b"".join(chunks_of(self.journal, MAX_JOURNAL)).split(b"\n")[:-1]
        try:
            records = [loads(line) for line in lines]
            if not all(isinstance(record, dict) for record in records):
                raise WireError("a record is no object")
            history.read(records)
        except ValueError as error:
            raise AgentError("needs-hands", f"{self.journal} is damaged ({error}): move it away by hand") from None
        return records

    def history(self) -> history.History:
        return history.read(self.records())

    def problem(self, name: str, folder: Path | None = None) -> str:
        """What is wrong with a release's files, '' for nothing."""
        try:
            for _ in self.checked(name, folder or self.release(name)):
                pass
        except (AgentError, WireError, OSError) as error:
            return clean(str(error), 300)
        return ""

    def checked(self, name: str, folder: Path) -> Iterator[FileEntry]:
        """Hash a release's files one after the other.

        Raises:
            AgentError, WireError, OSError: this is not, or no longer, the release of that name.
        """
        if not folder_exists(folder):
            raise AgentError("bad-file", f"release {name} is missing")
        for entry in parse_manifest(self.manifest(name, folder), name, self.name):
            digest = hashlib.sha256()
            size = sum(len(chunk) for chunk in hashed(chunks_of(folder / entry.name, entry.size), digest))
            if size != entry.size or digest.hexdigest() != entry.sha256:
                raise AgentError("bad-file", f"{entry.name} of release {name} is damaged")
            yield entry

    def manifest(self, name: str, folder: Path | None = None) -> bytes:
        return b"".join(chunks_of((folder or self.release(name)) / MANIFEST, MAX_MANIFEST))

    def signature(self, name: str) -> bytes | None:
        """A release's manifest.sig as it lies there, unchecked; None where it has none.

        Raises:
            AgentError: it is a link, or larger than any signature.
        """
        path = self.release(name) / SIGNATURE
        return b"".join(chunks_of(path, MAX_SIGNATURE)) if os.path.lexists(path) else None

    def signature_sha256(self, name: str) -> str | None:
        """Of that signature; None where there is none, or something that cannot be one."""
        with contextlib.suppress(AgentError):
            if (found := self.signature(name)) is not None:
                return hashlib.sha256(found).hexdigest()
        return None

    def write_journal(self, event: str, release: str, **fields: Any) -> None:
        """Append one record, while nobody else does: changes of mode are written beside a deployment."""
        with lock.exclusive(self.lock):
            self.append_record(event, release, **fields)

    def append_record(self, event: str, release: str, **fields: Any) -> None:
        """As write_journal, for one who keeps the others out himself; a journal that grew long is shortened first.

        Of a deployment that has not ended all records stay, and only changes of mode go.
        """
        record = {"event": event, "release": release, **fields, "time": round(time.time(), 3)}
        if self.journal.is_file() and self.journal.stat().st_size > COMPACT_ABOVE:
            records = self.records()
            keep = COMPACT_TO if history.read(records).unfinished is None else len(records)
            short = self.disk.temporary(self.journal)
            self.disk.remove(short)
            self.disk.write(short, (_line(old) for old in history.compact(records, keep)))
            self.disk.rename(short, self.journal)
        self.disk.append(self.journal, _line(record))


def parse_manifest(data: bytes, release: str, app: str) -> list[FileEntry]:
    """The files of a manifest.

    Raises:
        AgentError, WireError: it is not the manifest of this release of this app.
    """
    value = loads(data)
    if not isinstance(value, dict):
        raise WireError("a manifest must be an object")
    named = value.pop("release", None)
    digest = hashlib.sha256(canonical(value)).hexdigest()[:ID_LENGTH]
    if not named == digest == release:
        raise AgentError("bad-file", f"the manifest is that of release {digest}, not of {release}")
    if value.get("app") != app:
        raise AgentError("bad-file", f"release {release} is not one of app {app}")
    entries = [FileEntry.parse(entry) for entry in Fields("manifest", value).items("files", MAX_FILES)]
    names = [entry.name for entry in entries]
    if len(set(names)) != len(names) or {MANIFEST, SIGNATURE} & set(names):
        raise AgentError("bad-file", "the manifest lists a file twice, or itself, or its signature")
    return entries


def _line(record: Mapping[str, Any]) -> bytes:
    return dumps(record).encode("ascii") + b"\n"
