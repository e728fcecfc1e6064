"""Releases on a device: the ops by which a host replaces one and can always go back.

In: the agent's Root and the fields of a request. Out: JSON objects; AgentError where the device says no.
releases.py says how an app's folder is laid out, history.py what its journal means, pruning.py what is removed.

The rules of the state machine:
1. A release gets its name only after all its bytes are on the disk and were hashed there.
2. What is about to happen is in the journal, synced, before it happens. `current` moves in one rename, only
   to a whole release, and only for the deployment that has begun.
3. `committed` is written only while `current` is the release it names.
4. Whatever was interrupted, `recover` ends: staging is removed, and `current` is again what it was at
   `begin`. If that release is damaged and the new one is whole, the new one stays: old or new, never neither.
5. All ops that change anything need the lock (but `mode`, which does not touch releases), and may be repeated: the
   second time changes nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable

from device_agents import history, hooks, lock, modes, pruning
from device_agents.disk import Disk, chunks_of, folder_exists, hashed, require_folder
from device_agents.errors import AgentError
from device_agents.history import NAME
from device_agents.releases import MANIFEST, MAX_MANIFEST, MAX_SIGNATURE, SIGNATURE, App, FileEntry, parse_manifest
from device_agents.root import MAX_BLOB, Root, sync_folder
from device_agents.strict_json import Fields, WireError

JOURNAL_SHOWN = 20
MAX_REASON = 1000
MAX_FACTS = 16

_Object = dict[str, Any]


# -- ops that only read ---------------------------------------------------------------------------


def state(app: App) -> _Object:
    """What a host plans with. `needs_hands` tells why nothing can be done, '' where all is well; `mode` and `counter`
    are those of the current release, null and 0 where it has none or is damaged; `signature` is the sha256 of that of
    the release that is current once what is unfinished has been put back."""
    out: _Object = {
        "app": app.name,
        "current": None,
        "problem": "",
        "previous": None,
        "committed": None,
        "unfinished": None,
        "trials": {},
        "mode": None,
        "counter": 0,
        "signature": None,
        "needs_hands": "",
        "releases": app.names(),
        "free_bytes": app.disk.free_bytes,
        "lock": None,
    }
    holder = lock.holder(app.lock)
    if holder is not None:
        out["lock"] = holder.as_json(app.disk)
    try:
        out["current"] = current = app.current()
        past = app.history()
    except AgentError as error:
        out["needs_hands"] = error.message
        return out
    out["problem"] = app.problem(current) if current else ""
    if current and not out["problem"]:
        running = modes.read(app, current)
        out["mode"], out["counter"] = running.mode, running.counter
    if settled := past.unfinished.origin if past.unfinished else current:
        out["signature"] = app.signature_sha256(settled)
    out["previous"] = past.before(current)
    out["committed"] = past.committed
    out["unfinished"] = past.unfinished.as_json() if past.unfinished else None
    out["trials"] = past.trials
    return out


def status(app: App) -> _Object:
    """State, and what a person wants to see with it: the newest journal records and the current manifest."""
    out = state(app)
    out["journal"] = [] if out["needs_hands"] else app.records()[-JOURNAL_SHOWN:]
    whole = out["current"] and not out["problem"] and not out["needs_hands"]
    out["manifest"] = app.manifest(out["current"]).decode() if whole else None
    return out


def verify(app: App, release: str) -> _Object:
    """Hash a release's files where they lie: {"problem": ''} where they are what they should be."""
    return {"problem": app.problem(release)}


def manifest(app: App, release: str) -> _Object:
    """The text of a release's manifest, after its files were checked; and of its signature, unchecked, or null."""
    if problem := app.problem(release):
        raise AgentError("bad-file", problem)
    signature = app.signature(release)
    text = None if signature is None else signature.decode("utf-8", "replace")
    return {"manifest": app.manifest(release).decode(), "signature": text}


# -- ops that change something --------------------------------------------------------------------


def take_lock(app: App, holder: str) -> _Object:
    """Hold the app's lock; makes its folders. Tells whose it was, where a dead holder left it."""
    app.disk.make_folder(app.folder)
    app.disk.make_folder(app.releases)
    dead = lock.take(app.disk, app.lock, holder)
    _point_at_this_agent(app.disk)
    return {"taken_over": dead.name if dead else None}


def unlock(app: App) -> _Object:
    return {"released": lock.release(app.disk, app.lock)}


def begin(app: App, release: str, kind: str) -> _Object:
    """Open a deployment (or a rollback): from here on `recover` comes back to what is current now."""
    records = app.records()
    if _is(history.last(records), history.BEGIN, release):
        return {}
    if half := history.read(records).unfinished:
        raise AgentError("refused", f"the deployment of {half.release} has not ended: recover first")
    app.write_journal(history.BEGIN, release, kind=kind, **{"from": app.current()})
    return {}


