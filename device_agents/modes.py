"""Which subnet of the current release the application is to use: read, and changed in one rename.

In: an App. Out: the mode in <root>/<app>/mode, one line of text, and a record in the journal. Rules kept:

- A missing or unreadable mode file, or a mode that the current manifest lacks, means the manifest's first one; so an
  application is right if it does the same, whichever release is current.
- The mode is changed only to one of the current release, by one rename; a reader sees the old line or the new one.
- No deployment lock is asked for: releases are not touched, and a device that runs hot must not wait for one. What
  the processes share (a temporary name, the journal) is kept apart by the lock file's flock.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import Any

from device_agents import history, lock
from device_agents.disk import chunks_of
from device_agents.errors import AgentError
from device_agents.releases import App
from device_agents.strict_json import WireError, loads

NAME = r"[a-z0-9][a-z0-9-]{0,31}"
MAX_MODES = 8
_MAX_LINE = 64


@dataclass(frozen=True)
class Running:
    """What a manifest and the mode file say: `mode` is None for a release without modes (manifest version 1)."""

    release: str
    modes: tuple[str, ...]
    mode: str | None
    counter: int


def read(app: App, release: str) -> Running:
    """The mode of a release, which is or was current; a manifest that cannot be read has none."""
    manifest: Any = {}
    with contextlib.suppress(AgentError, WireError, OSError):
        manifest = loads(app.manifest(release))
    manifest = manifest if isinstance(manifest, dict) else {}
    modes, counter = _names(manifest.get("modes")), manifest.get("counter")
    asked = _asked(app)
    return Running(
        release,
        modes,
        asked if asked in modes else modes[0] if modes else None,
        counter if isinstance(counter, int) and not isinstance(counter, bool) and counter > 0 else 0,
    )


def current(app: App) -> Running:
    """Raises AgentError where no release is current, or it has no modes."""
    release = app.current()
    if release is None:
        raise AgentError("refused", f"no release of {app.name} is current: deploy one first")
    running = read(app, release)
    if not running.modes:
        raise AgentError("refused", f"release {release} of {app.name} has no modes that can be read: deploy it again")
    return running


def change(app: App, mode: str, reason: str = "") -> dict[str, Any]:
    """Make `mode` the one to use, and write down why: {"mode", "previous"}. What is so already is not changed.

    Raises:
        AgentError: 'refused', the current release has no such mode.
    """
    running = current(app)
    if mode not in running.modes:
        has = ", ".join(running.modes)
        raise AgentError("refused", f"release {running.release} of {app.name} has no mode {mode!r}: it has {has}")
    if mode != running.mode or _asked(app) != mode:  # a default that is not written down would not outlast a release
        new = app.disk.temporary(app.mode_file)
        with lock.exclusive(app.lock):
            app.disk.remove(new)
            app.disk.write(new, (f"{mode}\n".encode("ascii"),))
            running = read(app, running.release)  # another process may have changed it since
            app.disk.rename(new, app.mode_file)
            if mode != running.mode:
                app.append_record(history.MODE, running.release, mode=mode, previous=running.mode, reason=reason)
    return {"mode": mode, "previous": running.mode}


def _asked(app: App) -> str | None:
    """The mode file's line; None where it holds none."""
    with contextlib.suppress(AgentError, OSError, UnicodeDecodeError):
        line = b"".join(chunks_of(app.mode_file, _MAX_LINE)).decode("ascii").strip()
        return line if re.fullmatch(NAME, line) else None
    return None


def _names(modes: Any) -> tuple[str, ...]:
    """The names in a manifest's `modes`; none where one of them is no name."""
    if not isinstance(modes, list) or len(modes) > MAX_MODES or not all(isinstance(mode, dict) for mode in modes):
        return ()
    names = [mode.get("name") for mode in modes]
    return tuple(names) if all(isinstance(name, str) and re.fullmatch(NAME, name) for name in names) else ()
