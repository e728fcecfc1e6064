"""The mode of a device: which subnet of its current release the application uses.

In: a session with a device's agent, an app, a mode's name. Out: a Change, or the error that says why not. Rules kept:
only a mode of the current release can be set; the device writes it in one rename and into its journal, and needs no
lock for it, so that a device that runs hot waits for nobody.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from device_agents import wire
from ofa_edge.deploy.device_state import parse_state
from ofa_edge.deploy.manifest import MODE_NAME, Mode, parse_manifest
from ofa_edge.errors import DeploymentRefused, ProtocolError


class Device(Protocol):
    """What modes need of a session with a device's agent."""

    facts: wire.Facts

    def call(self, op: str, args: Mapping[str, Any], *, timeout: float | None = None) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Change:
    """`previous` is the mode before; `seconds` is the whole request, the link's way included."""

    app: str
    release: str
    mode: str
    previous: str | None
    modes: tuple[str, ...]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The keys of `ofa-edge mode set --json`."""
        return {**asdict(self), "modes": list(self.modes)}


@dataclass(frozen=True, slots=True)
class Modes:
    """The modes of the current release, the default first, and the one in use."""

    app: str
    release: str
    mode: str
    modes: tuple[Mode, ...]

    def as_json(self) -> dict[str, Any]:
        """The keys of `ofa-edge mode show --json`."""
        return {"app": self.app, "release": self.release, "mode": self.mode, "modes": [*map(_described, self.modes)]}


def show(device: Device, app: str, *, host: str = "the device") -> Modes:
    """Raises DeploymentRefused where nothing is current, or it is damaged; ProtocolError; BadFile for its manifest."""
    reply = device.call("status", {"app": app})
    text = reply.pop("manifest", None)
    reply.pop("journal", None)
    state = parse_state(reply, device.facts)
    if not text or state.current is None or state.mode is None:
        problem = state.needs_hands or state.problem or f"no release of {app} is current"
        raise DeploymentRefused(f"{host}: {problem}", hint="deploy one first")
    modes = parse_manifest(str(text).encode(), "the device's manifest").modes
    return Modes(app, state.current, state.mode, modes)


def change(device: Device, app: str, mode: str, *, host: str = "the device") -> Change:
    """Make a mode of the current release the one to use.

    Raises:
        DeploymentRefused: nothing is current, or it has no such mode; as `show`.
    """
    there = show(device, app, host=host)
    names = tuple(one.name for one in there.modes)
    if mode not in names:
        raise DeploymentRefused(
            f"{host}: release {there.release} of {app} has no mode {mode[:80]!r}", hint=f"it has {', '.join(names)}"
        )
    began = time.monotonic()
    reply = device.call("mode", {"app": app, "mode": mode})
    took = time.monotonic() - began
    try:
        f = wire.Fields("mode", reply)
        previous = f.text("previous", MODE_NAME) if f.maybe("previous") else None
        return Change(app, there.release, f.text("mode", MODE_NAME), previous, names, round(took, 4))
    except wire.WireError as error:
        raise ProtocolError(f"the device's answer to 'mode' is none: {error}") from error


def _described(mode: Mode) -> dict[str, Any]:
    return {
        "name": mode.name,
        "resolution": mode.input.resolution,
        "top1": mode.top1,
        "predicted_ms": mode.predicted.value if mode.predicted else None,
        "budget_ms": mode.budget.latency_ms,
        "budget_p90_ms": mode.budget.p90_ms,
        "runtime": mode.runs.runtime,
        "precision": mode.runs.precision,
        "threads": mode.runs.threads,
    }