def stage(app: App, release: str, manifest: str, signature: str | None) -> _Object:
    """Make a release out of blobs: copied, hashed and synced under another name, then renamed.

    A release of this name that is there and whole stays; one that is damaged is repaired file by file, each
    replaced by a rename, so that an application that reads it meanwhile is never worse off. So is a signature that
    is new or another one (which the journal tells); without one that is there stays.
    """
    target, staging = app.release(release), app.releases / f".staging-{release}"
    if folder_exists(staging):
        app.disk.remove(staging)
    entries = []
    if not folder_exists(target) or app.problem(release):
        data = b"".join(chunks_of(app.disk.blob(manifest), MAX_MANIFEST))
        if hashlib.sha256(data).hexdigest() != manifest:
            app.disk.remove(app.disk.blob(manifest))
            raise AgentError("bad-file", f"{MANIFEST} was damaged on the device and has been removed: deploy again")
        entries = [FileEntry(MANIFEST, manifest, len(data)), *parse_manifest(data, release, app.name)]
    if signature is not None and (entries or app.signature_sha256(release) != signature):
        size = sum(map(len, chunks_of(app.disk.blob(signature), MAX_SIGNATURE)))
        entries.append(FileEntry(SIGNATURE, signature, size))
    if not entries:
        return {"staged": False}
    app.disk.make_folder(staging)
    for entry in entries:
        _copy_blob(app.disk, entry, staging / entry.name)
    if entries[0].name == MANIFEST and (problem := app.problem(release, staging)):
        raise AgentError("bad-file", problem)
    sync_folder(staging)  # the files' names, which the rename of their folder does not bring to the disk
    if not folder_exists(target):
        app.disk.rename(staging, target)
        return {"staged": True}
    if entries[0].name == SIGNATURE:
        app.write_journal(history.SIGNED, release, signature=signature)
    for entry in entries:
        app.disk.rename(staging / entry.name, target / entry.name)
    app.disk.remove(staging)
    return {"staged": True}


def trial(app: App, release: str) -> _Object:
    """Record that the release is about to be tried: if the device dies of it, the journal knows."""
    if _unfinished(app.history(), release).step != history.TRIAL:
        app.write_journal(history.TRIAL, release)
    return {}


def switch(app: App, release: str) -> _Object:
    """Point `current` at the release that was begun, after recording that this is about to happen."""
    half = _unfinished(app.history(), release)
    if problem := app.problem(release):
        raise AgentError("bad-file", problem)
    if half.step != history.SWITCHING:
        app.write_journal(history.SWITCHING, release)
    if app.current() != release:
        app.disk.point(app.link, f"releases/{release}")
    return {}


def commit(app: App, release: str, facts: _Object) -> _Object:
    """End the deployment well; `facts` are the figures that `status` shows beside it."""
    records = app.records()
    if _is(history.last(records), history.COMMITTED, release):
        return {}
    past = history.read(records)
    half, current = _unfinished(past, release), app.current()
    if current != release:
        raise AgentError("refused", f"{release} cannot be committed: current is {current}")
    previous = half.origin if half.origin != release else past.previous
    app.write_journal(history.COMMITTED, release, previous=previous, kind=half.kind, facts=facts)
    return {}


def refuse(app: App, release: str, reason: str) -> _Object:
    """Record that a deployment was refused before it began."""
    app.write_journal(history.REFUSED, release, reason=reason)
    return {}


def recover(app: App, reason: str, blame: bool, facts: _Object) -> _Object:
    """End an unfinished deployment, whoever's it was, and sweep up after it.

    Also how a host that found something wrong goes back. `blame` is false where that was not the release's
    fault. `recovered` is null where nothing was unfinished; `switched` tells that an application may have opened the
    release meanwhile.
    """
    _sweep(app)
    past = app.history()
    half = past.unfinished
    if half is None:
        return {"recovered": None}
    event, current = history.ROLLED_BACK, app.current()
    if current != half.origin:
        if half.origin is None:
            app.disk.remove(app.link)
        elif not (damage := app.problem(half.origin)):
            app.disk.point(app.link, f"releases/{half.origin}")
        elif current == half.release and not app.problem(current):
            event, reason = history.COMMITTED, f"{reason}; kept, because {damage}"
        else:
            raise AgentError("needs-hands", f"{current} cannot stay ({reason}) and {damage}")
    note = {"previous": half.origin, "kind": half.kind, "reason": reason, "blame": blame, "facts": facts}
    app.write_journal(event, half.release, **note)
    switched = half.step == history.SWITCHING
    found = {"release": half.release, "from": half.origin, "event": event, "switched": switched, "reason": reason}
    return {"recovered": found}


# -- helpers --------------------------------------------------------------------------------------


def _is(record: Mapping[str, Any], event: str, release: str) -> bool:
    return record.get("event") == event and record.get("release") == release


def _point_at_this_agent(disk: Disk) -> None:
    """Let <root>/agent/agent.pyz be the agent that deploys: what people and timers start on the device itself."""
    shipped = Path(__file__).parents[1]
    link = shipped.with_name("agent.pyz")
    ours = shipped.parent == Path(disk.path, "agent") and re.fullmatch(r"[0-9a-f]{64}\.pyz", shipped.name)
    if ours and not (link.is_symlink() and os.readlink(link) == shipped.name):
        with contextlib.suppress(FileExistsError, FileNotFoundError):  # another agent does the same just now
            disk.point(link, shipped.name)


