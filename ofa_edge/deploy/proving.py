"""Golden outputs of a bundle computed here, by the same agent, worker and comparison as on a device.

In: a Bundle and a session with this machine. Out: for each mode what came of it. Rules kept: the runtime loads the
models in a process of its own, since a model is a file of somebody's; a runtime that is not installed is said, not
passed over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from device_agents import wire
from ofa_edge.deploy.bundle import Bundle
from ofa_edge.deploy.manifest import Manifest, Mode
from ofa_edge.errors import DeviceLost, OfaEdgeError


class Device(Protocol):
    """What is needed of a session."""

    facts: wire.Facts

    def missing(self, sha256s: Sequence[str]) -> list[str]: ...

    def push(self, blobs: Mapping[str, bytes]) -> int: ...

    def check(self, args: Mapping[str, Any]) -> wire.Checked: ...


@dataclass(frozen=True, slots=True)
class Proof:
    """What running a mode's model gave.

    Attributes:
        rel: greatest difference from the golden outputs over the greatest of them; None where it did not run, or gave
            no finite numbers.
        not_run: why it was not run here, '' where it was.
        problem: what is wrong with it, '' where nothing is.
    """

    mode: Mode
    rel: float | None = None
    not_run: str = ""
    problem: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "mode": self.mode.name,
            "runtime": self.mode.runs.runtime,
            "precision": self.mode.runs.precision,
            "rel": self.rel,
            "tolerance": self.mode.golden.tolerance,
            "not_run": self.not_run or None,
            "problem": self.problem or None,
        }


def prove(device: Device, bundle: Bundle) -> list[Proof]:
    """Run each mode's model once. Raises DeviceLost where the agent went away."""
    blobs = bundle.blobs()
    device.push({sha256: blobs[sha256] for sha256 in device.missing(list(blobs))})
    return [_proof(device, bundle.manifest, mode) for mode in bundle.manifest.modes]


def _proof(device: Device, manifest: Manifest, mode: Mode) -> Proof:
    golden = mode.golden
    if mode.runs.runtime not in device.facts.runtimes:
        return Proof(mode, not_run=f"{mode.runs.runtime} is not installed here")
    args = {
        "model": manifest.file(mode.model).sha256,
        "inputs": manifest.file(golden.input).sha256,
        "input_shape": list(golden.input_shape),
        "outputs": manifest.file(golden.output).sha256,
        "output_shape": list(golden.output_shape),
        "runtime": mode.runs.runtime,
        "threads": 1,
    }
    try:
        found = device.check(args)
    except DeviceLost:
        raise
    except OfaEdgeError as error:
        return Proof(mode, problem=f"{mode.model} does not run: {error.message}")
    if found.rel is None:
        return Proof(mode, problem=f"outputs of {mode.model} are not finite")
    if found.rel > golden.tolerance:
        off = f"{found.rel:.2g} of the largest, {golden.tolerance:g} is allowed"
        return Proof(mode, found.rel, problem=f"outputs of {mode.model} differ from the golden ones by {off}")
    return Proof(mode, found.rel)
