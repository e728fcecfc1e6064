"""The front of ofa-lite0 on a device, for real: points along it are deployed, and what was promised is compared.

    python benchmarks/front_on_device.py --data IMAGES [--latency-table FILE] [--accuracy-table FILE] [--points 10]
        [--host local] [--only deploy|measure|accuracy] [--save FILE] [--json]

Points lie evenly in log latency on the exact front of the shipped accuracy table and a latency table (one is profiled
where none is named). Each is deployed as `ofa-edge deploy` does it, from bundle to switch, under a budget that is its
own predicted upper bound (95 % two-sided, so 2.5 % should break it), here in a folder that is removed afterwards; then
measured in fresh processes interleaved with the anchor. Its top-1, with the bank's statistics as it was deployed, is
counted on images that neither the published initial weights nor this training nor the table have seen ('clean'), and on
the rest of val. With --save each point is kept when it is done, and a second run, or --only another part, adds what is
missing and takes again what other work disturbed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from ofa_edge import files, shipped, strict_json
from ofa_edge.accuracy.evaluate import Evaluator
from ofa_edge.accuracy.table import AccuracyTable, wilson
from ofa_edge.cli.inputs import Models
from ofa_edge.cli.truth_measuring import runs_on_of
from ofa_edge.deploy import assemble, run
from ofa_edge.deploy.manifest import DEFAULT_MODE
from ofa_edge.device import ConnectOptions, open_device
from ofa_edge.errors import BadFile, OfaEdgeError, RolledBack
from ofa_edge.latency import workload
from ofa_edge.latency.campaign import campaign
from ofa_edge.latency.conditions import PlanSettings, RunsOn, conditions, require_match
from ofa_edge.latency.plan import QUICK
from ofa_edge.latency.table import LatencyTable
from ofa_edge.search.budget import Budget
from ofa_edge.search.candidate import Candidate
from ofa_edge.search.choose import shared_resolutions
from ofa_edge.search.exact.frontier import exact_front
from ofa_edge.search.models import CostModels
from ofa_edge.search.selection import Selection
from ofa_edge.search.truth.checking import time_missing
from ofa_edge.search.truth.journal import TruthJournal, latency_of
from ofa_edge.space.spaces import OFA_LITE0
from ofa_edge.train import images
from ofa_edge.weights import checkpoint as checkpoints

PARTS = ("deploy", "measure", "accuracy")
CONFIDENCE = 0.95
Point = dict[str, Any]


def profiled(host: str, path: Path) -> LatencyTable:
    """A full table of ofa-lite0 on one thread."""
    task = campaign.Task(OFA_LITE0, OFA_LITE0.resolutions, RunsOn(), PlanSettings(seed=0, quick=False, networks=12))
    with open_device(host) as device:
        return campaign.run(device, path, task).table


def points(models: Models, count: int) -> list[Candidate]:
    """Candidates along the exact front, evenly in log latency, fastest first."""
    resolutions = shared_resolutions(models.latency.resolutions, models.accuracy)
    front = exact_front(models.space, models.latency, models.accuracy, resolutions)
    costs = CostModels(models.space, models.latency, resolutions, CONFIDENCE)
    logs = np.log(front.latency_ms)
    wanted = [int(np.argmin(np.abs(logs - x))) for x in np.linspace(logs[0], logs[-1], count)]
    return [
        costs.candidate(arch, models.accuracy.estimate(arch, CONFIDENCE))
        for arch in (front.arch(i) for i in dict.fromkeys(wanted))
    ]


def selection_of(models: Models, candidate: Candidate) -> Selection:
    """The point as its own selection: its latency's upper bound is the budget."""
    if candidate.latency_ms.high is None:
        raise BadFile("the latency table has no networks, so nothing is promised", hint="profile with --networks 12")
    return Selection(
        space=models.space,
        arch=candidate.arch,
        top1=candidate.top1,
        latency_ms=candidate.latency_ms,
        cost=candidate.cost,
        budget=Budget(latency_ms=candidate.latency_ms.high),
        strategy="exact",
        confidence=CONFIDENCE,
        model="a point of the exact front",
        proven_optimal=True,
        bound=candidate.top1.value,
        inputs=models.inputs,
        seed=models.seed,
    )


