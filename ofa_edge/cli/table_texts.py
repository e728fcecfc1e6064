"""What `ofa-edge table` tells people: the JSON values of its commands as text."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from ofa_edge.cli.output import fields, table

_DIFFERENCES = 20  # shown to people
_UNKNOWN = "unknown"  # a condition that an imported table does not tell

_LEVELS = {"invalid": "INVALID", "doubtful": "doubtful", "note": "note"}


def shown(value: Mapping[str, Any]) -> str:
    """`table show` of one file."""
    if value["kind"] == "accuracy-table":
        return _accuracies(value)
    blocks, networks = value["blocks"], value["networks"]
    pairs = {
        "table": f"{value['table']} (latency table, {_state(value)})",
        **_conditions(value["conditions"]),
        "measured": f"{value['provenance']['created']} by {value['provenance']['tool']}",
        "space": f"{value['space']} at {_sizes(value['resolutions'])}",
        "blocks": f"{blocks['measured']} measured, {blocks['predicted']} predicted, {blocks['failed']} failed",
        "within": _within(blocks),
        "networks": f"{networks['calibration']} to calibrate on, {networks['holdout']} held out",
        "fit": _fit(value["fit"]),
    }
    if held := value["held_out"]:
        pairs["held out"] = f"{held['networks']} networks, {held['mape_pct']:.1f} % mean error" + _covered(held)
    pairs["verdict"] = value["verdict"] or "none"
    lines = [fields(pairs)]
    if value["slowest"]:
        rows = [[f"{row['ms']:.4g}", row["key"]] for row in value["slowest"]]
        lines += ["", table(["ms", "slowest blocks"], rows, right=["ms"])]
    return "\n".join([*lines, *_problems(value["problems"])])


def made(value: Mapping[str, Any]) -> str:
    """What `table import`, `merge` and `export` wrote."""
    pairs = {
        key: _plain(value[key]) for key in ("table", "files", "format", "rows", "blocks", "networks") if key in value
    }
    if "space" in value:
        pairs["space"] = f"{value['space']} at {_sizes(value['resolutions'])}"
    return fields(pairs | _conditions(value["conditions"]))


def checked(value: Mapping[str, Any]) -> str:
    """`table check` of one file."""
    count = len(value["problems"])
    verdict = f", verdict {value['verdict']}" if value.get("verdict") else ""
    found = f"{count} to know" if count else "sound"
    return "\n".join([f"{value['table']}: {found}{verdict}", *_problems(value["problems"])[1:]])


def differing(value: Mapping[str, Any]) -> str:
    """`table diff`: conditions first, since they may explain the rest."""
    lines = [f"{m['key']}: {_plain(m['left'])} and {_plain(m['right'])}" for m in value["conditions"]]
    lines = ["conditions differ:", *(f"  {line}" for line in lines)] if lines else ["conditions are equal"]
    blocks, raw, scaled = value["blocks"], value["raw"], value["scaled"]
    pairs = {
        "blocks": f"{blocks['both']} in both, {len(blocks['only_a'])} only in A, {len(blocks['only_b'])} only in B",
        "as measured": _spread(raw, blocks["comparable"]),
        "overall": _scale(value["scale"]),
        "without it": _spread(scaled, blocks["comparable"]),
    }
    if value["networks"]:
        pairs["networks"] = _spread(value["networks"], None)
    lines += ["", fields(pairs)]
    if found := value["differences"]:
        rows = [
            [f"{100 * (d['ratio'] - 1):+.1f} %", f"{d['a_ms']:.4g}", f"{d['b_ms']:.4g}", d["key"]]
            for d in found[:_DIFFERENCES]
        ]
        lines += [
            "",
            table(["B to A", "A ms", "B ms", "beyond both intervals"], rows, right=["B to A", "A ms", "B ms"]),
        ]
        if len(found) > _DIFFERENCES:
            lines.append(f"... and {len(found) - _DIFFERENCES} more: --json or --csv has all")
    return "\n".join(lines)


def _spread(spread: Mapping[str, Any], comparable: int | None) -> str:
    text = f"differ by {spread['median_pct']:.2f} % (median), {spread['p90_pct']:.2f} % (90 in 100)"
    if comparable is None:
        return text
    if not comparable:
        return f"{text}; intervals are unknown"
    return f"{text}; {spread['beyond_intervals']} of {comparable} beyond both intervals"


def _scale(scale: Mapping[str, Any]) -> str:
    change = 100 * (scale["value"] - 1)
    text = f"B is {abs(change):.2f} % {'slower' if change > 0 else 'faster'}" if change else "equally fast"
    if scale["low"] is None:
        return text
    return f"{text} ({100 * (scale['low'] - 1):+.2f} to {100 * (scale['high'] - 1):+.2f} %)"


def _problems(problems: Sequence[Mapping[str, Any]]) -> list[str]:
    if not problems:
        return []
    lines = [""]
    for problem in problems:
        lines.append(f"{_LEVELS[problem['level']]:<9} {problem['code']}: {problem['text']}")
        if problem["hint"]:
            lines.append(f"{'':<9} -> {problem['hint']}")
    return lines


def _accuracies(value: Mapping[str, Any]) -> str:
    c, top1 = value["conditions"], value["top1"]
    pairs = {
        "table": f"{value['table']} (accuracy table, {_state(value)})",
        "space": f"{value['space']} at {_sizes(value['resolutions'])}",
        "checkpoint": c["checkpoint"],
        "images": c["data"],
        "batch norm": c["bn"],
        "subnets": str(value["rows"]),
        "top-1": "-" if top1 is None else f"{100 * top1['least']:.1f} to {100 * top1['greatest']:.1f} %",
    }
    return "\n".join([fields(pairs), *_problems(value["problems"])])


def _conditions(c: Mapping[str, Any]) -> dict[str, str]:
    """What is known of them, as two lines; what an imported table does not tell is left out of these."""
    device = [c["device_model"], c["soc"], _named("governor", c["governor"])]
    runs_on = [
        " ".join(part for part in (c["runtime"], c["runtime_version"]) if part != _UNKNOWN),
        _named("delegate", c["delegate"]),
        "1 thread" if c["threads"] == 1 else _named("threads", c["threads"]),
        _named("cores", _plain(c["cores"])),
        c["precision"],
        _named("batch", c["batch"]),
        c["thermal"],
    ]
    emulated = ", EMULATED" if c["emulated"] is True else ""
    return {"device": _known(device) + emulated, "runs on": _known(runs_on)}


def _named(name: str, value: Any) -> str:
    return _UNKNOWN if value == _UNKNOWN else f"{name} {value}"


def _known(parts: Sequence[str]) -> str:
    return ", ".join(part for part in parts if part not in (_UNKNOWN, "")) or _UNKNOWN


def _state(value: Mapping[str, Any]) -> str:
    return "finished" if value["complete"] else "not finished"


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _sizes(sizes: Sequence[int]) -> str:
    """128:224:4 where they are evenly spaced, as --resolutions takes them."""
    steps = {b - a for a, b in itertools.pairwise(sizes)}
    if len(sizes) > 2 and len(steps) == 1:
        return f"{sizes[0]}:{sizes[-1]}:{steps.pop()} px"
    return f"{' '.join(map(str, sizes)) or 'no resolution'} px"


def _within(blocks: Mapping[str, Any]) -> str:
    if blocks["within_1_pct"] is None:
        return "intervals unknown"
    return f"+-1 % {blocks['within_1_pct']:.0%} of the blocks, +-2 % {blocks['within_2_pct']:.0%}"


def _fit(fit: Mapping[str, Any] | None) -> str:
    if fit is None:
        return "none"
    error = fit["loo_error_pct"]
    text = " + ".join(fit["terms"])
    return f"{text}, {'no error known' if error is None else f'{error:.1f} % leave-one-out error'}"


def _covered(held: Mapping[str, Any]) -> str:
    return "" if held["covered"] is None else f", {held['covered']:.0%} within their interval"
