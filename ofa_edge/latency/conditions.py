"""Under what a latency was measured: what must be equal, what is only recorded, and the header of a table.

In: facts of a device and the settings of a campaign. Out: pydantic values that are a table's first line.
Rules kept: two tables merge, and a table is used on a device, only where the Conditions are equal; an error
names the key and both values; 'unknown' (imported tables) is equal to anything only when that is asked for.
Provenance is never compared. Fields of a later minor version are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

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
# Those that change what a network answers, and so its accuracy.
LOSSY = ("int8",)

# Values of Conditions.activations: the type that activations have between the operators of a lossy precision, FLOAT
# for every other one.
FLOAT = "float"
ACTIVATIONS = ("uint8", "int8")
Activations = Literal["uint8", "int8"]

# What tells one device from another; the other conditions say how models are run on it.
DEVICE = ("device_model", "soc", "governor", "batch", "emulated", "method", "thermal")

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
    (kept busy until its speed was steady). `activations` is written only where it is not what `untold_activations`
    says, as it is in every table from before it was a condition.
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
    activations: _Text = FLOAT

    @model_validator(mode="before")
    @classmethod
    def _usual(cls, value: Any) -> Any:
        if isinstance(value, dict) and "activations" not in value:
            return value | {"activations": untold_activations(value.get("runtime"), value.get("precision"))}
        return value

    @model_serializer(mode="wrap")
    def _without_the_usual(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        value: dict[str, Any] = handler(self)
        if self.activations == untold_activations(self.runtime, self.precision):
            value.pop("activations", None)
        return value

    @property
    def lossy(self) -> bool:
        """Whether networks run so answer otherwise than in float: accuracies measured in float are not theirs."""
        return self.precision in LOSSY

    @property
    def runs_on(self) -> RunsOn | None:
        """How models were run; None where that is not known."""
        told = (self.runtime, self.threads, self.cores, self.precision)
        if UNKNOWN in told or isinstance(self.cores, str) or isinstance(self.threads, str):
            return None
        activations: Activations | None = None
        if self.lossy and self.activations in ACTIVATIONS:
            activations = "uint8" if self.activations == "uint8" else "int8"
        return RunsOn(self.runtime, self.threads, tuple(self.cores), self.precision, self.thermal, activations)

    @property
    def deployed_on(self) -> RunsOn | None:
        """How a subnet is run that was chosen by such a table: as networks were, but nobody heats the device first."""
        found = self.runs_on
        return None if found is None else replace(found, thermal=BURST)


def untold_activations(runtime: Any, precision: Any) -> str:
    """Of tables that do not say: ONNX Runtime's int8 files had uint8 activations, the others have int8."""
    if precision not in LOSSY:
        return FLOAT
    return "uint8" if runtime == "onnxruntime" else "int8"


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
    """How a model is run on a device, as a user says it; `cores` None is all that the device gives, `activations` None
    those of tables that do not say (`untold_activations`)."""

    runtime: str = "onnxruntime"
    threads: int = 1
    cores: tuple[int, ...] | None = None
    precision: str = "fp32"
    thermal: str = BURST
    activations: Activations | None = None

    def as_json(self) -> dict[str, Any]:
        """What a selection says of it; `activations` is null where they are floats."""
        usual = untold_activations(self.runtime, self.precision)
        return {
            "runtime": self.runtime,
            "threads": self.threads,
            "cores": None if self.cores is None else list(self.cores),
            "precision": self.precision,
            "activations": None if usual == FLOAT else self.activations or usual,
        }

    @property
    def kind(self) -> str:
        """What its model files are: 'onnxruntime, int8 (int8 activations)', without what is usual."""
        odd = self.activations not in (None, untold_activations(self.runtime, self.precision))
        return f"{self.runtime}, {self.precision}" + (f" ({self.activations} activations)" if odd else "")

    def __str__(self) -> str:
        """'litert, int8, 2 threads'."""
        return f"{self.kind}, " + ("1 thread" if self.threads == 1 else f"{self.threads} threads")


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
        activations=runs_on.activations or untold_activations(runs_on.runtime, runs_on.precision),
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


def same_device(left: Conditions, right: Conditions) -> bool:
    """Whether both are of one device, as far as a table can tell, however models are run; what nobody knows is never
    the same."""
    pairs = [(getattr(left, key), getattr(right, key)) for key in DEVICE]
    return all(a == b and UNKNOWN not in (a, b) for a, b in pairs)


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