def _unfinished(past: history.History, release: str) -> history.Unfinished:
    if past.unfinished is None or past.unfinished.release != release:
        raise AgentError("refused", f"no deployment of {release} has begun")
    return past.unfinished


def _copy_blob(disk: Disk, entry: FileEntry, target: Path) -> None:
    """Copy and hash; a blob that is damaged is removed, so that the next upload sends it again."""
    blob, digest = disk.blob(entry.sha256), hashlib.sha256()
    disk.write(target, hashed(chunks_of(blob, MAX_BLOB), digest))
    if digest.hexdigest() != entry.sha256 or target.stat().st_size != entry.size:
        disk.remove(blob)
        raise AgentError("bad-file", f"{entry.name} was damaged on the device and has been removed: deploy again")


def _sweep(app: App) -> None:
    """Remove what an interrupted op left: names that start with a dot are never releases, and those of changes."""
    require_folder(app.folder)
    require_folder(app.releases)
    for entry in list(os.scandir(app.releases)):
        if entry.name.startswith(".staging-"):
            require_folder(Path(entry.path))  # a link there is somebody's trick: not even removed
        if entry.name.startswith("."):
            app.disk.remove(Path(entry.path))
    with lock.exclusive(app.lock):  # a mode may be changing just now
        for path in (app.link, app.mode_file, app.journal):  # all else here is the user's
            app.disk.remove(app.disk.temporary(path))


# -- the table ------------------------------------------------------------------------------------

_FIELDS: dict[str, Callable[[Fields], Any]] = {
    "release": lambda f: f.text("release", NAME),
    "manifest": lambda f: f.sha256("manifest"),
    "signature": lambda f: f.sha256("signature") if f.has("signature") and f.maybe("signature") else None,
    "holder": lambda f: f.text("holder", limit=200),
    "kind": lambda f: f.text("kind", "deploy|rollback"),
    "reason": lambda f: f.text("reason", limit=MAX_REASON),
    "blame": lambda f: f.flag("blame"),
    "facts": lambda f: _facts(f.take("facts")),
    "mode": lambda f: f.text("mode", modes.NAME),
    "hook": lambda f: f.text("kind", "post-switch|health"),
    "argv": lambda f: hooks.arguments(f.items("argv", hooks.MAX_ARGUMENTS)),
    "timeout_s": lambda f: f.number("timeout_s", 0.01, hooks.MAX_SECONDS),
}


def _facts(facts: Any) -> _Object:
    """Figures a host wants beside the end of a deployment: a few plain values."""
    if not isinstance(facts, Mapping) or len(facts) > MAX_FACTS:
        raise WireError(f"facts must be an object of at most {MAX_FACTS} values")
    for key, value in facts.items():
        if not isinstance(value, (str, int, float, type(None))) or len(key) + len(str(value)) > MAX_REASON:
            raise WireError(f"the fact {key[:40]!r} is not a plain value")
    return dict(facts)


def _op(action: Callable[..., _Object], fields: tuple[str, ...], locked: bool) -> Callable[[Root, _Object], _Object]:
    """An action with its arguments checked, before which the lock is asked for, and its errors made the wire's."""

    def op(root: Root, args: _Object) -> _Object:
        try:
            f = Fields("args", args)
            app = App.parse(Disk.of(root), f)
            values = {name: _FIELDS[name](f) for name in fields}
            f.done()
            if locked:
                lock.require(app.disk, app.lock)
            return action(app, **values)
        except WireError as error:
            raise AgentError("usage", str(error)) from error
        except OSError as error:
            raise AgentError.of(error) from error

    return op


OPS: dict[str, Callable[[Root, _Object], _Object]] = {
    "state": _op(state, (), locked=False),
    "status": _op(status, (), locked=False),
    "verify": _op(verify, ("release",), locked=False),
    "manifest": _op(manifest, ("release",), locked=False),
    "lock": _op(take_lock, ("holder",), locked=False),
    "unlock": _op(unlock, (), locked=False),
    "begin": _op(begin, ("release", "kind"), locked=True),
    "stage": _op(stage, ("release", "manifest", "signature"), locked=True),
    "trial": _op(trial, ("release",), locked=True),
    "switch": _op(switch, ("release",), locked=True),
    "commit": _op(commit, ("release", "facts"), locked=True),
    "refuse": _op(refuse, ("release", "reason"), locked=True),
    "recover": _op(recover, ("reason", "blame", "facts"), locked=True),
    "hook": _op(hooks.hook, ("release", "hook", "argv", "timeout_s"), locked=True),
    "mode": _op(modes.change, ("mode",), locked=False),
    "prune": _op(pruning.prune, (), locked=True),
    "share": _op(pruning.share, ("release",), locked=True),
}
"""What the supervisor dispatches to, besides its own ops. Every op takes `app`, and the fields named here (`hook` is on
the wire `kind`; `signature` may be left out)."""
