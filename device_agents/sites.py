"""Runtimes that came from the host: the ops that unpack, prove, choose and remove their folders of packages.

In: the packed sites that the host pushed as blobs. Out: folders below <root>/sites (site_path.py says which are used).

    <root>/sites/<name>/                    packages, as a site-packages folder holds them
    <root>/sites/current-<runtime>-<tag>    link to the one that interpreters of that tag use

Rules kept: a packed site is checked by hash before it is opened; it may hold regular files only, under plain relative
names, up to a size; it appears under its name whole or not at all. Nothing that is removed is reached through a link,
and nothing outside the root is.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import sys
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Callable, cast

from device_agents import lock
from device_agents.disk import Disk, chunks_of
from device_agents.errors import AgentError
from device_agents.root import MAX_BLOB, RESERVED, Root
from device_agents.site_path import FOLDER, NAME, tag, target
from device_agents.strict_json import Fields
from device_agents.worker_process import WorkerLost, WorkerProcess

MAX_SITE_BYTES = 1 << 30
MAX_SITE_FILES = 20_000
MAX_SITES = 100
PROVE_SECONDS = 200.0
"""Start a worker, import a runtime that was never imported there, load a model; most of it on an emulated board."""

_BLOCK = 512  # of a tar file
_APP_SIGNS = ("releases", "journal.jsonl")


# ------------------------------------------------------------------------------------------- ops


def listing(root: Root, args: Mapping[str, Any]) -> dict[str, Any]:
    """The sites here and the current ones: {"tag", "sites": [{"name", "current"}]}."""
    Fields("args", args).done()
    return {"tag": tag(), "sites": [{"name": name, "current": name in _current(root)} for name in _names(root)]}


def unpack(root: Root, args: Mapping[str, Any]) -> dict[str, Any]:
    """Make the site `name` of the blob `sha256`, and give the blob's room back.

    Raises:
        AgentError: 'bad-file' when the blob is absent, damaged, or holds anything but plain files under plain names.
    """
    f = Fields("args", args)
    name, sha256 = f.text("name"), f.sha256("sha256")
    f.done()
    _checked(name)
    if not name.endswith(sha256[:12]):
        raise AgentError("usage", "a site is named after the hash of its file")
    disk = Disk.of(root)
    packed, final = disk.blob(sha256), Path(root.path, FOLDER, name)
    digest = hashlib.sha256()
    for chunk in chunks_of(packed, MAX_BLOB):
        digest.update(chunk)
    if digest.hexdigest() != sha256:
        disk.remove(packed)
        raise AgentError("bad-file", "the packed site was damaged on the way and has been removed")
    if not final.is_dir():
        disk.make_folder(final.parent)
        part = final.with_name(f"{name}.part")
        disk.remove(part)
        try:
            part.mkdir()
            with gzip.open(packed) as stream:
                extract(cast(BinaryIO, stream), part)
            (part / "ofa-edge-site.sha256").write_text(f"{sha256}\n")
            os.sync()  # one flush for a thousand files: an fsync each takes an SD card half a minute
            disk.rename(part, final)
        finally:
            disk.remove(part)
    disk.remove(packed)
    return {"name": name}


def extract(stream: BinaryIO, folder: Path, max_bytes: int = MAX_SITE_BYTES) -> None:
    """Write the files of an uncompressed tar into an empty folder of ours.

    Read by hand and not by tarfile, so that there is nothing to forbid: a member is a plain file under a relative
    name, or the whole is refused; no link, no device, no header that changes the next one's meaning.

    Raises:
        AgentError: 'bad-file', with the first thing that is wrong.
    """
    left, files = max_bytes, 0
    while True:
        header = _exactly(stream, _BLOCK)
        if header.count(0) == _BLOCK:
            return
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError, ValueError):
            raise AgentError("bad-file", "the packed site holds a header that is none") from None
        files += 1
        left -= max(0, info.size)
        if info.type != tarfile.REGTYPE or info.size < 0:
            raise AgentError("bad-file", "the packed site holds something that is no plain file")
        if left < 0 or files > MAX_SITE_FILES:
            raise AgentError("bad-file", "the packed site is larger than any runtime")
        _write(stream, _inside(folder, info.name), info.size)
        _exactly(stream, -info.size % _BLOCK)


def prove(root: Root, args: Mapping[str, Any]) -> dict[str, Any]:
    """The op `check` of a worker that uses the site `name`, current or not. Raises AgentError as that does."""
    f = Fields("args", args)
    name, check = f.text("name"), f.take("check")
    f.done()
    _require(root, name)
    entry = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    worker = WorkerProcess([sys.executable, entry, "work", root.path, name])
    try:
        reply = worker.ask("check", check, PROVE_SECONDS)
    except WorkerLost as error:
        raise AgentError("failed", str(error)) from error
    finally:
        worker.close()
    if not hasattr(reply, "result"):
        raise AgentError(reply.kind, reply.message)
    return dict(reply.result)


def choose(root: Root, args: Mapping[str, Any]) -> dict[str, Any]:
    """Make `name` the current site of its runtime for interpreters of its tag; the one it replaces is removed."""
    f = Fields("args", args)
    name = f.text("name")
    f.done()
    _require(root, name)
    runtime, fits = _checked(name)[1:]
    disk, folder = Disk.of(root), Path(root.path, FOLDER)
    disk.point(folder / f"current-{runtime}-{fits}", name)
    for other in _names(root):
        if other != name and _checked(other)[1:] == (runtime, fits):
            disk.remove(folder / other)
    return {"name": name}


def drop(root: Root, args: Mapping[str, Any]) -> dict[str, Any]:
    """Remove the site `name`, which did not prove itself; a current one is refused."""
    f = Fields("args", args)
    name = f.text("name")
    f.done()
    _checked(name)
    if name in _current(root):
        raise AgentError("refused", f"{name} is in use")
    Disk.of(root).remove(Path(root.path, FOLDER, name))
    return {}


def remove(root: Root, args: Mapping[str, Any]) -> dict[str, Any]:
    """Remove the sites of `runtime`, of all runtimes where it is empty, and what is left of transfers."""
    f = Fields("args", args)
    runtime = f.text("runtime")
    f.done()
    disk, folder = Disk.of(root), Path(root.path, FOLDER)
    removed = []
    for entry in _entries(folder):
        match = NAME.fullmatch(entry.removesuffix(".part"))
        link = entry.startswith("current-") and os.path.islink(folder / entry)
        ours = match[1] if match else entry.split("-")[1] if link else None
        if ours is not None and runtime in ("", ours):
            disk.remove(folder / entry)
            if match and not link:
                removed.append(entry)
    if folder.is_dir() and not _entries(folder):
        disk.remove(folder)
    return {"removed": removed}


def wipe(root: Root, args: Mapping[str, Any]) -> dict[str, Any]:
    """Remove everything of ours in the root, and the root where nothing else is in it.

    Ours are our own folders and the apps. What else lies there (tables and caches of a host that shares the root, files
    of the user) stays: {"removed", "kept"}, names in the root.

    Raises:
        AgentError: 'lock-held', a deployment is going on.
    """
    Fields("args", args).done()
    disk, folder = Disk.of(root), Path(root.path)
    for entry in _entries(folder):
        held = lock.holder(folder / entry / "lock") if (folder / entry / "lock").is_file() else None
        if held is not None and held.process != disk.me and disk.alive(held.process):
            raise AgentError("lock-held", f"{held.name} is deploying {entry} here; nothing was removed")
    agents = {"agent", "blobs", "incoming", "work", FOLDER}
    removed, kept = [], []
    for entry in _entries(folder):
        path = folder / entry
        real = path.is_dir() and not path.is_symlink()
        app = real and entry not in RESERVED and any(os.path.lexists(path / sign) for sign in _APP_SIGNS)
        if real and (entry in agents or app):
            disk.remove(path)
            removed.append(entry)
        else:
            kept.append(entry)
    if not kept:
        disk.remove(folder)
    return {"removed": removed, "kept": kept}


OPS: dict[str, Callable[[Root, dict[str, Any]], dict[str, Any]]] = {
    "sites": listing,
    "site-unpack": unpack,
    "site-prove": prove,
    "site-use": choose,
    "site-drop": drop,
    "site-remove": remove,
    "wipe": wipe,
}
"""What the supervisor dispatches to, besides its own ops and those of releases."""


# ---------------------------------------------------------------------------------------- inside


def _checked(name: str) -> tuple[str, str, str]:
    """A site's name, its runtime and its tag; raises AgentError for what is no such name."""
    match = NAME.fullmatch(name)
    if match is None:
        raise AgentError("usage", "not the name of a site")
    return name, match[1], match[2]


