"""Selections and families of them for people.

In: what `select --json` prints, or what was chosen. Out: text for a terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ofa_edge.cli.output import fields, milliseconds, size, table
from ofa_edge.latency.conditions import RunsOn

if TYPE_CHECKING:
    from ofa_edge.cli.members import Purpose
    from ofa_edge.search.choose import Chosen

_AXES = {"d": "depth", "ks": "kernel", "e": "expand", "w": "width"}


def describe(value: dict[str, Any], file: Path | None = None) -> str:
    """A selection for people."""
    arch, predicted = value["arch"], value["predicted"]
    lines = {
        "resolution": str(arch["r"]),
        **{name: " ".join(map(str, arch[key])) for key, name in _AXES.items() if key in arch},
        **({"runs": _runs(value["runs"])} if "runs" in value else {}),
        "latency": milliseconds(**predicted["latency_ms"]),
        "top-1": _top1(predicted["top1"])
        + (", of what was measured on the table's images" if value["strategy"] == "table" else ", predicted"),
        **_measured(value.get("measured") or {}),
        "MACs": f"{predicted['macs'] / 1e6:.1f} M",
        "weights": size(predicted["weight_bytes"]),
        **({"energy": _millijoules(predicted["energy_mj"])} if "energy_mj" in predicted else {}),
        "optimal": _optimal(value) + f", {value['seconds']:.2f} s",
        "model": value["model"],
    }
    for index, other in enumerate(value["alternatives"], 1):
        theirs = other["predicted"]
        lines[f"next {index}"] = f"{100 * theirs['top1']['value']:.1f} %, {milliseconds(**theirs['latency_ms'])}"
        if "runs" in other:
            lines[f"next {index}"] += f", {_runs(other['runs'])}"
    if file is not None:
        lines["selection"] = str(file)
    return fields(lines)


def _top1(top1: dict[str, float]) -> str:
    return f"{100 * top1['value']:.1f} % ({100 * top1['low']:.1f} to {100 * top1['high']:.1f})"


def _measured(value: dict[str, Any]) -> dict[str, str]:
    """What the truth step measured of the chosen subnet."""
    lines = {}
    if value.get("latency_ms"):
        lines["  measured"] = milliseconds(**value["latency_ms"])
    if value.get("top1"):
        expected = f"; to expect: {100 * value['corrected_top1']:.1f} %" if value.get("corrected_top1") else ""
        lines["  on images"] = f"{_top1(value['top1'])}, {value['n']} images{expected}"
    return lines


def _runs(value: dict[str, Any]) -> str:
    """How it is run: 'litert, int8, 1 thread'."""
    cores = None if value["cores"] is None else tuple(value["cores"])
    return str(RunsOn(**{**value, "cores": cores}))


def _millijoules(energy: dict[str, float | None]) -> str:
    known = "" if energy["high"] is None else f" ({energy['low']:.2f} to {energy['high']:.2f})"
    return f"{energy['value']:.2f} mJ{known}, predicted"


def _optimal(value: dict[str, Any]) -> str:
    if value["proven_optimal"]:
        return "proven"
    return "no bound known" if value["bound"] is None else f"bound {100 * value['bound']:.2f} %"


def describe_family(members: Sequence[Purpose], each: Sequence[Chosen], common: bool, file: Path | None = None) -> str:
    """A family for people: a row a member; of a common one the subnet once."""
    rows = []
    several = any(len(member.device.runs) > 1 for member in members)
    for member, chosen in zip(members, each, strict=True):
        value = chosen.as_json()
        predicted = value["predicted"]
        rows.append(
            [
                member.mode.name or "-",
                member.label or member.model_name,
                *([_runs(value["runs"]) if "runs" in value else "-"] if several else []),
                str(member.mode.budget),
                str(value["arch"]["r"]),
                _top1((value.get("measured") or {}).get("top1") or predicted["top1"]),
                milliseconds(**((value.get("measured") or {}).get("latency_ms") or predicted["latency_ms"])),
                f"{predicted['macs'] / 1e6:.1f} M",
                size(predicted["weight_bytes"]),
                _optimal(value),
            ]
        )
    heads = [
        "mode",
        "device",
        *(["runs"] if several else []),
        "budget",
        "px",
        "top-1",
        "latency",
        "MACs",
        "weights",
        "optimal",
    ]
    lines = [table(heads, rows, right=("px", "MACs", "weights"))]
    if common:
        arch = each[0].as_json()["arch"]
        axes = {name: " ".join(map(str, arch[key])) for key, name in _AXES.items() if key in arch}
        lines.append(fields({"for all": "one subnet", "resolution": str(arch["r"]), **axes}))
    if file is not None:
        lines.append(fields({"family": str(file)}))
    return "\n\n".join(lines)