def deploy(
    models: Models, candidates: Sequence[Candidate], found: list[Point], host: str, keep: Callable[[], None]
) -> None:
    """Adds state, promise and the measured latency of each point's deployment."""
    checkpoint = checkpoints.load()
    runs_on = runs_on_of(models.latency_table.conditions)
    with (
        tempfile.TemporaryDirectory(prefix="ofa-edge-") as root,
        open_device(host, options=ConnectOptions(root=root if host == "local" else None)) as session,
    ):
        require_same(models.latency_table, session)
        for i, (candidate, point) in enumerate(zip(candidates, found, strict=True)):
            if not point.get("deploy", {"disturbed": True})["disturbed"]:
                continue
            bundle = assemble.assemble(
                [assemble.Choice(selection_of(models, candidate), runs_on, models.latency_table.conditions)],
                checkpoint,
                app=f"front-{i + 1}",
            )
            try:
                outcome = run.deploy(
                    session, bundle, measure=assemble.measurer(session, {DEFAULT_MODE: models.latency}), host=host
                ).as_json()
            except RolledBack as error:
                outcome = error.details
            keys = ("state", "promise", "measured_ms", "budget_ms", "reason", "notices")
            point["deploy"] = {key: outcome[key] for key in keys}
            point["deploy"]["disturbed"] = any("disturbed" in said for said in (outcome["reason"], *outcome["notices"]))
            print(f"{i + 1} of {len(found)}: {point['deploy']}", file=sys.stderr)
            keep()


def measure(models: Models, candidates: Sequence[Candidate], found: list[Point], host: str, journal: Path) -> None:
    """Adds anchored and raw medians over five fresh processes of each point."""
    model, archs = models.latency, [candidate.arch for candidate in candidates]
    runs_on = runs_on_of(models.latency_table.conditions)
    with open_device(host) as session, TruthJournal.open(journal, models.space) as notes:
        require_same(models.latency_table, session)
        under = notes.under(host=host, table=models.latency_table.sha256)
        time_missing(
            session,
            archs,
            notes,
            under,
            space=models.space,
            anchor=workload.network_source(model.space, model.anchor, runs_on),
            reference_ms=model.reference_ms,
            runs_on=runs_on,
            processes=assemble.TRIAL_PROCESSES,
            effort=replace(QUICK, attempts=1),
        )
        for arch, point in zip(archs, found, strict=True):
            processes = notes.processes(under, arch)
            point["measure"] = {
                "anchored": latency_of(processes, model.reference_ms).as_json(),
                "raw": latency_of(processes, None).as_json(),
                "anchor_off_pct": [round(100 * (p.anchor / model.reference_ms - 1), 1) for p in processes],
                "flags": sorted({flag for p in processes for flag in p.flags}),
            }


def accuracy(candidates: Sequence[Candidate], found: list[Point], data: Path, keep: Callable[[], None]) -> None:
    """Adds right answers on clean images and on the rest of val, with the bank's statistics as deployed."""
    checkpoint = checkpoints.load()
    val, train = images.load_images(data, "val"), images.load_images(data, "train")
    clean = images.joined(images.unseen_part(val), images.unseen_part(train))
    seen = set(clean.names)
    rest = val.subset([i for i, name in enumerate(val.names) if name not in seen])
    judged = images.joined(clean, rest)
    evaluator = Evaluator(checkpoint, judged)
    for i, (candidate, point) in enumerate(zip(candidates, found, strict=True)):
        if "accuracy" in point:
            continue
        right = evaluator.predictions(candidate.arch) == judged.labels
        parts = {"clean": right[: len(clean)], "val": right[len(clean) :]}
        point["accuracy"] = {name: {"correct": int(part.sum()), "n": len(part)} for name, part in parts.items()}
        print(f"{i + 1} of {len(found)}: {point['accuracy']}", file=sys.stderr)
        keep()


def require_same(table: LatencyTable, session: Any) -> None:
    now = conditions(session.facts, runs_on_of(table.conditions))
    require_match(table.conditions, now, names=(str(table.path), "this device"))


