"""Whole networks in fresh processes: the one statistic that is calibrated, promised and checked.

In: jobs or model files, and a device. Out: what each process measured, and the median over processes, raw and as
its ratio to the anchor times the anchor's reference. Rules kept (docs/how-the-numbers-are-made.md): every process
interleaves the anchor; a process that was disturbed, or whose anchor is off its reference, is repeated up to three
times before it counts; rounds go over all networks in turn, so that a slow minute does not hit one network alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from device_agents import wire
from ofa_edge.latency import stats
from ofa_edge.latency.conditions import RunsOn
from ofa_edge.latency.judging.plausible import CheckedDevice
from ofa_edge.latency.plan import FULL, Effort
from ofa_edge.latency.table import DISTURBING
from ofa_edge.latency.workload import Device, Model, Source, timing_job, upload

# How far the anchor may be off its reference: the drift of the study in docs/ is 3.8 % from process to process.
ANCHOR_TOLERANCE = 0.04
ANCHOR_OFF = "anchor-off"


@dataclass(frozen=True, slots=True)
class Trial:
    """One process' result; `attempt` counts from 1, `flags` are the device's and ANCHOR_OFF."""

    result: wire.Measured | wire.Failed
    attempt: int
    flags: tuple[str, ...] = ()

    @property
    def disturbed(self) -> bool:
        return ANCHOR_OFF in self.flags or not DISTURBING.isdisjoint(self.flags)


@dataclass(frozen=True, slots=True)
class NetworkLatency:
    """A network's latency in ms.

    Attributes:
        key: the caller's name.
        figures: of the processes' medians (of the single runs where there was one process); None where none
            gave a result.
        anchored: the same of ratio x reference; None without an anchor or its reference.
        anchor_ms: median over processes of the anchor's medians, None without one.
        flags: all that the processes that count were flagged with, sorted.
        repeats: disturbed processes that were repeated.
        failed: reason of the last failure, where no process gave a result.
    """

    key: str
    figures: wire.Figures | None
    anchored: wire.Figures | None
    anchor_ms: float | None
    flags: tuple[str, ...]
    repeats: int
    failed: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Keys `latency_ms`, `anchored_ms`, `anchor_ms`, `flags`, `repeats`, `failed`."""
        return {
            "latency_ms": None if self.figures is None else wire.to_wire(self.figures),
            "anchored_ms": None if self.anchored is None else wire.to_wire(self.anchored),
            "anchor_ms": self.anchor_ms,
            "flags": list(self.flags),
            "repeats": self.repeats,
            "failed": self.failed,
        }


def network_job(key: str, model: Model, anchor: Model | None, runs_on: RunsOn, effort: Effort) -> wire.MeasureJob:
    """The job of one fresh process."""
    return timing_job(key, model, runs_on, rel=effort.network_rel, seconds=effort.network_seconds, anchor=anchor)


def repeated(
    device: Device,
    job: wire.MeasureJob,
    *,
    reference_ms: float | None = None,
    attempts: int,
) -> Iterator[Trial]:
    """One job in fresh processes until one is undisturbed, at most `attempts`; every one is yielded, the last counts.

    A failure ends it: a model that crashes a runtime does so again.
    """
    for attempt in range(1, attempts + 1):
        (result,) = device.measure([job], fresh=True)
        if isinstance(result, wire.Failed):
            yield Trial(result, attempt)
            return
        trial = Trial(result, attempt, (*result.flags, *_anchor_flag(result, reference_ms)))
        yield trial
        if not trial.disturbed:
            return


def measure_networks(
    device: Device,
    networks: Mapping[str, Source],
    *,
    runs_on: RunsOn,
    processes: int = 5,
    anchor: Source | None = None,
    reference_ms: float | None = None,
    effort: Effort = FULL,
    on_process: Callable[[str, Trial], None] | None = None,
) -> list[NetworkLatency]:
    """Measure whole networks: the median over `processes` fresh processes.

    Args:
        networks: key -> the model file.
        anchor: the anchor network's, workload.network_source(space, plan.middle(...), runs_on); None: without one.
        reference_ms: the anchor's latency that ratios are multiplied by and that processes are held against.
        on_process: called after each process, for progress.

    Raises:
        UsageError, DeviceLost: as Session.measure and push.
    """
    device = CheckedDevice(device, runs_on)
    files = {f"network {key}": source.make for key, source in networks.items() if source.sha256 is None}
    if anchor is not None:
        files["anchor"] = anchor.make
    hashes, _ = upload(device, files)
    hashes |= {f"network {key}": source.sha256 for key, source in networks.items() if source.sha256 is not None}
    beside = None if anchor is None else Model(hashes["anchor"], dict(anchor.shape))
    counted: dict[str, list[Trial]] = {key: [] for key in networks}
    repeats = dict.fromkeys(networks, 0)
    for _ in range(processes):
        for key, source in networks.items():
            model = Model(hashes[f"network {key}"], dict(source.shape))
            job = network_job(key, model, beside, runs_on, effort)
            trials = []
            for trial in repeated(device, job, reference_ms=reference_ms, attempts=effort.attempts):
                trials.append(trial)
                if on_process is not None:
                    on_process(key, trial)
            counted[key].append(trials[-1])
            repeats[key] += len(trials) - 1
    return [_latency(key, trials, repeats[key], reference_ms) for key, trials in counted.items()]


def _anchor_flag(measured: wire.Measured, reference_ms: float | None) -> tuple[str, ...]:
    if measured.anchor is None or reference_ms is None:
        return ()
    off = abs(measured.anchor.median / reference_ms - 1)
    return (ANCHOR_OFF,) if off > ANCHOR_TOLERANCE else ()


def _latency(key: str, trials: Sequence[Trial], repeats: int, reference_ms: float | None) -> NetworkLatency:
    good = [trial.result for trial in trials if isinstance(trial.result, wire.Measured)]
    if not good:
        reasons = [trial.result.reason for trial in trials if isinstance(trial.result, wire.Failed)]
        return NetworkLatency(key, None, None, None, (), repeats, reasons[-1])
    ratios = [measured.ratio for measured in good if measured.ratio is not None]
    anchors = [measured.anchor.median for measured in good if measured.anchor is not None]
    anchored = None
    if reference_ms is not None and ratios:
        anchored = _times(over_processes(ratios), reference_ms)
    return NetworkLatency(
        key=key,
        figures=over_processes([measured.figures for measured in good]),
        anchored=anchored,
        anchor_ms=float(np.median(anchors)) if anchors else None,
        flags=tuple(sorted({flag for trial in trials for flag in trial.flags})),
        repeats=repeats,
    )


def over_processes(figures: Sequence[wire.Figures]) -> wire.Figures:
    """Figures of the processes' medians; those of the one process where there is one.

    With fewer than six the interval is from the least to the greatest (it covers 94 % for five, 75 % for three).
    """
    if len(figures) == 1:
        return figures[0]
    medians = np.array([f.median for f in figures])
    interval = stats.median_interval(medians.tolist()) or (float(medians.min()), float(medians.max()))
    p10, median, p90 = (float(q) for q in np.quantile(medians, [0.1, 0.5, 0.9]))
    return wire.Figures(
        n=len(figures),
        min=float(medians.min()),
        p10=p10,
        median=median,
        p90=p90,
        low=interval[0],
        high=interval[1],
        mean=float(medians.mean()),
        std=float(medians.std(ddof=1)),
    )


def _times(figures: wire.Figures, factor: float) -> wire.Figures:
    scaled = {name: factor * value for name, value in wire.to_wire(figures).items() if name != "n"}
    return replace(figures, **scaled)
