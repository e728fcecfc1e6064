"""The selection: the chosen subnet, what is predicted of it, and the hashes of everything it came from.

In: what choose.py found, or a file. Out: a Selection, or its file. An offline lock file: `deploy --selection` needs
neither tables nor search. Rules kept: the same inputs give the same bytes (no times, no paths, no host names); a file
is read strictly, and one of an unknown major version is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ofa_edge import __version__, strict_json
from ofa_edge.accuracy.predictor import Top1
from ofa_edge.errors import BadFile, UsageError
from ofa_edge.files import read_bytes, write_result
from ofa_edge.latency.conditions import ACTIVATIONS, RunsOn
from ofa_edge.latency.models.model import Estimate
from ofa_edge.search.budget import Budget
from ofa_edge.space import codecs
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.cost import Cost
from ofa_edge.space.spaces import named, own_definition

SCHEMA = "selection"
# 1.1: the definition of a space of one's own; 1.2: `measured`, `headers`, strategy evolution; 1.3: `runs`, and `bound`
# may be null
VERSION = (1, 3)
STRATEGIES = ("exact", "evolution", "random", "table")
MAX_FILE_BYTES = 1 << 20

# Of a file: whole numbers fit 64 bits, no text is longer than a page, and no object has more entries.
_MOST = (1 << 63) - 1
_MOST_TEXT = 20_000
_MOST_ENTRIES = 64

_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Measured:
    """What the truth step found of a chosen subnet; None is what was not measured.

    Attributes:
        top1: on held-out images with batch norm recalibrated for this subnet, as shares; of a lossy precision that of
            the compiled file. The interval is of the sampling of images.
        n: how many images.
        latency_ms: median of fresh processes on the device.
        corrected_top1: `top1` less what picking the greatest of several noisy figures adds to it.

    Raises:
        ValueError: nothing was measured, or the fields contradict each other.
    """

    top1: Top1 | None = None
    n: int | None = None
    latency_ms: Estimate | None = None
    corrected_top1: float | None = None

    def __post_init__(self) -> None:
        if self.top1 is None and self.latency_ms is None:
            raise ValueError("measured holds neither a top1 nor a latency_ms")
        if (self.top1 is None) != (self.n is None):
            raise ValueError("measured.top1 and measured.n belong together")
        if self.n is not None and self.n < 1:
            raise ValueError("measured.n is not greater than 0")
        if self.corrected_top1 is not None and (self.top1 is None or not 0 <= self.corrected_top1 <= 1):
            raise ValueError("measured.corrected_top1 is no share, or corrects no top1")

    def as_json(self) -> dict[str, Any]:
        """Every field, null where it was not measured."""
        return {
            "top1": None if self.top1 is None else self.top1.as_json(),
            "n": self.n,
            "latency_ms": None if self.latency_ms is None else self.latency_ms.as_json(),
            "corrected_top1": self.corrected_top1,
        }


@dataclass(frozen=True, slots=True)
class Selection:
    """One chosen subnet.

    Attributes:
        space: that it is in.
        top1: predicted, or measured (strategy table) on the accuracy table's images, as shares.
        latency_ms: predicted; low and high are None where the latency table has no network records.
        cost: MACs, parameters, weight and peak activation bytes.
        budget: what it was chosen under; its latency limits `latency_ms.high`.
        confidence: two-sided, of the intervals.
        model: in words, what was maximised over what, and how predictions are made.
        proven_optimal: no subnet of the model has a higher predicted top1 within the budget.
        bound: no subnet within the budget has a higher predicted top1 than this; None where nothing below 100 % is
            known.
        inputs: hex sha256 of each file it came from, by role ('latency-table', 'accuracy-table', 'supernet',
            'predictor'; 'latency-table-2' and so on: of other ways to run it on the device, that were not chosen).
        tool: name and version of the program that chose.
        headers: hex sha256 of the header of each table among the inputs, by role: it stays when a table grows, so that
            a changed table is told from another one.
        energy_mj: predicted, of one run; None where nothing was known of it.
        measured: what was measured of it before it was chosen; None where it was chosen by predictions.
        runs_on: how it is run on the device, as its latency table was measured; None where that is not known, as of
            files before 1.3. `top1` and `bound` are of it run so, as far as the drop to a lossy precision was told.
    """

    space: Space
    arch: Arch
    top1: Top1
    latency_ms: Estimate
    cost: Cost
    budget: Budget
    strategy: str
    confidence: float
    model: str
    proven_optimal: bool
    bound: float | None
    inputs: Mapping[str, str]
    seed: int
    tool: str = f"ofa-edge {__version__}"
    measured: Measured | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    energy_mj: Estimate | None = None
    runs_on: RunsOn | None = None

    def as_json(self) -> dict[str, Any]:
        """The file's content."""
        own = own_definition(self.space)
        return {
            "schema": SCHEMA,
            "version": f"{VERSION[0]}.{VERSION[1]}",
            "space": self.space.name,
            **({} if own is None else {"definition": own}),
            "arch": codecs.encode(self.space, self.arch),
            "predicted": predicted_json(self.top1, self.latency_ms, self.cost, self.energy_mj),
            **({} if self.measured is None else {"measured": self.measured.as_json()}),
            **({} if self.runs_on is None else {"runs": self.runs_on.as_json()}),
            "budget": self.budget.as_json(),
            "strategy": self.strategy,
            "confidence": self.confidence,
            "model": self.model,
            "proven_optimal": self.proven_optimal,
            "bound": self.bound,
            "inputs": dict(sorted(self.inputs.items())),
            **({"headers": dict(sorted(self.headers.items()))} if self.headers else {}),
            "seed": self.seed,
            "tool": self.tool,
        }

    def to_bytes(self) -> bytes:
        """The file: equal selections are equal bytes."""
        return strict_json.dumps(self.as_json(), indent=2).encode() + b"\n"

    def write(self, path: Path | str) -> None:
        """Write the file in one step (temporary file, fsync, rename)."""
        write_result(Path(path), self.to_bytes())

    @classmethod
    def read(cls, path: Path | str, space: Space | None = None) -> Selection:
        """Read a file; `space` is looked up by name where it is not given.

        Raises:
            UsageError: it cannot be opened.
            BadFile: it is no selection of a version this ofa-edge reads.
        """
        return cls.from_bytes(read_bytes(path, MAX_FILE_BYTES + 1), str(path), space)

    @classmethod
    def from_bytes(cls, data: bytes, name: str, space: Space | None = None) -> Selection:
        """As `read`, for bytes already in memory; `name` is what errors call them."""
        try:
            if len(data) > MAX_FILE_BYTES:
                raise ValueError(f"larger than {MAX_FILE_BYTES} bytes")
            return parse(strict_json.loads(data), space)
        except (ValueError, UsageError, BadFile) as error:
            raise BadFile(
                f"{name} is not a selection of this version: {error}", hint="make one with `ofa-edge select --out FILE`"
            ) from error


