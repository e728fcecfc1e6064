"""Under what a latency was measured: what must be equal, what is only recorded, and the header of a table.

In: facts of a device and the settings of a campaign. Out: pydantic values that are a table's first line.
Rules kept: two tables merge, and a table is used on a device, only where the Conditions are equal; an error
names the key and both values; 'unknown' (imported tables) is equal to anything only when that is asked for.
Provenance is never compared. Fields of a later minor version are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from device_agents import wire
from ofa_edge.errors import BadFile, UsageError

UNKNOWN = "unknown"
# What a device does not tell about itself (a virtual machine has no governor) is a value like any other: a
# table measured there must match the same device again. Only imported tables hold UNKNOWN.
UNTOLD = "untold"

# Values of Conditions.thermal.
BURST, SUSTAINED = "burst", "sustained"

# Version of the way a number is made (warm-up, batches, statistic, anchor): docs/how-the-numbers-are-made.
METHOD = 1

# What a runtime hands its operators to; a table says it because a runtime without its delegate is another runtime.
DELEGATES = {"litert": "xnnpack"}

# Values of Conditions.precision that can be measured; int8 is static, a scale a channel for weights.
PRECISIONS = ("fp32", "int8")

# Runtimes that the base install lacks -> the extra that brings them.
EXTRAS = {"litert": "litert"}

_Text = Annotated[str, Field(min_length=1, max_length=200)]
_Count = Annotated[int, Field(ge=1, le=4096)]
_Unknown = Literal["unknown"]  # UNKNOWN, where a value is no text


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow", strict=True, protected_namespaces=())


class Conditions(_Value):
    """What a latency depends on besides the block.

    `cores` is the CPU numbers the worker may use. `thermal` is burst (measured as the device was found) or sustained
    (kept busy until its speed was steady).
    """

    device_model: _Text
    soc: _Text
    runtime: _Text
    runtime_version: _Text
    delegate: _Text
    threads: _Count | _Unknown
    cores: list[int] | _Text
    governor: _Text
    precision: _Text
    batch: _Count | _Unknown
    emulated: bool | _Unknown
    method: int | _Unknown
    thermal: _Text = BURST


class Provenance(_Value):
    """Where a table came from, for people; `created` is UTC, ISO 8601."""

    created: _Text
    tool: _Text
    serial: str = UNKNOWN
    boot_id: str = UNKNOWN
    kernel: str = UNKNOWN
    machine: str = UNKNOWN
    python: str = UNKNOWN
    agent: str = UNKNOWN


class PlanSettings(_Value):
    """Everything the plan was drawn from, so that a resumed campaign draws the same one (see plan.py).

    `predictor` is blocks (single blocks are measured, networks calibrate their sum) or network (only whole networks
    are measured). `prior` is the sha256 of the table that a campaign starts from, of another device or unit.
    """

    seed: Annotated[int, Field(ge=0)]
    quick: bool
    networks: Annotated[int, Field(ge=0, le=10_000)]
    holdout: Annotated[int, Field(ge=0, le=10_000)] = 0
    predictor: Literal["blocks", "network"] = "blocks"
    prior: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None


class Prior(_Value):
    """What a table keeps of the one it was started from, whose block values it holds as `predicted` rows.

    `kind` is transfer (another device, or other conditions) or unit (the same conditions: another unit of the model,
    or the same one later). Times are ms, `residual` and spreads relative. The prior's networks are predicted as
    `offset_ms` plus the sum of their blocks, with `residual` from a fit of `degrees` degrees of freedom.
    """

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    kind: Literal["transfer", "unit"]
    conditions: Conditions
    provenance: Provenance
    offset_ms: float
    residual: Annotated[float, Field(ge=0)] | None = None
    degrees: Annotated[int, Field(ge=0)] = 0
    reference_ms: Annotated[float, Field(gt=0)] | None = None
    reference_error: Annotated[float, Field(ge=0)] = 0.0
    sentinel: str | None = None
    sentinel_ms: Annotated[float, Field(gt=0)] | None = None
    sentinel_error: Annotated[float, Field(ge=0)] = 0.0


class Header(_Value):
    """A latency table's first line, without the journal's own fields."""

    conditions: Conditions
    provenance: Provenance
    space: _Text
    definition: dict[str, Any] | None = None  # of a space of one's own
    resolutions: Annotated[list[Annotated[int, Field(ge=1, le=65_536)]], Field(min_length=1)]
    plan: PlanSettings
    prior: Prior | None = None  # the table that this one was started from

    def as_json(self) -> dict[str, Any]:
        """Without the fields that most tables do not have."""
        value = self.model_dump(mode="json")
        return {key: v for key, v in value.items() if v is not None or key not in ("definition", "prior")}


class Mismatch(NamedTuple):
    """One condition that differs: its key, and its value on either side."""

    key: str
    left: Any
    right: Any

    def __str__(self) -> str:
        return f"{self.key}: {self.left!r} and {self.right!r}"


@dataclass(frozen=True, slots=True)
class RunsOn:
    """How a model is run on a device, as a user says it; `cores` None is all that the device gives."""

    runtime: str = "onnxruntime"
    threads: int = 1
    cores: tuple[int, ...] | None = None
    precision: str = "fp32"
    thermal: str = BURST


def conditions(facts: wire.Facts, runs_on: RunsOn) -> Conditions:
    """The conditions of measurements on a device with these facts.

    Raises:
        UsageError: the device has no such runtime, or not those cores.
    """
    version = facts.runtimes.get(runs_on.runtime)
    if version is None:
        raise UsageError(
            f"{facts.device_model} has no runtime {runs_on.runtime!r}",
            hint=f"it has: {', '.join(sorted(facts.runtimes)) or 'none'}; {_getting(runs_on.runtime)}",
        )
    if runs_on.cores is not None and (absent := set(runs_on.cores) - set(facts.core_mask)):
        raise UsageError(
            f"{facts.device_model} does not let the agent use core {min(absent)}",
            hint=f"choose from {list(facts.core_mask)}",
        )
    return Conditions(
        device_model=_told(facts.device_model),
        soc=_told(facts.soc),
        runtime=runs_on.runtime,
        runtime_version=_told(version),
        delegate=DELEGATES.get(runs_on.runtime, "none"),
        threads=runs_on.threads,
        cores=sorted(facts.core_mask if runs_on.cores is None else set(runs_on.cores)),
        governor=_told(facts.governor),
        precision=runs_on.precision,
        batch=1,
        emulated=facts.emulated,
        method=METHOD,
        thermal=runs_on.thermal,
    )


def _getting(runtime: str) -> str:
    here = f"; to this machine also `pip install 'ofa-edge[{EXTRAS[runtime]}]'`" if runtime in EXTRAS else ""
    named = f" --runtime {runtime}" if runtime in EXTRAS else ""
    return f"`ofa-edge devices setup HOST{named}` brings it{here}"


def _told(value: str) -> str:
    return UNTOLD if value in ("", UNKNOWN) else value


def unknown_conditions(found: Conditions) -> list[str]:
    """The keys that are not known, as of an imported table; in the order of the fields."""
    return [name for name in Conditions.model_fields if getattr(found, name) == UNKNOWN]


def mismatches(left: Conditions, right: Conditions, *, accept_unknown: bool = False) -> list[Mismatch]:
    """The keys in which two conditions differ, in the order of the fields; empty where they match.

    'unknown' differs from everything, itself included, unless `accept_unknown`.
    """
    found = []
    for key in Conditions.model_fields:
        a, b = getattr(left, key), getattr(right, key)
        if UNKNOWN in (a, b):
            if not accept_unknown:
                found.append(Mismatch(key, a, b))
        elif a != b:
            found.append(Mismatch(key, a, b))
    return found


def require_match(left: Conditions, right: Conditions, *, names: Sequence[str], accept_unknown: bool = False) -> None:
    """Raises BadFile, naming every key and both values, where `left` and `right` (called `names`) differ."""
    found = mismatches(left, right, accept_unknown=accept_unknown)
    if not found:
        return
    only_unknown = all(UNKNOWN in (m.left, m.right) for m in found)
    raise BadFile(
        f"{names[0]} and {names[1]} were not measured under the same conditions: {'; '.join(map(str, found))}",
        hint="pass --accept-unknown to trust it"
        if only_unknown
        else "measure a table under these conditions with `ofa-edge profile`",
        details={"mismatches": [m._asdict() for m in found]},
    )
