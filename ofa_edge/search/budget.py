"""A budget: what a subnet may cost.

In: text such as `20ms` or `latency=20ms,p90=25ms,memory=8MB,size=5MB,macs=300M,energy=30mJ`. Out: a Budget. Rules kept:
every limit has a unit and is greater than 0; each kind of mistake has its own message. Times are kept in ms, sizes in
bytes, energies (of one run) in mJ.

Units: latency `us`, `ms`, `s`; energy `uJ`, `mJ`, `J`; memory and size `B`, `KB` `MB` `GB` (powers of 1,000; `kB` is
`KB`) and `KiB` `MiB` `GiB` (powers of 1,024); macs a plain number or `K`, `M`, `G` (powers of 1,000). Upper and lower
case differ, since `Mb` is a megabit and `m` a thousandth. Fractions of a byte or of a MAC are cut off.

`p90` is a limit for the device alone: a deployment measures the 90th percentile there, and nothing predicts it. A
median is never above it, so where no latency limit is given it is that too; a search knows nothing else of it
(`searched`).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any, NamedTuple

from ofa_edge.errors import UsageError

EXAMPLE = "a budget looks like 20ms, or latency=20ms,p90=25ms,memory=8MB,size=5MB,macs=300M,energy=30mJ"


class _Kind(NamedTuple):
    """A limit: the field it sets, its units by name, the unit of the field, and how messages list the units."""

    field: str
    units: dict[str, Decimal]
    own: str
    listed: str


_TIMES = {"us": Decimal("0.001"), "µs": Decimal("0.001"), "ms": Decimal(1), "s": Decimal(1000)}
_ENERGIES = {"uJ": Decimal("0.001"), "µJ": Decimal("0.001"), "mJ": Decimal(1), "J": Decimal(1000)}
_SIZES = {
    "B": Decimal(1),
    "kB": Decimal(10**3),
    "KB": Decimal(10**3),
    "MB": Decimal(10**6),
    "GB": Decimal(10**9),
    "KiB": Decimal(2**10),
    "MiB": Decimal(2**20),
    "GiB": Decimal(2**30),
}
_COUNTS = {"": Decimal(1), "K": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9)}
_LISTED_SIZES = "B, KB, MB, GB, KiB, MiB or GiB"

_LIMITS = {
    "latency": _Kind("latency_ms", _TIMES, "ms", "us, ms or s"),
    "p90": _Kind("p90_ms", _TIMES, "ms", "us, ms or s"),
    "memory": _Kind("memory_bytes", _SIZES, "B", _LISTED_SIZES),
    "size": _Kind("size_bytes", _SIZES, "B", _LISTED_SIZES),
    "macs": _Kind("macs", _COUNTS, "", "K, M, G or none"),
    "energy": _Kind("energy_mj", _ENERGIES, "mJ", "uJ, mJ or J"),
}
NAMES = {kind.field: name for name, kind in _LIMITS.items()}
"""What a limit is called in a budget's text, by its field."""
_NUMBER = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(?P<unit>[^\s0-9.]*)")
_MAX_TEXT = 200

# Beyond this, in ms, bytes, MACs or mJ, a limit limits nothing.
_GREATEST = 10**15


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits that all have to hold; None where there is none.

    Attributes:
        latency_ms: on the upper bound of the predicted latency.
        memory_bytes: on weights and peak activation together.
        size_bytes: on weights.
        macs: on multiply-accumulates.
        energy_mj: on the upper bound of the predicted energy of one run.
        p90_ms: on the 90th percentile that a deployment measures; latency_ms is set to it where it is None.

    Raises:
        UsageError: no limit at all, or one that is not greater than 0 and finite.
    """

    latency_ms: float | None = None
    memory_bytes: int | None = None
    size_bytes: int | None = None
    macs: int | None = None
    energy_mj: float | None = None
    p90_ms: float | None = None

    def __post_init__(self) -> None:
        if self.latency_ms is None:
            object.__setattr__(self, "latency_ms", self.p90_ms)
        if not self.as_json():
            raise UsageError("the budget has no limit", hint=EXAMPLE)
        for name, kind in _LIMITS.items():
            limit = getattr(self, kind.field)
            if limit is None:
                continue
            if not 0 < limit < math.inf:
                raise UsageError(f"the budget's {name} must be greater than 0, not {limit}", hint=EXAMPLE)
            if limit > _GREATEST:
                raise UsageError(f"the budget's {name} of {min(limit, 1e300):g}{kind.own} limits nothing", hint=EXAMPLE)

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read `20ms` or `name=limit,...`.

        Raises:
            UsageError: with a message of its own for each kind of mistake.
        """
        if len(text) > _MAX_TEXT:
            raise UsageError(f"the budget is {len(text)} characters long", hint=EXAMPLE)
        if not text.strip():
            raise UsageError("the budget is empty", hint=EXAMPLE)
        limits: dict[str, Any] = {}
        for part in text.split(","):
            name, equals, value = part.partition("=")
            name, value = (name.strip(), value.strip()) if equals else ("latency", part.strip())
            if not part.strip():
                raise UsageError(f"the budget {text!r} has an empty part", hint=EXAMPLE)
            if name not in _LIMITS:
                raise UsageError(f"there is no limit {name!r}", hint=f"the limits are {', '.join(_LIMITS)}")
            field = _LIMITS[name].field
            if field in limits:
                raise UsageError(f"the budget {text!r} limits {name} twice", hint=EXAMPLE)
            limits[field] = _limit(name, value)
        return cls(**limits)

    def __str__(self) -> str:
        """Canonical text: `Budget.parse` reads the same budget back."""
        limits = self.as_json()
        return ",".join(
            f"{name}={_plain(limits[kind.field])}{kind.own}" for name, kind in _LIMITS.items() if kind.field in limits
        )

    def as_json(self) -> dict[str, float | int]:
        """The limits that are set, by field name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def searched(self) -> dict[str, float | int]:
        """The limits that are set and that a search holds predictions against, by field name."""
        return {name: value for name, value in self.as_json().items() if name != "p90_ms"}


def _plain(limit: float | int) -> str:
    """The number without an exponent, and without a `.0`."""
    return format(Decimal(repr(limit)), "f").removesuffix(".0")


def _limit(name: str, value: str) -> float | int:
    kind = _LIMITS[name]
    if not value:
        raise UsageError(f"the budget's {name} has no value", hint=EXAMPLE)
    if value.startswith("-"):
        raise UsageError(f"the budget's {name} must be greater than 0, not {value}", hint=EXAMPLE)
    match = _NUMBER.fullmatch(value)
    if match is None:
        raise UsageError(f"{value!r} is not a number with a unit", hint=EXAMPLE)
    unit = match["unit"]
    if unit not in kind.units:
        said = f"{unit!r} is not a unit of {name}" if unit else f"{value!r} has no unit"
        raise UsageError(said, hint=f"units of {name}: {kind.listed}; upper and lower case differ")
    amount = Decimal(match["number"]) * kind.units[unit]
    if amount == 0:
        raise UsageError(f"the budget's {name} must be greater than 0, not {value}", hint=EXAMPLE)
    if kind.field in ("latency_ms", "p90_ms", "energy_mj"):
        return float(amount)
    if amount < 1:
        raise UsageError(f"the budget's {name} of {value} is less than one", hint=EXAMPLE)
    return int(amount)