def predicted_json(top1: Top1, latency_ms: Estimate, cost: Cost, energy_mj: Estimate | None = None) -> dict[str, Any]:
    """The `predicted` object of `select --json`, of selections and of alternatives; energy only where it is known."""
    return {
        "top1": top1.as_json(),
        "latency_ms": latency_ms.as_json(),
        "macs": cost.macs,
        "params": cost.params,
        "weight_bytes": cost.weight_bytes,
        "peak_activation_bytes": cost.peak_activation_bytes,
        **({} if energy_mj is None else {"energy_mj": energy_mj.as_json()}),
    }


# -- reading ------------------------------------------------------------------------------------
_FIELDS: dict[str, type] = {
    "schema": str,
    "version": str,
    "space": str,
    "arch": dict,
    "predicted": dict,
    "budget": dict,
    "strategy": str,
    "confidence": float,
    "model": str,
    "proven_optimal": bool,
    "bound": float,
    "inputs": dict,
    "seed": int,
    "tool": str,
}
_SMALL = ("inputs", "headers")
_COUNTS: dict[str, type] = dict.fromkeys(("macs", "params", "weight_bytes", "peak_activation_bytes"), int)
_BUDGET: dict[str, type] = {
    "latency_ms": float, "memory_bytes": int, "size_bytes": int, "macs": int, "energy_mj": float, "p90_ms": float,
}  # fmt: skip


