"""Prediction against measurement: random subnets that calibrated nothing, each in fresh processes.

    python benchmarks/prediction.py [--table TABLE] [--host local] [--networks 20] [--processes 5] [--json]

Says the mean and worst relative error of `predict` against the anchored and the raw medians, and how many of them lie
inside the interval; and how well raw medians of single processes repeat themselves, which bounds all of it. Without
--table one of ofa-lite0 is measured first.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from device_agents import wire
from ofa_edge.device import open_device
from ofa_edge.latency import campaign, trials, workload
from ofa_edge.latency.conditions import PlanSettings, RunsOn, conditions, require_match
from ofa_edge.latency.model import LatencyModel
from ofa_edge.latency.predictors import model_of
from ofa_edge.latency.table import LatencyTable
from ofa_edge.space import codecs
from ofa_edge.space.arch import Arch
from ofa_edge.space.spaces import OFA_LITE0

# Far from the seeds of plans, which count from 0.
SEED = 20_000


def profile(host: str) -> LatencyTable:
    """A full table of ofa-lite0, with 12 calibration networks."""
    task = campaign.Task(OFA_LITE0, OFA_LITE0.resolutions, RunsOn(), PlanSettings(seed=0, quick=False, networks=12))
    with tempfile.TemporaryDirectory(prefix="ofa-edge-") as folder, open_device(host) as device:
        return campaign.run(device, Path(folder, "table.jsonl"), task).table


def draw(model: LatencyModel, table: LatencyTable, count: int) -> list[Arch]:
    """Random archs, each axis uniform, none of which is a network of the table."""
    rng = np.random.default_rng(SEED)
    used = {codecs.decode(model.space, arch) for arch in table.networks["arch"]}
    found: list[Arch] = []
    while len(found) < count:
        arch = model.space.sample(rng, int(rng.choice(model.resolutions)))
        if arch not in used and arch not in found:
            found.append(arch)
    return found


def errors(predicted: np.ndarray, low: np.ndarray, high: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    """Relative errors in percent and the share inside the interval."""
    relative = 100 * np.abs(predicted / measured - 1)
    return {
        "mape_pct": round(float(relative.mean()), 2),
        "worst_pct": round(float(relative.max()), 2),
        "bias_pct": round(float(100 * (predicted / measured - 1).mean()), 2),
        "inside": round(float(((low <= measured) & (measured <= high)).mean()), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--host", default="local")
    parser.add_argument("--networks", type=int, default=20)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    table = LatencyTable.read(options.table) if options.table else profile(options.host)
    model = model_of(table)
    archs = draw(model, table, options.networks)
    runs_on = RunsOn(table.conditions.runtime, table.conditions.threads)
    repeats: dict[str, list[float]] = {}

    def on_process(key: str, trial: trials.Trial) -> None:
        if isinstance(trial.result, wire.Measured):
            repeats.setdefault(key, []).append(trial.result.figures.median)

    with open_device(options.host) as device:
        require_match(table.conditions, conditions(device.facts, runs_on), names=(table.path, "this device"))
        found = trials.measure_networks(
            device,
            {str(i): workload.network_source(model.space, arch, runs_on) for i, arch in enumerate(archs)},
            runs_on=runs_on,
            processes=options.processes,
            anchor=workload.network_source(model.space, model.anchor, runs_on),
            reference_ms=model.reference_ms,
            on_process=on_process,
        )
    predictions = [prediction.latency for prediction in model.predict(archs)]
    rows = [(p, f) for p, f in zip(predictions, found, strict=True) if p and f.figures and f.anchored]
    predicted = np.array([p.value for p, _ in rows])
    low, high = (np.array([getattr(p, end) or np.nan for p, _ in rows]) for end in ("low", "high"))
    spreads = [np.std(values, ddof=1) / np.mean(values) for values in repeats.values() if len(values) > 1]
    result = {
        "networks": len(rows),
        "range_ms": [round(float(predicted.min()), 3), round(float(predicted.max()), 3)],
        "interval_pct": round(float(100 * np.median((high - low) / 2 / predicted)), 2),
        "anchored": errors(predicted, low, high, np.array([f.anchored.median for _, f in rows if f.anchored])),
        "raw": errors(predicted, low, high, np.array([f.figures.median for _, f in rows if f.figures])),
        "process_cv_pct": round(float(100 * np.median(spreads)), 2),
    }
    print(json.dumps(result) if options.json else "\n".join(f"{key}: {value}" for key, value in result.items()))


if __name__ == "__main__":
    main()
