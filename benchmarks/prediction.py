"""Prediction against measurement: random subnets that calibrated nothing, at random resolutions, in fresh processes.

    python benchmarks/prediction.py [--table FULL --table QUICK ...] [--networks 60] [--processes 3] [--seconds 1.5]
                                    [--host local] [--save FILE] [--load FILE] [--json]

Each network is measured once, in `--processes` fresh processes of about `--seconds`, interleaved with the anchor; every
table (of the same space and conditions) is judged by the same measurements. For each, and for anchored (ratio to the
anchor times the table's reference) and raw medians: the mean and worst relative error, bias, shares within 3, 5 and
10 %, Spearman's rank correlation, and the share of single measurements inside the 95 % interval. Beside them how well
these measurements repeat themselves, which bounds all of it: the variation between processes, and the error of one
process against the median of the others. --save keeps what was measured after each round over the networks, --load
judges it without measuring again; Ctrl-C judges what there is. Without --table one of ofa-lite0 is measured first.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from device_agents import wire
from ofa_edge import files, strict_json
from ofa_edge.device import open_device
from ofa_edge.errors import OfaEdgeError, UsageError
from ofa_edge.latency import trials, workload
from ofa_edge.latency.campaign import campaign
from ofa_edge.latency.conditions import Conditions, PlanSettings, RunsOn, conditions, require_match
from ofa_edge.latency.models.model import LatencyModel
from ofa_edge.latency.models.predictors import model_of
from ofa_edge.latency.plan import FULL
from ofa_edge.latency.table import DISTURBING, LatencyTable
from ofa_edge.space import codecs
from ofa_edge.space.arch import Arch
from ofa_edge.space.spaces import OFA_LITE0

# Far from the seeds of plans, which count from 0.
SEED = 20_000
WITHIN = (3, 5, 10)  # percent


@dataclass
class Network:
    """One network's processes: medians in ms, the anchor's beside them, their ratios, and whether it was disturbed."""

    arch: dict[str, Any]
    medians: list[float] = field(default_factory=list)
    anchors: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    disturbed: list[bool] = field(default_factory=list)

    def add(self, result: wire.Measured | wire.Failed) -> None:
        if isinstance(result, wire.Failed) or result.anchor is None or result.ratio is None:
            return
        self.medians.append(result.figures.median)
        self.anchors.append(result.anchor.median)
        self.ratios.append(result.ratio.median)
        self.disturbed.append(not DISTURBING.isdisjoint(result.flags))


@dataclass(frozen=True)
class Measured:
    """Networks under conditions, with the anchor they are ratios to."""

    conditions: Conditions
    space: str
    anchor: dict[str, Any]
    networks: list[Network]

    def save(self, path: Path) -> None:
        value = {
            "conditions": self.conditions.model_dump(mode="json"),
            "space": self.space,
            "anchor": self.anchor,
            "networks": [asdict(network) for network in self.networks],
        }
        files.write_whole(path, strict_json.dumps(value).encode())

    @classmethod
    def load(cls, path: Path) -> Measured:
        value = strict_json.loads(path.read_text())
        networks = [Network(**network) for network in value["networks"]]
        return cls(Conditions.model_validate(value["conditions"]), value["space"], value["anchor"], networks)


def profile(host: str) -> LatencyTable:
    """A full table of ofa-lite0, with 12 calibration networks."""
    task = campaign.Task(OFA_LITE0, OFA_LITE0.resolutions, RunsOn(), PlanSettings(seed=0, quick=False, networks=12))
    with tempfile.TemporaryDirectory(prefix="ofa-edge-") as folder, open_device(host) as device:
        return campaign.run(device, Path(folder, "table.jsonl"), task).table


def draw(model: LatencyModel, tables: Sequence[LatencyTable], count: int) -> list[Arch]:
    """Random archs, each axis uniform, none of which is a network of a table."""
    rng = np.random.default_rng(SEED)
    used = {codecs.decode(model.space, arch) for table in tables for arch in table.networks["arch"]}
    found: dict[Arch, None] = {}
    for _ in range(100 * count):
        arch = model.space.sample(rng, int(rng.choice(model.resolutions)))
        if arch not in used:
            found[arch] = None
        if len(found) == count:
            break
    return list(found)


def measure(host: str, model: LatencyModel, archs: Sequence[Arch], asked: Conditions, options: Any) -> Measured:
    """In rounds over all networks, so that a slow minute does not hit one of them alone."""
    cores = None if isinstance(asked.cores, str) else tuple(asked.cores)
    if isinstance(asked.threads, str):
        raise UsageError("the table does not say its threads", hint="measure one with `ofa-edge profile`")
    runs_on = RunsOn(asked.runtime, asked.threads, cores, asked.precision, asked.thermal)
    space = model.space
    networks = [Network(codecs.encode(space, arch)) for arch in archs]
    effort = replace(FULL, network_seconds=options.seconds, attempts=1)
    with open_device(host) as device:
        now = conditions(device.facts, runs_on)
        require_match(asked, now, names=("the table", "this device"))
        found = Measured(now, space.name, codecs.encode(space, model.anchor), networks)
        sources = {str(i): workload.network_source(space, arch, runs_on) for i, arch in enumerate(archs)}
        anchor = workload.network_source(space, model.anchor, runs_on)
        try:
            for number in range(options.processes):
                trials.measure_networks(
                    device, sources, runs_on=runs_on, processes=1, anchor=anchor, effort=effort,
                    on_process=lambda key, trial: networks[int(key)].add(trial.result),
                )  # fmt: skip
                print(f"round {number + 1} of {options.processes} measured", file=sys.stderr)
                if options.save:
                    found.save(options.save)
        except (KeyboardInterrupt, OfaEdgeError) as error:
            print(f"stopped: {error!r}; judging what was measured", file=sys.stderr)
    if options.save:
        found.save(options.save)
    return found


def judge(table: LatencyTable, measured: Measured) -> dict[str, Any]:
    """How one table predicts the measured networks that are none of its own."""
    require_match(table.conditions, measured.conditions, names=(table.path, "the measured networks"))
    model = model_of(table)
    if table.header.space != measured.space or codecs.encode(model.space, model.anchor) != measured.anchor:
        raise UsageError(
            f"{table.path} has another space or anchor than the measured networks",
            hint="judge it by networks measured with a table of the same space and resolutions",
        )
    used = {codecs.decode(model.space, arch) for arch in table.networks["arch"]}
    chosen = [n for n in measured.networks if n.ratios and codecs.decode(model.space, n.arch) not in used]
    predictions = [p.latency for p in model.predict([codecs.decode(model.space, n.arch) for n in chosen])]
    pairs = [(p, n) for p, n in zip(predictions, chosen, strict=True) if p is not None]
    values = np.array([p.value for p, _ in pairs])
    ends = np.array([(np.nan, np.nan) if p.low is None or p.high is None else (p.low, p.high) for p, _ in pairs])
    reference = model.reference_ms or np.nan
    return {
        "table": table.path,
        "blocks": {"measured": len(table.blocks), "predicted": len(table.predicted)},
        "fit": model.fit.as_json(),
        "networks": len(pairs),
        "range_ms": [round(float(values.min()), 3), round(float(values.max()), 3)],
        "interval_pct": _percent(float(np.median((ends[:, 1] - ends[:, 0]) / 2 / values))),
        "anchored": errors(values, ends, [[r * reference for r in n.ratios] for _, n in pairs]),
        "raw": errors(values, ends, [n.medians for _, n in pairs]),
    }


def errors(predicted: np.ndarray, ends: np.ndarray, processes: Sequence[Sequence[float]]) -> dict[str, float | None]:
    """Against the median over processes; `one_process_mape_pct` and `covered` against single ones."""
    truth = np.array([np.median(p) for p in processes])
    relative = predicted / truth - 1
    single = [v / p - 1 for p, values in zip(predicted, processes, strict=True) for v in values]
    inside = [low <= v <= high for (low, high), values in zip(ends, processes, strict=True) for v in values]
    return {
        "mape_pct": _percent(float(np.mean(np.abs(relative)))),
        "worst_pct": _percent(float(np.max(np.abs(relative)))),
        "bias_pct": _percent(float(np.mean(relative))),
        **{f"within_{w}_pct": round(float(np.mean(np.abs(relative) <= w / 100)), 3) for w in WITHIN},
        "spearman": round(float(spearmanr(predicted, truth).statistic), 4),
        "one_process_mape_pct": _percent(float(np.mean(np.abs(single)))),
        "covered": None if np.isnan(ends).any() else round(float(np.mean(inside)), 3),
    }


def repeatability(networks: Sequence[Network]) -> dict[str, Any]:
    """Of the measurements themselves, over networks with two processes and more."""
    several = [network for network in networks if len(network.ratios) > 1]
    disturbed = [flag for network in networks for flag in network.disturbed]
    found: dict[str, Any] = {
        "processes": len(disturbed),
        "disturbed": round(float(np.mean(disturbed)), 3) if disturbed else None,
    }
    for name in ("ratios", "medians"):
        values = [np.array(getattr(network, name)) for network in several]
        spread = [float(np.std(v, ddof=1) / np.mean(v)) for v in values]
        others = [abs(v[i] / np.median(np.delete(v, i)) - 1) for v in values for i in range(len(v))]
        found["anchored" if name == "ratios" else "raw"] = {
            "cv_pct": _percent(float(np.median(spread))) if spread else None,
            "one_against_others_mape_pct": _percent(float(np.mean(others))) if others else None,
        }
    return found


def _percent(share: float) -> float:
    return round(100 * share, 2)


def _lines(value: dict[str, Any], indent: str = "") -> list[str]:
    lines = []
    for key, item in value.items():
        if isinstance(item, dict):
            lines += [f"{indent}{key}:", *_lines(item, indent + "  ")]
        elif key != "tried":
            lines.append(f"{indent}{key}: {item}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, action="append", default=[])
    parser.add_argument("--host", default="local")
    parser.add_argument("--networks", type=int, default=60)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5, help="of one process; ten interleaved batches take 1.3")
    parser.add_argument("--save", type=Path)
    parser.add_argument("--load", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    tables = [LatencyTable.read(path) for path in options.table] or [profile(options.host)]
    if options.load:
        measured = Measured.load(options.load)
    else:
        first = model_of(tables[0])
        archs = draw(first, tables, options.networks)
        measured = measure(options.host, first, archs, tables[0].conditions, options)
    result = {
        "repeatability": repeatability(measured.networks),
        "tables": {table.path: judge(table, measured) for table in tables},
    }
    print(json.dumps(result) if options.json else "\n".join(_lines(result)))


if __name__ == "__main__":
    try:
        main()
    except OfaEdgeError as error:
        sys.exit(f"{error.message}{f' ({error.hint})' if error.hint else ''}")