def minor_version(version: Any, known: tuple[int, int]) -> int:
    """Of a file's `version`; raises ValueError where the major one is not the known one."""
    major, _, minor = str(version).partition(".")
    if major != str(known[0]) or not minor.isdecimal() or len(minor) > 9:
        raise ValueError(f"its version is {str(version)[:20]!r}, this ofa-edge reads {known[0]}.x")
    return int(minor)


def parse(value: Any, space: Space | None = None) -> Selection:
    """A selection from its JSON value. Raises ValueError, UsageError or BadFile, naming the field."""
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise ValueError("it does not say that it is one")
    minor = minor_version(value.get("version"), VERSION)
    optional = {name: dict for name in ("definition", "measured", "headers", "runs") if name in value}
    # Null and a number are two types, and `typed` knows one.
    unbounded = {"bound": None} if "bound" in value and value["bound"] is None else {}
    needed = {name: kind for name, kind in _FIELDS.items() if name not in unbounded}
    rest = {name: item for name, item in value.items() if name not in unbounded}
    fields = typed(rest, needed | optional, "", strict=minor <= VERSION[1]) | unbounded
    space = space or named(fields["space"], fields.get("definition"), "it")
    if space.name != fields["space"]:
        raise ValueError(f"it is of space {fields['space']}, not of {space.name}")
    drawn = {"energy_mj": dict} if "energy_mj" in fields["predicted"] else {}
    predicted = typed(fields["predicted"], {"top1": dict, "latency_ms": dict, **_COUNTS, **drawn}, "predicted.")
    if fields["strategy"] not in STRATEGIES:
        raise ValueError(f"strategy {fields['strategy']!r} is not one of {', '.join(STRATEGIES)}")
    if not 0 < fields["confidence"] < 1:
        raise ValueError("confidence is not between 0 and 1")
    if fields["bound"] is not None and not 0 <= fields["bound"] <= 1:
        raise ValueError("bound is no share")
    for where in ("inputs", "headers"):
        for role, digest in fields.get(where, {}).items():
            if len(role) > 80 or not isinstance(digest, str) or not _HEX.fullmatch(digest):
                raise ValueError(f"{where}.{role[:80]} is not a sha256")
    limits = {name: kind for name, kind in _BUDGET.items() if name in fields["budget"]}
    return Selection(
        space=space,
        arch=codecs.decode(space, fields["arch"]),
        top1=_top1(predicted["top1"], "predicted.top1"),
        latency_ms=_estimate(predicted["latency_ms"], "predicted.latency_ms"),
        cost=Cost(**{name: predicted[name] for name in _COUNTS}),
        budget=Budget(**typed(fields["budget"], limits, "budget.")),
        **{name: fields[name] for name in ("strategy", "confidence", "model", "proven_optimal", "bound")},
        inputs=fields["inputs"],
        seed=fields["seed"],
        tool=fields["tool"],
        measured=_measured(fields["measured"]) if "measured" in fields else None,
        headers=fields.get("headers", {}),
        energy_mj=_estimate(predicted["energy_mj"], "predicted.energy_mj") if drawn else None,
        runs_on=_runs_on(fields["runs"], strict=minor <= VERSION[1]) if "runs" in fields else None,
    )


_RUNS: dict[str, type] = {"runtime": str, "threads": int, "cores": list, "precision": str, "activations": str}
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,31}")
_MOST_CORES = 4096


