"""Which releases, blobs and leftovers go, and which blobs come back.

In: an App with its lock held, or the agent's Root. Out: what was removed. Rules kept: the current and the previous
release stay, and those of a deployment that has not ended; a blob goes only with the last release that was made of it;
a transfer goes only where nobody has continued it for a while.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Sequence
from typing import Any

from device_agents.disk import Disk, chunks_of
from device_agents.errors import AgentError
from device_agents.history import NAME
from device_agents.releases import App, parse_manifest
from device_agents.root import RESERVED, Root
from device_agents.strict_json import WireError

ABANDONED_SECONDS = 600.0
"""A transfer that grew by nothing for so long is nobody's; the host gives one up after a minute."""

_Object = dict[str, Any]


def prune(app: App) -> _Object:
    """Remove all releases but the current and the previous one, the blobs that only they used, transfers given up."""
    past, current = app.history(), app.current()
    keep = {current, past.before(current)}
    if past.unfinished:
        keep |= {past.unfinished.release, past.unfinished.origin}
    gone = [name for name in app.names() if name not in keep]
    blobs = _blobs(app, gone)
    for name in gone:
        trash = app.releases / f".trash-{name}"  # so that half a release never has a release's name
        app.disk.remove(trash)
        app.disk.rename(app.release(name), trash)
        app.disk.remove(trash)
    for sha256 in sorted(blobs - _used_blobs(app.disk)):
        app.disk.remove(app.disk.blob(sha256))
    app.disk.sweep(ABANDONED_SECONDS)
    return {"removed": gone}


def discard(root: Root, sha256s: Sequence[str]) -> int:
    """Remove those blobs, but for what releases were made of; how many were there."""
    used = _used_blobs(Disk.of(root))
    return root.discard([sha256 for sha256 in sha256s if sha256 not in used])


def share(app: App, release: str) -> _Object:
    """Put a release's files back among the blobs, where the agent's `check` and `measure` find models."""
    for entry in app.checked(release, app.release(release)):
        blob = app.disk.blob(entry.sha256)
        if not os.path.lexists(blob):
            part = blob.with_name(f"{entry.sha256}.{os.getpid()}.part")
            app.disk.remove(part)
            app.disk.write(part, chunks_of(app.release(release) / entry.name, entry.size))
            app.disk.rename(part, blob)
    return {}


def _blobs(app: App, names: list[str]) -> set[str]:
    """Blobs that releases were made of, manifests and signatures included; damaged manifests name none."""
    found: set[str] = set()
    for name in names:
        with contextlib.suppress(AgentError, WireError, OSError):
            data = app.manifest(name)
            found |= {entry.sha256 for entry in parse_manifest(data, name, app.name)}
            found.add(hashlib.sha256(data).hexdigest())
            if (signature := app.signature_sha256(name)) is not None:
                found.add(signature)
    return found


def _used_blobs(disk: Disk) -> set[str]:
    used: set[str] = set()
    for entry in os.scandir(disk.path):
        if re.fullmatch(NAME, entry.name) and entry.name not in RESERVED and entry.is_dir(follow_symlinks=False):
            app = App(disk, entry.name)
            with contextlib.suppress(AgentError):
                used |= _blobs(app, app.names())
    return used