def summary(found: Sequence[Point]) -> dict[str, Any]:
    """How often budgets held, and errors of predictions in percent and points."""
    result: dict[str, Any] = {"points": len(found)}
    promised = [point["deploy"] for point in found if "deploy" in point]
    if promised:
        result["deployed"] = len(promised)
        result["held"] = sum(one["promise"] == "held" for one in promised)
        result["disturbed"] = sum(one["disturbed"] for one in promised)
        result["held_undisturbed"] = sum(one["promise"] == "held" and not one["disturbed"] for one in promised)
    measured = [(point["predicted"]["latency_ms"], point["measure"]) for point in found if "measure" in point]
    for kind in ("anchored", "raw") if measured else ():
        truth = np.array([one[kind]["value"] for _, one in measured])
        value, low, high = (np.array([p[key] for p, _ in measured]) for key in ("value", "low", "high"))
        result[kind] = {
            "mape_pct": round(float(100 * np.mean(np.abs(value / truth - 1))), 2),
            "bias_pct": round(float(100 * np.mean(value / truth - 1)), 2),
            "worst_pct": round(float(100 * np.max(np.abs(value / truth - 1))), 2),
            "in_interval": int(((low <= truth) & (truth <= high)).sum()),
            "under_upper_bound": int((truth <= high).sum()),
        }
    judged = [(point["predicted"]["top1"]["value"], point["accuracy"]) for point in found if "accuracy" in point]
    for name in ("clean", "val") if judged else ():
        truth = np.array([one[name]["correct"] / one[name]["n"] for _, one in judged])
        predicted = np.array([p for p, _ in judged])
        result[name] = {
            "bias_points": round(float(100 * np.mean(predicted - truth)), 2),
            "mean_error_points": round(float(100 * np.mean(np.abs(predicted - truth))), 2),
            "spearman": round(float(spearmanr(predicted, truth).statistic), 3),
        }
    return result


def lines(found: Sequence[Point]) -> list[str]:
    """A table for people."""
    head = f"{'r':>4}{'MACs':>8}{'predicted ms':>24}{'deployed':>10}{'promise':>9}{'anchored':>10}"
    said = [f"{head}{'table':>8}{'clean':>24}{'val':>8}"]
    for point in found:
        latency, counts = point["predicted"]["latency_ms"], point.get("accuracy")
        shown = point.get("deploy", {"measured_ms": None, "promise": "-"})
        cells = f"{point['arch']['r']:4}{point['predicted']['macs'] / 1e6:7.1f}M"
        cells += f"{latency['value']:9.3f} ({latency['low']:.3f}..{latency['high']:.3f})".rjust(24)
        cells += f"{shown['measured_ms'] or float('nan'):10.3f}{shown['promise']:>9}"
        cells += f"{point['measure']['anchored']['value'] if 'measure' in point else float('nan'):10.3f}"
        cells += f"{100 * point['predicted']['top1']['value']:8.2f}"
        if counts:
            low, high = wilson(counts["clean"]["correct"], counts["clean"]["n"])
            clean, val = (100 * counts[name]["correct"] / counts[name]["n"] for name in ("clean", "val"))
            cells += f"{clean:9.2f} ({100 * low:.1f}..{100 * high:.1f})".rjust(24) + f"{val:8.2f}"
        said.append(cells)
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency-table", type=Path)
    parser.add_argument("--accuracy-table", type=Path, default=shipped.tables() / "accuracy/ofa-lite0-imagenette.jsonl")
    parser.add_argument("--data", type=Path, help="needed for accuracy")
    parser.add_argument("--host", default="local")
    parser.add_argument("--points", type=int, default=10)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ofa-edge-") as folder:
        path = options.latency_table
        table = LatencyTable.read(path) if path else profiled(options.host, Path(folder, "table.jsonl"))
        models = Models(table, AccuracyTable.read(options.accuracy_table))
        candidates = points(models, options.points)
        found: list[Point] = [candidate.as_json(models.space) for candidate in candidates]
        if options.save and options.save.is_file():
            known = {strict_json.sha256(one["arch"]): one for one in strict_json.loads(options.save.read_text())}
            found = [{**known.get(strict_json.sha256(one["arch"]), {}), **one} for one in found]

        def keep() -> None:
            if options.save:
                files.write_whole(options.save, strict_json.dumps(found).encode())

        journal = options.save.with_suffix(".processes.jsonl") if options.save else Path(folder, "processes.jsonl")
        for part in [options.only] if options.only else PARTS:
            if part == "deploy":
                deploy(models, candidates, found, options.host, keep)
            elif part == "measure":
                measure(models, candidates, found, options.host, journal)
            elif options.data:
                accuracy(candidates, found, options.data, keep)
            keep()
    result = {"summary": summary(found), "points": found}
    print(json.dumps(result) if options.json else "\n".join([*lines(found), json.dumps(result["summary"], indent=1)]))


if __name__ == "__main__":
    try:
        main()
    except OfaEdgeError as error:
        sys.exit(f"{error.message}{f' ({error.hint})' if error.hint else ''}")