def _runs_on(value: Mapping[str, Any], strict: bool) -> RunsOn:
    """`cores` and `activations` may be null, which is the same as absent."""
    known = {name: item for name, item in value.items() if item is not None or name not in ("cores", "activations")}
    kinds = {name: kind for name, kind in _RUNS.items() if name in known or name not in ("cores", "activations")}
    found = typed(known, kinds, "runs.", strict)
    for name in ("runtime", "precision"):
        if not _NAME.fullmatch(found[name]):
            raise ValueError(f"runs.{name} is no name")
    if found.get("activations") not in (None, *ACTIVATIONS):
        raise ValueError(f"runs.activations is not {' or '.join(ACTIVATIONS)}")
    cores = found.get("cores")
    if not 1 <= found["threads"] <= _MOST_CORES:
        raise ValueError("runs.threads is not a number of threads")
    if cores is not None and not all(type(core) is int and 0 <= core < _MOST_CORES for core in cores):
        raise ValueError("runs.cores is not a list of cores")
    return RunsOn(
        found["runtime"],
        found["threads"],
        None if cores is None else tuple(cores),
        found["precision"],
        activations=found.get("activations"),
    )


_MEASURED: dict[str, type] = {"top1": dict, "n": int, "latency_ms": dict, "corrected_top1": float}


def _measured(value: Mapping[str, Any]) -> Measured:
    """Null and absent are the same."""
    known = {name: item for name, item in value.items() if item is not None or name not in _MEASURED}
    found = typed(known, {name: kind for name, kind in _MEASURED.items() if name in known}, "measured.")
    return Measured(
        _top1(found["top1"], "measured.top1") if "top1" in found else None,
        found.get("n"),
        _estimate(found["latency_ms"], "measured.latency_ms") if "latency_ms" in found else None,
        found.get("corrected_top1"),
    )


def typed(value: Any, fields: Mapping[str, type], where: str, strict: bool = True) -> dict[str, Any]:
    """The fields of an object, each of exactly its type; further ones are refused if `strict`, else left out."""
    if not isinstance(value, dict):
        raise ValueError(f"{where.rstrip('.')} is not an object")
    if len(value) > _MOST_ENTRIES:
        raise ValueError(f"{where.rstrip('.') or 'it'} has {len(value):,} fields")
    if (unknown := sorted(set(value) - set(fields))) and strict:
        raise ValueError(f"it has an unknown field {where}{unknown[0]}"[:200])
    found: dict[str, Any] = {}
    for name, kind in fields.items():
        if name not in value:
            raise ValueError(f"{where}{name} is missing")
        item: Any = value[name]
        if type(item) is int and abs(item) > _MOST:
            raise ValueError(f"{where}{name} is greater than anything it could count")
        if isinstance(item, str) and len(item) > _MOST_TEXT:
            raise ValueError(f"{where}{name} has {len(item):,} characters")
        if isinstance(item, dict) and name in _SMALL and len(item) > _MOST_ENTRIES:
            raise ValueError(f"{where}{name} has {len(item):,} entries")
        if kind is float and type(item) is int:
            item = float(item)
        if type(item) is not kind:
            raise ValueError(f"{where}{name} is not of type {kind.__name__}")
        if isinstance(item, int) and item < 0:
            raise ValueError(f"{where}{name} is negative")
        found[name] = item
    return found


def _top1(value: Any, where: str) -> Top1:
    fields = typed(value, {"value": float, "low": float, "high": float}, f"{where}.")
    _ordered(where, 0.0, fields["low"], fields["value"], fields["high"], 1.0)
    return Top1(**fields)


def _estimate(value: Mapping[str, Any], where: str) -> Estimate:
    bounds = {name: float for name in ("low", "high") if value.get(name) is not None}
    known = {name: item for name, item in value.items() if item is not None or name not in ("low", "high")}
    fields = typed(known, {"value": float, **bounds}, f"{where}.")
    low, high = fields.get("low"), fields.get("high")
    _ordered(where, 0.0, low or 0.0, fields["value"], math.inf if high is None else high)
    return Estimate(fields["value"], low, high)


def _ordered(where: str, *values: float) -> None:
    if list(values) != sorted(values):
        raise ValueError(f"{where}: low, value and high contradict each other")
