"""The devices of a page: a latency table each, with its health, its model, a short name and a place among the series.

In: latency tables. Out: `Device`s. Rules kept: names are as short as tells the tables apart; a table that is invalid
stays on the page, with what is wrong with it, and nothing is predicted from it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ofa_edge.errors import BadFile, UsageError
from ofa_edge.latency.conditions import UNKNOWN, unknown_conditions
from ofa_edge.latency.judging import health
from ofa_edge.latency.models.model import Estimate, LatencyModel
from ofa_edge.latency.table import LatencyTable
from ofa_edge.report.markup import number
from ofa_edge.space.arch import Arch, Space

_MOST_CHARACTERS = 28


@dataclass(frozen=True)
class Device:
    """A latency table on the page.

    Attributes:
        name: short, and different for each.
        index: its place among the page's tables.
        series: its place among those of its space, which is its colour and shape.
    """

    name: str
    index: int
    series: int
    table: LatencyTable
    health: health.Report

    @property
    def model(self) -> LatencyModel | None:
        return self.health.model

    @property
    def unknown(self) -> list[str]:
        """Conditions that it does not tell."""
        return unknown_conditions(self.table.conditions)


@dataclass(frozen=True, slots=True)
class Network:
    """A whole network that was measured: ms, with the intervals of the measurement and of what is predicted."""

    arch: Arch
    held_out: bool
    measured: Estimate
    predicted: Estimate

    @property
    def error(self) -> float:
        """Of the prediction, relative to what was measured."""
        return self.predicted.value / self.measured.value - 1

    @property
    def covered(self) -> bool | None:
        """Whether what was measured lies in the prediction's interval; None where there is none."""
        if self.predicted.low is None or self.predicted.high is None:
            return None
        return self.predicted.low <= self.measured.value <= self.predicted.high


def devices(tables: Sequence[LatencyTable]) -> list[Device]:
    """One a table, in their order."""
    found: list[Device] = []
    for index, (name, table) in enumerate(zip(_names(tables), tables, strict=True)):
        series = sum(device.table.header.space == table.header.space for device in found)
        found.append(Device(name, index, series, table, health.check(table)))
    return found


# What tells tables of one device apart, the most telling first.
_PARTS: tuple[Callable[[LatencyTable], str], ...] = (
    lambda t: t.conditions.runtime,
    lambda t: _plural(t.conditions.threads, "thread"),
    lambda t: t.conditions.precision,
    lambda t: t.header.space,
    lambda t: t.conditions.thermal,
    lambda t: f"governor {t.conditions.governor}",
    lambda t: "cores " + " ".join(map(str, np.atleast_1d(np.asarray(t.conditions.cores)))),
    lambda t: t.conditions.runtime_version,
    lambda t: "quick" if t.header.plan.quick else "full",
    lambda t: t.header.provenance.created[:16].replace("T", " "),
)


def _names(tables: Sequence[LatencyTable]) -> list[str]:
    """The device, and where several tables are of it what tells them apart; at last a number."""
    names = [_device(table) for table in tables]
    # Where some tables are of a lossy precision, a runtime is not said without it.
    mixed = len({table.conditions.precision for table in tables}) > 1
    parts = (lambda t: f"{t.conditions.runtime} {t.conditions.precision}", *_PARTS[1:]) if mixed else _PARTS
    for part in parts:
        groups: dict[str, list[int]] = {}
        for i, name in enumerate(names):
            groups.setdefault(name, []).append(i)
        for name, rows in groups.items():
            values = [part(tables[i]) for i in rows]
            if len(set(values)) > 1:
                for i, value in zip(rows, values, strict=True):
                    names[i] = f"{name}, {_shortened(value)}"
    counts, seen = Counter(names), Counter[str]()
    for i, name in enumerate(names):
        if counts[name] > 1:
            seen[name] += 1
            names[i] = f"{name} ({seen[name]})"
    return names


def _device(table: LatencyTable) -> str:
    name = _shortened(table.conditions.device_model)
    return f"{name} (emulated)" if table.conditions.emulated is True else name


def _shortened(name: str) -> str:
    return name if len(name) <= _MOST_CHARACTERS else name[: _MOST_CHARACTERS - 1] + "…"


def _plural(count: Any, what: str) -> str:
    if count == UNKNOWN:
        return f"unknown {what}s"
    return f"{count} {what}{'' if count == 1 else 's'}"


def networks(device: Device, confidence: float) -> list[Network]:
    """The table's networks with a prediction, in file order; empty without a model.

    What was measured is the ratio to the anchor times the anchor's reference, as the model is fitted to (latency/
    model.py), with the interval of the last process; a network whose blocks failed or are unknown is left out.
    """
    model = device.model
    if model is None:
        return []
    found = []
    rows = device.table.networks
    columns = ("arch", "role", "median", "ratio_median", "figures", "ratio")
    for value, role, median, ratio, figures, ratios in zip(*(rows[c] for c in columns), strict=True):
        arch = model_arch(model.space, value)
        if arch is None or not model.times.knows(model.space.blocks(arch)):
            continue
        anchored = model.reference_ms is not None and math.isfinite(ratio)
        ms = float(ratio) * (model.reference_ms or 0.0) if anchored else float(median)
        (prediction,) = model.predict([arch], confidence)
        if prediction.latency is not None:
            measured = _measured(ms, ratios if anchored else figures)
            found.append(Network(arch, role == "holdout", measured, prediction.latency))
    return found


def _measured(ms: float, figures: Any) -> Estimate:
    """A latency with the relative interval of these figures; without one where they have none that makes sense."""
    ends: list[float] = []
    for name in ("low", "median", "high"):
        end = figures.get(name) if isinstance(figures, dict) else None
        if not isinstance(end, (int, float)) or isinstance(end, bool) or not 0 < end < math.inf:
            return Estimate(ms)
        ends.append(float(end))
    low, median, high = ends
    return Estimate(ms, ms * min(1.0, low / median), ms * max(1.0, high / median))


def model_arch(space: Space, value: Any) -> Arch | None:
    """An arch as a table holds it; None where it is none of this space."""
    from ofa_edge.space.codecs import decode

    try:
        return decode(space, value)
    except (UsageError, BadFile):
        return None


# -- words ----------------------------------------------------------------------------------------
def milliseconds(estimate: Estimate) -> str:
    """'1.23 ms (1.20 to 1.26)'."""
    text = f"{fixed(estimate.value)} ms"
    if estimate.low is None or estimate.high is None:
        return f"{text} (interval unknown)"
    digits = digits_of(estimate.value)
    return f"{text} ({fixed(estimate.low, digits)} to {fixed(estimate.high, digits)})"


def fixed(ms: float, digits: int | None = None) -> str:
    """With so many decimals, or as many as show three significant digits; what no network takes in short."""
    return f"{ms:.{digits_of(ms) if digits is None else digits}f}" if ms < 1e6 else f"{ms:.3g}"


def digits_of(ms: float) -> int:
    """Decimals that show three significant digits or more."""
    return 1 if ms >= 100 else 2 if ms >= 1 else 3 if ms >= 0.1 else 4


def size(value: int, digits: int = 1) -> str:
    """Bytes in decimal units, as budgets are written."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            return f"{number(value / factor, digits)} {unit}"
    return f"{value} B"


def percent(share: float, digits: int = 1) -> str:
    """'95.1 %'."""
    return f"{100 * share:.{digits}f} %"