def _require(root: Root, name: str) -> None:
    if _checked(name)[0] not in _names(root):
        raise AgentError("usage", f"there is no site {name}")


def _entries(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.is_dir() and not folder.is_symlink() else []


def _names(root: Root) -> list[str]:
    folder = Path(root.path, FOLDER)
    whole = (name for name in _entries(folder) if NAME.fullmatch(name) and not (folder / name).is_symlink())
    return [name for name in whole if (folder / name).is_dir()][:MAX_SITES]


def _current(root: Root) -> set[str]:
    folder = os.path.join(root.path, FOLDER)
    links = (name for name in _entries(Path(folder)) if name.startswith("current-"))
    return {target for target in (target(os.path.join(folder, link)) for link in links) if target}


def _inside(folder: Path, name: str) -> Path:
    parts: Sequence[str] = name.split("/")
    if not name or len(name) > 255 or any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise AgentError("bad-file", "the packed site holds a name that leads out of it")
    return folder.joinpath(*parts)


def _write(stream: BinaryIO, path: Path, size: int) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except (FileExistsError, NotADirectoryError):
        raise AgentError("bad-file", "the packed site holds a name twice") from None
    with open(descriptor, "wb") as out:
        while size:
            chunk = _exactly(stream, min(size, 1 << 20))
            out.write(chunk)
            size -= len(chunk)


def _exactly(stream: BinaryIO, size: int) -> bytes:
    try:
        data = stream.read(size)
    except (OSError, EOFError, ValueError, zlib.error):
        raise AgentError("bad-file", "the packed site is not gzip, or cut short") from None
    if len(data) != size:
        raise AgentError("bad-file", "the packed site is cut short")
    return data
