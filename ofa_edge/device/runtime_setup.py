"""Bring a runtime to a device that has no pip and no network, prove it there, and take it away again.

In: a Link, a runtime's name, a Proof. Out: the device's agent uses the runtime without being told to. Rules kept: what
the device's own Python has is never replaced; a site is used only after it ran a model there with the host's outputs;
the second time nothing is sent; everything lies in our folder there.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_agents import wire
from ofa_edge.device.interpreters import probe
from ofa_edge.device.link import Link
from ofa_edge.device.opening import open_session
from ofa_edge.device.packing import Packed, packed
from ofa_edge.device.session import Session
from ofa_edge.device.sites import recipe
from ofa_edge.errors import OfaEdgeError, ProtocolError
from ofa_edge.limits import LIMITS, Limits

TOLERANCE = 1e-4
"""Greatest difference of an output on the device, over the largest output of the host."""

_MOST_SITES = 1000
_UNPACK_SECONDS = 600.0  # a hundred megabytes onto a slow SD card
_PROVE_SECONDS = 300.0  # the agent ends it before


@dataclass(frozen=True)
class Proof:
    """A model with an input and the outputs it must give; raw little-endian float32."""

    model: bytes
    inputs: bytes
    input_shape: tuple[int, ...]
    outputs: bytes
    output_shape: tuple[int, ...]


@dataclass(frozen=True)
class Ready:
    """A runtime that works on a device.

    Args:
        state: installed (now), 'already there' (from an earlier setup) or own (its Python's).
        site: the folder's name below <root>/sites, None for own.
        sha256: of the packed site.
        bytes_pushed: to the device.
        rel: greatest difference of the proof's outputs over the largest, None where nothing was run.
    """

    runtime: str
    version: str
    state: str
    site: str | None
    sha256: str | None
    bytes_pushed: int
    rel: float | None
    facts: wire.Facts


@dataclass(frozen=True)
class Removed:
    """What was taken off a device.

    Args:
        root: our folder there.
        removed: names in `root`, or in <root>/sites.
        kept: what is in `root` and not ours; known only where everything was to go.
    """

    root: str
    removed: tuple[str, ...]
    kept: tuple[str, ...] = ()


def setup(
    link: Link,
    runtime: str,
    proof: Callable[[], Proof],
    *,
    cache: Path,
    notify: Callable[[str], None] = lambda text: None,
    limits: Limits = LIMITS,
) -> Ready:
    """Make `runtime` work on the device of `link`, which stays open.

    Args:
        proof: makes the model that is run there; called only when something is installed.
        cache: packed sites on the host.
        notify: told a sentence at each step that takes a while.

    Raises:
        UsageError: nothing fits that device; the hint says what would.
        OfaEdgeError: the packages cannot be had, there is no room, or the runtime gave other outputs there.
        DeviceLost, ProtocolError: as every session.
    """
    interpreter = probe(link, limits=limits)
    wanted = recipe(link.name, runtime, interpreter)
    with open_session(link, limits=limits) as session:
        current = _current(session, runtime, wanted.tag)
        if current is None and runtime in session.facts.runtimes:
            version = session.facts.runtimes[runtime]
            return Ready(runtime, version, "own", None, None, 0, None, session.facts)
        site = packed(wanted, cache, notify)
        if current == site.name and runtime in session.facts.runtimes:
            version = session.facts.runtimes[runtime]
            return Ready(runtime, version, "already there", site.name, site.sha256, 0, None, session.facts)
        sent = _bring(session, site, notify)
        notify(f"proving {runtime} on {link.name}")
        try:
            rel = _prove(session, site, proof())
        except BaseException:
            with contextlib.suppress(OfaEdgeError):  # the link may be what failed
                session.call("site-drop", {"name": site.name})
            raise
        session.call("site-use", {"name": site.name})
    with open_session(link, limits=limits) as again:
        facts = again.facts
    if runtime not in facts.runtimes:
        raise OfaEdgeError(
            f"{link.name}: {runtime} ran a model there, but the agent does not find it",
            hint="`ofa-edge devices remove` and `devices setup` again",
        )
    return Ready(runtime, facts.runtimes[runtime], "installed", site.name, site.sha256, sent, rel, facts)


def remove(link: Link, runtime: str = "", *, everything: bool = False, limits: Limits = LIMITS) -> Removed:
    """Take sites off a device, or everything of ours.

    Args:
        runtime: '' for all.
        everything: apps with their releases, models and the agent too; never what lies outside our folder there.

    Raises:
        LockHeld: a deployment is going on there.
    """
    with open_session(link, limits=limits) as session:
        reply = session.call("wipe", {}) if everything else session.call("site-remove", {"runtime": runtime})
        try:
            f = wire.Fields("removed", reply)
            return Removed(session.root, _names(f, "removed"), _names(f, "kept") if f.has("kept") else ())
        except wire.WireError as error:
            raise ProtocolError(f"{link.name} does not say what it removed: {error}") from error


def _names(fields: wire.Fields, key: str) -> tuple[str, ...]:
    return tuple(wire.clean(str(item)) for item in fields.items(key, _MOST_SITES))


def sites_on(session: Session) -> dict[str, bool]:
    """The sites on a device, and whether each is the current one of its runtime."""
    try:
        f = wire.Fields("sites", session.call("sites", {}))
        entries = [wire.Fields("site", entry) for entry in f.items("sites", _MOST_SITES)]
        return {entry.text("name"): entry.flag("current") for entry in entries}
    except wire.WireError as error:
        raise ProtocolError(f"{session.link.name} does not say which sites it has: {error}") from error


def _current(session: Session, runtime: str, tag: str) -> str | None:
    found = (name for name, current in sites_on(session).items() if current)
    return next((name for name in found if name.startswith(f"{runtime}-") and f"-{tag}-" in name), None)


def _bring(session: Session, site: Packed, notify: Callable[[str], None]) -> int:
    """Push and unpack; bytes sent."""
    if site.name in sites_on(session):
        return 0
    sent = 0
    if session.missing([site.sha256]):
        _require_room(session, site)
        notify(f"sending {len(site.data) / 1e6:.0f} MB to {session.link.name}")
        sent = session.push({site.sha256: site.data})
    session.call("site-unpack", {"name": site.name, "sha256": site.sha256}, timeout=_UNPACK_SECONDS)
    return sent


def _require_room(session: Session, site: Packed) -> None:
    free = wire.Fields("space", session.call("space", {})).whole("free_bytes")
    need = site.unpacked_bytes + 2 * len(site.data)
    if free < need:
        raise OfaEdgeError(
            f"{session.link.name} has {free >> 20} MiB free in {session.root}, {site.recipe.runtime} needs "
            f"{need >> 20} MiB there",
            hint="make room there, or name another folder with --root",
        )


def _prove(session: Session, site: Packed, proof: Proof) -> float:
    """Run the model there with the new site; the relative difference.

    Raises:
        OfaEdgeError: it does not load, does not run, or gives other outputs.
    """
    blobs = {hashlib.sha256(data).hexdigest(): data for data in (proof.model, proof.inputs, proof.outputs)}
    session.push({sha256: blobs[sha256] for sha256 in session.missing(list(blobs))})
    model, inputs, outputs = (hashlib.sha256(data).hexdigest() for data in (proof.model, proof.inputs, proof.outputs))
    check: Mapping[str, Any] = {
        "model": model,
        "inputs": inputs,
        "outputs": outputs,
        "input_shape": list(proof.input_shape),
        "output_shape": list(proof.output_shape),
        "runtime": site.recipe.runtime,
        "threads": 1,
    }
    reply = session.call("site-prove", {"name": site.name, "check": check}, timeout=_PROVE_SECONDS)
    try:
        checked = wire.Checked.parse(reply)
    except wire.WireError as error:
        raise ProtocolError(f"{session.link.name} does not say how the proof went: {error}") from error
    if not checked.finite or checked.rel is None or checked.rel > TOLERANCE:
        off = "not finite" if checked.rel is None else f"off by {checked.rel:.2g} of the largest"
        raise OfaEdgeError(
            f"{session.link.name}: {site.recipe.runtime} {site.recipe.version} runs there, but its outputs are {off} "
            f"({TOLERANCE:g} is allowed); it was removed again",
            hint="its processor may lack what the package was built for; name a Python with its own build: --python",
        )
    return checked.rel
