"""The state of a training run on disk: written whole or not at all, and only ever gone on with as the same run.

In: where a run stands. Out: a file, and the same values back. Rule kept: nothing in the file is executed or unpickled
into objects.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ofa_edge.errors import BadFile, OfaEdgeError, UsageError
from ofa_edge.files import write_whole

STATE_FILE = "state.pt"

# Of the recipes' rules and of this file's keys: a run of another version would go on by other rules.
STATE_VERSION = 2


@dataclass(frozen=True, slots=True)
class PhaseResult:
    """What a phase did: seconds of its own, and held-out top-1 (0..1) of the largest and smallest subnet at its end."""

    name: str
    epochs: int
    seconds: float
    top1: dict[str, float]


@dataclass(slots=True)
class Position:
    """Where training stands: the next step to take, and the results of the phases behind it."""

    phase: int = 0
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    results: list[PhaseResult] = field(default_factory=list)


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write the state beside the last one and rename it over, so that a kill leaves one of the two.

    Raises:
        OfaEdgeError: it cannot be written; the last one stands.
    """
    content = io.BytesIO()
    torch.save({"version": STATE_VERSION, **state}, content)
    try:
        write_whole(folder / STATE_FILE, content.getvalue())
    except OSError as error:
        raise OfaEdgeError(
            f"cannot write the run's state to {folder}: {error.strerror}",
            hint="make room there, then go on with --resume",
        ) from error


def read_state(folder: Path, identity: Mapping[str, object], origin: str) -> dict[str, Any]:
    """The state in `folder`, which must be of a run with this identity, begun with weights of this origin.

    Raises:
        UsageError: there is none, or it belongs to another run.
        BadFile: it is damaged, or of another version.
    """
    path = folder / STATE_FILE
    if not path.exists():
        raise UsageError(f"there is no checkpoint in {folder}", hint="leave --resume out to start a new run")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        version, theirs = state.get("version"), dict(state["identity"])
        theirs["from"], state["position"] = state.get("origin"), dict(state["position"])
    except Exception as error:  # damaged bytes end in any of a dozen types
        raise BadFile(f"{path} is damaged: {str(error)[:300]}", hint="start another run") from error
    if version != STATE_VERSION:
        raise BadFile(
            f"{path} was written by an ofa-edge whose recipes had other rules (state {version}, not {STATE_VERSION})",
            hint="finish it with that version, or start another run",
        )
    ours = {**identity, "from": origin}
    if different := [key for key in ours if ours[key] != theirs.get(key)]:
        key = different[0]
        raise UsageError(
            f"{path} is of another run: {key} was {theirs.get(key)!r:.200}, now {ours[key]!r:.200}",
            hint="give the same options and data, or another --out",
        )
    return state


def position_of(state: Mapping[str, Any]) -> Position:
    """Where the run stood when the state was written."""
    stored = dict(state["position"])
    results = [PhaseResult(**result) for result in stored.pop("results")]
    return Position(**stored, results=results)
